/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a child's TPM is said to have signed, and an audit line with it. The first byte says which:
 * '0' a TPMS_ATTEST, else a line's members in JSON. Nothing crashes; what is read is read whole;
 * and no bytes but those that were signed are a good answer.
 */
#include "fuzz/fuzz.h"
#include "support/quote.h"

#include <jansson.h>

static const struct tier_attest_question question = {{{1}}, {{2}}, "north-1", "hub-a"};
static const struct tier_measured ran = {{{3}}, {{4}}, {{5}}};
static struct tier_quote made;
static uint8_t made_key[TIER_ATTEST_KEY_BYTES];

static void prepare(void) {
    static struct tier_key *key;
    struct quote_form form;

    if (key)
        return;
    FUZZ_CHECK(tier_key_generate(&key, NULL) == TIER_OK);
    char *pem = quote_key_pem(key);
    FUZZ_CHECK(tier_attest_key(pem, made_key, NULL) == TIER_OK);
    free(pem);
    quote_make(&question, &ran, &form, &made);
    quote_sign(key, &made);
}

static void parse(const uint8_t *data, size_t size) {
    struct tier_attested a, b;

    if (tier_attest_parse(data, size, &a, NULL) != TIER_OK)
        return;
    uint8_t longer[TIER_ATTEST_BYTES_MAX + 1] = {0};
    FUZZ_CHECK(size <= TIER_ATTEST_BYTES_MAX && a.pcrs < 1u << 24);
    memcpy(longer, data, size);
    FUZZ_CHECK(tier_attest_parse(longer, size + 1, &b, NULL) != TIER_OK);
    FUZZ_CHECK(tier_attest_parse(data, size - 1, &b, NULL) != TIER_OK);
}

static void line(const uint8_t *data, size_t size) {
    struct tier_attest_question q = {.parent = question.parent};
    struct tier_quote quote = {.pcr = 0};
    uint8_t key[TIER_ATTEST_KEY_BYTES];
    json_t *root = json_loadb((const char *)data, size, 0, NULL);

    if (json_is_object(root) && tier_attest_read(root, &q, &quote, key) &&
        memcmp(key, made_key, sizeof key) == 0 &&
        tier_attest_check(&q, &quote, key, NULL) == TIER_OK) {
        FUZZ_CHECK(quote.attest_bytes == made.attest_bytes &&
                   memcmp(quote.attest, made.attest, made.attest_bytes) == 0);
        FUZZ_CHECK(memcmp(&quote.ran, &ran, sizeof ran) == 0);
        FUZZ_CHECK(tier_hash_equal(&q.nonce, &question.nonce) &&
                   tier_hash_equal(&q.run, &question.run) && strcmp(q.child, "north-1") == 0);
    }
    json_decref(root);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    prepare();
    if (size < 2)
        return 0;
    if (*data == '0')
        parse(data + 1, size - 1);
    else
        line(data + 1, size - 1);
    return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t room) {
    prepare();
    if (i > 1)
        return 0;
    out[0] = i == 0 ? '0' : '1';
    if (i == 0) {
        FUZZ_CHECK(made.attest_bytes < room);
        memcpy(out + 1, made.attest, made.attest_bytes);
        return made.attest_bytes + 1;
    }
    json_t *root = tier_attest_json(&question, &made, made_key);
    size_t n = json_dumpb(root, (char *)out + 1, room - 1, JSON_COMPACT);
    FUZZ_CHECK(n > 0 && n < room);
    json_decref(root);
    return n + 1;
}
