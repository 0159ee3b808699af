/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A parent in a secure sum: it hands on what children say, finds out who remains, and joins shares
 * until what masks the sum is known. It checks all that it can check, so that a child that lies is
 * out before the others hear of it; what it learns of secrets is what the sum needs.
 *
 * Until ADVERT is closed children lie in the order they came; from then on in that of their
 * digests, which is what a place is.
 */
#include "tier/mask_private.h"

#include <inttypes.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

struct revealed {
    bool has;
    uint8_t y[TIER_SHAMIR_BYTES];
};

struct member {
    struct mask_advert *advert;
    uint32_t *holders;         /* places, ascending */
    uint8_t *sealed;           /* for each neighbour, ascending; NULL: has not shared */
    struct revealed *revealed; /* for each holder; NULL: has not revealed */
    struct tier_hash heard[TIER_MASK_STEPS + 1]; /* the body of a step; zero: none */
    uint8_t sig[TIER_MASK_SIGNATURE_BYTES_MAX];  /* under the survivors */
    size_t sig_bytes;
};

struct tier_mask_parent {
    struct tier_mask_round round;
    const struct tier_mask_trust *trust;
    enum tier_mask_step open, closed; /* closed: the last; 0: none */
    struct member *members;
    uint32_t count, room;
    struct tier_hash list, *digests;
    unsigned holder_count, threshold;
    uint8_t *shared, *came, *signed_, *revealed; /* sets */
    struct tier_mask_term *terms;
    size_t term_count, term_room;
};

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

/* ---- life cycle ---- */

enum tier_status tier_mask_parent_new(const struct tier_mask_round *round,
                                      const struct tier_mask_trust *trust,
                                      struct tier_mask_parent **out, struct tier_err *err) {
    struct tier_mask_parent *p;

    if (round->cohort_min < TIER_MASK_COHORT_LEAST || round->cohort_min > TIER_MASK_COHORT_MOST ||
        !(round->threshold > 0.5 && round->threshold <= 1))
        return tier_fail(err, TIER_EARG,
                         "a secure sum of at least %u children with a threshold of %g: %u to %u, "
                         "and above 0.5 up to 1",
                         round->cohort_min, round->threshold, TIER_MASK_COHORT_LEAST,
                         TIER_MASK_COHORT_MOST);
    p = need(calloc(1, sizeof *p));
    p->round = *round;
    p->trust = trust;
    p->open = TIER_MASK_ADVERT;
    *out = p;
    return TIER_OK;
}

static void member_release(struct member *m) {
    free(m->advert);
    free(m->holders);
    free(m->sealed);
    if (m->revealed)
        OPENSSL_cleanse(m->revealed, TIER_MASK_HOLDERS_MAX * sizeof *m->revealed);
    free(m->revealed);
    *m = (struct member){0};
}

/* What the round knows goes: nothing more is to be had of it. */
static void forget(struct tier_mask_parent *p) {
    for (uint32_t i = 0; i < p->count; i++)
        member_release(&p->members[i]);
    free(p->members);
    free(p->digests);
    free(p->shared);
    free(p->came);
    free(p->signed_);
    free(p->revealed);
    tier_mask_terms_free(p->terms, p->term_room);
    *p = (struct tier_mask_parent){.round = p->round, .trust = p->trust};
}

void tier_mask_parent_free(struct tier_mask_parent *p) {
    if (p)
        forget(p);
    free(p);
}

enum tier_mask_step tier_mask_parent_open(const struct tier_mask_parent *p) {
    return p->open;
}

const struct tier_mask_term *tier_mask_parent_terms(const struct tier_mask_parent *p,
                                                    size_t *count_out) {
    *count_out = p->term_count;
    return p->terms;
}

static struct member *find(const struct tier_mask_parent *p, const char *child) {
    for (uint32_t i = 0; i < p->count; i++)
        if (strcmp(p->members[i].advert->name, child) == 0)
            return &p->members[i];
    return NULL;
}

static uint32_t place_of(const struct tier_mask_parent *p, const struct member *m) {
    return (uint32_t)(m - p->members);
}

