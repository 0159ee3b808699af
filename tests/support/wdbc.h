/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whole trees on real patients' tables (deploy/examples/breast-cancer), over mutual TLS: what the
 * tests of hubs share. Each test process works in one folder: tables/, and a folder a tree.
 */
#ifndef CONSILIUM_TESTS_WDBC_H
#define CONSILIUM_TESTS_WDBC_H

#include "tests/support/tree.h"
#include "tier/log.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define EXAMPLE CONSILIUM_SOURCE_DIR "/deploy/examples/breast-cancer"
#define TIMEOUT_MS 180000

static const char *const sites[] = {"north-1",  "north-2", "north-3", "centre-1", "centre-2",
                                    "centre-3", "south-1", "south-2", "south-3"};

static char work[64];

static inline void set_up(void) {
    char command[1024];
    tier_log_init("test", getenv("T_LOG") ? TIER_LOG_INFO : TIER_LOG_ERROR);
    snprintf(work, sizeof work, "/tmp/consilium-tree-XXXXXX");
    cr_assert(mkdtemp(work) != NULL);
    snprintf(command, sizeof command,
             "mkdir %s/tables && awk -v out=%s/tables -f " EXAMPLE "/split.awk " EXAMPLE
             "/breast_cancer.csv",
             work, work);
    cr_assert(system(command) == 0);
}

static inline void tear_down(void) {
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", work);
    cr_assert(system(command) == 0);
}

static inline struct tier_plan plan_of(uint64_t rounds) {
    struct tier_plan p = {.version = TIER_PLAN_VERSION,
                          .name = "wdbc",
                          .purpose = "tests",
                          .contract = "breast-cancer",
                          .loss = TIER_PLAN_BCE,
                          .batch = 16,
                          .steps = 10,
                          .seed = 7,
                          .clip = 1,
                          .frac_bits = 30,
                          .weight_total_max = UINT64_C(1) << 31,
                          .rounds = rounds,
                          .evaluate_every = 1};
    p.optimiser.lr = 0.05;
    p.optimiser.beta1 = p.optimiser.beta2 = p.optimiser.eps = NAN;
    p.schedule.gamma = p.schedule.lr_min = NAN;
    p.accumulate = 1;
    p.stop.target = NAN;
    p.server = TIER_PLAN_SERVER_OFF;
    p.loss_options = TIER_PLAN_LOSS_PLAIN;
    return p;
}

static inline struct tree *make_tree(const char *name) {
    char dir[128];
    snprintf(dir, sizeof dir, "%s/%s", work, name);
    return tree_new(dir, true);
}

static inline struct tree_node *make_spoke(struct tree *tree, unsigned site,
                                           struct tree_node *parent) {
    char csv[128];
    snprintf(csv, sizeof csv, "%s/tables/%s.csv", work, sites[site]);
    return tree_spoke(tree, sites[site], parent, csv, EXAMPLE "/schema.yaml");
}

static inline struct tier_hash finish(struct tree_node *top, const struct tier_hash *run) {
    struct tier_hash model = {{0}};
    enum hub_run_state state = HUB_RUN_OPEN;
    cr_assert(tree_wait(top, run, TIMEOUT_MS, &state, &model), "the run did not end");
    cr_assert(eq(int, state, HUB_RUN_COMPLETED));
    return model;
}

#endif
