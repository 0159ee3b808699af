/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A child in a secure sum. It believes nothing that its parent says of others but what they have
 * signed, and reveals on one list of survivors only: the one that it has signed itself. Whatever is
 * not as it should be ends its part, and its secrets with it; the others go on without it.
 */
#include "tier/mask_private.h"

#include "tier/identity.h"

#include <inttypes.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

/* What the parent said in a step, and what was answered. */
struct said {
    bool heard;
    struct tier_hash body;
    uint8_t *answer;
    size_t answer_bytes;
};

struct tier_mask_child {
    struct tier_mask_round round;
    const struct tier_mask_trust *trust;
    struct mask_writer advert; /* its body */
    enum tier_mask_step next;  /* that the parent has to say; 0: this child is out */
    struct said said[TIER_MASK_STEPS + 1];

    /* Secrets: of this child, and its holders' shares. */
    struct {
        struct mask_secret share_key, mask_key, own;
        struct mask_shares mine; /* this child's share of its own */
        struct mask_shares held[TIER_MASK_HOLDERS_MAX];
    } secret;
    bool has[TIER_MASK_HOLDERS_MAX]; /* held: by place among the holders */
    bool taken;                      /* the terms */

    struct tier_hash list, *digests;
    uint32_t count, place;
    uint32_t holders[TIER_MASK_HOLDERS_MAX];
    unsigned holder_count, me, threshold; /* me: among the holders */
    struct mask_advert *adverts;          /* of the holders; [me] is this child's */
    uint8_t *shared, *came;               /* sets */
};

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

/* ---- life cycle ---- */

static enum tier_status make_advert(struct tier_mask_child *c, struct mask_advert *a,
                                    struct tier_err *err) {
    char text[MASK_TEXT_BYTES_MAX];
    struct tier_hash commitment;

    TIER_TRY(mask_key_make(&c->secret.share_key, a->share_key, err));
    TIER_TRY(mask_key_make(&c->secret.mask_key, a->mask_key, err));
    if (RAND_priv_bytes(c->secret.own.b, sizeof c->secret.own.b) != 1)
        return tier_fail(err, TIER_EINTERNAL, "no random numbers for a mask");
    tier_hash_data(c->secret.own.b, sizeof c->secret.own.b, &commitment);
    memcpy(a->commitment, commitment.b, sizeof a->commitment);
    mask_advert_digest(&c->round, a);
    TIER_TRY(
        c->trust->sign(c->trust->arg, text, mask_advert_text(a, text), a->sig, &a->sig_bytes, err));
    mask_advert_write(&c->advert, a);
    return TIER_OK;
}

enum tier_status tier_mask_child_new(const struct tier_mask_round *round, const char *name,
                                     const struct tier_mask_trust *trust,
                                     struct tier_mask_child **out, struct tier_err *err) {
    size_t cert = strlen(trust->cert), n = strlen(name);

    if (round->cohort_min < TIER_MASK_COHORT_LEAST || round->cohort_min > TIER_MASK_COHORT_MOST ||
        !(round->threshold > 0.5 && round->threshold <= 1))
        return tier_fail(err, TIER_EARG,
                         "a secure sum of at least %u children with a threshold of %g: %u to %u, "
                         "and above 0.5 up to 1",
                         round->cohort_min, round->threshold, TIER_MASK_COHORT_LEAST,
                         TIER_MASK_COHORT_MOST);
    if (cert > TIER_MASK_CERT_BYTES_MAX || n > TIER_NAME_LEN_MAX)
        return tier_fail(err, TIER_ELIMIT,
                         "this node's certificate has %zu bytes and its name %zu: at most %u and "
                         "%u go into a secure sum",
                         cert, n, TIER_MASK_CERT_BYTES_MAX, (unsigned)TIER_NAME_LEN_MAX);
    struct tier_mask_child *c = need(calloc(1, sizeof *c));
    struct mask_advert *a = need(calloc(1, sizeof *a));
    c->round = *round;
    c->trust = trust;
    c->next = TIER_MASK_LIST;
    memcpy(a->name, name, n);
    memcpy(a->cert, trust->cert, cert);
    c->adverts = a;
    enum tier_status st = make_advert(c, a, err);
    if (st == TIER_OK)
        *out = c;
    else
        tier_mask_child_free(c);
    return st;
}

