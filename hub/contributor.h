/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a hub keeps of each child of a run whose updates it looks at (tiers.*.screen,
 * tiers.*.contribution): what counted and how much it contributed, what went into quarantine, and
 * whether it is kept out. In the journal as one row a child, written in the transaction of the
 * event that changed it.
 *
 * Threads: the loop's.
 */
#ifndef CONSILIUM_HUB_CONTRIBUTOR_H
#define CONSILIUM_HUB_CONTRIBUTOR_H

#include "hub/hub.h"
#include "tier/console_wire.h"
#include "tier/contribution.h"
#include "tier/screen.h"

struct hub_contributor {
    struct {
        uint64_t updates, weight, bytes;
        uint64_t shares;                 /* rounds whose contributions are in the sums below */
        bool by_loss;                    /* of the hub's own data (hub/appraise.h) */
        double share, variance, without; /* tier/contribution.h */
    } counted;                           /* in published results */
    struct {
        bool by_loss;
        uint64_t round; /* 0: none */
        struct tier_contribution it;
    } folded; /* of the round that is not committed yet */

    uint64_t quarantined; /* updates, in all */
    uint64_t strikes;     /* rounds in a row */
    bool out;
    uint64_t round; /* of the last that went into quarantine, and what is known of it: */
    struct tier_hash update;
    double norm, cosine, loss; /* NAN: none */
    bool by_loss;              /* that it failed */
    char why[TIER_REASON_LEN_MAX + 1];
};

/* Whether this tier of the plan keeps any. */
bool hub_contributors_on(const struct hub_run *run);
/* As the journal has it, when the child is first heard of; NULL where nothing is kept. A row that
 * cannot be read stops the node. */
struct hub_contributor *hub_contributor_load(const struct hub_run *run, const char *child);
/* In the caller's transaction. */
enum tier_status hub_contributor_put(const struct hub_run *run, uint32_t child,
                                     struct tier_err *err);
/* Whether that update of the child is in quarantine, so that its file stays. */
bool hub_contributor_holds(const struct hub_run *run, uint32_t child, uint64_t round,
                           const struct tier_hash *update);
/* Whether the child takes no part in new rounds. */
bool hub_contributor_is_out(const struct hub_run *run, uint32_t child);

/* What each of children[count] contributed by updates[count]. */
struct hub_round_shares {
    uint64_t round;
    const uint32_t *children;
    const struct tier_hash *updates;
    const struct tier_contribution *shares; /* NULL: they could not be worked out */
    size_t count;
    bool exact, by_loss;
    bool counted; /* the round was committed meanwhile */
};
/*
 * A fold is done: what its children contributed, for the log and in their rows, where it waits for
 * the commit unless that was before. `why` says why there are no shares; NULL: they were not asked
 * for.
 */
void hub_contributors_folded(struct hub_run *run, const struct hub_round_shares *it,
                             const struct tier_err *why);
/* The round is committed, and counted: its children's sums, and the strikes of those that passed.
 * In the caller's transaction. */
enum tier_status hub_contributors_commit(struct hub_run *run, struct tier_err *err);

/* For the console; the caller releases. TIER_EARG: nothing is kept of this run. */
enum tier_status hub_contributors_view(const struct hub_run *run,
                                       struct tier_console_contributors *out, struct tier_err *err);
/*
 * Takes a child back that is kept out, or forgives its strikes; from the next round on, or in the
 * open one where it had no part. TIER_ENOTFOUND, TIER_ECONFLICT: there is nothing to pardon.
 */
enum tier_status hub_contributor_pardon(struct hub_run *run, const char *child, const char *caller,
                                        struct tier_err *err);

/* ---- screen.c ---- */

/* Whether the open round's updates are to be screened, and those that are here have not been. */
bool hub_screen_due(const struct hub_run *run);
/* Children whose updates are screened together: what counts, and what failed already. */
bool hub_screen_takes(const struct hub_run *run, uint32_t child);
/* What a screen gave, of children[count] whose updates it took, in that order. */
void hub_screen_done(struct hub_run *run, const struct tier_hash *set, const uint32_t *children,
                     const struct tier_screened *screened, size_t count,
                     const struct tier_screen_figures *figures);

#endif
