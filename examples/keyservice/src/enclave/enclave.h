/* What the rooms of the enclave share. */
#ifndef ENCLAVE_H
#define ENCLAVE_H

#include <stddef.h>
#include <stdint.h>

/* Filled by `rvp sgx pack` and measured: the enclave knows its own size. */
struct global_data {
    uint8_t marker[8];
    uint64_t enclave_size, heap_offset, heap_size, stack_size, threads;
    uint64_t reserved[2];
};
extern volatile struct global_data g_global_data;

/* runtime.c */
extern const uint8_t __ehdr_start[] __attribute__((visibility("hidden"))); /* the enclave's base */
void relocate_once(void);
int is_outside(const void *pointer, uint64_t length);
uint64_t random_word(void);
void create_report(const uint8_t target_info[512], const uint8_t report_data[64], uint8_t report[432]);

/* key_service.c */
int64_t create_key(const uint8_t target_info[512], uint8_t public_key[65], uint8_t report[432]);
int64_t sign_digest(const uint8_t digest[32], uint8_t signature[64]);

#endif
