/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What secure sums cost. Bytes: a whole round of the protocol among that many spokes, in this
 * process, with certificates of the usual kind; of one spoke everything it sends and hears is
 * counted, beside the plain 64-bit update that would go up in any case. Speed: one core adds masked
 * updates' masks to words that lie in memory, as a parent does that unmasks, beside what this
 * machine's AES-256-CTR does to the same number of bytes on one core. And what words of 32 bits
 * cost (tier/narrow.h): the bytes of a spoke beside the same update as plain float32, unmasking,
 * and rounding to them.
 */
#include "tests/bench/bench.h"
#include "tier/cert.h"
#include "tier/identity.h"
#include "tier/mask.h"
#include "tier/narrow.h"

#include <math.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SPOKES_DEFAULT 1000
#define BYTES_DEFAULT (8u << 20) /* 2^20 parameters as int64 */
#define COHORT 50
#define THRESHOLD 0.66
#define LOST_OF 20 /* one in so many is lost after it has shared */
#define RUNS 5
#define DAYS 30
#define NOW_S INT64_C(1800000000)

struct spoke {
    char name[16];
    struct tier_node node;
    struct tier_mask_identity identity;
    struct tier_mask_trust trust;
    struct tier_mask_child *child;
    uint64_t sent, heard; /* bytes */
};

struct cast {
    uint64_t count;
    struct spoke *spokes;
    struct tier_key *ca_key;
    struct tier_cert *ca;
    char *ca_pem;
    struct tier_mask_parent *parent;
    double parent_s;
};

/* ---- a cast with certificates ---- */

static enum tier_status make_spoke(struct cast *c, struct spoke *s,
                                   const struct tier_mask_round *round, struct tier_err *err) {
    char *csr = NULL;

    s->node.ca = c->ca;
    TIER_TRY(tier_key_generate(&s->node.key, err));
    TIER_TRY(tier_csr_new(s->node.key, s->name, TIER_ROLE_SPOKE, &csr, err));
    enum tier_status st =
        tier_cert_issue(c->ca_key, c->ca, csr, DAYS, NOW_S, &s->node.cert_pem, err);
    free(csr);
    TIER_TRY(st);
    s->identity = (struct tier_mask_identity){.node = &s->node, .now_s = NOW_S};
    s->trust = tier_mask_trust_of(&s->identity);
    return tier_mask_child_new(round, s->name, &s->trust, &s->child, err);
}

static enum tier_status raise_curtain(struct cast *c, const struct tier_mask_round *round,
                                      struct tier_err *err) {
    TIER_TRY(tier_key_generate(&c->ca_key, err));
    TIER_TRY(tier_cert_new_ca(c->ca_key, "ministry", DAYS, NOW_S, &c->ca_pem, err));
    TIER_TRY(tier_cert_from_pem(c->ca_pem, &c->ca, err));
    c->spokes = bench_alloc(c->count, sizeof *c->spokes);
    for (uint64_t i = 0; i < c->count; i++) {
        snprintf(c->spokes[i].name, sizeof c->spokes[i].name, "spoke-%u", (unsigned)i);
        TIER_TRY(make_spoke(c, &c->spokes[i], round, err));
    }
    return tier_mask_parent_new(round, &c->spokes[0].trust, &c->parent, err);
}

static void drop_curtain(struct cast *c) {
    for (uint64_t i = 0; c->spokes && i < c->count; i++) {
        tier_mask_child_free(c->spokes[i].child);
        tier_key_free(c->spokes[i].node.key);
        free(c->spokes[i].node.cert_pem);
    }
    tier_mask_parent_free(c->parent);
    tier_key_free(c->ca_key);
    tier_cert_free(c->ca);
    free(c->ca_pem);
    free(c->spokes);
}

/* ---- a round ---- */

static enum tier_status hand_over(struct cast *c, struct spoke *s, enum tier_mask_step step,
                                  const uint8_t *body, size_t n, struct tier_err *err) {
    double begin = bench_now_s();
    enum tier_status st = tier_mask_parent_take(c->parent, s->name, step, body, n, err);

    c->parent_s += bench_now_s() - begin;
    s->sent += n;
    return st;
}

