/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to tier/plan*.c: the two tables of a plan, as it is written and as it travels, and the
 * checks both share.
 *
 * Threads: tables are constant; a checker belongs to one thread.
 */
#ifndef CONSILIUM_TIER_PLAN_KEYS_H
#define CONSILIUM_TIER_PLAN_KEYS_H

#include "tier/plan.h"

/* A plan while it is read. The plan comes first, so that both tables count offsets from its start.
 */
struct tier_plan_draft {
    struct tier_plan plan;
    struct tier_plan_tier fallback, top, hub; /* as written; top and hub where they say anything */
    char model[TIER_PLAN_PATH_BYTES];
};

/* As a person writes it; offsets into struct tier_plan_draft. */
const struct tier_keys_item *tier_plan_written_keys(size_t *count_out);

struct tier_plan_checker {
    struct tier_plan *plan;
    const struct tier_keys_item *keys;
    size_t count;
    const char *name; /* of the file, for messages */
    const int *lines; /* by key, or NULL */
    struct tier_problems *problems;
};

/* Fills in the numbers that the rule takes and that were left out. */
void tier_plan_merge_defaults(struct tier_plan_merge *merge);
/* Whether the rule looks at each update, so that sums of some would not do. */
bool tier_plan_needs_updates(const struct tier_plan_merge *merge);
/* What must hold for a tier's merge; `tier` is "tiers.top" or "tiers.hub". */
void tier_plan_check_merge(const struct tier_plan_checker *c, const struct tier_plan_merge *merge,
                           const char *tier);
/* Fills in `strikes` where it was left out. */
void tier_plan_screen_defaults(struct tier_plan_screen *screen);
/* What must hold for a tier's screen and contributions; `name` is "tiers.top" or "tiers.hub". */
void tier_plan_check_screen(const struct tier_plan_checker *c, const struct tier_plan_tier *tier,
                            const char *name);
/* Fills in what the mode says and the plan does not; `written` as in tier_plan_recipe_defaults. */
void tier_plan_mode_defaults(struct tier_plan *plan,
                             bool (*written)(const void *arg, const char *path), const void *arg);
/* What mode: untrusted promises. */
void tier_plan_check_mode(const struct tier_plan_checker *c);
/* What must hold for `governance`: a day that the calendar has, a name that can sign. */
void tier_plan_check_governance(const struct tier_plan_checker *c);
/* What must hold for `local`, the recipe of a hospital's training. */
void tier_plan_check_recipe(const struct tier_plan_checker *c);
/* What must hold for `exact.clips`. */
void tier_plan_check_clips(const struct tier_plan_checker *c);
/* Fills in what the recipe's kinds have; `written`: whether a key was, by its path. */
void tier_plan_recipe_defaults(struct tier_plan *plan,
                               bool (*written)(const void *arg, const char *path), const void *arg);
/* What must hold for `privacy`. */
void tier_plan_check_privacy(const struct tier_plan_checker *c);
/* The same of privacy.site; needs frac_bits. */
void tier_plan_check_site(const struct tier_plan_checker *c);
/* What privacy.site adds to a value, as a part of the proof; "" without. Returns buf. */
const char *tier_plan_site_proof(const struct tier_plan *plan, char *buf, size_t bytes);
/* What must hold for `secure`. */
void tier_plan_check_secure(const struct tier_plan_checker *c);
/* What must hold between the loss, its options and what is asked of the model. */
void tier_plan_check_loss(const struct tier_plan_checker *c);
/* What must hold for `local.patch`. */
void tier_plan_check_patch(const struct tier_plan_checker *c);
void tier_plan_check_stop_metric(const struct tier_plan_checker *c);
/* The key as it was written: the tier's own, or the default's that it took over. Returns path. */
const char *tier_plan_tier_path(const struct tier_plan_checker *c, const char *tier,
                                const char *leaf, char *path, size_t bytes);
/* A problem about a key, at its line where it has one. */
void tier_plan_complain(const struct tier_plan_checker *c, const char *path, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Everything that must hold between keys; derives frac_bits. A key that is still absent because it
 * was refused is passed over. */
void tier_plan_check(const struct tier_plan_checker *c);

#endif
