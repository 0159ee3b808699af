/* SPDX-License-Identifier: Apache-2.0 */
/* Secure sums against a parent that lies: what it would need to see one update it does not get. */
#include "support/mask_round.h"
#include "tier/mask_private.h"

static void to_step(struct ring *g, int steps) {
    for (int i = 0; i < steps; i++) {
        ring_step(g, 0);
        cr_assert_eq(tier_mask_parent_close(g->p, NULL), TIER_OK);
    }
}

static enum tier_status tell(struct ring_child *k, enum tier_mask_step step, const uint8_t *body,
                             size_t bytes, uint8_t **answer_out, size_t *n_out,
                             struct tier_err *err) {
    *answer_out = NULL;
    return tier_mask_child_take(k->c, step, body, bytes, answer_out, n_out, err);
}

/* What an honest parent would say to that child next. */
static uint8_t *say(const struct ring *g, const char *child, enum tier_mask_step *step_out,
                    size_t *n_out) {
    uint8_t *body = NULL;
    cr_assert_eq(tier_mask_parent_say(g->p, child, step_out, &body, n_out, NULL), TIER_OK);
    return body;
}

/* The place of each child, from the list. */
static void places(const struct ring *g, uint32_t *place) {
    for (unsigned i = 0; i < g->count; i++) {
        size_t n;
        struct mask_reader r = {0};
        struct mask_advert a;
        r.at = tier_mask_child_advert(g->child[i].c, &n);
        r.left = n;
        cr_assert_eq(mask_advert_read(&r, &g->round, &a, NULL), TIER_OK);
        place[i] = 0;
        for (unsigned j = 0; j < g->count; j++) {
            struct mask_reader q = {0};
            struct mask_advert b;
            q.at = tier_mask_child_advert(g->child[j].c, &n);
            q.left = n;
            cr_assert_eq(mask_advert_read(&q, &g->round, &b, NULL), TIER_OK);
            place[i] += memcmp(b.digest.b, a.digest.b, TIER_HASH_BYTES) < 0;
        }
    }
}

/* ---- both kinds of share ---- */

/* Signatures of the first `count` children, each under what it was told. */
static size_t gather(const uint32_t *place, uint8_t sigs[][80], const size_t *bytes,
                     const unsigned *who, unsigned count, uint8_t *out) {
    size_t n = 0;

    for (unsigned i = 0; i < count; i++) {
        tier_put_u32(out + n, place[who[i]]);
        out[n + 4] = (uint8_t)bytes[who[i]];
        memcpy(out + n + 5, sigs[who[i]], bytes[who[i]]);
        n += 5 + bytes[who[i]];
    }
    return n;
}

/*
 * Of five children the parent tells three that all updates came, and two that child-0's did not: it
 * wants shares of child-0's own mask from the first and of its key to the others from the second.
 * Three of five make a secret; of neither list does it get three to reveal.
 */
Test(tier_mask_attacks, two_lists_of_survivors_do_not_give_both_secrets_of_a_child) {
    static struct ring g;
    uint32_t place[5];
    uint8_t all = 0x1f, without = 0x1f, sigs[5][80], bodies[512];
    size_t sig_bytes[5], n;
    unsigned all_shares = 0, without_shares = 0;
    struct tier_err err = {0};

    ring_open(&g, 5, 3, 0.6, 3);
    to_step(&g, 3);
    places(&g, place);
    without = (uint8_t)(without & ~(1u << place[0]));
    for (unsigned i = 0; i < 5; i++) {
        uint8_t *answer;
        cr_assert_eq(
            tell(&g.child[i], TIER_MASK_SURVIVORS, i < 3 ? &all : &without, 1, &answer, &n, &err),
            TIER_OK, "%s", err.text);
        sig_bytes[i] = answer[0];
        memcpy(sigs[i], answer + 1, n - 1);
        free(answer);
    }
    for (unsigned i = 0; i < 5; i++) { /* each is shown all signatures there are for it */
        static const unsigned who[5] = {0, 1, 2, 3, 4};
        bool first = i < 3;
        uint8_t *answer;
        n = first ? gather(place, sigs, sig_bytes, who, 5, bodies)
                  : gather(place, sigs, sig_bytes, who + 1, 4, bodies);
        enum tier_status st = tell(&g.child[i], TIER_MASK_SIGNATURES, bodies, n, &answer, &n, &err);
        cr_assert_eq(st, first ? TIER_OK : TIER_EPOLICY, "%u: %s", i, err.text);
        cr_assert(first || strstr(err.text, "have signed the survivors that it was told"));
        all_shares += st == TIER_OK && first;
        without_shares += st == TIER_OK && !first;
        free(answer);
    }
    cr_assert_eq(all_shares, 3);
    cr_assert_eq(without_shares, 0);
    ring_close(&g);
}

