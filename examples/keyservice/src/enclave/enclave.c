/* The calls that the host may make. Everything is copied in before it is used, and copied out at the end. */
#include "enclave.h"
#include "../calls.h"

int64_t enclave_call(uint64_t command, void *buffer, uint64_t length)
{
    relocate_once();
    if (!is_outside(buffer, length))
        return CALL_BAD_POINTER;
    if (command == CALL_CREATE_KEY && length >= sizeof(struct create_key)) {
        struct create_key *host = buffer, own;
        __builtin_memcpy(own.target_info, host->target_info, sizeof own.target_info);
        int64_t result = create_key(own.target_info, own.public_key, own.report);
        if (result > 0) {
            __builtin_memcpy(host->public_key, own.public_key, sizeof own.public_key);
            __builtin_memcpy(host->report, own.report, sizeof own.report);
        }
        return result;
    }
    if (command == CALL_SIGN && length >= sizeof(struct sign)) {
        struct sign *host = buffer, own;
        __builtin_memcpy(own.digest, host->digest, sizeof own.digest);
        int64_t result = sign_digest(own.digest, own.signature);
        if (result > 0)
            __builtin_memcpy(host->signature, own.signature, sizeof own.signature);
        return result;
    }
    return CALL_UNKNOWN;
}
