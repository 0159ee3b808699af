/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The attack table: every merge rule against every attack, at 10, 20, 30 and 40 % attackers, on
 * real patients. A rule that takes an assumed number of attackers is told the true one.
 */
#include "tests/bench/bench.h"
#include "tests/support/attacks.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define HOSPITALS 20
#define ROUNDS 12

static const struct contender {
    const char *name;
    int rule, mix;
    bool takes_byzantine;
} contenders[] = {
    {"mean", TIER_PLAN_MEAN, TIER_PLAN_MIX_NONE, false},
    {"norm_bound", TIER_PLAN_NORM_BOUND, TIER_PLAN_MIX_NONE, false},
    {"median", TIER_PLAN_MEDIAN, TIER_PLAN_MIX_NONE, false},
    {"trimmed_mean", TIER_PLAN_TRIMMED_MEAN, TIER_PLAN_MIX_NONE, true},
    {"krum", TIER_PLAN_KRUM, TIER_PLAN_MIX_NONE, true},
    {"multi_krum", TIER_PLAN_MULTI_KRUM, TIER_PLAN_MIX_NONE, true},
    {"geometric_median", TIER_PLAN_GEOMETRIC_MEDIAN, TIER_PLAN_MIX_NONE, false},
    {"centred_clipping", TIER_PLAN_CENTRED_CLIPPING, TIER_PLAN_MIX_NONE, false},
    {"nearest+median", TIER_PLAN_MEDIAN, TIER_PLAN_MIX_NEAREST, true},
    {"nearest+trimmed_mean", TIER_PLAN_TRIMMED_MEAN, TIER_PLAN_MIX_NEAREST, true},
};
#define CONTENDERS (sizeof contenders / sizeof contenders[0])

static struct attack_case case_of(const struct contender *c, enum attack attack, size_t attackers,
                                  uint64_t seed) {
    struct attack_case a = {
        .attack = attack, .attackers = attackers, .rounds = ROUNDS, .seed = seed};

    a.merge.rule.choice = c->rule;
    a.merge.mix = c->mix;
    if (c->takes_byzantine)
        a.merge.byzantine = attackers > 0 ? (double)attackers : 0;
    if (c->rule == TIER_PLAN_GEOMETRIC_MEDIAN) {
        a.merge.iterations = 64;
        a.merge.smoothing = 1e-6;
    }
    if (c->rule == TIER_PLAN_CENTRED_CLIPPING)
        a.merge.iterations = 3;
    return a;
}

struct row {
    json_t *final, *low; /* by attack: without attackers a number, else one for each share */
    double mean_of_lows, least_low;
};

static enum tier_status row_of(struct attack_world *w, const struct contender *c, uint64_t seed,
                               struct row *row, struct tier_err *err) {
    static const size_t shares[] = {10, 20, 30, 40};
    struct attack_case calm = case_of(c, ATTACK_NONE, 0, seed);
    struct attack_accuracy accuracy;

    *row = (struct row){.final = json_object(), .low = json_object(), .least_low = 1};
    TIER_TRY(attack_run(w, &calm, &accuracy, err));
    json_object_set_new(row->final, attack_text(ATTACK_NONE), json_real(accuracy.final));
    json_object_set_new(row->low, attack_text(ATTACK_NONE), json_real(accuracy.low));
    for (int attack = ATTACK_NONE + 1; attack < ATTACK_COUNT; attack++) {
        json_t *finals = json_array(), *lows = json_array();
        json_object_set_new(row->final, attack_text((enum attack)attack), finals);
        json_object_set_new(row->low, attack_text((enum attack)attack), lows);
        for (size_t i = 0; i < 4; i++) {
            struct attack_case a =
                case_of(c, (enum attack)attack, HOSPITALS * shares[i] / 100, seed);
            TIER_TRY(attack_run(w, &a, &accuracy, err));
            json_array_append_new(finals, json_real(accuracy.final));
            json_array_append_new(lows, json_real(accuracy.low));
            row->mean_of_lows += accuracy.low / (4 * (ATTACK_COUNT - 1));
            row->least_low = fmin(row->least_low, accuracy.low);
        }
    }
    return TIER_OK;
}

enum tier_status bench_attacks(const struct bench_options *o, struct bench_result *r,
                               struct tier_err *err) {
    struct attack_world *w = NULL;
    json_t *final = json_object(), *low = json_object(), *mean = json_object(),
           *least = json_object();
    double best = 0, of_mean = NAN;

    json_object_set_new(r->detail, "hospitals", json_integer(HOSPITALS));
    json_object_set_new(r->detail, "rounds", json_integer(ROUNDS));
    json_object_set_new(r->detail, "attackers_percent", json_pack("[i,i,i,i]", 10, 20, 30, 40));
    json_object_set_new(r->detail, "low_mean", mean);
    json_object_set_new(r->detail, "low_least", least);
    json_object_set_new(r->detail, "low", low);
    json_object_set_new(r->detail, "final", final);
    TIER_TRY(attack_world_new(o->work, CONSILIUM_SOURCE_DIR, HOSPITALS, &w, err));
    enum tier_status st = TIER_OK;
    for (size_t i = 0; i < CONTENDERS && st == TIER_OK; i++) {
        struct row row;
        st = row_of(w, &contenders[i], o->seed, &row, err);
        json_object_set_new(final, contenders[i].name, row.final);
        json_object_set_new(low, contenders[i].name, row.low);
        json_object_set_new(mean, contenders[i].name, json_real(row.mean_of_lows));
        json_object_set_new(least, contenders[i].name, json_real(row.least_low));
        if (contenders[i].rule == TIER_PLAN_MEAN)
            of_mean = row.mean_of_lows;
        else
            best = fmax(best, row.mean_of_lows);
    }
    attack_world_free(w);
    TIER_TRY(st);
    r->value = best;
    r->unit = "accuracy: the best rule's, mean over all attacks and shares of attackers";
    r->against = "the mean of all updates, under the same attacks";
    r->ratio = best / of_mean;
    return TIER_OK;
}