static void wipe(struct tier_mask_child *c) {
    OPENSSL_cleanse(&c->secret, sizeof c->secret);
    memset(c->has, 0, sizeof c->has);
}

void tier_mask_child_free(struct tier_mask_child *c) {
    if (!c)
        return;
    wipe(c);
    for (size_t i = 0; i <= TIER_MASK_STEPS; i++)
        free(c->said[i].answer);
    free(c->advert.data);
    free(c->digests);
    free(c->adverts);
    free(c->shared);
    free(c->came);
    free(c);
}

const uint8_t *tier_mask_child_advert(const struct tier_mask_child *c, size_t *bytes_out) {
    *bytes_out = c->advert.n;
    return c->advert.data;
}

bool tier_mask_child_ready(const struct tier_mask_child *c) {
    return c->next > TIER_MASK_DELIVER;
}

/* Holders of this child's secrets that are in the set. */
static unsigned holders_in(const struct tier_mask_child *c, const uint8_t *set) {
    unsigned n = 0;

    for (unsigned h = 0; h < c->holder_count; h++)
        n += mask_set_has(set, c->holders[h]);
    return n;
}

static enum tier_status check_cohort(const struct tier_mask_child *c, unsigned n, const char *what,
                                     struct tier_err *err) {
    if (n < c->round.cohort_min)
        return tier_fail(err, TIER_EPOLICY,
                         "secure sum: %s %u children that this one can tell, itself among them; at "
                         "least %u are wanted by the plan",
                         what, n, c->round.cohort_min);
    if (n < c->threshold)
        return tier_fail(err, TIER_EPOLICY,
                         "secure sum: %s %u of the %u holders of this child's secrets; at least %u "
                         "are wanted",
                         what, n, c->holder_count, c->threshold);
    return TIER_OK;
}

/* ---- LIST, SHARES ---- */

static enum tier_status read_digests(struct tier_mask_child *c, struct mask_reader *r,
                                     struct tier_err *err) {
    uint32_t count = mask_read_number(r, 4);
    const uint8_t *bytes =
        count <= TIER_CHILDREN_MAX ? mask_read(r, (size_t)count * TIER_HASH_BYTES) : NULL;

    if (!bytes || count == 0)
        return tier_fail(err, TIER_EPROTO,
                         "secure sum: a list of %u children; 1 to %u are wanted, all of them there",
                         count, TIER_CHILDREN_MAX);
    c->digests = need(malloc((size_t)count * sizeof *c->digests));
    memcpy(c->digests, bytes, (size_t)count * sizeof *c->digests);
    c->count = count;
    c->place = NOWHERE;
    for (uint32_t i = 0; i < count; i++) {
        if (i > 0 && memcmp(c->digests[i - 1].b, c->digests[i].b, TIER_HASH_BYTES) >= 0)
            return tier_fail(err, TIER_EPROTO, "secure sum: a list out of order at %u", i);
        if (tier_hash_equal(&c->digests[i], &c->adverts->digest))
            c->place = i;
    }
    if (c->place == NOWHERE)
        return tier_fail(err, TIER_EPROTO, "secure sum: a list without this child's own keys");
    return TIER_OK;
}

static enum tier_status find_holders(struct tier_mask_child *c, struct tier_err *err) {
    struct mask_graph graph;

    mask_list_hash(&c->round, c->digests, c->count, &c->list);
    TIER_TRY(mask_graph_init(&graph, &c->list, c->digests, c->count, err));
    c->holder_count = mask_holders(&graph, c->place, c->holders);
    mask_graph_release(&graph);
    for (unsigned h = 0; h < c->holder_count; h++)
        if (c->holders[h] == c->place)
            c->me = h;
    c->threshold = tier_mask_threshold(c->round.threshold, c->holder_count);
    return check_cohort(c, c->holder_count, "the list has", err);
}