/* One spoke's part of the open step. */
static enum tier_status speak(struct cast *c, struct spoke *s, struct tier_err *err) {
    enum tier_mask_step open = tier_mask_parent_open(c->parent), step;
    struct tier_mask_term *terms = NULL;
    uint8_t *body = NULL, *answer = NULL;
    size_t n = 0, bytes = 0;
    enum tier_status st;

    if (open == TIER_MASK_ADVERT) {
        const uint8_t *advert = tier_mask_child_advert(s->child, &n);
        return hand_over(c, s, open, advert, n, err);
    }
    double begin = bench_now_s();
    TIER_TRY(tier_mask_parent_say(c->parent, s->name, &step, &body, &bytes, err));
    c->parent_s += bench_now_s() - begin;
    s->heard += bytes;
    TIER_TRY_OUT(tier_mask_child_take(s->child, step, body, bytes, &answer, &n, err));
    if (answer)
        TIER_TRY_OUT(hand_over(c, s, step + 1, answer, n, err));
    if (open == TIER_MASK_DELIVER) {
        TIER_TRY_OUT(tier_mask_child_terms(s->child, &terms, &n, err));
        tier_mask_terms_free(terms, n);
        TIER_TRY_OUT(tier_mask_parent_masked(c->parent, s->name, err));
    }
out:
    free(body);
    free(answer);
    return st;
}

static enum tier_status play(struct cast *c, struct tier_err *err) {
    for (int step = 0; step < 5; step++) {
        for (uint64_t i = 0; i < c->count; i++)
            if (step < 2 || i % LOST_OF != LOST_OF - 1)
                TIER_TRY(speak(c, &c->spokes[i], err));
        double begin = bench_now_s();
        TIER_TRY(tier_mask_parent_close(c->parent, err));
        c->parent_s += bench_now_s() - begin;
    }
    return TIER_OK;
}

/* ---- speed ---- */

/* n words of 64 bits, or twice as many of 32. */
static double unmask_gb_s(const struct tier_mask_term *terms, size_t count, uint64_t *words,
                          size_t n, bool narrow, struct tier_err *err) {
    struct tier_mask_pad *pad = tier_mask_pad_new();
    size_t used = count < 16 ? count : 16, segment = TIER_SEGMENT_ELEMENTS;
    uint32_t *narrow_words = (uint32_t *)(void *)words;
    double begin = bench_now_s();
    bool ok = pad != NULL;

    for (size_t at = 0; at < n; at += segment)
        for (size_t t = 0; ok && t < used; t++) {
            size_t here = n - at < segment ? n - at : segment;
            ok = (narrow ? tier_mask_apply32(pad, &terms[t], 2 * at, narrow_words + 2 * at,
                                             2 * here, err)
                         : tier_mask_apply(pad, &terms[t], at, words + at, here, err)) == TIER_OK;
        }
    double s = bench_now_s() - begin;
    tier_mask_pad_free(pad);
    return ok ? (double)(used * n * sizeof *words) / s * 1e-9 : NAN;
}

/* A bare encryption in pieces of 16 KiB, as `openssl speed` has them. */
static double aes_gb_s(uint64_t *words, size_t n) {
    static const uint8_t key[32] = {1}, counter[16] = {0};
    enum { PIECE = 16384 };
    static uint8_t in[PIECE], out[PIECE];
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    size_t bytes = 16 * n * sizeof *words;
    int made;
    bool ok = ctx && EVP_EncryptInit_ex2(ctx, EVP_aes_256_ctr(), key, counter, NULL) == 1;
    double begin = bench_now_s();

    for (size_t at = 0; ok && at < bytes; at += PIECE)
        ok = EVP_EncryptUpdate(ctx, out, &made, in, PIECE) == 1;
    double s = bench_now_s() - begin;
    EVP_CIPHER_CTX_free(ctx);
    return ok ? (double)bytes / s * 1e-9 : NAN;
}

struct speed {
    double unmask, unmask32, aes; /* GB/s */
    double round;                 /* 10^6 elements/s */
};

