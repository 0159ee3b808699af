/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Secure sums: children add masks to what they send, so that their parent learns the sum over all
 * of them and nothing of any one (Bonawitz et al., "Practical Secure Aggregation for
 * Privacy-Preserving Machine Learning", CCS 2017, the protocol with two masks against an active
 * adversary; Bell et al., "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead", CCS
 * 2020, for neighbours). Masks are added modulo 2^64 (or 2^32: tier/narrow.h) to the integers that
 * would have been summed without them, so what is left when they are gone is that sum, bit for bit.
 *
 * A child hides its integers behind one mask that it shares with each of its neighbours, which the
 * sum cancels, and one of its own. When updates are in, those who remain give the parent, for every
 * child, shares of one of two secrets: of the own mask of a child whose update came, of the key to
 * the pairwise masks of one whose update did not. Whoever had both of one child would see its
 * update; so everyone signs one list of those whose updates came, reveals only when enough others
 * have signed the same, and never for a second list.
 *
 *   child                                   parent
 *   ADVERT    two public keys, signed   ->
 *                                       <-  LIST        all that came, neighbours' in full
 *   SHARES    of both secrets, sealed   ->
 *                                       <-  DELIVER     who shared; shares for this child
 *   (trains; pushes its masked update)  ->
 *                                       <-  SURVIVORS   whose updates came
 *   SIGNED    that list                 ->
 *                                       <-  SIGNATURES  of the neighbours
 *   REVEAL    one share of each         ->
 *
 * A step's body has the bytes of mask_private.h. This file is what both ends compute; child and
 * parent are two state machines (mask_child.c, mask_parent.c) without clock, I/O or memory of
 * earlier rounds: the owner moves bodies, decides when a step has lasted long enough, and sees to
 * it that a child is asked for one masked update in a round and no more, across restarts too.
 *
 * Threads: an object belongs to one thread at a time.
 *
 * What it rests on: the parent may lie and may work with children, as long as of the holders of a
 * child's secrets (its neighbours and itself, m of them) fewer than 2 t - m do, t =
 * tier_mask_threshold(). Children that lie can spoil a sum, not open it.
 */
#ifndef CONSILIUM_TIER_MASK_H
#define CONSILIUM_TIER_MASK_H

#include "tier/err.h"
#include "tier/hash.h"
#include "tier/limits.h"

#include <stdint.h>

#define TIER_MASK_KEY_BYTES 32
/* A child has that many neighbours; up to one child more than that, everyone is everyone's. */
#define TIER_MASK_NEIGHBOURS 100u
#define TIER_MASK_HOLDERS_MAX (TIER_MASK_NEIGHBOURS + 1u)
#define TIER_MASK_CERT_BYTES_MAX 4096u
/* The longest body: a list of TIER_CHILDREN_MAX, and the neighbours' advertisements. */
#define TIER_MASK_ADVERT_BYTES_MAX (TIER_MASK_CERT_BYTES_MAX + 256u)
#define TIER_MASK_BODY_BYTES_MAX                                                                   \
    (TIER_CHILDREN_MAX * TIER_HASH_BYTES + TIER_MASK_HOLDERS_MAX * TIER_MASK_ADVERT_BYTES_MAX)
#define TIER_MASK_COHORT_LEAST 2u
#define TIER_MASK_COHORT_MOST TIER_MASK_HOLDERS_MAX

enum tier_mask_step {
    TIER_MASK_ADVERT = 1,
    TIER_MASK_LIST,
    TIER_MASK_SHARES,
    TIER_MASK_DELIVER,
    TIER_MASK_SURVIVORS,
    TIER_MASK_SIGNED,
    TIER_MASK_SIGNATURES,
    TIER_MASK_REVEAL
};
#define TIER_MASK_STEPS 8
/* "advert", "list", ...; "unknown step" outside the enum. */
const char *tier_mask_step_text(enum tier_mask_step step);
/* Who says it: a child ADVERT, SHARES, SIGNED and REVEAL, a parent the others. */
bool tier_mask_step_is_childs(enum tier_mask_step step);
/* Whom a body of ADVERT is of, as it says itself: nothing is checked of it yet. TIER_EPROTO. */
enum tier_status tier_mask_advert_name(const uint8_t *body, size_t bytes,
                                       char name_out[TIER_NAME_LEN_MAX + 1], struct tier_err *err);
