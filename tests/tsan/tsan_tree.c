/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A whole tree in one process, first without TLS, then with: top, two hubs and four spokes on real
 * patients' tables, each node a loop and its worker, and a hub stopped and started in the middle
 * of the run. Both runs must publish the same model.
 */
#include "tests/support/tree.h"
#include "tier/log.h"
#include "tsan/tsan.h"

#include <math.h>

#define EXAMPLE CONSILIUM_SOURCE_DIR "/deploy/examples/breast-cancer"
#define ROUNDS 6
#define TIMEOUT_MS 120000

static const char *const sites[4] = {"north-1", "north-2", "centre-1", "south-1"};

static void make_tables(void) {
    char command[1024];
    snprintf(command, sizeof command,
             "mkdir %s/tables && awk -v out=%s/tables -f " EXAMPLE "/split.awk " EXAMPLE
             "/breast_cancer.csv",
             work_dir, work_dir);
    NEED(system(command) == 0);
}

static bool round_is(struct hub *hub, void *arg) {
    return hub->runs && hub->runs->round.number >= *(uint64_t *)arg;
}

static struct tier_hash federate(const char *name, bool tls) {
    struct tier_plan plan = {.version = TIER_PLAN_VERSION,
                             .name = "wdbc",
                             .purpose = "tests",
                             .contract = "breast-cancer",
                             .loss = TIER_PLAN_BCE,
                             .batch = 16,
                             .steps = 5,
                             .seed = 7,
                             .clip = 1,
                             .frac_bits = 30,
                             .weight_total_max = UINT64_C(1) << 31,
                             .rounds = ROUNDS,
                             .evaluate_every = 2};
    enum hub_run_state state = HUB_RUN_OPEN;
    struct tier_hash model = {{0}};
    char path[160];
    uint64_t middle = ROUNDS / 2;

    plan.optimiser.lr = 0.05;
    plan.optimiser.beta1 = plan.optimiser.beta2 = plan.optimiser.eps = NAN;
    plan.schedule.gamma = plan.schedule.lr_min = NAN;
    plan.accumulate = 1;
    plan.stop.target = NAN;
    plan.server = TIER_PLAN_SERVER_OFF;
    plan.loss_options = TIER_PLAN_LOSS_PLAIN;
    snprintf(path, sizeof path, "%s/%s", work_dir, name);
    struct tree *tree = tree_new(path, tls);
    struct tree_node *top = tree_hub(tree, "top", NULL, 2);
    struct tree_node *hubs[2] = {tree_hub(tree, "hub-a", top, 2), tree_hub(tree, "hub-b", top, 2)};
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/tables/%s.csv", work_dir, sites[i]);
        tree_spoke(tree, sites[i], hubs[i / 2], path, EXAMPLE "/schema.yaml");
    }
    struct tier_hash run = tree_run(top, &plan, EXAMPLE "/model.onnx");
    NEED(tree_until(top, round_is, &middle, TIMEOUT_MS));
    tree_stop(hubs[1]);
    tree_start(hubs[1]);
    NEED(tree_wait(top, &run, TIMEOUT_MS, &state, &model));
    NEED(state == HUB_RUN_COMPLETED);
    NEED(tree_serve_traffic(top).fetches > 0 && tree_link_traffic(hubs[0]).fetches > 0);
    tree_free(tree);
    return model;
}

int main(void) {
    tier_log_init("tsan", TIER_LOG_ERROR);
    work_begin();
    make_tables();
    struct tier_hash plain = federate("plain", false), tls = federate("tls", true);
    NEED(tier_hash_equal(&plain, &tls));
    work_end();
    puts("two trees, each with a hub restarted: the same model");
    return 0;
}