static double round_m_s(float *x, size_t n) {
    bench_deltas(x, n, 0.01, 1);
    double begin = bench_now_s();

    tier_narrow_round(x, n, 30, tier_narrow_shift_for(SPOKES_DEFAULT), 1, 0);
    return (double)n / (bench_now_s() - begin) * 1e-6;
}

static enum tier_status measure_speed(const struct cast *c, size_t n, struct speed *out,
                                      struct tier_err *err) {
    uint64_t *words = bench_alloc(n, sizeof *words);
    float *x = bench_alloc(n, sizeof *x);
    double ours[RUNS], ours32[RUNS], theirs[RUNS], rounds[RUNS];
    size_t count;
    const struct tier_mask_term *terms = tier_mask_parent_terms(c->parent, &count);

    for (int i = 0; i < RUNS; i++) {
        ours[i] = unmask_gb_s(terms, count, words, n, false, err);
        theirs[i] = aes_gb_s(words, n);
        ours32[i] = unmask_gb_s(terms, count, words, n, true, err);
        rounds[i] = round_m_s(x, n);
    }
    free(words);
    free(x);
    *out = (struct speed){.unmask = bench_median(ours, RUNS),
                          .unmask32 = bench_median(ours32, RUNS),
                          .aes = bench_median(theirs, RUNS),
                          .round = bench_median(rounds, RUNS)};
    return isnan(out->unmask) || isnan(out->unmask32) || isnan(out->aes)
               ? tier_fail(err, TIER_EINTERNAL, "libcrypto cannot expand a mask")
               : TIER_OK;
}

enum tier_status bench_mask(const struct bench_options *options, struct bench_result *result,
                            struct tier_err *err) {
    struct cast c = {.count = options->spokes ? options->spokes : SPOKES_DEFAULT};
    size_t n = (size_t)(options->bytes ? options->bytes : BYTES_DEFAULT) / sizeof(uint64_t);
    const struct tier_mask_round round = {.run = {{1}},
                                          .round = 1,
                                          .cohort_min = c.count < COHORT ? 2 : COHORT,
                                          .threshold = THRESHOLD};
    double plain = (double)(n * sizeof(uint64_t)), f32 = (double)(n * sizeof(float));
    double most = 0, up = 0, masked32 = f32 + 2 * sizeof(uint64_t); /* weight and count behind */
    struct speed speed;
    size_t terms;
    enum tier_status st;

    TIER_TRY_OUT(raise_curtain(&c, &round, err));
    TIER_TRY_OUT(play(&c, err));
    TIER_TRY_OUT(measure_speed(&c, n, &speed, err));
    for (uint64_t i = 0; i < c.count; i++) {
        double all = (double)(c.spokes[i].sent + c.spokes[i].heard);
        most = all > most ? all : most;
        up = (double)c.spokes[i].sent > up ? (double)c.spokes[i].sent : up;
    }
    tier_mask_parent_terms(c.parent, &terms);
    *result = (struct bench_result){
        .value = (plain + most) / plain,
        .unit = "x",
        .against = "the bytes of the same update as plain 64-bit integers; `ratio` is unmasking "
                   "against AES-256-CTR, one core",
        .ratio = speed.unmask / speed.aes,
        .detail =
            json_pack("{s:I, s:I, s:f, s:f, s:I, s:f, s:f, s:f, s:f, s:{s:I, s:f, s:f, s:f}}",
                      "spokes", (json_int_t)c.count, "update_bytes", (json_int_t)plain,
                      "protocol_bytes_per_spoke", most, "of_which_sent", up, "masks",
                      (json_int_t)terms, "unmask_gb_s", speed.unmask, "aes_256_ctr_gb_s", speed.aes,
                      "unmask_s", (double)terms * plain * 1e-9 / speed.unmask, "hub_protocol_s",
                      c.parent_s, "bits_32", "update_bytes", (json_int_t)masked32, "unmask_gb_s",
                      speed.unmask32, "unmask_s", (double)terms * masked32 * 1e-9 / speed.unmask32,
                      "round_million_elements_s", speed.round)};
    bench_bar(result, "bits_32_bytes_against_f32", (masked32 + most) / f32, 1.10);
out:
    drop_curtain(&c);
    return st;
}
