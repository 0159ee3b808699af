/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Buffered asynchronous rounds in trees of real nodes. What comes in time and what late is chance,
 * so nothing is compared with a second run: the journals say which update counted in which round,
 * and from that alone the reference computes, with the training engine and integers and no code of
 * tier/, what must have been published.
 */
#include "tests/support/local_reference.h"
#include "tests/support/shapes.h"

TestSuite(hub_async, .init = set_up, .fini = tear_down);

enum { ROUNDS_MAX = 40, COUNTED_MAX = ROUNDS_MAX * SPOKES };

static struct tier_plan_tier buffered(uint64_t quorum, uint64_t staleness_max) {
    return (struct tier_plan_tier){.sync = TIER_PLAN_BUFFERED,
                                   .quorum = {.kind = TIER_QUORUM_COUNT, .count = quorum},
                                   .staleness_max = staleness_max,
                                   .retain = TIER_PLAN_RETAIN_SUMS};
}

/* ---- what the journals say ---- */

struct counted {
    uint64_t round; /* at the top */
    unsigned site;
    uint64_t base;
    uint64_t times, full; /* multipliers of all tiers above it, and what they would be if fresh */
};

struct history {
    const struct shape *shape;
    struct counted at[COUNTED_MAX];
    size_t count, stale;
    /* while one journal is read */
    uint64_t round, staleness_max;
    struct counted above;
    struct {
        struct counted it;
        char hub[TIER_NAME_LEN_MAX + 1];
    } below[SPOKES];
    size_t below_count;
};

/* Round the definition to an integer: an independent tier_stale_multiplier. */
static uint64_t multiplier(uint64_t staleness) {
    return (uint64_t)llround(64 / sqrt(1 + (double)staleness));
}

static enum tier_status see_update(void *arg, const struct tier_journal_update *row,
                                   struct tier_err *err) {
    struct history *h = arg;
    struct counted c = h->above;
    (void)err;
    if (row->state != TIER_UPDATE_SEALED && row->state != TIER_UPDATE_FOLDED)
        return TIER_OK;
    cr_assert(row->base_round >= 1 && row->base_round <= h->round);
    cr_assert(h->round - row->base_round <= h->staleness_max, "round %llu counts one of %llu",
              (unsigned long long)h->round, (unsigned long long)row->base_round);
    c.base = row->base_round;
    if (h->staleness_max) {
        c.times *= multiplier(h->round - c.base);
        c.full *= 64;
    }
    h->stale += c.base < h->round;
    for (c.site = 0; c.site < SPOKES; c.site++) {
        if (strcmp(row->child, sites[c.site]) != 0)
            continue;
        cr_assert(h->count < COUNTED_MAX);
        h->at[h->count++] = c;
        return TIER_OK;
    }
    cr_assert(h->below_count < SPOKES);
    h->below[h->below_count].it = c;
    snprintf(h->below[h->below_count++].hub, sizeof h->below[0].hub, "%s", row->child);
    return TIER_OK;
}

/* Of one hub, a round of it. */
static bool see_round(struct hub *hub, void *arg) {
    struct history *h = arg;
    struct tier_err err = {0};
    const struct tier_plan *plan = &hub->runs->plan;
    h->staleness_max = tier_plan_tier_of(plan, hub_is_top(hub))->staleness_max;
    if (h->round > plan->rounds) /* the evaluation at the end */
        h->staleness_max = 0;
    cr_assert(tier_journal_update_each(hub->home.journal, hub->runs->hex, h->round,
                                       TIER_UPDATE_STATE_ANY, see_update, h, &err) == TIER_OK);
    return true;
}

static struct tree_node *node_of(const struct shape *s, const char *name) {
    return strcmp(name, "north") == 0 ? s->node[SPOKES + 1] : s->node[SPOKES + 2];
}

static void read_round(struct history *h, struct tree_node *node, uint64_t round,
                       struct counted above) {
    struct history own = *h;
    own.round = round;
    own.above = above;
    own.below_count = 0;
    cr_assert(tree_until(node, see_round, &own, TIMEOUT_MS));
    h->count = own.count;
    h->stale = own.stale;
    memcpy(h->at, own.at, sizeof h->at);
    for (size_t i = 0; i < own.below_count; i++)
        read_round(h, node_of(h->shape, own.below[i].hub), own.below[i].it.base, own.below[i].it);
}

