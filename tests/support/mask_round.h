/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A round of a secure sum in one process: a parent, children and what each would send, for tests of
 * tier/mask.h. Signatures are a hash over the signer's name and a secret of the test, so that
 * thousands of rounds take seconds; test_mask_identity.c has real ones.
 */
#ifndef CONSILIUM_TESTS_MASK_ROUND_H
#define CONSILIUM_TESTS_MASK_ROUND_H

#include "tier/mask.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RING_CHILDREN_MAX 260
#define RING_VALUES 5 /* of an update; the last stands for its weight */

struct ring_child {
    char name[TIER_NAME_LEN_MAX + 1];
    struct tier_mask_trust trust;
    struct tier_mask_child *c;
    uint64_t values[RING_VALUES], masked[RING_VALUES];
    bool gone, came;
};

struct ring {
    struct tier_mask_round round;
    struct tier_mask_trust trust;
    struct tier_mask_parent *p;
    struct ring_child child[RING_CHILDREN_MAX];
    unsigned count;
    uint64_t state;
};

static inline uint32_t ring_random(struct ring *g) {
    g->state = g->state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(g->state >> 33);
}

static inline bool ring_chance(struct ring *g, unsigned percent) {
    return ring_random(g) % 100 < percent;
}

static inline void ring_seal(const char *name, const void *data, size_t bytes, uint8_t *sig) {
    struct tier_hasher *h = tier_hasher_new();
    struct tier_hash hash;

    tier_hasher_add(h, "a secret of this test", 21);
    tier_hasher_add(h, name, strlen(name) + 1);
    tier_hasher_add(h, data, bytes);
    tier_hasher_finish(h, &hash);
    tier_hasher_free(h);
    memcpy(sig, hash.b, sizeof hash.b);
}

static inline enum tier_status ring_sign(void *arg, const void *data, size_t bytes, uint8_t *sig,
                                         size_t *sig_bytes_out, struct tier_err *err) {
    (void)err;
    ring_seal(arg, data, bytes, sig);
    *sig_bytes_out = TIER_HASH_BYTES;
    return TIER_OK;
}

static inline enum tier_status ring_check(void *arg, const char *name, const char *cert,
                                          const void *data, size_t bytes, const uint8_t *sig,
                                          size_t sig_bytes, struct tier_err *err) {
    uint8_t want[TIER_HASH_BYTES];

    (void)arg;
    ring_seal(name, data, bytes, want);
    if (strcmp(cert, "a certificate") == 0 && sig_bytes == sizeof want &&
        memcmp(sig, want, sizeof want) == 0)
        return TIER_OK;
    return tier_fail(err, TIER_EIDENTITY, "'%s' has not signed this", name);
}

static inline struct tier_mask_trust ring_trust(char *name) {
    return (struct tier_mask_trust){
        .arg = name, .cert = "a certificate", .sign = ring_sign, .check = ring_check};
}

static inline void ring_open(struct ring *g, unsigned count, unsigned cohort_min, double threshold,
                             uint64_t seed) {
    memset(g, 0, sizeof *g);
    g->round = (struct tier_mask_round){
        .run = {{7}}, .round = 1 + seed, .cohort_min = cohort_min, .threshold = threshold};
    g->count = count;
    g->state = seed * 2 + 1;
    g->trust = ring_trust(NULL);
    cr_assert_eq(tier_mask_parent_new(&g->round, &g->trust, &g->p, NULL), TIER_OK);
    for (unsigned i = 0; i < count; i++) {
        struct ring_child *k = &g->child[i];
        snprintf(k->name, sizeof k->name, "child-%u", i);
        k->trust = ring_trust(k->name);
        cr_assert_eq(tier_mask_child_new(&g->round, k->name, &k->trust, &k->c, NULL), TIER_OK);
        for (unsigned v = 0; v < RING_VALUES; v++)
            k->values[v] = (uint64_t)(int64_t)(int32_t)(ring_random(g) << 1);
    }
}