/* Those whom the open step awaits; NULL in ADVERT. */
static const uint8_t *awaited(const struct tier_mask_parent *p) {
    switch (p->open) {
    case TIER_MASK_DELIVER:
        return p->shared;
    case TIER_MASK_SIGNED:
        return p->came;
    case TIER_MASK_REVEAL:
        return p->signed_;
    default:
        return NULL;
    }
}

bool tier_mask_parent_has(const struct tier_mask_parent *p, const char *child) {
    const struct member *m = find(p, child);
    const uint8_t *set = awaited(p);

    return p->open == TIER_MASK_ADVERT ||
           (p->open && m && (!set || mask_set_has(set, place_of(p, m))));
}

static unsigned size_of(const uint8_t *set, uint32_t count) {
    unsigned n = 0;

    for (uint32_t i = 0; i < count; i++)
        n += mask_set_has(set, i);
    return n;
}

void tier_mask_parent_tally(const struct tier_mask_parent *p, unsigned *done_out,
                            unsigned *of_out) {
    const uint8_t *of = awaited(p);
    const uint8_t *done = p->open == TIER_MASK_SHARES    ? p->shared
                          : p->open == TIER_MASK_DELIVER ? p->came
                          : p->open == TIER_MASK_SIGNED  ? p->signed_
                                                         : p->revealed;

    *of_out = of ? size_of(of, p->count) : p->open == TIER_MASK_SHARES ? p->count : 0;
    *done_out = p->open == TIER_MASK_ADVERT ? p->count : p->open ? size_of(done, p->count) : 0;
}

/* ---- what children say ---- */

static enum tier_status take_advert(struct tier_mask_parent *p, const char *child,
                                    struct mask_reader *r, struct tier_err *err) {
    struct mask_advert *a = need(malloc(sizeof *a));
    char text[MASK_TEXT_BYTES_MAX];
    struct member *m = find(p, child);
    enum tier_status st;

    TIER_TRY_OUT(mask_advert_read(r, &p->round, a, err));
    if (!mask_read_whole(r) || strcmp(a->name, child) != 0) {
        st = tier_fail(err, TIER_EPROTO, "secure sum: '%s' advertises for '%s', or more than keys",
                       child, a->name);
        goto out;
    }
    TIER_TRY_OUT(p->trust->check(p->trust->arg, child, a->cert, text, mask_advert_text(a, text),
                                 a->sig, a->sig_bytes, err));
    if (!m && p->count == TIER_CHILDREN_MAX) {
        st = tier_fail(err, TIER_ELIMIT, "secure sum: more than %u children", TIER_CHILDREN_MAX);
        goto out;
    }
    if (!m && p->count == p->room) {
        p->room = p->room ? 2 * p->room : 16;
        p->members = need(realloc(p->members, p->room * sizeof *p->members));
    }
    if (!m)
        p->members[p->count++] = (struct member){.advert = a};
    else { /* it has begun again, and no one has heard of its keys */
        free(m->advert);
        m->advert = a;
    }
    return TIER_OK;
out:
    free(a);
    return st;
}

static enum tier_status take_shares(struct tier_mask_parent *p, struct member *m,
                                    struct mask_reader *r, struct tier_err *err) {
    size_t n = (size_t)(p->holder_count - 1) * SEALED_BYTES;
    const uint8_t *sealed = mask_read(r, n);

    if (!sealed || !mask_read_whole(r))
        return tier_fail(err, TIER_EPROTO,
                         "secure sum: '%s' has not sealed shares for its %u "
                         "neighbours",
                         m->advert->name, p->holder_count - 1);
    m->sealed = need(malloc(n + 1));
    memcpy(m->sealed, sealed, n);
    mask_set_add(p->shared, place_of(p, m));
    return TIER_OK;
}

static enum tier_status take_signature(struct tier_mask_parent *p, struct member *m,
                                       struct mask_reader *r, struct tier_err *err) {
    char text[MASK_TEXT_BYTES_MAX];
    size_t n = mask_read_number(r, 1);
    const uint8_t *sig = mask_read(r, n);

    if (!sig || !mask_read_whole(r) || n > sizeof m->sig)
        return tier_fail(err, TIER_EPROTO,
                         "secure sum: the signature of '%s' is not of at most "
                         "%zu bytes",
                         m->advert->name, sizeof m->sig);
    size_t bytes = mask_survivors_text(&p->list, p->shared, p->came, p->count, text);
    TIER_TRY(
        p->trust->check(p->trust->arg, m->advert->name, m->advert->cert, text, bytes, sig, n, err));
    memcpy(m->sig, sig, n);
    m->sig_bytes = n;
    mask_set_add(p->signed_, place_of(p, m));
    return TIER_OK;
}

