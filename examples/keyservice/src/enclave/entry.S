/* The way in and out of the enclave, and the note that `rvp sgx pack` fills.
 *
 * At EENTER: rax = CSSA, rbx = TCS, rcx = where EEXIT goes; rdi, rsi, rdx are the host's arguments.
 * Thread data (fs and gs point to it, docs/reference/sgx.md): gs:8 = distance from the TCS down to the
 * stack's top; fs:0x28 = the stack canary that Debian's libbearssl.a looks at.
 */
    .section .note.sgxmeta, "", @note
    .p2align 2
    .long 13, 0x6000, 1
    .asciz "sgx_metadata"
    .fill 0x6000, 1, 0
    .p2align 2

    .section .rodata
    .p2align 2
clean_mxcsr:
    .long 0x1f80

    .section .text.entry, "ax"
    .globl enclave_entry
    .type enclave_entry, @function
enclave_entry:
    cmp  $0, %rax
    jne  refuse                 /* no re-entry while an exception is handled */
    mov  %rcx, %r12             /* where EEXIT goes */
    mov  %rsp, %r13             /* the host's stack */
    mov  %rbp, %r14
    mov  %gs:8, %rax
    mov  %rbx, %rsp
    sub  %rax, %rsp             /* our own stack */
    push $0
    popfq                       /* flags that the host chose: direction, alignment check */
    ldmxcsr clean_mxcsr(%rip)
    fninit
1:  rdrand %rax
    jnc  1b
    mov  %rax, %fs:0x28
    xor  %eax, %eax
    xor  %ebp, %ebp
    call enclave_call           /* (command, buffer, length) */

    mov  %rax, %rdi             /* the answer */
    mov  %r13, %rsp
    mov  %r14, %rbp
    mov  %r12, %rbx
    xor  %ecx, %ecx             /* nothing of ours stays in a register */
    xor  %edx, %edx
    xor  %esi, %esi
    xor  %r8d, %r8d
    xor  %r9d, %r9d
    xor  %r10d, %r10d
    xor  %r11d, %r11d
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    pxor %xmm\n, %xmm\n
    .endr
    mov  $4, %eax               /* EEXIT */
    enclu
refuse:
    ud2
    .section .note.GNU-stack, "", @progbits
