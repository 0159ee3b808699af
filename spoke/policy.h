/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The data steward's policy: rules in order, of which the first that a plan matches says whether
 * the site takes part, does not, or asks a person.
 *
 *     default: ask                      # where no rule matches: accept, refuse or ask
 *     rules:
 *       - {decide: refuse, reason: no teaching here, purpose: [education]}
 *       - decide: accept
 *         author: [alice, "heart-*"]    # of the plan's verified signature (tier/signed.h)
 *         purpose: [health-research, quality]
 *         rounds_max: 100
 *
 * A rule matches where every key that it has does; one without any matches all. A rule that goes by
 * something that the plan does not say or nobody has proved (an epsilon, an author) does not match.
 * `accept` rules should therefore ask for what they rely on, and the default should be refuse or
 * ask.
 *
 * Threads: immutable once loaded.
 */
#ifndef CONSILIUM_SPOKE_POLICY_H
#define CONSILIUM_SPOKE_POLICY_H

#include "tier/graph.h"
#include "tier/keys.h"
#include "tier/plan.h"

#define SPOKE_POLICY_RULES_MAX 64

enum spoke_verdict {
    SPOKE_ACCEPT,
    SPOKE_REFUSE,
    SPOKE_ASK,
    SPOKE_NEEDS_GRAPH, /* a rule goes by the model's operators: decide again with the graph */
};

/* What is decided on. */
struct spoke_asked {
    const struct tier_plan *plan;
    const char *author;             /* of the verified signature; "": nobody's */
    const struct tier_graph *graph; /* NULL: not here yet */
    uint64_t rows;                  /* training rows, as far as they are known here; 0: not */
    int64_t now_ms;                 /* wall clock */
};

struct spoke_policy;

/*
 * Reads the file. Every problem goes into `problems` (may be NULL), the first into err.
 * TIER_ECONFIG; TIER_ENOTFOUND and TIER_EIO where it cannot be read.
 */
enum tier_status spoke_policy_load(const char *path, struct spoke_policy **out,
                                   struct tier_problems *problems, struct tier_err *err);
/* The same from memory; `name` stands for the file in messages. */
enum tier_status spoke_policy_parse(const char *name, const void *text, size_t bytes,
                                    struct spoke_policy **out, struct tier_problems *problems,
                                    struct tier_err *err);
void spoke_policy_free(struct spoke_policy *policy);

/* `reason` says by what rule, for the logs, the parent, and the person who is asked. */
enum spoke_verdict spoke_policy_decide(const struct spoke_policy *policy,
                                       const struct spoke_asked *asked, char *reason, size_t bytes);

#endif