/* The same one after another: who has signed one list signs and reveals on no other. */
Test(tier_mask_attacks, a_child_asked_for_the_other_share_as_well_is_out) {
    static struct ring g;
    struct ring_child *k = &g.child[1];
    uint32_t place[4];
    struct tier_err err;
    enum tier_mask_step step;
    uint8_t *body, *answer;
    size_t n, bytes;

    for (int revealed = 0; revealed < 2; revealed++) {
        ring_open(&g, 4, 2, 0.6, 3);
        to_step(&g, revealed ? 4 : 3);
        places(&g, place);
        body = say(&g, k->name, &step, &n);
        cr_assert_eq(tell(k, step, body, n, &answer, &bytes, NULL), TIER_OK);
        free(body);
        free(answer);
        uint8_t other = (uint8_t)(0x0f & ~(1u << place[0]));
        cr_assert_eq(tell(k, TIER_MASK_SURVIVORS, &other, 1, &answer, &bytes, &err),
                     TIER_ECONFLICT);
        cr_assert(strstr(err.text, "said another 'survivors' before"), "%s", err.text);
        cr_assert_null(answer);
        other = 0x0f; /* nor on the first one any more */
        cr_assert_eq(tell(k, TIER_MASK_SURVIVORS, &other, 1, &answer, &bytes, &err),
                     TIER_ECONFLICT);
        ring_close(&g);
    }
}

Test(tier_mask_attacks, signatures_of_another_round_or_list_do_not_count) {
    static struct ring now, before;
    struct tier_err err;
    enum tier_mask_step step;
    uint8_t *body, *answer;
    size_t n, bytes;

    ring_open(&before, 3, 3, 0.6, 8);
    to_step(&before, 4);
    body = say(&before, "child-0", &step, &n);
    ring_open(&now, 3, 3, 0.6, 9);
    to_step(&now, 3);
    uint8_t all = 7;
    cr_assert_eq(tell(&now.child[0], TIER_MASK_SURVIVORS, &all, 1, &answer, &bytes, NULL), TIER_OK);
    free(answer);
    cr_assert_eq(tell(&now.child[0], TIER_MASK_SIGNATURES, body, n, &answer, &bytes, &err),
                 TIER_EPOLICY);
    cr_assert(strstr(err.text, "1 of the 3 holders"), "%s", err.text);
    free(body);
    ring_close(&before);
    ring_close(&now);
}

Test(tier_mask_attacks, one_signature_said_often_counts_once) {
    static struct ring g;
    struct tier_err err;
    enum tier_mask_step step;
    uint8_t *body, *answer, twice[2][37];
    size_t n, bytes;

    ring_open(&g, 3, 3, 0.6, 8);
    to_step(&g, 3);
    body = say(&g, "child-0", &step, &n);
    cr_assert_eq(tell(&g.child[0], step, body, n, &answer, &bytes, NULL), TIER_OK);
    free(body);
    uint32_t place[3];
    places(&g, place);
    for (int i = 0; i < 2; i++) {
        tier_put_u32(twice[i], place[0]);
        memcpy(twice[i] + 4, answer, 33);
    }
    free(answer);
    cr_assert_eq(
        tell(&g.child[0], TIER_MASK_SIGNATURES, twice[0], sizeof twice, &answer, &bytes, &err),
        TIER_EPROTO);
    cr_assert(strstr(err.text, "a second one"));
    ring_close(&g);
}

/* ---- two lists of keys ---- */

/*
 * A parent that keeps two lists of the same children, of which child-0 has begun again in between,
 * so that all keys are properly signed: shares do not open across lists, and neither finds enough
 * signatures.
 */