static enum tier_status take_reveal(struct tier_mask_parent *p, struct member *m,
                                    struct mask_reader *r, struct tier_err *err) {
    struct revealed *all = need(calloc(TIER_MASK_HOLDERS_MAX, sizeof *all));

    for (unsigned h = 0; h < p->holder_count; h++) {
        if (!mask_set_has(p->shared, m->holders[h]))
            continue;
        uint32_t has = mask_read_number(r, 1);
        const uint8_t *y = has == 1 ? mask_read(r, TIER_SHAMIR_BYTES) : NULL;
        r->failed = r->failed || has > 1;
        all[h].has = y != NULL;
        if (y)
            memcpy(all[h].y, y, sizeof all[h].y);
    }
    if (!mask_read_whole(r)) {
        OPENSSL_cleanse(all, TIER_MASK_HOLDERS_MAX * sizeof *all);
        free(all);
        return tier_fail(err, TIER_EPROTO,
                         "secure sum: '%s' has not revealed one share for each "
                         "that it holds",
                         m->advert->name);
    }
    m->revealed = all;
    mask_set_add(p->revealed, place_of(p, m));
    return TIER_OK;
}

static enum tier_status late(const char *child, enum tier_mask_step step, struct tier_err *err) {
    return tier_fail(err, TIER_ELATE, "secure sum: step '%s' goes on without '%s'",
                     tier_mask_step_text(step), child);
}

enum tier_status tier_mask_parent_take(struct tier_mask_parent *p, const char *child,
                                       enum tier_mask_step step, const uint8_t *body, size_t bytes,
                                       struct tier_err *err) {
    struct mask_reader r = {.at = body, .left = bytes};
    struct member *m = find(p, child);
    struct tier_hash hash;
    enum tier_status st;

    if (step != TIER_MASK_ADVERT && step != TIER_MASK_SHARES && step != TIER_MASK_SIGNED &&
        step != TIER_MASK_REVEAL)
        return tier_fail(err, TIER_EPROTO, "secure sum: '%s' is not a child's to say",
                         tier_mask_step_text(step));
    tier_hash_data(body, bytes, &hash);
    if (m && !tier_hash_is_zero(&m->heard[step])) {
        if (tier_hash_equal(&m->heard[step], &hash))
            return TIER_OK;
        if (step != TIER_MASK_ADVERT || p->open != TIER_MASK_ADVERT)
            return tier_fail(err, TIER_ECONFLICT, "secure sum: '%s' said another '%s' before",
                             child, tier_mask_step_text(step));
    }
    if (step != p->open || !tier_mask_parent_has(p, child))
        return late(child, step, err);
    if (step == TIER_MASK_ADVERT || !m) /* whoever has a part in another step is a member */
        st = take_advert(p, child, &r, err);
    else if (step == TIER_MASK_SHARES)
        st = take_shares(p, m, &r, err);
    else if (step == TIER_MASK_SIGNED)
        st = take_signature(p, m, &r, err);
    else
        st = take_reveal(p, m, &r, err);
    if (st == TIER_OK)
        find(p, child)->heard[step] = hash;
    return st;
}

enum tier_status tier_mask_parent_masked(struct tier_mask_parent *p, const char *child,
                                         struct tier_err *err) {
    struct member *m = find(p, child);

    if (p->open != TIER_MASK_DELIVER)
        return late(child, TIER_MASK_DELIVER, err);
    if (!m || !mask_set_has(p->shared, place_of(p, m)))
        return tier_fail(err, TIER_EPOLICY,
                         "secure sum: '%s' has shared no secrets in this round; its update could "
                         "not be unmasked",
                         child);
    mask_set_add(p->came, place_of(p, m));
    return TIER_OK;
}

/* ---- closing a step ---- */

