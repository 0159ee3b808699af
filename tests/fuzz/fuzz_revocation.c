/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Revocation lists as a parent may send them. Nothing but what the authority signed is taken, so a
 * mutation that is accepted is the list itself; what is refused for its signature alone has been
 * through everything else.
 */
#include "fuzz/fuzz.h"
#include "tier/cert.h"
#include "tier/revocation.h"

#include <string.h>

#define NOW INT64_C(1800000000)
#define SERIAL "80000000000000000000000000000001"

static struct tier_key *key;
static struct tier_cert *ca;

static void make_ca(void) {
    char *pem = NULL;

    if (ca)
        return;
    FUZZ_CHECK(tier_key_generate(&key, NULL) == TIER_OK);
    FUZZ_CHECK(tier_cert_new_ca(key, "nhs", 3650, NOW, &pem, NULL) == TIER_OK);
    FUZZ_CHECK(tier_cert_from_pem(pem, &ca, NULL) == TIER_OK);
    free(pem);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct tier_revocations *list = NULL;
    size_t bytes = 0;

    make_ca();
    if (tier_revocations_read(data, size, ca, &list, NULL) != TIER_OK)
        return 0;
    const uint8_t *kept = tier_revocations_bytes(list, &bytes);
    FUZZ_CHECK(bytes == size && memcmp(kept, data, size) == 0);
    FUZZ_CHECK(tier_revocations_number(list) >= 1);
    FUZZ_CHECK(tier_revocations_next_s(list) > tier_revocations_made_s(list));
    FUZZ_CHECK(tier_revocations_has(list, SERIAL) == (tier_revocations_count(list) > 0));
    tier_revocations_free(list);
    return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t room) {
    const struct tier_revoked revoked[2] = {{SERIAL, NOW}, {"ff00", NOW}};
    uint8_t *der = NULL;
    size_t bytes = 0;

    if (i > 2)
        return 0;
    make_ca();
    FUZZ_CHECK(tier_revocations_make(key, ca, i + 1, NOW, NOW + 60, revoked, i, &der, &bytes,
                                     NULL) == TIER_OK);
    FUZZ_CHECK(bytes <= room);
    memcpy(out, der, bytes);
    free(der);
    return bytes;
}
