/* SIMULATION ONLY: runs an enclave on a machine without SGX. There is no isolation, the report has no valid MAC,
 * and nobody can tell this enclave from a forgery. It shows that the enclave's code works, nothing more.
 *
 * The enclave's memory is plain memory of this process; ENCLU is an invalid instruction there, so each one
 * raises SIGILL, and the handler does what the CPU would: EREPORT (0) and EEXIT (4).
 * While the enclave runs, fs and gs point to its thread data: the handler restores the host's first. */
#define _GNU_SOURCE
#include "host.h"

#include <asm/prctl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define NO_CANARY __attribute__((optimize("no-stack-protector")))
enum { TCS_OENTRY = 32, TCS_OFSBASE = 48, TCS_OGSBASE = 56, EREPORT = 0, EEXIT = 4, ENCLU_BYTES = 3 };

static struct enclave *running;
static unsigned long host_fs, host_gs;

static inline long segment_base(int operation, unsigned long value)
{
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "0"(SYS_arch_prctl), "D"((long)operation), "S"(value)
                     : "rcx", "r11", "memory");
    return result;
}

static inline uint64_t tcs_field(int offset)
{
    uint64_t value;
    __builtin_memcpy(&value, running->tcs + offset, 8);
    return value;
}

/* REPORT, Intel SDM vol. 3D: what is known of the enclave goes where the CPU would put it; the MAC stays zero. */
static void make_report(const uint8_t *report_data, uint8_t *report)
{
    memset(report, 0, 432);
    memcpy(report + 32, running->sigstruct + 1008, 16);  /* ISVEXTPRODID */
    memcpy(report + 48, running->sigstruct + 928, 16);   /* ATTRIBUTES */
    memcpy(report + 64, running->sigstruct + 960, 32);   /* MRENCLAVE, as signed */
    memcpy(report + 256, running->sigstruct + 1024, 4);  /* ISVPRODID, ISVSVN */
    memcpy(report + 304, running->sigstruct + 912, 16);  /* ISVFAMILYID */
    memcpy(report + 320, report_data, 64);
}

NO_CANARY static void on_fault(int number, siginfo_t *information, void *context)
{
    segment_base(ARCH_SET_FS, host_fs);
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *instruction = (const uint8_t *)registers[REG_RIP];
    uint64_t leaf = (uint64_t)registers[REG_RAX];
    int is_enclu = number == SIGILL && !memcmp(instruction, "\x0f\x01\xd7", ENCLU_BYTES);

    if (is_enclu && leaf == EREPORT && !(registers[REG_RBX] & 511) && !(registers[REG_RCX] & 127) &&
        !(registers[REG_RDX] & 511)) {
        make_report((const uint8_t *)registers[REG_RCX], (uint8_t *)registers[REG_RDX]);
        registers[REG_RIP] += ENCLU_BYTES;
        segment_base(ARCH_SET_FS, (unsigned long)running->base + tcs_field(TCS_OFSBASE));
    } else if (is_enclu && leaf == EEXIT) {
        registers[REG_RIP] = registers[REG_RBX];
        segment_base(ARCH_SET_GS, host_gs);
    } else {
        fprintf(stderr, "keyservice: the enclave stopped at offset %#lx (signal %d, address %p)\n",
                (unsigned long)(instruction - running->base), number, information->si_addr);
        _exit(3);
    }
}

/* EENTER as far as the enclave can see it: rax = CSSA, rbx = TCS, rcx = where EEXIT goes. */
extern int64_t enter(void *tcs, void *entry, uint64_t command, void *buffer, uint64_t length);
__asm__(".pushsection .text\n"
        ".globl enter\n"
        "enter:\n"
        "  push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
        "  mov %rdi, %rbx\n"
        "  mov %rsi, %r11\n"
        "  mov %rdx, %rdi\n"
        "  mov %rcx, %rsi\n"
        "  mov %r8, %rdx\n"
        "  lea 1f(%rip), %rcx\n"
        "  xor %eax, %eax\n"
        "  jmp *%r11\n"
        "1:\n"
        "  mov %rdi, %rax\n"
        "  pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
        "  ret\n"
        ".popsection\n");

void start_simulator(struct enclave *enclave)
{
    static uint8_t stack[64 << 10];
    stack_t alternative = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};

    running = enclave;
    segment_base(ARCH_GET_FS, (unsigned long)&host_fs);
    segment_base(ARCH_GET_GS, (unsigned long)&host_gs);
    if (sigaltstack(&alternative, 0) || sigaction(SIGILL, &action, 0) || sigaction(SIGSEGV, &action, 0) ||
        sigaction(SIGBUS, &action, 0) || sigaction(SIGTRAP, &action, 0))
        fail("cannot catch signals");
}

NO_CANARY int64_t call_enclave(struct enclave *enclave, uint64_t command, void *buffer, uint64_t length)
{
    uint64_t entry = tcs_field(TCS_OENTRY);
    segment_base(ARCH_SET_GS, (unsigned long)enclave->base + tcs_field(TCS_OGSBASE));
    segment_base(ARCH_SET_FS, (unsigned long)enclave->base + tcs_field(TCS_OFSBASE));
    return enter(enclave->tcs, enclave->base + entry, command, buffer, length);
}
