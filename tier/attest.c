/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bytes of a TPMS_ATTEST come from whoever answers, so they are read here by hand, in full and
 * in order, with nothing allocated: a signature over other bytes than a quote's proves nothing, and
 * a TPM's restricted key signs nothing that begins as one does and is none.
 */
#include "tier/attest.h"
#include "tier/hex.h"
#include "tier/identity.h"
#include "tier/plan.h"

#include <jansson.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TPM_GENERATED_VALUE 0xff544347u /* "\xffTCG" */
#define TPM_ST_ATTEST_QUOTE 0x8018u
#define TPM_ALG_SHA256 0x000bu
#define NAME_BYTES_MAX 68u /* TPM2B_NAME: an algorithm and its longest digest, with room */
#define SELECT_BYTES 3u    /* 24 PCRs */
#define P256_BITS 256

/* ---- what was run ---- */

static void extend(struct tier_hash *pcr, const struct tier_hash *by) {
    uint8_t both[2 * TIER_HASH_BYTES];

    memcpy(both, pcr->b, TIER_HASH_BYTES);
    memcpy(both + TIER_HASH_BYTES, by->b, TIER_HASH_BYTES);
    tier_hash_data(both, sizeof both, pcr);
}

struct tier_hash tier_attest_pcr(const struct tier_measured *ran) {
    struct tier_hash pcr = {{0}};

    extend(&pcr, &ran->binary);
    extend(&pcr, &ran->kernels);
    extend(&pcr, &ran->config);
    return pcr;
}

struct tier_hash tier_attest_qualifier(const struct tier_attest_question *q) {
    char text[2 * TIER_HASH_HEX + 2 * TIER_NAME_LEN_MAX + 80];
    char run[TIER_HASH_HEX], nonce[TIER_HASH_HEX];
    struct tier_hash hash;

    int n = snprintf(text, sizeof text,
                     "consilium attest 1\nrun %s\nchild %.*s\nparent %.*s\nnonce %s\n",
                     tier_hash_hex(&q->run, run), TIER_NAME_LEN_MAX, q->child, TIER_NAME_LEN_MAX,
                     q->parent, tier_hash_hex(&q->nonce, nonce));
    tier_hash_data(text, (size_t)n, &hash);
    return hash;
}

/* ---- the TPM's bytes, big-endian ---- */

struct bytes {
    const uint8_t *at, *end;
    bool short_of; /* something was asked for beyond the end */
};

static uint64_t take(struct bytes *b, unsigned count) {
    uint64_t value = 0;

    if ((size_t)(b->end - b->at) < count) {
        b->short_of = true;
        b->at = b->end;
        return 0;
    }
    while (count--)
        value = value << 8 | *b->at++;
    return value;
}

static const uint8_t *skip(struct bytes *b, size_t count) {
    const uint8_t *at = b->at;

    if ((size_t)(b->end - b->at) < count) {
        b->short_of = true;
        return NULL;
    }
    b->at += count;
    return at;
}

/* A TPM2B of 32 bytes. */
static bool take_hash(struct bytes *b, struct tier_hash *out) {
    uint64_t n = take(b, 2);
    const uint8_t *at = n == TIER_HASH_BYTES ? skip(b, TIER_HASH_BYTES) : NULL;

    if (at)
        memcpy(out->b, at, TIER_HASH_BYTES);
    return at != NULL;
}

/* One selection, of the SHA-256 bank. */
static bool take_selection(struct bytes *b, uint32_t *pcrs) {
    if (take(b, 4) != 1 || take(b, 2) != TPM_ALG_SHA256 || take(b, 1) != SELECT_BYTES)
        return false;
    const uint8_t *select = skip(b, SELECT_BYTES);
    if (!select)
        return false;
    *pcrs = (uint32_t)select[0] | (uint32_t)select[1] << 8 | (uint32_t)select[2] << 16;
    return true;
}

