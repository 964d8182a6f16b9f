/* What the rooms of the host program share. */
#ifndef HOST_H
#define HOST_H

#include <stdint.h>

struct enclave {
    uint8_t *base;           /* where it lies: aligned to its size */
    uint64_t size;           /* its address range */
    uint8_t *tcs;            /* the thread that calls use */
    uint8_t sigstruct[1808]; /* its owner's signature, as the CPU would see it */
};

/* enclave_file.c: build the enclave's memory from its signed file */
void load_enclave(const char *path, struct enclave *enclave);

/* simulator.c: call into it without SGX hardware */
void start_simulator(struct enclave *enclave);
int64_t call_enclave(struct enclave *enclave, uint64_t command, void *buffer, uint64_t length);

_Noreturn void fail(const char *what);

#endif
