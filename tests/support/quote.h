/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Quotes as a TPM writes them (TPM 2.0 Library, Part 2, 10.12), signed by a key in memory, so that
 * every field can be any value; real ones are in test_attest_tpm.c. Threads: none.
 */
#ifndef CONSILIUM_TESTS_QUOTE_H
#define CONSILIUM_TESTS_QUOTE_H

#include "tier/attest.h"
#include "tier/cert.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>
#include <openssl/pem.h>

static inline size_t put_number(uint8_t *out, uint64_t value, unsigned bytes) {
    for (unsigned i = 0; i < bytes; i++)
        out[i] = (uint8_t)(value >> 8 * (bytes - 1 - i));
    return bytes;
}

/* What varies of a TPMS_ATTEST. */
struct quote_form {
    uint32_t magic, pcrs;
    uint16_t type, name_bytes, hash;
    struct tier_hash qualifier, digest;
};

static inline size_t put_attest(uint8_t out[TIER_ATTEST_BYTES_MAX], const struct quote_form *f) {
    size_t n = put_number(out, f->magic, 4);

    n += put_number(out + n, f->type, 2);
    n += put_number(out + n, f->name_bytes, 2);
    memset(out + n, 0xab, f->name_bytes);
    n += f->name_bytes;
    n += put_number(out + n, TIER_HASH_BYTES, 2);
    memcpy(out + n, f->qualifier.b, TIER_HASH_BYTES);
    n += TIER_HASH_BYTES;
    n += put_number(out + n, 123456, 8); /* clock */
    n += put_number(out + n, 3, 4);      /* resets */
    n += put_number(out + n, 1, 4);      /* restarts */
    n += put_number(out + n, 1, 1);      /* safe */
    n += put_number(out + n, 0x2020, 8); /* firmware */
    n += put_number(out + n, 1, 4);
    n += put_number(out + n, f->hash, 2);
    n += put_number(out + n, 3, 1);
    for (int i = 0; i < 3; i++)
        n += put_number(out + n, f->pcrs >> 8 * i & 0xff, 1);
    n += put_number(out + n, TIER_HASH_BYTES, 2);
    memcpy(out + n, f->digest.b, TIER_HASH_BYTES);
    return n + TIER_HASH_BYTES;
}

/* A good one of PCR 23 for the question, of what `ran`; PCR i of the platform is i + 1 in every
 * byte. `form` may be changed and put_attest and the signature made again. */
static inline void quote_make(const struct tier_attest_question *question,
                              const struct tier_measured *ran, struct quote_form *form,
                              struct tier_quote *q) {
    uint8_t values[(TIER_ATTEST_PLATFORM_PCRS + 1) * TIER_HASH_BYTES];
    const struct tier_hash own = tier_attest_pcr(ran);

    *q = (struct tier_quote){.pcr = 23, .ran = *ran};
    for (size_t i = 0; i < TIER_ATTEST_PLATFORM_PCRS; i++)
        memset(q->platform[i].b, (int)i + 1, TIER_HASH_BYTES);
    memcpy(values, q->platform, sizeof q->platform);
    memcpy(values + sizeof q->platform, own.b, TIER_HASH_BYTES);
    *form = (struct quote_form){.magic = 0xff544347,
                                .type = 0x8018,
                                .name_bytes = 34,
                                .hash = 0x000b,
                                .pcrs = 0xffff | 1u << 23,
                                .qualifier = tier_attest_qualifier(question)};
    tier_hash_data(values, sizeof values, &form->digest);
    q->attest_bytes = put_attest(q->attest, form);
}

static inline void quote_sign(const struct tier_key *key, struct tier_quote *q) {
    enum tier_status st =
        tier_key_sign(key, q->attest, q->attest_bytes, q->signature, &q->signature_bytes, NULL);
    assert(st == TIER_OK);
    (void)st;
}

/* The public half, as a node writes it; the caller's to free. */
static inline char *quote_key_pem(const struct tier_key *key) {
    char *own = NULL, *text = NULL;
    enum tier_status st = tier_key_to_pem(key, &own, NULL);
    assert(st == TIER_OK);
    (void)st;
    BIO *in = BIO_new_mem_buf(own, -1), *out = BIO_new(BIO_s_mem());
    EVP_PKEY *pkey = PEM_read_bio_PrivateKey(in, NULL, NULL, NULL);
    PEM_write_bio_PUBKEY(out, pkey);
    char *at = NULL;
    long n = BIO_get_mem_data(out, &at);
    text = strndup(at, (size_t)n);
    EVP_PKEY_free(pkey);
    BIO_free(in);
    BIO_free(out);
    tier_secret_free(own);
    return text;
}

#endif