static enum tier_status check_advert(const struct tier_mask_child *c, unsigned h,
                                     struct tier_err *err) {
    const struct mask_advert *a = &c->adverts[h];
    char text[MASK_TEXT_BYTES_MAX];

    if (!tier_hash_equal(&a->digest, &c->digests[c->holders[h]]))
        return tier_fail(err, TIER_EPROTO, "secure sum: the keys of '%s' are not those of the list",
                         a->name);
    /* One node behind several keys would count as several of the cohort. */
    if (strcmp(a->name, c->adverts[c->me].name) == 0)
        return tier_fail(err, TIER_EPROTO, "secure sum: '%s' is this child, with other keys",
                         a->name);
    for (unsigned i = 0; i < h; i++)
        if (strcmp(c->adverts[i].name, a->name) == 0)
            return tier_fail(err, TIER_EPROTO, "secure sum: '%s' is on the list twice", a->name);
    return c->trust->check(c->trust->arg, a->name, a->cert, text, mask_advert_text(a, text), a->sig,
                           a->sig_bytes, err);
}

static enum tier_status read_adverts(struct tier_mask_child *c, struct mask_reader *r,
                                     struct tier_err *err) {
    struct mask_advert *all = need(calloc(c->holder_count, sizeof *all));

    all[c->me] = *c->adverts;
    free(c->adverts);
    c->adverts = all;
    for (unsigned h = 0; h < c->holder_count; h++) {
        if (h == c->me)
            continue;
        TIER_TRY(mask_advert_read(r, &c->round, &all[h], err));
        TIER_TRY(check_advert(c, h, err));
    }
    return mask_read_whole(r)
               ? TIER_OK
               : tier_fail(err, TIER_EPROTO, "secure sum: more advertisements than neighbours");
}

static enum tier_status split(const struct tier_mask_child *c, struct tier_shamir_share *own,
                              struct tier_shamir_share *key, struct tier_err *err) {
    TIER_TRY(tier_shamir_split(c->secret.own.b, c->threshold, c->holder_count, own, err));
    return tier_shamir_split(c->secret.mask_key.b, c->threshold, c->holder_count, key, err);
}

static enum tier_status take_list(struct tier_mask_child *c, struct mask_reader *r,
                                  struct mask_writer *answer, struct tier_err *err) {
    struct tier_shamir_share own[TIER_MASK_HOLDERS_MAX], key[TIER_MASK_HOLDERS_MAX];
    struct mask_shares pair = {0};
    uint8_t sealed[SEALED_BYTES];
    enum tier_status st;

    TIER_TRY(read_digests(c, r, err));
    TIER_TRY(find_holders(c, err));
    TIER_TRY(read_adverts(c, r, err));
    TIER_TRY_OUT(split(c, own, key, err));
    for (unsigned h = 0; h < c->holder_count; h++) {
        memcpy(pair.own, own[h].y, sizeof pair.own);
        memcpy(pair.key, key[h].y, sizeof pair.key);
        if (h == c->me) {
            c->secret.held[h] = pair;
            c->has[h] = true;
            continue;
        }
        TIER_TRY_OUT(mask_seal(&c->secret.share_key, c->adverts[h].share_key, &c->list,
                               &c->digests[c->place], &c->digests[c->holders[h]], &pair, sealed,
                               err));
        mask_write(answer, sealed, sizeof sealed);
    }
out:
    OPENSSL_cleanse(own, sizeof own);
    OPENSSL_cleanse(key, sizeof key);
    OPENSSL_cleanse(&pair, sizeof pair);
    return st;
}

/* ---- DELIVER, the masks ---- */

/* A set of children within `within`, this child among them. */
static enum tier_status read_set(const struct tier_mask_child *c, struct mask_reader *r,
                                 const uint8_t *within, const char *what, uint8_t **out,
                                 struct tier_err *err) {
    const uint8_t *set = mask_read(r, mask_set_bytes(c->count));

    if (!set || !mask_set_fits(set, within, c->count))
        return tier_fail(err, TIER_EPROTO, "secure sum: %s children that are not of this round",
                         what);
    if (!mask_set_has(set, c->place))
        return tier_fail(err, TIER_EPOLICY, "secure sum: %s others, but not this child", what);
    TIER_TRY(check_cohort(c, holders_in(c, set), what, err));
    *out = need(malloc(mask_set_bytes(c->count)));
    memcpy(*out, set, mask_set_bytes(c->count));
    return TIER_OK;
}