Test(tier_mask_attacks, two_lists_of_keys_give_no_share_away) {
    static struct ring g;
    struct tier_mask_parent *other;
    enum tier_mask_step step;
    uint8_t *body, *answer;
    size_t n, bytes;
    struct tier_err err = {0};

    ring_open(&g, 4, 3, 0.6, 11);
    cr_assert_eq(tier_mask_parent_new(&g.round, &g.trust, &other, NULL), TIER_OK);
    struct tier_mask_parent *both[2] = {g.p, other};
    ring_step(&g, 0);
    for (unsigned i = 1; i < 4; i++) {
        const uint8_t *advert = tier_mask_child_advert(g.child[i].c, &n);
        cr_assert_eq(
            tier_mask_parent_take(other, g.child[i].name, TIER_MASK_ADVERT, advert, n, NULL),
            TIER_OK);
    }
    struct tier_mask_child *twin;
    cr_assert_eq(tier_mask_child_new(&g.round, "child-0", &g.child[0].trust, &twin, NULL), TIER_OK);
    const uint8_t *advert = tier_mask_child_advert(twin, &n);
    cr_assert_eq(tier_mask_parent_take(other, "child-0", TIER_MASK_ADVERT, advert, n, NULL),
                 TIER_OK);
    for (int i = 0; i < 2; i++)
        cr_assert_eq(tier_mask_parent_close(both[i], NULL), TIER_OK);

    /* 1 and 2 hear of the first list, 3 of the second: their shares for each other are sealed on
     * different lists. */
    for (unsigned i = 1; i < 4; i++) {
        struct tier_mask_parent *its = both[i == 3];
        cr_assert_eq(tier_mask_parent_say(its, g.child[i].name, &step, &body, &n, NULL), TIER_OK);
        cr_assert_eq(tell(&g.child[i], step, body, n, &answer, &bytes, NULL), TIER_OK);
        for (int p = 0; p < 2; p++)
            cr_assert_eq(tier_mask_parent_take(both[p], g.child[i].name, TIER_MASK_SHARES, answer,
                                               bytes, NULL),
                         TIER_OK);
        free(body);
        free(answer);
    }
    for (int i = 0; i < 2; i++)
        cr_assert_eq(tier_mask_parent_close(both[i], NULL), TIER_OK);
    for (unsigned i = 1; i < 4; i++) {
        cr_assert_eq(tier_mask_parent_say(both[i == 3], g.child[i].name, &step, &body, &n, NULL),
                     TIER_OK);
        cr_assert_eq(tell(&g.child[i], step, body, n, &answer, &bytes, &err), TIER_OK, "%s",
                     err.text);
        free(body);
        ring_mask(&g.child[i]);
        for (int p = 0; p < 2; p++)
            cr_assert_eq(tier_mask_parent_masked(both[p], g.child[i].name, NULL), TIER_OK);
    }
    for (int i = 0; i < 2; i++)
        cr_assert_eq(tier_mask_parent_close(both[i], NULL), TIER_OK);
    /* Each signs what it was told; across lists the signatures do not hold. */
    for (unsigned i = 1; i < 4; i++) {
        cr_assert_eq(tier_mask_parent_say(both[i == 3], g.child[i].name, &step, &body, &n, NULL),
                     TIER_OK);
        cr_assert_eq(tell(&g.child[i], step, body, n, &answer, &bytes, &err), TIER_OK, "%s",
                     err.text);
        cr_assert_eq(tier_mask_parent_take(both[i != 3], g.child[i].name, TIER_MASK_SIGNED, answer,
                                           bytes, &err),
                     TIER_EIDENTITY);
        cr_assert_eq(tier_mask_parent_take(both[i == 3], g.child[i].name, TIER_MASK_SIGNED, answer,
                                           bytes, NULL),
                     TIER_OK);
        free(body);
        free(answer);
    }
    /* 3 of 4 are wanted: neither list has them, and a child that is shown them all counts for
     * itself. */
    for (int i = 0; i < 2; i++)
        cr_assert_eq(tier_mask_parent_close(both[i], &err), TIER_ELIMIT);
    tier_mask_child_free(twin);
    tier_mask_parent_free(other);
    ring_close(&g);
}

