/* The border between host and enclave: numbers of calls and what they carry. */
#ifndef CALLS_H
#define CALLS_H

#include <stdint.h>

enum { CALL_CREATE_KEY = 0, CALL_SIGN = 1 };
enum { CALL_BAD_POINTER = -1, CALL_UNKNOWN = -2 };

struct create_key {
    uint8_t target_info[512]; /* in: who shall be able to check the report */
    uint8_t public_key[65];   /* out: P-256, uncompressed */
    uint8_t report[432];      /* out: report data = SHA-256 of the public key */
};

struct sign {
    uint8_t digest[32];    /* in */
    uint8_t signature[64]; /* out: r, s */
};

#endif
