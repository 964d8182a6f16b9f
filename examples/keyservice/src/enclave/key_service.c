/* A P-256 key that is made in the enclave, never leaves it, and signs digests.
 * The report binds it to MRENCLAVE: report data begins with the SHA-256 of the public key. */
#include "enclave.h"
#include <bearssl.h>

static br_hmac_drbg_context random_source;
static unsigned char private_bytes[BR_EC_KBUF_PRIV_MAX_SIZE], public_bytes[BR_EC_KBUF_PUB_MAX_SIZE];
static br_ec_private_key private_key;
static br_ec_public_key public_key;

int64_t create_key(const uint8_t target_info[512], uint8_t public_out[65], uint8_t report[432])
{
    uint64_t seed[6];
    uint8_t report_data[64] = {0};
    br_sha256_context hashing;

    for (int i = 0; i < 6; i++)
        seed[i] = random_word();
    br_hmac_drbg_init(&random_source, &br_sha256_vtable, seed, sizeof seed);
    /* the m31 code is constant time and asks no CPUID, which br_ec_get_default() would */
    if (!br_ec_keygen(&random_source.vtable, &br_ec_p256_m31, &private_key, private_bytes, BR_EC_secp256r1))
        return -3;
    if (br_ec_compute_pub(&br_ec_p256_m31, &public_key, public_bytes, &private_key) != 65)
        return -4;
    br_sha256_init(&hashing);
    br_sha256_update(&hashing, public_key.q, public_key.qlen);
    br_sha256_out(&hashing, report_data);
    create_report(target_info, report_data, report);
    __builtin_memcpy(public_out, public_key.q, 65);
    return 65;
}

int64_t sign_digest(const uint8_t digest[32], uint8_t signature[64])
{
    if (!private_key.xlen)
        return -5;
    return (int64_t)br_ecdsa_i31_sign_raw(&br_ec_p256_m31, &br_sha256_vtable, digest, &private_key, signature);
}