static unsigned holders_in(const struct tier_mask_parent *p, const struct member *m,
                           const uint8_t *set) {
    unsigned n = 0;

    for (unsigned h = 0; h < p->holder_count; h++)
        n += mask_set_has(set, m->holders[h]);
    return n;
}

/* Whether the pairwise masks of a child whose update did not come are in the sum. */
static bool is_missed(const struct tier_mask_parent *p, uint32_t i) {
    return mask_set_has(p->shared, i) && !mask_set_has(p->came, i) &&
           holders_in(p, &p->members[i], p->came) > 0;
}

/* Each child of `set`, and where it is known who is missed each of those, has `least` holders in
 * `remain`. */
static enum tier_status check_enough(const struct tier_mask_parent *p, const uint8_t *set,
                                     const uint8_t *remain, unsigned least, struct tier_err *err) {
    if (size_of(remain, p->count) == 0)
        return tier_fail(err, TIER_ELIMIT, "secure sum: no child remains after '%s'",
                         tier_mask_step_text(p->open));
    for (uint32_t i = 0; i < p->count; i++) {
        if (!mask_set_has(set, i) && !(p->came && p->open > TIER_MASK_SHARES && is_missed(p, i)))
            continue;
        unsigned n = holders_in(p, &p->members[i], remain);
        if (n < least)
            return tier_fail(err, TIER_ELIMIT,
                             "secure sum: after '%s' %u of the %u holders of the secrets of '%s' "
                             "remain; at least %u are wanted",
                             tier_mask_step_text(p->open), n, p->holder_count,
                             p->members[i].advert->name, least);
    }
    return TIER_OK;
}

static int by_digest(const void *a, const void *b) {
    const struct member *x = a, *y = b;
    return memcmp(x->advert->digest.b, y->advert->digest.b, TIER_HASH_BYTES);
}

static enum tier_status close_advert(struct tier_mask_parent *p, struct tier_err *err) {
    struct mask_graph graph;

    if (p->count < p->round.cohort_min)
        return tier_fail(err, TIER_ELIMIT,
                         "secure sum: %u children take part; at least %u are wanted by the plan",
                         p->count, p->round.cohort_min);
    qsort(p->members, p->count, sizeof *p->members, by_digest);
    p->digests = need(calloc(p->count, sizeof *p->digests));
    for (uint32_t i = 0; i < p->count; i++)
        p->digests[i] = p->members[i].advert->digest;
    mask_list_hash(&p->round, p->digests, p->count, &p->list);
    TIER_TRY(mask_graph_init(&graph, &p->list, p->digests, p->count, err));
    for (uint32_t i = 0; i < p->count; i++) {
        p->members[i].holders = need(calloc(TIER_MASK_HOLDERS_MAX, sizeof(uint32_t)));
        p->holder_count = mask_holders(&graph, i, p->members[i].holders);
    }
    mask_graph_release(&graph);
    p->threshold = tier_mask_threshold(p->round.threshold, p->holder_count);
    p->shared = need(calloc(1, mask_set_bytes(p->count)));
    p->came = need(calloc(1, mask_set_bytes(p->count)));
    p->signed_ = need(calloc(1, mask_set_bytes(p->count)));
    p->revealed = need(calloc(1, mask_set_bytes(p->count)));
    return TIER_OK;
}

/* Where `owner` stands among the holders of `m`. */
static unsigned standing(const struct tier_mask_parent *p, const struct member *m, uint32_t owner) {
    unsigned h = 0;

    while (h < p->holder_count && m->holders[h] != owner)
        h++;
    return h;
}

/* Whether the joined secret is the one that was advertised. */
static bool is_secret(const struct member *m, bool own, const struct mask_secret *s) {
    uint8_t public[TIER_MASK_KEY_BYTES];
    struct tier_hash hash;

    if (!own)
        return mask_key_public(s, public, NULL) == TIER_OK &&
               memcmp(public, m->advert->mask_key, sizeof public) == 0;
    tier_hash_data(s->b, sizeof s->b, &hash);
    return memcmp(hash.b, m->advert->commitment, TIER_HASH_BYTES) == 0;
}

/* Joins a secret of the child at that place. A wrong share is passed over where another can take
 * its part: `threshold` of them in a row are tried, from each on. */