/* What the parent above leaves out a worse one would do: hand over all signatures all the same. */
Test(tier_mask_attacks, shares_sealed_on_another_list_are_not_held) {
    static struct ring g;
    enum tier_mask_step step;
    uint8_t *body, *answer;
    size_t n, bytes;
    uint32_t place[4];

    ring_open(&g, 4, 3, 0.6, 12);
    to_step(&g, 2);
    places(&g, place);
    body = say(&g, "child-0", &step, &n);
    for (size_t at = 1; at < 1 + SEALED_BYTES; at++)
        body[at] ^= 0x80; /* as of another list: it does not open */
    cr_assert_eq(tell(&g.child[0], step, body, n, &answer, &bytes, NULL), TIER_OK);
    free(body);
    for (unsigned i = 0; i < 4; i++) {
        if (i > 0)
            cr_assert_eq(ring_talk(&g, &g.child[i], NULL), TIER_OK);
        ring_mask(&g.child[i]);
        cr_assert_eq(tier_mask_parent_masked(g.p, g.child[i].name, NULL), TIER_OK);
        g.child[i].came = true;
    }
    cr_assert_eq(tier_mask_parent_close(g.p, NULL), TIER_OK);
    ring_step(&g, 0);
    cr_assert_eq(tier_mask_parent_close(g.p, NULL), TIER_OK);
    body = say(&g, "child-0", &step, &n);
    cr_assert_eq(tell(&g.child[0], step, body, n, &answer, &bytes, NULL), TIER_OK);
    cr_assert_eq(bytes, 3 * 33 + 1); /* three shares, and the word that it has not the fourth */
    free(body);
    free(answer);
    ring_close(&g);
}

/* ---- a cohort of one ---- */

/* Builds a list of these children alone, as a parent may. */
static uint8_t *list_of(const struct ring *g, const unsigned *who, unsigned count,
                        unsigned for_whom, size_t *n_out) {
    struct mask_advert a[4];
    struct mask_writer w = {0};
    struct tier_hash reader = {0};

    for (unsigned i = 0; i < count; i++) {
        struct mask_reader r = {0};
        size_t n;
        r.at = tier_mask_child_advert(g->child[who[i]].c, &n);
        r.left = n;
        cr_assert_eq(mask_advert_read(&r, &g->round, &a[i], NULL), TIER_OK);
        if (who[i] == for_whom)
            reader = a[i].digest;
    }
    for (unsigned i = 0; i < count; i++)
        for (unsigned j = 1; j < count; j++)
            if (memcmp(a[j - 1].digest.b, a[j].digest.b, TIER_HASH_BYTES) > 0) {
                struct mask_advert k = a[j];
                a[j] = a[j - 1];
                a[j - 1] = k;
            }
    mask_write_number(&w, count, 4);
    for (unsigned i = 0; i < count; i++)
        mask_write(&w, a[i].digest.b, TIER_HASH_BYTES);
    for (unsigned i = 0; i < count; i++)
        if (!tier_hash_equal(&a[i].digest, &reader))
            mask_advert_write(&w, &a[i]);
    *n_out = w.n;
    return w.data;
}

Test(tier_mask_attacks, a_list_below_the_cohort_is_refused) {
    static const unsigned who[3] = {0, 1, 2};

    for (unsigned count = 1; count <= 3; count++) {
        static struct ring g;
        struct tier_err err = {0};
        uint8_t *answer;
        size_t n, bytes;
        ring_open(&g, 4, 3, 0.6, 13);
        uint8_t *list = list_of(&g, who, count, 0, &n);
        enum tier_status st = tell(&g.child[0], TIER_MASK_LIST, list, n, &answer, &bytes, &err);
        cr_assert_eq(st, count < 3 ? TIER_EPOLICY : TIER_OK, "%u: %s", count, err.text);
        cr_assert(count == 3 || strstr(err.text, "at least 3 are wanted by the plan"));
        free(list);
        free(answer);
        ring_close(&g);
    }
}

/* With a threshold of 0.51 two of three could unmask, and the third be said to be lost: then the
 * sum would be of two, where the plan says three. */
Test(tier_mask_attacks, a_cohort_that_shrinks_below_the_least_is_refused_at_each_step) {
    static struct ring g;
    struct tier_err err;
    uint32_t place[3];
    uint8_t *body, *answer;
    enum tier_mask_step step;
    size_t n, bytes;

    ring_open(&g, 3, 3, 0.51, 14);
    to_step(&g, 2);
    places(&g, place);
    body = say(&g, "child-0", &step, &n);
    body[0] = (uint8_t)(body[0] & ~(1u << place[2]));
    cr_assert_eq(tell(&g.child[0], step, body, n - SEALED_BYTES, &answer, &bytes, &err),
                 TIER_EPOLICY);
    cr_assert(strstr(err.text, "shares were handed on by 2 children"), "%s", err.text);
    cr_assert_not(tier_mask_child_ready(g.child[0].c));
    free(body);
    ring_close(&g);

    ring_open(&g, 3, 3, 0.51, 14);
    to_step(&g, 3);
    places(&g, place);
    uint8_t two = (uint8_t)(7 & ~(1u << place[2])), one = (uint8_t)(1u << place[1]);
    cr_assert_eq(tell(&g.child[0], TIER_MASK_SURVIVORS, &two, 1, &answer, &bytes, &err),
                 TIER_EPOLICY);
    cr_assert(strstr(err.text, "masked updates came from 2 children"), "%s", err.text);
    cr_assert_eq(tell(&g.child[1], TIER_MASK_SURVIVORS, &one, 1, &answer, &bytes, &err),
                 TIER_EPOLICY);
    ring_close(&g);
}

