/* The few things that a C library and a loader would do. Nothing here can use CPUID, SYSCALL or RDTSC. */
#include "enclave.h"

__attribute__((used, visibility("default"), section(".data")))
volatile struct global_data g_global_data = {.marker = "rvpencl1"};

/* -- memory, for the compiler and for BearSSL -- */

void *memcpy(void *to, const void *from, size_t count)
{
    void *start = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
    return start;
}

void *memset(void *to, int value, size_t count)
{
    void *start = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(value) : "memory");
    return start;
}

void *memmove(void *to, const void *from, size_t count)
{
    unsigned char *a = to;
    const unsigned char *b = from;
    if (a < b)
        while (count--)
            *a++ = *b++;
    else
        while (count--)
            a[count] = b[count];
    return to;
}

int memcmp(const void *a, const void *b, size_t count)
{
    const unsigned char *x = a, *y = b;
    for (; count; count--, x++, y++)
        if (*x != *y)
            return *x - *y;
    return 0;
}

size_t strlen(const char *text)
{
    size_t count = 0;
    while (text[count])
        count++;
    return count;
}

/* Debian compiles its libraries with -D_FORTIFY_SOURCE and stack protection. */
void *__memcpy_chk(void *to, const void *from, size_t count, size_t room)
{
    if (count > room)
        __builtin_trap();
    return memcpy(to, from, count);
}

void *__memset_chk(void *to, int value, size_t count, size_t room)
{
    if (count > room)
        __builtin_trap();
    return memset(to, value, count);
}

void *__memmove_chk(void *to, const void *from, size_t count, size_t room)
{
    if (count > room)
        __builtin_trap();
    return memmove(to, from, count);
}

_Noreturn void __stack_chk_fail(void)
{
    __builtin_trap();
}

/* -- the loader's part: the CPU measures the file as it is, so the enclave relocates itself -- */

struct rela {
    uint64_t offset, info;
    int64_t addend;
};
extern const struct rela __rela_start[] __attribute__((visibility("hidden")));
extern const struct rela __rela_end[] __attribute__((visibility("hidden")));
static volatile int relocated;

void relocate_once(void)
{
    uint64_t base = (uint64_t)__ehdr_start;
    if (relocated)
        return;
    for (const struct rela *one = __rela_start; one < __rela_end; one++) {
        if ((uint32_t)one->info != 8) /* R_X86_64_RELATIVE */
            __builtin_trap();
        *(uint64_t *)(base + one->offset) = base + (uint64_t)one->addend;
    }
    relocated = 1;
}

/* -- the border: memory of the host lies wholly outside, and does not wrap around -- */

int is_outside(const void *pointer, uint64_t length)
{
    uint64_t start = (uint64_t)pointer, end = start + length;
    uint64_t base = (uint64_t)__ehdr_start, top = base + g_global_data.enclave_size;
    return end >= start && (end <= base || start >= top);
}

/* -- the CPU -- */

uint64_t random_word(void)
{
    uint64_t word;
    unsigned char ok;
    do
        __asm__ volatile("rdrand %0; setc %1" : "=r"(word), "=qm"(ok) : : "cc");
    while (!ok);
    return word;
}

void create_report(const uint8_t target_info[512], const uint8_t report_data[64], uint8_t report[432])
{
    static uint8_t target[512] __attribute__((aligned(512)));
    static uint8_t data[64] __attribute__((aligned(128)));
    static uint8_t made[512] __attribute__((aligned(512)));
    memcpy(target, target_info, sizeof target);
    memcpy(data, report_data, sizeof data);
    __asm__ volatile("enclu" : : "a"(0 /* EREPORT */), "b"(target), "c"(data), "d"(made) : "memory");
    memcpy(report, made, 432);
}