static enum tier_status join(const struct tier_mask_parent *p, uint32_t owner, bool own,
                             struct mask_secret *out, struct tier_err *err) {
    struct tier_shamir_share twice[2 * TIER_MASK_HOLDERS_MAX];
    const struct member *m = &p->members[owner];
    unsigned n = 0, tries;
    bool found = false;

    for (unsigned h = 0; h < p->holder_count; h++) {
        const struct member *holder = &p->members[m->holders[h]];
        unsigned at = holder->revealed ? standing(p, holder, owner) : 0;
        if (!holder->revealed || at == p->holder_count || !holder->revealed[at].has)
            continue;
        twice[n].x = (uint8_t)(h + 1);
        memcpy(twice[n++].y, holder->revealed[at].y, TIER_SHAMIR_BYTES);
    }
    if (n < p->threshold)
        return tier_fail(err, TIER_ELIMIT,
                         "secure sum: %u shares of a secret of '%s' were revealed; at least %u are "
                         "wanted",
                         n, m->advert->name, p->threshold);
    memcpy(twice + n, twice, n * sizeof *twice);
    tries = n == p->threshold ? 1 : n;
    for (unsigned from = 0; from < tries && !found; from++)
        found = tier_shamir_join(twice + from, p->threshold, out->b, err) == TIER_OK &&
                is_secret(m, own, out);
    OPENSSL_cleanse(twice, sizeof twice);
    return found ? TIER_OK
                 : tier_fail(err, TIER_EUPDATE,
                             "secure sum: the shares of a secret of '%s' do not give what it "
                             "advertised: it or a holder of its shares has lied",
                             m->advert->name);
}

static struct tier_mask_term *new_term(struct tier_mask_parent *p) {
    if (p->term_count == p->term_room) { /* realloc would leave secrets behind */
        size_t room = p->term_room ? 2 * p->term_room : 64;
        struct tier_mask_term *more = need(calloc(room, sizeof *more));
        if (p->term_count)
            memcpy(more, p->terms, p->term_count * sizeof *more);
        tier_mask_terms_free(p->terms, p->term_room);
        p->terms = more;
        p->term_room = room;
    }
    return &p->terms[p->term_count++];
}

static enum tier_status remove_own(struct tier_mask_parent *p, uint32_t i, struct tier_err *err) {
    struct mask_secret own;
    enum tier_status st = join(p, i, true, &own, err);

    if (st == TIER_OK) {
        struct tier_mask_term *t = new_term(p);
        memcpy(t->key, own.b, sizeof t->key);
        t->minus = true;
    }
    OPENSSL_cleanse(&own, sizeof own);
    return st;
}

/* The masks that others share with a child whose update did not come are in the sum still. */
static enum tier_status remove_pairs(struct tier_mask_parent *p, uint32_t i, struct tier_err *err) {
    struct mask_secret key;
    enum tier_status st = join(p, i, false, &key, err);

    for (unsigned h = 0; st == TIER_OK && h < p->holder_count; h++) {
        uint32_t other = p->members[i].holders[h];
        if (other == i || !mask_set_has(p->came, other))
            continue;
        bool first = i < other; /* then the other has subtracted it */
        struct tier_mask_term *t = new_term(p);
        t->minus = !first;
        st = mask_pair_key(&key, p->members[other].advert->mask_key, &p->list,
                           &p->digests[first ? i : other], &p->digests[first ? other : i], t->key,
                           err);
    }
    OPENSSL_cleanse(&key, sizeof key);
    return st;
}

static enum tier_status close_reveal(struct tier_mask_parent *p, struct tier_err *err) {
    for (uint32_t i = 0; i < p->count; i++) {
        if (mask_set_has(p->came, i))
            TIER_TRY(remove_own(p, i, err));
        else if (is_missed(p, i))
            TIER_TRY(remove_pairs(p, i, err));
    }
    return TIER_OK;
}

static unsigned most(unsigned a, unsigned b) {
    return a > b ? a : b;
}

unsigned tier_mask_parent_least(const struct tier_mask_parent *p) {
    return most(p->threshold, p->round.cohort_min);
}

static enum tier_status close_step(struct tier_mask_parent *p, struct tier_err *err) {
    unsigned least = p->threshold, cohort = tier_mask_parent_least(p);