static struct history *history_of(const struct shape *s, uint64_t rounds) {
    struct history *h = calloc(1, sizeof *h);
    h->shape = s;
    for (uint64_t round = 1; round <= rounds; round++)
        read_round(h, s->top, round, (struct counted){.round = round, .times = 1, .full = 1});
    for (size_t i = 0; i < h->count; i++)
        for (size_t k = 0; k < i; k++)
            cr_assert(h->at[i].site != h->at[k].site || h->at[i].base != h->at[k].base,
                      "%s's update of round %llu counted twice", sites[h->at[i].site],
                      (unsigned long long)h->at[i].base);
    return h;
}

/* ---- what follows from it ---- */

/* models[r]: after round r. */
static void reference_follow(struct reference *r, const struct history *h, uint64_t round,
                             float *const *models) {
    struct spoke_recipe recipe;
    struct spoke_train_stats stats;
    struct tier_err err = {0};
    int64_t *sum = calloc(r->elements, sizeof *sum);
    uint64_t weight = 0, full = 0;
    float *after = malloc(r->elements * sizeof *after);
    char stream[32];

    snprintf(stream, sizeof stream, "%llu", (unsigned long long)r->plan.seed);
    for (size_t k = 0; k < h->count; k++) {
        const struct counted *c = &h->at[k];
        if (c->round != round)
            continue;
        uint64_t w = spoke_data_rows(r->site[c->site].data, SPOKE_TRAIN);
        const float *before = models[c->base - 1];
        spoke_round_recipe(&r->plan, c->base, &recipe);
        cr_assert(spoke_net_set(r->net, before, NULL) == TIER_OK);
        cr_assert(spoke_train(r->net, r->site[c->site].data, &recipe,
                              spoke_train_seed(stream, c->base, sites[c->site]), &stats,
                              &err) == TIER_OK);
        cr_assert(spoke_net_get(r->net, after, &err) == TIER_OK);
        for (size_t i = 0; i < r->elements; i++) {
            float delta = after[i] - before[i];
            sum[i] += (int64_t)(c->times * w) * llrint(ldexp((double)delta, r->plan.frac_bits));
        }
        weight += c->times * w;
        full += c->full * w;
    }
    cr_assert(gt(u64, weight, 0));
    double damping = (double)weight / (double)full;
    for (size_t i = 0; i < r->elements; i++) {
        double mean = ldexp((double)sum[i] / (double)weight, -r->plan.frac_bits);
        models[round][i] = (float)((double)models[round - 1][i] + mean * damping);
    }
    free(sum);
    free(after);
}

/* A run, perhaps with nodes stopped at random: what it published is what its journals lead to. */
static size_t run_and_follow(struct shape s, const struct tier_plan *plan, uint32_t seed) {
    struct tier_hash run = run_of(&s, plan, seed), model = finish(s.top, &run);
    struct history *h = history_of(&s, plan->rounds);
    struct reference *r = reference_new(plan, NULL);
    float *models[ROUNDS_MAX + 1];
    size_t stale = h->stale;

    for (uint64_t round = 0; round <= plan->rounds; round++)
        models[round] = calloc(r->elements, sizeof *models[round]);
    cr_assert(tier_graph_values(r->graph, models[0], NULL) == TIER_OK);
    for (uint64_t round = 1; round <= plan->rounds; round++)
        reference_follow(r, h, round, models);
    char *path = published(&s, &model);
    reference_equals(r, path, models[plan->rounds], tier_graph_param_count(r->graph));
    cr_log_info("%zu updates counted in %llu rounds, %zu of them late\n", h->count,
                (unsigned long long)plan->rounds, stale);
    free(path);
    for (uint64_t round = 0; round <= plan->rounds; round++)
        free(models[round]);
    reference_free(r);
    free(h);
    tree_free(s.tree);
    return stale;
}

