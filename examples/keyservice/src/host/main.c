/* The host program: loads the enclave, has it make a key, shows its report, has it sign a digest.
 *
 *     keyservice enclave.signed.so [DIGEST]        DIGEST: 64 hex digits
 */
#include "../calls.h"
#include "host.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Noreturn void fail(const char *what)
{
    fprintf(stderr, "keyservice: %s\n", what);
    exit(1);
}

static void print(const char *name, const uint8_t *bytes, int count)
{
    printf("%-12s ", name);
    for (int i = 0; i < count; i++)
        printf("%02x", bytes[i]);
    putchar('\n');
}

static void read_digest(const char *text, uint8_t digest[32])
{
    unsigned int value;
    if (strlen(text) != 64)
        fail("a digest has 64 hex digits");
    for (int i = 0; i < 32; i++, digest[i - 1] = (uint8_t)value)
        if (sscanf(text + 2 * i, "%2x", &value) != 1)
            fail("a digest has 64 hex digits");
}

int main(int count, char **arguments)
{
    static struct enclave enclave;
    static struct create_key key;
    static struct sign request;

    if (count < 2 || count > 3) {
        fprintf(stderr, "usage: keyservice ENCLAVE [DIGEST]\n");
        return 2;
    }
    for (int i = 0; i < 32; i++)
        request.digest[i] = (uint8_t)i;
    if (count == 3)
        read_digest(arguments[2], request.digest);

    load_enclave(arguments[1], &enclave);
    start_simulator(&enclave);
    fprintf(stderr, "keyservice: SIMULATED, no SGX hardware: this report is not evidence\n");

    if (call_enclave(&enclave, CALL_CREATE_KEY, &key, sizeof key) != 65)
        fail("the enclave made no key");
    if (call_enclave(&enclave, CALL_SIGN, &request, sizeof request) != 64)
        fail("the enclave did not sign");
    if (call_enclave(&enclave, CALL_CREATE_KEY, enclave.base + 0x1000, sizeof key) != CALL_BAD_POINTER)
        fail("the enclave took a pointer into itself");

    print("mrenclave", key.report + 64, 32);
    print("report_data", key.report + 320, 64);
    print("public_key", key.public_key, 65);
    print("digest", request.digest, 32);
    print("signature", request.signature, 64);
    return 0;
}