    switch (p->open) {
    case TIER_MASK_ADVERT:
        return close_advert(p, err);
    case TIER_MASK_SHARES:
        return check_enough(p, p->shared, p->shared, cohort, err);
    case TIER_MASK_DELIVER:
        return check_enough(p, p->came, p->came, cohort, err);
    case TIER_MASK_SIGNED:
        return check_enough(p, p->came, p->signed_, least, err);
    case TIER_MASK_REVEAL:
        return close_reveal(p, err);
    default:
        return tier_fail(err, TIER_ECONFLICT, "secure sum: the round is over");
    }
}

enum tier_status tier_mask_parent_close(struct tier_mask_parent *p, struct tier_err *err) {
    static const enum tier_mask_step after[TIER_MASK_STEPS + 1] = {
        [TIER_MASK_ADVERT] = TIER_MASK_SHARES,
        [TIER_MASK_SHARES] = TIER_MASK_DELIVER,
        [TIER_MASK_DELIVER] = TIER_MASK_SIGNED,
        [TIER_MASK_SIGNED] = TIER_MASK_REVEAL,
    };
    enum tier_status st = close_step(p, err);

    if (st != TIER_OK) {
        forget(p);
        return st;
    }
    p->closed = p->open;
    p->open = after[p->open];
    return TIER_OK;
}

/* ---- what is said to children ---- */

static void say_list(const struct tier_mask_parent *p, const struct member *m,
                     struct mask_writer *w) {
    mask_write_number(w, p->count, 4);
    mask_write(w, p->digests, p->count * sizeof *p->digests);
    for (unsigned h = 0; h < p->holder_count; h++)
        if (&p->members[m->holders[h]] != m)
            mask_advert_write(w, p->members[m->holders[h]].advert);
}

static void say_shares(const struct tier_mask_parent *p, const struct member *m,
                       struct mask_writer *w) {
    uint32_t place = place_of(p, m);

    mask_write(w, p->shared, mask_set_bytes(p->count));
    for (unsigned h = 0; h < p->holder_count; h++) {
        const struct member *from = &p->members[m->holders[h]];
        if (from == m || !from->sealed)
            continue;
        unsigned at = standing(p, from, place); /* among its holders, itself one of them */
        at -= at > standing(p, from, m->holders[h]);
        mask_write(w, from->sealed + (size_t)at * SEALED_BYTES, SEALED_BYTES);
    }
}

static void say_signatures(const struct tier_mask_parent *p, const struct member *m,
                           struct mask_writer *w) {
    for (unsigned h = 0; h < p->holder_count; h++) {
        const struct member *from = &p->members[m->holders[h]];
        if (!mask_set_has(p->signed_, m->holders[h]))
            continue;
        mask_write_number(w, m->holders[h], 4);
        mask_write_number(w, (uint32_t)from->sig_bytes, 1);
        mask_write(w, from->sig, from->sig_bytes);
    }
}

enum tier_status tier_mask_parent_say(const struct tier_mask_parent *p, const char *child,
                                      enum tier_mask_step *step_out, uint8_t **body_out,
                                      size_t *bytes_out, struct tier_err *err) {
    const struct member *m = p->closed ? find(p, child) : NULL;
    struct mask_writer w = {0};

    if (!m || !tier_mask_parent_has(p, child))
        return tier_fail(err, TIER_ENOTFOUND, "secure sum: '%s' has no part in what comes next",
                         child);
    switch (p->closed) {
    case TIER_MASK_ADVERT:
        *step_out = TIER_MASK_LIST;
        say_list(p, m, &w);
        break;
    case TIER_MASK_SHARES:
        *step_out = TIER_MASK_DELIVER;
        say_shares(p, m, &w);
        break;
    case TIER_MASK_DELIVER:
        *step_out = TIER_MASK_SURVIVORS;
        mask_write(&w, p->came, mask_set_bytes(p->count));
        break;
    default: /* SIGNED: after REVEAL nothing is open, and nobody has a part */
        *step_out = TIER_MASK_SIGNATURES;
        say_signatures(p, m, &w);
        break;
    }
    *body_out = w.data;
    *bytes_out = w.n;
    return TIER_OK;
}
