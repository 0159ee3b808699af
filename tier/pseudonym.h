/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pseudonyms: what a spoke is called in the secure sums of one run below one parent, so that those
 * who take part are sure of each other and do not know each other. A spoke makes a key, names it by
 * its hash, and asks the authority, by way of its parents as for a renewal, to certify it; the
 * authority knows whom it certifies, keeps that sealed, and gives one spoke one pseudonym for a run
 * and a parent, so that nobody is there twice.
 *
 * The certificate is the authority's, for CN = "p-" and the first 40 digits of the SHA-256 of the
 * public key (SubjectPublicKeyInfo, DER), and one SAN URI
 *
 *   spiffe://AUTHORITY/pseudonym/NAME/PARENT/RUN
 *
 * RUN being the run's id in hex. It is no node's: nobody attends, calls or signs a plan with it. It
 * lasts TIER_PSEUDONYM_TTL_S, or less where certificates of the authority do.
 *
 * Who knows whom: the hubs that pass the question on, the parent first among them, see who asks;
 * so does the authority. Other spokes, and who reads a list of the revoked, do not, but for this: a
 * spoke that is revoked has its pseudonyms revoked at the same moment.
 *
 * The key lies in DATA_DIR/identity/pseudonyms, as the node's own does (tier/key_file.h), before
 * anything is asked: who is killed asks with the same key and gets the same name.
 *
 * Threads: no shared state but the disk; tier_pseudonym_get: the loop's.
 */
#ifndef CONSILIUM_TIER_PSEUDONYM_H
#define CONSILIUM_TIER_PSEUDONYM_H

#include "tier/authority.h"
#include "tier/cert.h"
#include "tier/mask.h"
#include "tier/revocation.h"

#define TIER_PSEUDONYM_TTL_S (7 * 86400)
#define TIER_PSEUDONYM_PREFIX "p-"
#define TIER_PSEUDONYM_DIGITS 40

/* A spoke's own, for one run and parent. */
struct tier_pseudonym {
    char name[TIER_NAME_LEN_MAX + 1];
    char parent[TIER_NAME_LEN_MAX + 1];
    struct tier_hash run;
    char *cert_pem;
    struct tier_key *key;
    int64_t not_before_s, not_after_s;
};
/* Wipes the key. A zeroed one is fine. */
void tier_pseudonym_release(struct tier_pseudonym *p);

/* What the certificate of a pseudonym says. */
struct tier_pseudonym_id {
    char name[TIER_NAME_LEN_MAX + 1], parent[TIER_NAME_LEN_MAX + 1];
    char authority[TIER_NAME_LEN_MAX + 1];
    char serial[TIER_SERIAL_SIZE];
    struct tier_hash run;
    int64_t not_before_s, not_after_s;
};
/* Whether `ca` issued it as a pseudonym's, it is for the key that its name says, and is valid at
 * now_s and not on the list (NULL: none is known). TIER_EIDENTITY otherwise. */
enum tier_status tier_pseudonym_verify(const struct tier_cert *cert, const struct tier_cert *ca,
                                       const struct tier_revocations *revoked, int64_t now_s,
                                       struct tier_pseudonym_id *out, struct tier_err *err);

/* ---- a spoke's own ---- */

/* What to ask with; makes the key, or finds the one that is there. tier_pseudonym_ask_release. */
enum tier_status tier_pseudonym_prepare(const char *data_dir, const struct tier_node *node,
                                        const struct tier_hash *run, const char *parent,
                                        struct tier_pseudonym_ask *out, struct tier_err *err);
void tier_pseudonym_ask_release(struct tier_pseudonym_ask *ask); /* a zeroed one is fine */
/* Keeps the answer: it must be this authority's, of this run and parent, for the key that is there.
 */
enum tier_status tier_pseudonym_store(const char *data_dir, const struct tier_node *node,
                                      const struct tier_hash *run, const char *parent,
                                      const char *cert_pem, int64_t now_s, struct tier_err *err);
/* TIER_ENOTFOUND: there is none yet; TIER_EIDENTITY: it is not good any more. */
enum tier_status tier_pseudonym_load(const char *data_dir, const struct tier_node *node,
                                     const struct tier_hash *run, const char *parent, int64_t now_s,
                                     struct tier_pseudonym *out, struct tier_err *err);
/* The run is over: its key and certificate go. What is not there is fine. */
void tier_pseudonym_forget(const char *data_dir, const struct tier_hash *run, const char *parent);

struct tier_home; /* tier/home.h */
struct tier_link; /* tier/link.h */
/* TIER_OK: tier_pseudonym_load gives it. TIER_EUNAVAILABLE and the like may be asked for again;
 * TIER_EPOLICY and TIER_EIDENTITY may not. `text` until it returns. */
typedef void (*tier_pseudonym_done)(void *arg, enum tier_status st, const char *text);
/*
 * Asks the parent for one, unless there is one that is not past half of its life; `done` is called
 * once, perhaps before this returns, and at the latest when the link is freed.
 */
void tier_pseudonym_get(struct tier_link *link, const struct tier_home *home,
                        const struct tier_hash *run, tier_pseudonym_done done, void *arg);

/* ---- in secure sums (tier/mask.h) ---- */

/*
 * `own` is NULL at a parent. All is borrowed, and read at each check: a list that comes meanwhile,
 * and the time, may be set between two steps. Names in a round's steps are pseudonyms, and a
 * certificate of another run or parent is nobody's.
 */
struct tier_mask_pseudonym {
    const struct tier_pseudonym *own;
    const struct tier_cert *ca;
    const struct tier_revocations *revoked;
    struct tier_hash run;
    const char *parent;
    int64_t now_s;
};
struct tier_mask_trust tier_mask_trust_of_pseudonym(struct tier_mask_pseudonym *p);

#endif