enum tier_status tier_attest_parse(const void *data, size_t bytes, struct tier_attested *out,
                                   struct tier_err *err) {
    struct tier_attested a = {.pcrs = 0};
    struct bytes b = {.at = data, .end = (const uint8_t *)data + bytes};

    if (bytes == 0 || bytes > TIER_ATTEST_BYTES_MAX)
        return tier_fail(err, TIER_EPROTO, "a quote of %zu bytes, 1 to %u are allowed", bytes,
                         TIER_ATTEST_BYTES_MAX);
    if (take(&b, 4) != TPM_GENERATED_VALUE)
        return tier_fail(err, TIER_EPROTO, "a quote that no TPM made: it begins otherwise");
    if (take(&b, 2) != TPM_ST_ATTEST_QUOTE)
        return tier_fail(err, TIER_EPROTO, "what the TPM signed is no quote");
    uint64_t name = take(&b, 2);
    if (name > NAME_BYTES_MAX || !skip(&b, (size_t)name))
        return tier_fail(err, TIER_EPROTO, "a quote whose signer's name cannot be read");
    if (!take_hash(&b, &a.qualifier))
        return tier_fail(err, TIER_EPROTO, "a quote that carries no 32 bytes of a question");
    a.clock_ms = take(&b, 8);
    a.resets = (uint32_t)take(&b, 4);
    a.restarts = (uint32_t)take(&b, 4);
    bool safe = take(&b, 1) <= 1;
    (void)take(&b, 8); /* the firmware's version */
    if (!safe || !take_selection(&b, &a.pcrs))
        return tier_fail(err, TIER_EPROTO, "a quote of other PCRs than of the SHA-256 bank alone");
    if (!take_hash(&b, &a.pcr_digest) || b.short_of || b.at != b.end)
        return tier_fail(err, TIER_EPROTO, "a quote that does not end with a SHA-256 of PCRs");
    *out = a;
    return TIER_OK;
}

/* ---- keys ---- */

static enum tier_status no_key(EVP_PKEY *key, struct tier_err *err) {
    EVP_PKEY_free(key);
    return tier_fail(err, TIER_EIDENTITY,
                     "not one public key of P-256 in PEM, as a node writes its own to "
                     "identity/attest.pem");
}

enum tier_status tier_attest_key(const char *pem, uint8_t out[TIER_ATTEST_KEY_BYTES],
                                 struct tier_err *err) {
    BIO *bio = BIO_new_mem_buf(pem, -1);
    EVP_PKEY *key = bio ? PEM_read_bio_PUBKEY(bio, NULL, NULL, NULL) : NULL;
    char group[32] = "";
    uint8_t *der = NULL;

    BIO_free(bio);
    if (!key || EVP_PKEY_get_base_id(key) != EVP_PKEY_EC || EVP_PKEY_get_bits(key) != P256_BITS ||
        EVP_PKEY_get_group_name(key, group, sizeof group, NULL) != 1 ||
        (strcmp(group, "prime256v1") != 0 && strcmp(group, "P-256") != 0))
        return no_key(key, err);
    int n = i2d_PUBKEY(key, &der);
    if (n != TIER_ATTEST_KEY_BYTES) {
        OPENSSL_free(der);
        return no_key(key, err);
    }
    memcpy(out, der, TIER_ATTEST_KEY_BYTES);
    OPENSSL_free(der);
    EVP_PKEY_free(key);
    return TIER_OK;
}

static bool signed_by(const uint8_t der[TIER_ATTEST_KEY_BYTES], const struct tier_quote *q) {
    const uint8_t *at = der;
    EVP_PKEY *key = d2i_PUBKEY(NULL, &at, TIER_ATTEST_KEY_BYTES);
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    bool good =
        key && md && EVP_PKEY_get_base_id(key) == EVP_PKEY_EC &&
        EVP_DigestVerifyInit(md, NULL, EVP_sha256(), NULL, key) == 1 &&
        EVP_DigestVerify(md, q->signature, q->signature_bytes, q->attest, q->attest_bytes) == 1;

    EVP_MD_CTX_free(md);
    EVP_PKEY_free(key);
    return good;
}

/* ---- checking ---- */

/* SHA-256 over the values of the quoted PCRs, in ascending order: Part 1, 18.5. */
static struct tier_hash digest_of(const struct tier_quote *q) {
    uint8_t values[(TIER_ATTEST_PLATFORM_PCRS + 1) * TIER_HASH_BYTES];
    const struct tier_hash own = tier_attest_pcr(&q->ran);
    struct tier_hash digest;

    for (size_t i = 0; i < TIER_ATTEST_PLATFORM_PCRS; i++)
        memcpy(values + i * TIER_HASH_BYTES, q->platform[i].b, TIER_HASH_BYTES);
    memcpy(values + TIER_ATTEST_PLATFORM_PCRS * TIER_HASH_BYTES, own.b, TIER_HASH_BYTES);
    tier_hash_data(values, sizeof values, &digest);
    return digest;
}

