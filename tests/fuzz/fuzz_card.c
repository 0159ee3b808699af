/* SPDX-License-Identifier: Apache-2.0 */
/* A model card: nothing but the one that was made is a card, and nothing crashes. */
#include "fuzz/fuzz.h"
#include "tier/card.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define NOW INT64_C(1800000000)

static struct tier_cert *ca;
static char *made;
static size_t made_bytes;

static void prepare(void) {
    struct tier_key *ca_key = NULL;
    struct tier_node hub = {.id = {.role = TIER_ROLE_TOP, .name = "top"}};
    char *ca_pem = NULL, *csr = NULL;
    char hex[TIER_HASH_HEX];
    const struct tier_hash model = {{5}};
    json_t *body = NULL;

    if (made)
        return;
    FUZZ_CHECK(tier_key_generate(&ca_key, NULL) == TIER_OK);
    FUZZ_CHECK(tier_cert_new_ca(ca_key, "nhs", 3650, NOW, &ca_pem, NULL) == TIER_OK);
    FUZZ_CHECK(tier_cert_from_pem(ca_pem, &ca, NULL) == TIER_OK);
    FUZZ_CHECK(tier_key_generate(&hub.key, NULL) == TIER_OK);
    FUZZ_CHECK(tier_csr_new(hub.key, "top", TIER_ROLE_TOP, &csr, NULL) == TIER_OK);
    FUZZ_CHECK(tier_cert_issue(ca_key, ca, csr, 3600, NOW, &hub.cert_pem, NULL) == TIER_OK);
    body = json_pack("{s:i, s:{s:s, s:i}, s:{s:[s, s], s:I}, s:[f, {s:n}]}", "version",
                     TIER_CARD_VERSION, "model", "sha256", tier_hash_hex(&model, hex), "bytes", 9,
                     "release", "by", "anna", "bert", "time_ms", (json_int_t)(NOW + 60) * 1000,
                     "metrics", 0.5, "why");
    FUZZ_CHECK(tier_card_sign(&hub, body, &made, &made_bytes, NULL) == TIER_OK);
    json_decref(body);
    tier_key_free(ca_key);
    tier_key_free(hub.key);
    free(ca_pem);
    free(csr);
    free(hub.cert_pem);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct tier_card card = {.body = NULL};

    prepare();
    if (tier_card_read(data, size, &card, NULL) == TIER_OK &&
        tier_card_check(&card, ca, NULL) == TIER_OK)
        FUZZ_CHECK(size == made_bytes && memcmp(data, made, size) == 0);
    tier_card_release(&card);
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
