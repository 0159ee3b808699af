/* SPDX-License-Identifier: Apache-2.0 */
/* A plan's signature: nothing but the one that was made is a signature, and nothing crashes. */
#include "fuzz/fuzz.h"
#include "tier/signed.h"

#include <string.h>

#define NOW INT64_C(1800000000)

static const struct tier_hash plan = {{7}};
static struct tier_cert *ca;
static char *made;
static size_t made_bytes;

static void prepare(void) {
    struct tier_key *ca_key = NULL;
    struct tier_node signer = {.id = {.role = TIER_ROLE_OPERATOR, .name = "alice"}};
    char *ca_pem = NULL, *csr = NULL;

    if (made)
        return;
    FUZZ_CHECK(tier_key_generate(&ca_key, NULL) == TIER_OK);
    FUZZ_CHECK(tier_cert_new_ca(ca_key, "nhs", 3650, NOW, &ca_pem, NULL) == TIER_OK);
    FUZZ_CHECK(tier_cert_from_pem(ca_pem, &ca, NULL) == TIER_OK);
    FUZZ_CHECK(tier_key_generate(&signer.key, NULL) == TIER_OK);
    FUZZ_CHECK(tier_csr_new(signer.key, "alice", TIER_ROLE_OPERATOR, &csr, NULL) == TIER_OK);
    FUZZ_CHECK(tier_cert_issue(ca_key, ca, csr, 30, NOW, &signer.cert_pem, NULL) == TIER_OK);
    FUZZ_CHECK(tier_signed_make(&signer, &plan, &made, &made_bytes, NULL) == TIER_OK);
    tier_key_free(ca_key);
    tier_key_free(signer.key);
    free(ca_pem);
    free(csr);
    free(signer.cert_pem);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct tier_identity id;

    prepare();
    if (tier_signed_check(data, size, &plan, ca, NULL, NOW, &id, NULL) == TIER_OK)
        FUZZ_CHECK(strcmp(id.name, "alice") == 0);
    return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t room) {
    prepare();
    FUZZ_CHECK(made_bytes <= room);
    if (i > 0)
        return 0;
    memcpy(out, made, made_bytes);
    return made_bytes;
}