bool tier_attest_steady(const struct tier_quote *q) {
    const struct tier_hash digest = digest_of(q);
    struct tier_attested a;

    return tier_attest_parse(q->attest, q->attest_bytes, &a, NULL) == TIER_OK &&
           tier_hash_equal(&a.pcr_digest, &digest);
}

enum tier_status tier_attest_check(const struct tier_attest_question *question,
                                   const struct tier_quote *q,
                                   const uint8_t key[TIER_ATTEST_KEY_BYTES], struct tier_err *err) {
    const struct tier_hash qualifier = tier_attest_qualifier(question), digest = digest_of(q);
    struct tier_attested a = {.pcrs = 0};
    struct tier_err why = {0};

    if (tier_attest_parse(q->attest, q->attest_bytes, &a, &why) != TIER_OK)
        return tier_fail(err, TIER_EIDENTITY, "%s", why.text);
    if (!signed_by(key, q))
        return tier_fail(err, TIER_EIDENTITY,
                         "its quote is not signed by the TPM key that is pinned for %s",
                         question->child);
    if (!tier_hash_equal(&a.qualifier, &qualifier))
        return tier_fail(err, TIER_EIDENTITY,
                         "its quote answers another question: an older nonce, or another run, "
                         "child or parent");
    if (q->pcr != 16 && q->pcr != 23)
        return tier_fail(err, TIER_EIDENTITY,
                         "its quote is said to be of PCR %u; 16 or 23 is right", q->pcr);
    if (a.pcrs != (0xffffu | 1u << q->pcr))
        return tier_fail(err, TIER_EIDENTITY,
                         "its quote is not of PCRs 0 to 15 and %u, and of no others", q->pcr);
    if (!tier_hash_equal(&a.pcr_digest, &digest))
        return tier_fail(err, TIER_EIDENTITY,
                         "its TPM does not hold what it says: PCR %u is not the hash of its "
                         "program, kernels and configuration, or PCRs 0 to 15 have other values",
                         q->pcr);
    return TIER_OK;
}

bool tier_attest_entry(const char *text, struct tier_attest_entry *out) {
    static const char *const names[] = {"binary", "kernels", "config"};
    const char *equals = strchr(text, '=');
    size_t n = equals ? (size_t)(equals - text) : 0;

    if (!equals || !tier_hash_parse(equals + 1, &out->hash))
        return false;
    out->pcr = 0;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strlen(names[i]) == n && memcmp(names[i], text, n) == 0) {
            out->kind = (enum tier_attest_kind)i;
            return true;
        }
    out->kind = TIER_ATTEST_PCR;
    if (n < 4 || n > 5 || memcmp(text, "pcr", 3) != 0 || (n == 5 && text[3] != '1'))
        return false;
    for (size_t i = 3; i < n; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        out->pcr = out->pcr * 10 + (uint32_t)(text[i] - '0');
    }
    return out->pcr < TIER_ATTEST_PLATFORM_PCRS;
}

/* Whether the list has that hash of that kind; *any_out whether it has one of the kind. */
static bool lists(const struct tier_plan *plan, enum tier_attest_kind kind, uint32_t pcr,
                  const struct tier_hash *hash, bool *any_out) {
    const struct tier_keys_list *list = &plan->governance.attest_allow;
    struct tier_attest_entry entry;
    bool found = false;

    *any_out = false;
    for (size_t i = 0; i < list->count; i++) {
        if (!tier_attest_entry(tier_keys_list_item(list, i), &entry) || entry.kind != kind ||
            entry.pcr != pcr)
            continue;
        *any_out = true;
        found = found || tier_hash_equal(&entry.hash, hash);
    }
    return found;
}

static enum tier_status not_listed(const char *what, const struct tier_hash *hash,
                                   struct tier_err *err) {
    char hex[TIER_HASH_HEX];
    return tier_fail(err, TIER_EPOLICY, "%s, %s, is not in the plan's governance.attest_allow",
                     what, tier_hash_hex(hash, hex));
}

enum tier_status tier_attest_allowed(const struct tier_plan *plan, const struct tier_quote *q,
                                     struct tier_err *err) {
    char what[64];
    bool any;

    if (!lists(plan, TIER_ATTEST_BINARY, 0, &q->ran.binary, &any))
        return not_listed("the program that it runs", &q->ran.binary, err);
    if (!tier_hash_is_zero(&q->ran.kernels) &&
        !lists(plan, TIER_ATTEST_KERNELS, 0, &q->ran.kernels, &any))
        return not_listed("the kernels that it has loaded", &q->ran.kernels, err);
    if (!lists(plan, TIER_ATTEST_CONFIG, 0, &q->ran.config, &any) && any)
        return not_listed("its configuration", &q->ran.config, err);
    for (uint32_t i = 0; i < TIER_ATTEST_PLATFORM_PCRS; i++) {
        snprintf(what, sizeof what, "PCR %u of its machine", i);
        if (!lists(plan, TIER_ATTEST_PCR, i, &q->platform[i], &any) && any)
            return not_listed(what, &q->platform[i], err);
    }
    return TIER_OK;
}