/* The longest body of a step, whatever the round; 0 outside the enum. */
size_t tier_mask_body_max(enum tier_mask_step step);

/* What all of a round agree on, from the plan. */
struct tier_mask_round {
    struct tier_hash run;
    uint64_t round;
    unsigned cohort_min; /* LEAST..MOST: a child takes part in no smaller sum */
    double threshold;    /* share of the holders that a secret takes, above 0.5 and at most 1 */
};

/* ceil(share * holders), and more than half of them. */
unsigned tier_mask_threshold(double share, unsigned holders);

/*
 * Whom a child believes to be a child. `sign` signs with this node's identity (NULL at a parent);
 * `check` says whether `sig` over `data` is of the node `name` that `cert` (PEM, terminated) names,
 * by the authority's word. tier_mask_trust_init makes one of a node's identity.
 */
#define TIER_MASK_SIGNATURE_BYTES_MAX 80u
struct tier_mask_trust {
    void *arg;
    const char *cert; /* of this node; NULL at a parent */
    enum tier_status (*sign)(void *arg, const void *data, size_t bytes, uint8_t *sig,
                             size_t *sig_bytes_out, struct tier_err *err);
    enum tier_status (*check)(void *arg, const char *name, const char *cert, const void *data,
                              size_t bytes, const uint8_t *sig, size_t sig_bytes,
                              struct tier_err *err);
};

/* Children of the authority behind `node`, spokes only, valid at now_s and not revoked. Borrows
 * all; the owner sets the last two anew before each call. */
struct tier_node;
struct tier_revocations;
struct tier_mask_identity {
    const struct tier_node *node;
    int64_t now_s;
    const struct tier_revocations *revoked; /* NULL: none are */
};
struct tier_mask_trust tier_mask_trust_of(struct tier_mask_identity *identity);

/* ---- masks ---- */

/* A mask is what AES-256-CTR makes of this key from counter 0 on, as little-endian words of 64
 * bits, or of 32. */
struct tier_mask_term {
    uint8_t key[TIER_MASK_KEY_BYTES];
    bool minus;
};

/* Room to expand masks in. NULL without memory; NULL is fine to free. */
struct tier_mask_pad;
struct tier_mask_pad *tier_mask_pad_new(void);
void tier_mask_pad_free(struct tier_mask_pad *pad);
/* Adds the mask's words at, at + 1, ... to v[n], or subtracts them, modulo 2^64. */
enum tier_status tier_mask_apply(struct tier_mask_pad *pad, const struct tier_mask_term *term,
                                 uint64_t at, uint64_t *v, size_t n, struct tier_err *err);
/* The same modulo 2^32: word `at` is half of 64-bit word at / 2, the lower half first. */
enum tier_status tier_mask_apply32(struct tier_mask_pad *pad, const struct tier_mask_term *term,
                                   uint64_t at, uint32_t *v, size_t n, struct tier_err *err);

/* ---- a child ---- */

struct tier_mask_child;

/* Makes this round's keys. Copies `round`; borrows `trust` until the end. */
enum tier_status tier_mask_child_new(const struct tier_mask_round *round, const char *name,
                                     const struct tier_mask_trust *trust,
                                     struct tier_mask_child **out, struct tier_err *err);
/* Wipes every secret. NULL is fine. */
void tier_mask_child_free(struct tier_mask_child *c);
/* The body of ADVERT; borrowed, until the child ends. */
const uint8_t *tier_mask_child_advert(const struct tier_mask_child *c, size_t *bytes_out);
/*
 * The parent's step, and the body that answers it (malloc'd; NULL after DELIVER). Steps come in
 * order; the same bytes again get the same answer. TIER_EPOLICY: a sum this child takes no part in
 * (too small a cohort); TIER_ECONFLICT: the parent says another thing than before; TIER_EPROTO,
 * TIER_EIDENTITY: what the parent says is not so. After any of these the child is out of the round:
 * all its secrets are wiped, and it answers nothing more.
 */
