/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bodies of secure sums: whatever a parent says, a child answers or is out, and whatever a
 * child says, the parent goes on with the others. The first byte says who hears the rest, and after
 * how many honest steps.
 */
#include "fuzz/fuzz.h"
#include "tier/mask.h"

#include <stdlib.h>
#include <string.h>

#define CHILDREN 3

static char names[CHILDREN][8] = {"a-child", "b-child", "c-child"};

static enum tier_status sign(void *arg, const void *data, size_t bytes, uint8_t *sig, size_t *n_out,
                             struct tier_err *err) {
    struct tier_hash hash;

    (void)arg, (void)err;
    tier_hash_data(data, bytes, &hash);
    memcpy(sig, hash.b, sizeof hash.b);
    *n_out = sizeof hash.b;
    return TIER_OK;
}

static enum tier_status check(void *arg, const char *name, const char *cert, const void *data,
                              size_t bytes, const uint8_t *sig, size_t sig_bytes,
                              struct tier_err *err) {
    struct tier_hash hash;

    (void)arg, (void)name, (void)cert, (void)err;
    tier_hash_data(data, bytes, &hash);
    return sig_bytes == sizeof hash.b && memcmp(sig, hash.b, sig_bytes) == 0 ? TIER_OK
                                                                             : TIER_EIDENTITY;
}

static struct tier_mask_trust trust = {.cert = "cert", .sign = sign, .check = check};
static const struct tier_mask_round the_round = {
    .run = {{1}}, .round = 1, .cohort_min = 2, .threshold = 0.6};

struct cast {
    struct tier_mask_parent *parent;
    struct tier_mask_child *child[CHILDREN];
};

static void speak(struct cast *c, int i) {
    enum tier_mask_step open = tier_mask_parent_open(c->parent), step;
    uint8_t *body = NULL, *answer = NULL;
    struct tier_mask_term *terms;
    size_t n = 0, bytes;

    if (open == TIER_MASK_ADVERT) {
        const uint8_t *advert = tier_mask_child_advert(c->child[i], &n);
        FUZZ_CHECK(tier_mask_parent_take(c->parent, names[i], open, advert, n, NULL) == TIER_OK);
        return;
    }
    FUZZ_CHECK(tier_mask_parent_say(c->parent, names[i], &step, &body, &bytes, NULL) == TIER_OK);
    FUZZ_CHECK(tier_mask_child_take(c->child[i], step, body, bytes, &answer, &n, NULL) == TIER_OK);
    if (answer)
        FUZZ_CHECK(tier_mask_parent_take(c->parent, names[i], step + 1, answer, n, NULL) ==
                   TIER_OK);
    if (open == TIER_MASK_DELIVER) {
        FUZZ_CHECK(tier_mask_child_terms(c->child[i], &terms, &n, NULL) == TIER_OK);
        tier_mask_terms_free(terms, n);
        FUZZ_CHECK(tier_mask_parent_masked(c->parent, names[i], NULL) == TIER_OK);
    }
    free(body);
    free(answer);
}

static void up_to(struct cast *c, int steps) {
    FUZZ_CHECK(tier_mask_parent_new(&the_round, &trust, &c->parent, NULL) == TIER_OK);
    for (int i = 0; i < CHILDREN; i++)
        FUZZ_CHECK(tier_mask_child_new(&the_round, names[i], &trust, &c->child[i], NULL) ==
                   TIER_OK);
    for (int s = 0; s < steps; s++) {
        for (int i = 0; i < CHILDREN; i++)
            speak(c, i);
        FUZZ_CHECK(tier_mask_parent_close(c->parent, NULL) == TIER_OK);
    }
}

static void down(struct cast *c) {
    for (int i = 0; i < CHILDREN; i++)
        tier_mask_child_free(c->child[i]);
    tier_mask_parent_free(c->parent);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const enum tier_mask_step to_child[] = {TIER_MASK_LIST, TIER_MASK_DELIVER,
                                                   TIER_MASK_SURVIVORS, TIER_MASK_SIGNATURES};
    struct cast c = {0};
    uint8_t *answer = NULL;
    size_t n;

    if (size < 1)
        return 0;
    char name[TIER_NAME_LEN_MAX + 1];
    if (tier_mask_advert_name(data + 1, size - 1, name, NULL) == TIER_OK)
        FUZZ_CHECK(strlen(name) > 0 && strlen(name) == data[1]);
    int steps = 1 + data[0] / 2 % 4;
    up_to(&c, steps);
    if (data[0] % 2) {
        enum tier_status st = tier_mask_child_take(c.child[0], to_child[steps - 1], data + 1,
                                                   size - 1, &answer, &n, NULL);
        if (st != TIER_OK) /* it is out, whatever it is told now */
            FUZZ_CHECK(tier_mask_child_take(c.child[0], to_child[steps - 1], data + 1, size - 1,
                                            &answer, &n, NULL) == TIER_ECONFLICT);
        else
            free(answer);
    } else {
        enum tier_mask_step open = tier_mask_parent_open(c.parent);
        enum tier_status st =
            tier_mask_parent_take(c.parent, names[0], open, data + 1, size - 1, NULL);
        if (st != TIER_OK && open != TIER_MASK_DELIVER) /* it may say the right thing still */
            speak(&c, 0);
    }
    down(&c);
    return 0;
}

/* What honest ones say. Keys are other ones in each call, so that only the form is right. */
size_t fuzz_seed(unsigned i, uint8_t *out, size_t room) {
    enum tier_mask_step step;
    struct cast c = {0};
    uint8_t *body, *answer = NULL;
    size_t n, bytes = 0;

    if (i >= 8)
        return 0;
    up_to(&c, 1 + (int)i / 2);
    FUZZ_CHECK(tier_mask_parent_say(c.parent, names[0], &step, &body, &n, NULL) == TIER_OK);
    FUZZ_CHECK(tier_mask_child_take(c.child[0], step, body, n, &answer, &bytes, NULL) == TIER_OK);
    size_t take = i % 2 ? n : bytes;
    FUZZ_CHECK(1 + take <= room);
    out[0] = (uint8_t)i;
    if (take)
        memcpy(out + 1, i % 2 ? body : answer, take);
    free(body);
    free(answer);
    down(&c);
    return 1 + take;
}