/* Shares that do not open are not held: the parent, or their maker, has harmed the maker alone. */
static enum tier_status take_delivery(struct tier_mask_child *c, struct mask_reader *r,
                                      struct tier_err *err) {
    TIER_TRY(read_set(c, r, NULL, "shares were handed on by", &c->shared, err));
    for (unsigned h = 0; h < c->holder_count; h++) {
        if (h == c->me || !mask_set_has(c->shared, c->holders[h]))
            continue;
        const uint8_t *sealed = mask_read(r, SEALED_BYTES);
        c->has[h] = sealed && mask_unseal(&c->secret.share_key, c->adverts[h].share_key, &c->list,
                                          &c->digests[c->holders[h]], &c->digests[c->place], sealed,
                                          &c->secret.held[h], NULL) == TIER_OK;
    }
    return mask_read_whole(r)
               ? TIER_OK
               : tier_fail(err, TIER_EPROTO, "secure sum: not the shares of those who shared");
}

enum tier_status tier_mask_child_terms(struct tier_mask_child *c, struct tier_mask_term **out,
                                       size_t *count_out, struct tier_err *err) {
    size_t n = 0;

    if (!tier_mask_child_ready(c))
        return tier_fail(err, TIER_ECONFLICT, "secure sum: this child has no masks in this round");
    if (c->taken)
        return tier_fail(err, TIER_ECONFLICT,
                         "secure sum: an update was masked in this round already; a second one "
                         "behind the same masks would show the difference");
    c->taken = true;
    struct tier_mask_term *terms = need(calloc(c->holder_count, sizeof *terms));
    memcpy(terms[n++].key, c->secret.own.b, TIER_MASK_KEY_BYTES);
    for (unsigned h = 0; h < c->holder_count; h++) {
        uint32_t other = c->holders[h];
        if (h == c->me || !mask_set_has(c->shared, other))
            continue;
        bool first = c->place < other; /* adds what the other subtracts */
        enum tier_status st =
            mask_pair_key(&c->secret.mask_key, c->adverts[h].mask_key, &c->list,
                          &c->digests[first ? c->place : other],
                          &c->digests[first ? other : c->place], terms[n].key, err);
        if (st != TIER_OK) {
            tier_mask_terms_free(terms, c->holder_count);
            return st;
        }
        terms[n++].minus = !first;
    }
    *out = terms;
    *count_out = n;
    return TIER_OK;
}

/* ---- SURVIVORS, SIGNED ---- */

static enum tier_status take_survivors(struct tier_mask_child *c, struct mask_reader *r,
                                       struct mask_writer *answer, struct tier_err *err) {
    char text[MASK_TEXT_BYTES_MAX];
    uint8_t sig[TIER_MASK_SIGNATURE_BYTES_MAX];
    size_t n = 0;

    if (!c->taken)
        return tier_fail(err, TIER_EPROTO,
                         "secure sum: updates have come, but this child has masked none");
    TIER_TRY(read_set(c, r, c->shared, "masked updates came from", &c->came, err));
    if (!mask_read_whole(r))
        return tier_fail(err, TIER_EPROTO, "secure sum: more than a set of survivors");
    size_t bytes = mask_survivors_text(&c->list, c->shared, c->came, c->count, text);
    TIER_TRY(c->trust->sign(c->trust->arg, text, bytes, sig, &n, err));
    mask_write_number(answer, (uint32_t)n, 1);
    mask_write(answer, sig, n);
    return TIER_OK;
}

/* ---- SIGNATURES, REVEAL ---- */

static unsigned holder_at(const struct tier_mask_child *c, uint32_t place) {
    unsigned h = 0;

    while (h < c->holder_count && c->holders[h] != place)
        h++;
    return h;
}

/* How many of the holders, this child among them, have signed what this child has signed. */
static enum tier_status count_signatures(struct tier_mask_child *c, struct mask_reader *r,
                                         unsigned *out, struct tier_err *err) {
    bool seen[TIER_MASK_HOLDERS_MAX] = {0};
    char text[MASK_TEXT_BYTES_MAX];
    size_t bytes = mask_survivors_text(&c->list, c->shared, c->came, c->count, text);
    unsigned n = 1;

    while (r->left > 0) {
        uint32_t place = mask_read_number(r, 4);
        size_t sig_bytes = mask_read_number(r, 1);
        const uint8_t *sig = mask_read(r, sig_bytes);
        unsigned h = holder_at(c, place);
        if (!sig || h == c->holder_count || seen[h] || !mask_set_has(c->came, place))
            return tier_fail(err, TIER_EPROTO,
                             "secure sum: a signature of none of the survivors that hold this "
                             "child's secrets, or a second one");
        seen[h] = true;
        n += h != c->me && c->trust->check(c->trust->arg, c->adverts[h].name, c->adverts[h].cert,
                                           text, bytes, sig, sig_bytes, NULL) == TIER_OK;
    }
    *out = n;
    return TIER_OK;
}