/* ---- audit lines ---- */

static json_t *hex_of(const uint8_t *data, size_t bytes) {
    char text[2 * TIER_ATTEST_BYTES_MAX + TIER_ATTEST_PLATFORM_PCRS * TIER_HASH_HEX];

    for (size_t i = 0; i < bytes; i++)
        snprintf(text + 2 * i, 3, "%02x", data[i]);
    return json_stringn(text, 2 * bytes);
}

json_t *tier_attest_json(const struct tier_attest_question *question, const struct tier_quote *q,
                         const uint8_t key[TIER_ATTEST_KEY_BYTES]) {
    uint8_t platform[TIER_ATTEST_PLATFORM_PCRS * TIER_HASH_BYTES];

    for (size_t i = 0; i < TIER_ATTEST_PLATFORM_PCRS; i++)
        memcpy(platform + i * TIER_HASH_BYTES, q->platform[i].b, TIER_HASH_BYTES);
    return json_pack(
        "{s:o, s:s, s:o, s:o, s:o, s:o, s:i, s:o, s:o, s:o, s:o}", "run",
        hex_of(question->run.b, TIER_HASH_BYTES), "child", question->child, "nonce",
        hex_of(question->nonce.b, TIER_HASH_BYTES), "key", hex_of(key, TIER_ATTEST_KEY_BYTES),
        "quote", hex_of(q->attest, q->attest_bytes), "signature",
        hex_of(q->signature, q->signature_bytes), "pcr", (int)q->pcr, "platform",
        hex_of(platform, sizeof platform), "binary", hex_of(q->ran.binary.b, TIER_HASH_BYTES),
        "kernels", hex_of(q->ran.kernels.b, TIER_HASH_BYTES), "config",
        hex_of(q->ran.config.b, TIER_HASH_BYTES));
}

/* From `least` to `room` bytes. */
static bool read_hex(const json_t *data, const char *key, uint8_t *out, size_t least, size_t room,
                     size_t *bytes_out) {
    const char *text = json_string_value(json_object_get(data, key));
    size_t n = 0;

    if (!text || !tier_hex_read(text, out, room, &n) || n < least)
        return false;
    if (bytes_out)
        *bytes_out = n;
    return true;
}

static bool read_hash(const json_t *data, const char *key, struct tier_hash *out) {
    return read_hex(data, key, out->b, TIER_HASH_BYTES, TIER_HASH_BYTES, NULL);
}

bool tier_attest_read(const json_t *data, struct tier_attest_question *question,
                      struct tier_quote *q, uint8_t key[TIER_ATTEST_KEY_BYTES]) {
    uint8_t platform[TIER_ATTEST_PLATFORM_PCRS * TIER_HASH_BYTES];
    json_int_t pcr = json_integer_value(json_object_get(data, "pcr"));

    question->child = json_string_value(json_object_get(data, "child"));
    if (!question->child || !tier_name_valid(question->child) || pcr < 0 || pcr > 23 ||
        !read_hash(data, "run", &question->run) || !read_hash(data, "nonce", &question->nonce) ||
        !read_hex(data, "key", key, TIER_ATTEST_KEY_BYTES, TIER_ATTEST_KEY_BYTES, NULL) ||
        !read_hex(data, "quote", q->attest, 1, sizeof q->attest, &q->attest_bytes) ||
        !read_hex(data, "signature", q->signature, 1, sizeof q->signature, &q->signature_bytes) ||
        !read_hex(data, "platform", platform, sizeof platform, sizeof platform, NULL) ||
        !read_hash(data, "binary", &q->ran.binary) ||
        !read_hash(data, "kernels", &q->ran.kernels) || !read_hash(data, "config", &q->ran.config))
        return false;
    q->pcr = (uint32_t)pcr;
    for (size_t i = 0; i < TIER_ATTEST_PLATFORM_PCRS; i++)
        memcpy(q->platform[i].b, platform + i * TIER_HASH_BYTES, TIER_HASH_BYTES);
    return true;
}