static struct shape flat_by_one(const char *name) { /* every update into a partial of its own */
    struct shape s = {.tree = make_tree(name), .nodes = SPOKES + 1};
    tree_places(s.tree, 1);
    s.top = s.node[SPOKES] = tree_hub(s.tree, "top", NULL, SPOKES);
    for (unsigned i = 0; i < SPOKES; i++)
        s.node[i] = make_spoke(s.tree, i, s.top);
    return s;
}

Test(hub_async, a_flat_run_is_what_its_journal_leads_to) {
    struct tier_plan plan = plan_of(20);
    plan.top = buffered(2, 8);
    cr_assert(gt(sz, run_and_follow(flat("flat"), &plan, 0), 0), "some are late");
}

Test(hub_async, partials_change_nothing) {
    struct tier_plan plan = plan_of(20);
    plan.top = buffered(3, 8);
    cr_assert(gt(sz, run_and_follow(flat_by_one("parts"), &plan, 0), 0));
    plan.top.retain = TIER_PLAN_RETAIN_UPDATES;
    cr_assert(gt(sz, run_and_follow(flat("updates"), &plan, 0), 0));
}

Test(hub_async, the_top_need_not_wait_for_regions_nor_a_region_for_hospitals) {
    struct tier_plan plan = plan_of(16);
    plan.top = buffered(1, 8);
    cr_assert(gt(sz, run_and_follow(deep("top"), &plan, 0), 0));
    plan.top = plan_of(1).top;
    plan.hub = buffered(1, 8);
    cr_assert(gt(sz, run_and_follow(deep("regions"), &plan, 0), 0));
    plan.top = buffered(1, 8);
    cr_assert(gt(sz, run_and_follow(deep("both"), &plan, 0), 0));
}

Test(hub_async, stops_of_any_node_leave_a_run_that_its_journal_leads_to) {
    struct tier_plan plan = plan_of(ROUNDS_MAX);
    plan.top = buffered(2, 8);
    run_and_follow(flat("flat"), &plan, 1);
    plan.top = buffered(1, 8);
    plan.hub = buffered(1, 8);
    run_and_follow(deep("deep"), &plan, 2);
}

/* With all of them in every buffer nobody is late, and multipliers that are all alike are none. */
Test(hub_async, where_nobody_is_late_the_bits_are_those_of_rounds) {
    struct tier_plan plan = plan_of(6);
    plan.top = buffered(SPOKES, 8);
    struct shape s = flat("all");
    struct tier_hash run = run_of(&s, &plan, 0), model = finish(s.top, &run);
    struct reference *r = reference_new(&plan, NULL);
    for (uint64_t round = 1; round <= plan.rounds; round++)
        reference_round(r, round, NULL);
    char *path = published(&s, &model);
    reference_equals(r, path, r->model, tier_graph_param_count(r->graph));
    free(path);
    reference_free(r);
    tree_free(s.tree);
}

/* ---- bounded staleness ---- */

static bool is_past(struct hub *hub, void *arg) {
    return hub->runs && hub->runs->round.number >= *(uint64_t *)arg;
}

Test(hub_async, who_is_too_far_behind_begins_anew) {
    struct tier_plan plan = plan_of(ROUNDS_MAX);
    plan.top = buffered(1, 2);
    struct shape s = flat("behind");
    struct tier_hash run = tree_run(s.top, &plan, EXAMPLE "/model.onnx");
    uint64_t round = 3;
    cr_assert(tree_until(s.top, is_past, &round, TIMEOUT_MS));
    tree_stop(s.node[0]); /* with a model of about round 3 at hand, perhaps sealed */
    round = 12;
    cr_assert(tree_until(s.top, is_past, &round, TIMEOUT_MS));
    tree_start(s.node[0]);
    finish(s.top, &run);
    /* That nothing counts beyond the bound, history_of asserts of every update. */
    struct history *h = history_of(&s, plan.rounds);
    bool again = false;
    for (size_t i = 0; i < h->count; i++)
        again = again || (h->at[i].site == 0 && h->at[i].base >= 12);
    cr_assert(again, "it goes on with a model of after its absence");
    free(h);
    tree_free(s.tree);
}
