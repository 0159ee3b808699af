/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A federation with attackers in it, on real patients (deploy/examples/breast-cancer dealt to as
 * many hospitals as asked for): hospitals train, attackers replace their update before it is
 * sealed, and the hub's own code merges and publishes. No network: what arrives is what was sealed.
 *
 * Attackers know every honest update of the round, as the strongest of these attacks assume.
 *
 * Threads: the caller's.
 */
#ifndef CONSILIUM_TESTS_ATTACKS_H
#define CONSILIUM_TESTS_ATTACKS_H

#include "tier/merge.h"
#include "tier/screen.h"

enum attack {
    ATTACK_NONE,
    ATTACK_SIGN_FLIP,     /* minus its own update */
    ATTACK_SCALED,        /* minus ten times its own update */
    ATTACK_RANDOM,        /* Gaussian noise, ten times as long as the honest mean */
    ATTACK_LABEL_FLIP,    /* trained with healthy and ill exchanged */
    ATTACK_ALIE,          /* "a little is enough": mean - z * deviation (Baruch et al. 2019) */
    ATTACK_INNER_PRODUCT, /* minus twice the honest mean (Xie, Koyejo, Gupta 2020) */
    ATTACK_COUNT,
};
const char *attack_text(enum attack attack); /* "sign flip" */

struct attack_case {
    struct tier_plan_merge merge; /* as tier_plan_merge_defaults leaves it; all zero: the mean */
    struct tier_plan_screen
        screen; /* each round's updates pass it first; strikes are not looked at */
    enum attack attack;
    size_t attackers;
    uint64_t rounds, seed;
};

struct attack_world;

/* Works in `dir`, which must be there. The example is read from below `source`. */
enum tier_status attack_world_new(const char *dir, const char *source, size_t hospitals,
                                  struct attack_world **out, struct tier_err *err);
void attack_world_free(struct attack_world *world);
/* Accuracy on the test patients of all hospitals. A run that is thrown about may end on a good
 * round by chance, so the lowest of the second half of the rounds is told too. */
struct attack_accuracy {
    double final, low;
    /* Updates, over all rounds: of attackers in quarantine, and not; of honest ones in it. */
    size_t caught, missed, wronged;
};
/* Trains from the graph's own values. */
enum tier_status attack_run(struct attack_world *world, const struct attack_case *attack,
                            struct attack_accuracy *out, struct tier_err *err);

#endif
