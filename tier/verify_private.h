/* SPDX-License-Identifier: Apache-2.0 */
/* What verify.c (the logs), verify_attest.c (the quotes in them), verify_files.c (what lies beside
 * them) and verify_cross.c (what they say of each other) share. Threads: as tier/verify.h. */
#ifndef CONSILIUM_TIER_VERIFY_PRIVATE_H
#define CONSILIUM_TIER_VERIFY_PRIVATE_H

#include "tier/cert.h"
#include "tier/verify.h"

/* A growing list of entries of one kind. */
struct verify_list {
    void *at;
    size_t count, room;
};
/* Room for one more, zeroed; NULL: no memory, or more than TIER_VERIFY_ENTRIES_MAX. */
void *verify_list_add(struct verify_list *list, size_t bytes, struct tier_err *err);

/* "peer.head": what `node` holds of `peer`. */
struct verify_claim {
    char peer[TIER_NAME_LEN_MAX + 1];
    uint64_t size, line;
    struct tier_hash root;
    struct tier_hash key; /* which the peer had then, as tier_heads_key; zero: none is known */
    size_t node;
    bool past; /* the peer has begun a new history since, under another key */
};

/* "receipt" and "update.counted", whose child and parent are the nodes' names. */
struct verify_counted {
    struct tier_hash run, update;
    uint64_t round, weight, line;
    char child[TIER_NAME_LEN_MAX + 1], parent[TIER_NAME_LEN_MAX + 1];
    size_t node;
};

/* What all nodes must say alike: the plan of a run (round 0), the base of a round. */
struct verify_fact {
    struct tier_hash run, value;
    uint64_t round, line;
    size_t node;
};

/* The certificate by which a peer signs, as the log that is being read last said. */
struct verify_cert {
    char peer[TIER_NAME_LEN_MAX + 1];
    struct tier_cert *cert;
    struct tier_hash key; /* as tier_heads_key */
};

struct tier_verify {
    struct tier_cert *ca;
    struct tier_hash ca_hash;
    struct verify_list nodes; /* struct tier_verify_node */
    struct verify_list claims, receipts, counted, facts;
    struct verify_list findings; /* char * */
    uint64_t finding_count;
    struct verify_list certs, asked; /* of the log that is being read */
};

static inline struct tier_verify_node *verify_node(struct tier_verify *v, size_t i) {
    return (struct tier_verify_node *)v->nodes.at + i;
}

/* A member of a line's data: a text that fits, a hash in hex; false where it is none. */
bool verify_text(const struct json_t *data, const char *key, char *out, size_t size);
bool verify_hash(const struct json_t *data, const char *key, struct tier_hash *out);
/* Notes what is wrong with a node's things. */
void verify_found(struct tier_verify *v, size_t node, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* A line "attest.*", in the order of the log. */
enum tier_status verify_attest(struct tier_verify *v, size_t node, uint64_t line, const char *event,
                               const struct json_t *data, struct tier_err *err);
/* What lies beside the log of a directory. */
enum tier_status verify_files(struct tier_verify *v, size_t node, struct tier_err *err);

#endif