static enum tier_status take_signatures(struct tier_mask_child *c, struct mask_reader *r,
                                        struct mask_writer *answer, struct tier_err *err) {
    unsigned n = 0;

    TIER_TRY(count_signatures(c, r, &n, err));
    if (n < c->threshold)
        return tier_fail(err, TIER_EPOLICY,
                         "secure sum: %u of the %u holders of this child's secrets have signed the "
                         "survivors that it was told; at least %u are wanted before it reveals",
                         n, c->holder_count, c->threshold);
    for (unsigned h = 0; h < c->holder_count; h++) {
        if (!mask_set_has(c->shared, c->holders[h]))
            continue;
        mask_write_number(answer, c->has[h], 1);
        if (!c->has[h])
            continue;
        const struct mask_shares *s = &c->secret.held[h];
        mask_write(answer, mask_set_has(c->came, c->holders[h]) ? s->own : s->key,
                   TIER_SHAMIR_BYTES);
    }
    return TIER_OK;
}

/* ---- steps ---- */

static enum tier_status take(struct tier_mask_child *c, enum tier_mask_step step,
                             struct mask_reader *r, struct mask_writer *answer,
                             struct tier_err *err) {
    switch (step) {
    case TIER_MASK_LIST:
        c->next = TIER_MASK_DELIVER;
        return take_list(c, r, answer, err);
    case TIER_MASK_DELIVER:
        c->next = TIER_MASK_SURVIVORS;
        return take_delivery(c, r, err);
    case TIER_MASK_SURVIVORS:
        c->next = TIER_MASK_SIGNATURES;
        return take_survivors(c, r, answer, err);
    default: /* SIGNATURES, the only other that is ever next */
        c->next = TIER_MASK_REVEAL;
        return take_signatures(c, r, answer, err);
    }
}

static void give(const struct said *said, uint8_t **answer_out, size_t *answer_bytes_out) {
    uint8_t *copy = NULL;

    if (said->answer) {
        copy = need(malloc(said->answer_bytes + 1));
        memcpy(copy, said->answer, said->answer_bytes);
    }
    *answer_out = copy;
    *answer_bytes_out = said->answer_bytes;
}

static enum tier_status step_in(struct tier_mask_child *c, enum tier_mask_step step,
                                const uint8_t *body, size_t bytes, struct tier_err *err) {
    struct mask_reader r = {.at = body, .left = bytes};
    struct mask_writer answer = {0};
    struct tier_hash hash;

    tier_hash_data(body, bytes, &hash);
    if (c->next == 0)
        return tier_fail(err, TIER_ECONFLICT, "secure sum: this child is out of round %" PRIu64,
                         c->round.round);
    if ((unsigned)step > TIER_MASK_STEPS || (step != c->next && !c->said[step].heard))
        return tier_fail(err, TIER_EPROTO, "secure sum: step '%s' is not what comes next",
                         tier_mask_step_text(step));
    struct said *said = &c->said[step];
    if (said->heard && tier_hash_equal(&said->body, &hash))
        return TIER_OK;
    if (said->heard)
        return tier_fail(err, TIER_ECONFLICT,
                         "secure sum: the parent said another '%s' before, and this child has "
                         "answered it",
                         tier_mask_step_text(step));
    *said = (struct said){.heard = true, .body = hash};
    enum tier_status st = take(c, step, &r, &answer, err);
    said->answer = answer.data;
    said->answer_bytes = answer.n;
    return st;
}

enum tier_status tier_mask_child_take(struct tier_mask_child *c, enum tier_mask_step step,
                                      const uint8_t *body, size_t bytes, uint8_t **answer_out,
                                      size_t *answer_bytes_out, struct tier_err *err) {
    enum tier_status st = step_in(c, step, body, bytes, err);

    if (st == TIER_OK)
        give(&c->said[step], answer_out, answer_bytes_out);
    else
        c->next = 0;
    if (st != TIER_OK || step == TIER_MASK_SIGNATURES)
        wipe(c);
    return st;
}