enum tier_status tier_mask_child_take(struct tier_mask_child *c, enum tier_mask_step step,
                                      const uint8_t *body, size_t bytes, uint8_t **answer_out,
                                      size_t *answer_bytes_out, struct tier_err *err);
/* Whether DELIVER has come: what is sent can be masked. */
bool tier_mask_child_ready(const struct tier_mask_child *c);
/*
 * Hands over the masks that hide this child's update: once, since two updates behind the same masks
 * hide neither. TIER_ECONFLICT: they were taken before. The terms are malloc'd; wipe them with
 * tier_mask_terms_free.
 */
enum tier_status tier_mask_child_terms(struct tier_mask_child *c, struct tier_mask_term **out,
                                       size_t *count_out, struct tier_err *err);
void tier_mask_terms_free(struct tier_mask_term *terms, size_t count);

/* ---- a parent ---- */

struct tier_mask_parent;

/* Copies `round`; borrows `trust`, of which only `check` is used. */
enum tier_status tier_mask_parent_new(const struct tier_mask_round *round,
                                      const struct tier_mask_trust *trust,
                                      struct tier_mask_parent **out, struct tier_err *err);
void tier_mask_parent_free(struct tier_mask_parent *p);

/* The step that is open: ADVERT, SHARES, DELIVER (updates are awaited), SIGNED or REVEAL; 0 when
 * the round is unmasked or given up. */
enum tier_mask_step tier_mask_parent_open(const struct tier_mask_parent *p);
/*
 * A child's body. The same again is TIER_OK; after its step TIER_ELATE; another than before
 * TIER_ECONFLICT; damaged TIER_EPROTO; falsely signed TIER_EIDENTITY. A refused body costs its
 * child alone.
 */
enum tier_status tier_mask_parent_take(struct tier_mask_parent *p, const char *child,
                                       enum tier_mask_step step, const uint8_t *body, size_t bytes,
                                       struct tier_err *err);
/* That child's masked update is here and counts, while DELIVER is open. TIER_ELATE, TIER_EPOLICY:
 * it is not of those who shared. */
enum tier_status tier_mask_parent_masked(struct tier_mask_parent *p, const char *child,
                                         struct tier_err *err);
/* How many children the open step has heard from, and of how many. In ADVERT `of` is 0: whoever
 * comes. */
void tier_mask_parent_tally(const struct tier_mask_parent *p, unsigned *done_out, unsigned *of_out);
/* The fewest masked updates whose sum can be unmasked, once LIST is said. */
unsigned tier_mask_parent_least(const struct tier_mask_parent *p);
/* Whether that child has a part in the open step: it is awaited, or has been heard. */
bool tier_mask_parent_has(const struct tier_mask_parent *p, const char *child);
/*
 * Ends the open step: the children that it did not hear from are out. TIER_ELIMIT: too few remain
 * for this round to be unmasked; it is given up, and what has come so far says nothing. Closing
 * REVEAL makes the terms. TIER_EUPDATE: so many shares are wrong that a secret is not to be had.
 */
enum tier_status tier_mask_parent_close(struct tier_mask_parent *p, struct tier_err *err);
/*
 * The body for a child of the last step that was closed (malloc'd): LIST, DELIVER, SURVIVORS or
 * SIGNATURES. TIER_ENOTFOUND: it has no part in it.
 */
enum tier_status tier_mask_parent_say(const struct tier_mask_parent *p, const char *child,
                                      enum tier_mask_step *step_out, uint8_t **body_out,
                                      size_t *bytes_out, struct tier_err *err);
/* What is to be added to the sum of the masked updates; borrowed, NULL before REVEAL is closed. */
const struct tier_mask_term *tier_mask_parent_terms(const struct tier_mask_parent *p,
                                                    size_t *count_out);

#endif