static inline void ring_close(struct ring *g) {
    for (unsigned i = 0; i < g->count; i++)
        tier_mask_child_free(g->child[i].c);
    tier_mask_parent_free(g->p);
}

static inline void ring_apply(const struct tier_mask_term *terms, size_t count, uint64_t *v) {
    struct tier_mask_pad *pad = tier_mask_pad_new();

    for (size_t i = 0; i < count; i++)
        cr_assert_eq(tier_mask_apply(pad, &terms[i], 0, v, RING_VALUES, NULL), TIER_OK);
    tier_mask_pad_free(pad);
}

/* What the child would push. */
static inline void ring_mask(struct ring_child *k) {
    struct tier_mask_term *terms;
    size_t count;

    cr_assert_eq(tier_mask_child_terms(k->c, &terms, &count, NULL), TIER_OK);
    memcpy(k->masked, k->values, sizeof k->masked);
    ring_apply(terms, count, k->masked);
    tier_mask_terms_free(terms, count);
}

/* The parent's word to the child after a step was closed, and the child's answer to the parent.
 * TIER_ENOTFOUND: it has no part. */
static inline enum tier_status ring_talk(struct ring *g, struct ring_child *k,
                                         struct tier_err *err) {
    enum tier_mask_step step;
    uint8_t *body = NULL, *answer = NULL;
    size_t bytes, n;
    enum tier_status st = tier_mask_parent_say(g->p, k->name, &step, &body, &bytes, err);

    if (st == TIER_OK)
        st = tier_mask_child_take(k->c, step, body, bytes, &answer, &n, err);
    if (st == TIER_OK && answer)
        st = tier_mask_parent_take(g->p, k->name, step + 1, answer, n, err);
    free(body);
    free(answer);
    return st;
}

static inline enum tier_status ring_advertise(struct ring *g, struct ring_child *k,
                                              struct tier_err *err) {
    size_t n;
    const uint8_t *body = tier_mask_child_advert(k->c, &n);
    return tier_mask_parent_take(g->p, k->name, TIER_MASK_ADVERT, body, n, err);
}

/* All who are there, in an order of the seed's; each is lost with that chance, for good. */
static inline void ring_shuffle(struct ring *g, unsigned *order) {
    for (unsigned i = 0; i < g->count; i++)
        order[i] = i;
    for (unsigned i = g->count; i > 1; i--) {
        unsigned j = ring_random(g) % i, k = order[i - 1];
        order[i - 1] = order[j];
        order[j] = k;
    }
}

/* The sum of the masked updates that came, and the same without masks. */
static inline void ring_sums(const struct ring *g, uint64_t *masked, uint64_t *visible) {
    memset(masked, 0, RING_VALUES * sizeof *masked);
    memset(visible, 0, RING_VALUES * sizeof *visible);
    for (unsigned i = 0; i < g->count; i++)
        for (unsigned v = 0; g->child[i].came && v < RING_VALUES; v++) {
            masked[v] += g->child[i].masked[v];
            visible[v] += g->child[i].values[v];
        }
}

/* One step of all who remain; `percent` of them are lost on the way. */
static inline void ring_step(struct ring *g, unsigned percent) {
    enum tier_mask_step open = tier_mask_parent_open(g->p);
    unsigned order[RING_CHILDREN_MAX];

    ring_shuffle(g, order);
    for (unsigned i = 0; i < g->count; i++) {
        struct ring_child *k = &g->child[order[i]];
        struct tier_err err = {0};
        if (k->gone || (k->gone = ring_chance(g, percent)))
            continue;
        if (open == TIER_MASK_ADVERT) {
            cr_assert_eq(ring_advertise(g, k, &err), TIER_OK, "%s", err.text);
            continue;
        }
        cr_assert_eq(ring_talk(g, k, &err), TIER_OK, "%s: %s", tier_mask_step_text(open), err.text);
        if (open != TIER_MASK_DELIVER)
            continue;
        ring_mask(k);
        cr_assert_eq(tier_mask_parent_masked(g->p, k->name, &err), TIER_OK, "%s", err.text);
        k->came = true;
    }
}

#endif
