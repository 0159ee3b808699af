/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an auditor does, off-line, with the logs of one or more nodes and what lies beside them,
 * trusting none of them: a data directory of a node that is stopped, an export of one
 * (consilium audit export), or a log alone. Checked are
 *   - every line of every log against the one before it (tier/audit.h);
 *   - every head that a log holds of a peer, and every receipt: its signature, by a certificate
 *     that the authority issued; and where the peer's own log is given, that its first lines have
 *     that root, and that the parent counted what the receipt says;
 *   - every TPM's quote by which a child was admitted: that it answers what the log asked just
 *     before, its signature by the key in the line, its PCRs, and the plan's allow-list where the
 *     plan is kept (tier/attest.h);
 *   - that nodes name one plan for a run, and one base for a round of it;
 *   - every model, graph, plan and state by its name, every update by its header and Merkle root.
 * What is wrong is a finding, and the checking goes on. What could not be checked, for want of a
 * certificate or because it is kept no more, is counted.
 *
 * Threads: one at a time. Ownership: a tier_verify owns all that it gives.
 */
#ifndef CONSILIUM_TIER_VERIFY_H
#define CONSILIUM_TIER_VERIFY_H

#include "tier/audit.h"
#include "tier/limits.h"

#define TIER_VERIFY_NODES_MAX 4096
#define TIER_VERIFY_ENTRIES_MAX (1u << 22) /* of a kind, over all logs */
#define TIER_VERIFY_FINDINGS_MAX 1000      /* told; the others are counted */

struct tier_verify;

struct tier_verify_node {
    char name[TIER_NAME_LEN_MAX + 1]; /* "" where the log does not begin as one */
    char *path;                       /* as it was given */
    char *log;                        /* the file */
    bool is_dir;
    uint64_t lines;
    struct tier_hash head, root; /* of its last whole line; of its tree */
    uint64_t heads, receipts;    /* of others, held here */
    uint64_t unsigned_count;     /* of these, without a signature or a certificate to check it by */
    uint64_t quotes;             /* of children's TPMs, by which they were admitted */
    uint64_t updates, files;     /* checked whole */
};

/* `ca_pem` is the authority's certificate; NULL: the first directory's identity/ca.pem. */
enum tier_status tier_verify_new(const char *ca_pem, struct tier_verify **out,
                                 struct tier_err *err);
void tier_verify_free(struct tier_verify *v); /* NULL is fine */

/*
 * Adds a node and checks what can be checked of it alone. Only what keeps the check itself from
 * being done is an error: TIER_ENOTFOUND, TIER_EIO, TIER_ENOMEM, TIER_ELIMIT.
 */
enum tier_status tier_verify_add(struct tier_verify *v, const char *path, struct tier_err *err);
/* After all were added: what they say of each other. */
void tier_verify_cross(struct tier_verify *v);

size_t tier_verify_node_count(const struct tier_verify *v);
const struct tier_verify_node *tier_verify_node_at(const struct tier_verify *v, size_t i);
/* 0: everything that was checked is as it should be. */
uint64_t tier_verify_finding_count(const struct tier_verify *v);
/* NULL past the last that is told. */
const char *tier_verify_finding(const struct tier_verify *v, size_t i);

#endif