/* ---- keys that are not the children's ---- */

Test(tier_mask_attacks, keys_that_the_parent_made_up_are_refused) {
    static const unsigned who[4] = {0, 1, 2, 3};
    static struct ring g, forged;
    struct tier_err err;
    uint8_t *answer;
    size_t n, bytes;

    ring_open(&g, 4, 3, 0.6, 15);
    uint8_t *list = list_of(&g, who, 4, 0, &n);
    list[n - 1] ^= 1; /* the last byte of the last one's signature */
    cr_assert_eq(tell(&g.child[0], TIER_MASK_LIST, list, n, &answer, &bytes, &err), TIER_EIDENTITY);
    cr_assert(strstr(err.text, "has not signed this"), "%s", err.text);
    free(list);

    /* Signed, but for another round: a key whose owner may have revealed it. */
    ring_open(&forged, 4, 3, 0.6, 16);
    tier_mask_child_free(g.child[3].c);
    g.child[3].c = forged.child[3].c;
    forged.child[3].c = NULL;
    list = list_of(&g, who, 4, 1, &n);
    cr_assert_eq(tell(&g.child[1], TIER_MASK_LIST, list, n, &answer, &bytes, &err), TIER_EIDENTITY);
    free(list);
    ring_close(&forged);
    ring_close(&g);
}

Test(tier_mask_attacks, one_child_behind_several_keys_is_no_cohort) {
    static const unsigned who[4] = {0, 1, 2, 3};
    static struct ring g;
    struct tier_err err;
    uint8_t *answer;
    size_t n, bytes;

    for (unsigned reader = 0; reader < 2; reader++) { /* another's, and the child's own */
        ring_open(&g, 4, 3, 0.6, 17);
        tier_mask_child_free(g.child[2].c);
        snprintf(g.child[2].name, sizeof g.child[2].name, "child-1");
        cr_assert_eq(
            tier_mask_child_new(&g.round, "child-1", &g.child[2].trust, &g.child[2].c, NULL),
            TIER_OK);
        uint8_t *list = list_of(&g, who, 4, reader, &n);
        cr_assert_eq(tell(&g.child[reader], TIER_MASK_LIST, list, n, &answer, &bytes, &err),
                     TIER_EPROTO);
        cr_assert(
            strstr(err.text, reader ? "is this child, with other keys" : "is on the list twice"),
            "%s", err.text);
        free(list);
        ring_close(&g);
    }
}

Test(tier_mask_attacks, a_list_without_a_childs_own_keys_is_refused) {
    static const unsigned who[3] = {1, 2, 3};
    static struct ring g;
    struct tier_err err;
    uint8_t *answer;
    size_t n, bytes;

    ring_open(&g, 4, 3, 0.6, 18);
    uint8_t *list = list_of(&g, who, 3, 0, &n);
    cr_assert_eq(tell(&g.child[0], TIER_MASK_LIST, list, n, &answer, &bytes, &err), TIER_EPROTO);
    cr_assert(strstr(err.text, "without this child's own keys"), "%s", err.text);
    free(list);
    ring_close(&g);
}

/* ---- children that lie ---- */

Test(tier_mask_attacks, a_child_speaks_for_itself_alone) {
    static struct ring g;
    struct tier_err err;
    size_t n;

    ring_open(&g, 3, 3, 0.6, 19);
    const uint8_t *advert = tier_mask_child_advert(g.child[0].c, &n);
    cr_assert_eq(tier_mask_parent_take(g.p, "child-1", TIER_MASK_ADVERT, advert, n, &err),
                 TIER_EPROTO);
    cr_assert(strstr(err.text, "advertises for 'child-0'"), "%s", err.text);
    cr_assert_eq(tier_mask_parent_take(g.p, "child-0", TIER_MASK_LIST, advert, n, &err),
                 TIER_EPROTO);
    cr_assert(strstr(err.text, "not a child's to say"), "%s", err.text);
    ring_close(&g);
}
