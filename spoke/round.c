/* SPDX-License-Identifier: Apache-2.0 */
#include "spoke/consent.h"
#include "spoke/curvature.h"
#include "spoke/eval.h"
#include "spoke/run_private.h"
#include "spoke/secure.h"
#include "spoke/state.h"
#include "spoke/statistics.h"
#include "spoke/train.h"
#include "tier/content.h"
#include "tier/fedcurv.h"
#include "tier/layout.h"
#include "tier/log.h"
#include "tier/metric.h"
#include "tier/model.h"
#include "tier/narrow.h"
#include "tier/nova.h"
#include "tier/scaffold.h"
#include "tier/share.h"
#include "tier/site.h"
#include "tier/update.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void spoke_round_recipe(const struct tier_plan *plan, uint64_t round, struct spoke_recipe *out) {
    static const enum spoke_optimiser optimisers[] = {[TIER_PLAN_SGD] = SPOKE_OPT_SGD,
                                                      [TIER_PLAN_ADAM] = SPOKE_OPT_ADAM,
                                                      [TIER_PLAN_ADAMW] = SPOKE_OPT_ADAMW};
    static const enum spoke_schedule_kind schedules[] = {
        [TIER_PLAN_CONSTANT] = SPOKE_SCHEDULE_CONSTANT,
        [TIER_PLAN_STEP] = SPOKE_SCHEDULE_STEP,
        [TIER_PLAN_COSINE] = SPOKE_SCHEDULE_COSINE};

    static const enum kern_products products[] = {[TIER_PLAN_PRECISION_F32] = KERN_EXACT,
                                                  [TIER_PLAN_PRECISION_TF32] = KERN_TF32,
                                                  [TIER_PLAN_PRECISION_BF16] = KERN_BF16,
                                                  [TIER_PLAN_PRECISION_F16] = KERN_F16};

    *out = (struct spoke_recipe){
        .optimiser = optimisers[plan->optimiser.kind],
        .lr = (float)plan->optimiser.lr,
        .momentum = (float)plan->optimiser.momentum,
        .nesterov = plan->optimiser.nesterov,
        .beta1 = (float)plan->optimiser.beta1,
        .beta2 = (float)plan->optimiser.beta2,
        .eps = (float)plan->optimiser.eps,
        .weight_decay = (float)plan->optimiser.weight_decay,
        .clip_norm = (float)plan->clip_norm,
        .clip_value = (float)plan->clip_value,
        .ema = (float)plan->ema,
        .prox_mu = (float)plan->prox_mu,
        .sample_clip = (float)plan->patient.clip,
        .sample_noise = (float)plan->patient.noise,
        .products = products[plan->precision], /* what the devices' products round, in training */
        .batch = (uint32_t)plan->batch,
        .accumulate = (uint32_t)plan->accumulate,
        .steps = plan->steps,
        .epochs = plan->epochs};
    out->augment = (struct spoke_augment){
        .flip = {plan->augment.flip_x, plan->augment.flip_y, plan->augment.flip_z},
        .rotate_deg = plan->augment.rotate_deg,
        .scale = plan->augment.scale,
        .gain = plan->augment.contrast,
        .offset = plan->augment.brightness,
        .noise = plan->augment.noise};
    out->schedule = (struct spoke_schedule){.kind = schedules[plan->schedule.kind],
                                            .per_step = plan->schedule.per == TIER_PLAN_PER_STEP,
                                            .warmup = plan->schedule.warmup,
                                            .step_size = plan->schedule.step_size,
                                            .gamma = (float)plan->schedule.gamma,
                                            .lr_min = (float)plan->schedule.lr_min,
                                            .rounds = plan->rounds,
                                            .round = round};
}

enum tier_status spoke_round_freeze(const struct tier_plan *plan, const struct tier_graph *graph,
                                    struct spoke_net *const *nets, size_t count,
                                    struct tier_err *err) {
    size_t params = tier_graph_param_count(graph);
    enum tier_status st = TIER_OK;

    if (plan->freeze.count == 0)
        return TIER_OK;
    bool *frozen = malloc(params * sizeof *frozen);
    if (!frozen)
        return tier_fail(err, TIER_ENOMEM, "no memory for a model of %zu tensors", params);
    for (size_t i = 0; i < params; i++)
        frozen[i] = tier_share_frozen(plan, tier_graph_param(graph, i));
    for (size_t i = 0; i < count && st == TIER_OK; i++)
        st = spoke_net_freeze(nets[i], frozen, err);
    free(frozen);
    return st;
}

/* A round's numbers on their way. */
struct work {
    float *model; /* [manifest->elements]: the base model, then the deltas */
    float *all;   /* [the net's]: every parameter, shared or kept here */
    float *kept;  /* [kept->elements], or NULL: those that stay here */
    /* With SCAFFOLD: this hospital's control variate, [shared] elements, and both for the trainer,
     * [the net's] each. */
    float *own_control, *control_all, *own_control_all;
    size_t shared;                    /* elements of the model that travel */
    struct spoke_curvature curvature; /* with FedCurv */
    uint64_t base_round, base_weight; /* of the sums in the base model; 0: there are none */
    double site_clip;                 /* with privacy.site: of this round */
};

static enum tier_status take_memory(struct spoke_run *run, struct work *w, struct tier_err *err) {
    uint64_t n = run->manifest->elements;

    w->model = malloc(n * sizeof *w->model);
    w->all = malloc(tier_graph_elements(run->graph) * sizeof *w->all);
    w->kept = run->kept ? malloc(run->kept->elements * sizeof *w->kept) : NULL;
    w->shared = tier_task_model_elements(&run->plan, run->manifest);
    if (tier_fedcurv_on(&run->plan))
        TIER_TRY(spoke_curvature_init(&w->curvature, &run->plan, run->graph, run->manifest, err));
    if (run->plan.scaffold) {
        w->own_control = malloc(w->shared * sizeof *w->own_control);
        w->control_all = calloc(tier_graph_elements(run->graph), sizeof *w->control_all);
        w->own_control_all = calloc(tier_graph_elements(run->graph), sizeof *w->own_control_all);
    }
    if (!w->model || !w->all || (run->kept && !w->kept) ||
        (run->plan.scaffold && (!w->own_control || !w->control_all || !w->own_control_all)))
        return tier_fail(err, TIER_ENOMEM, "no memory for a model of %" PRIu64 " elements", n);
    return TIER_OK;
}

static void release(struct work *w) {
    free(w->model);
    free(w->all);
    free(w->kept);
    free(w->own_control);
    free(w->control_all);
    free(w->own_control_all);
    spoke_curvature_release(&w->curvature);
}

static bool number_of(const struct tier_model *model, const char *key, uint64_t *out) {
    const char *text = tier_model_metadata(model, key);
    char *end = NULL;

    if (!text || *text < '0' || *text > '9')
        return false;
    *out = strtoull(text, &end, 10);
    return *end == '\0';
}

/* Whose sums the base model carries; the first one has none, and names round 0. */
static enum tier_status read_origin(const struct tier_model *model, struct work *w,
                                    struct tier_err *err) {
    if (!number_of(model, TIER_FEDCURV_ROUND, &w->base_round) ||
        (w->base_round > 0 && !number_of(model, TIER_FEDCURV_WEIGHT, &w->base_weight)))
        return tier_fail(err, TIER_EMODEL,
                         "the model does not say of which round and of what weight its sums of "
                         "curvature are: numbers as %s and %s in its metadata would be right",
                         TIER_FEDCURV_ROUND, TIER_FEDCURV_WEIGHT);
    return TIER_OK;
}

static enum tier_status read_base(struct spoke_run *run, const struct tier_hash *base,
                                  struct work *w, struct tier_err *err) {
    struct tier_model *model = NULL;
    char *path = tier_content_path(run->spoke->home.models_dir, base, TIER_CONTENT_MODEL);
    enum tier_status st;

    TIER_TRY_OUT(tier_model_open(path, &model, err));
    TIER_TRY_OUT(tier_model_matches(model, run->manifest, err));
    TIER_TRY_OUT(tier_model_read(model, 0, run->manifest->elements, w->model, err));
    if (tier_fedcurv_on(&run->plan))
        TIER_TRY_OUT(read_origin(model, w, err));
    if (tier_site_on(&run->plan))
        TIER_TRY_OUT(tier_site_clip_of(&run->plan, model, &w->site_clip, err));
out:
    tier_model_close(model);
    free(path);
    return st;
}

/* The base model, with this hospital's own tensors, to w->all; before its first committed round
 * those are the graph's. */
static enum tier_status set_all(struct spoke_run *run, const struct tier_hash *base, struct work *w,
                                struct tier_err *err) {
    bool found = false;

    TIER_TRY(read_base(run, base, w, err));
    TIER_TRY(tier_graph_values(run->graph, w->all, err));
    tier_share_put(&run->plan, run->graph, false, w->model, w->all);
    if (run->kept)
        TIER_TRY(spoke_state_read(SPOKE_STATE_PRIVATE, run->spoke->config->data_dir, &run->id,
                                  run->kept, w->kept, &found, err));
    if (found)
        tier_share_put(&run->plan, run->graph, true, w->kept, w->all);
    return TIER_OK;
}

/* What w->all has become, less the base model, to w->model. */
static enum tier_status take_deltas(struct spoke_run *run, struct work *w, struct tier_err *err) {
    float *after = malloc(w->shared * sizeof *after);

    if (!after)
        return tier_fail(err, TIER_ENOMEM, "no memory for an update of %zu elements", w->shared);
    tier_share_take(&run->plan, run->graph, false, w->all, after);
    for (size_t i = 0; i < w->shared; i++)
        w->model[i] = after[i] - w->model[i];
    free(after);
    return TIER_OK;
}

/* From the plan, not the run: the same plan on the same data gives the same model again. */
static uint64_t seed_of(const struct spoke_run *run, uint64_t round) {
    char stream[40];

    snprintf(stream, sizeof stream, "%" PRIu64, run->plan.seed);
    return spoke_train_seed(stream, round, run->spoke->config->name);
}

/* Of a site that says nothing of its test rows, the sums are zero. */
static enum tier_status evaluate(struct spoke_run *run, struct tier_metrics *metrics,
                                 struct tier_err *err) {
    struct spoke_sums *sums = malloc(sizeof *sums);
    enum tier_status st = TIER_OK;
    if (!sums)
        return tier_fail(err, TIER_ENOMEM, "no memory to evaluate");
    if (spoke_run_evaluates(run))
        st = spoke_evaluate(run->nets[0], run->data, SPOKE_TEST, sums, err);
    else
        spoke_evaluate_none(run->nets[0], run->data, sums);
    if (st == TIER_OK)
        st = spoke_sums_add(sums, metrics, err);
    free(sums);
    return st;
}

/* FedNova: the change for one effective step, and how many this hospital took. States take no
 * steps: what they moved by travels as it is. */
static enum tier_status normalise(struct spoke_run *run, uint64_t steps, uint64_t weight,
                                  struct work *w, struct tier_metrics *metrics,
                                  struct tier_err *err) {
    uint64_t units = tier_nova_units(&run->plan, steps), bound = tier_nova_bound(&run->plan);
    double tau = (double)units / TIER_NOVA_ONE;
    int64_t value = (int64_t)(weight * units); /* below 2^61 */

    if (units > bound)
        return tier_fail(err, TIER_EPLAN,
                         "%" PRIu64 " steps here are %g effective ones: the plan's "
                         "local.normalise_max is %" PRIu64,
                         steps, tau, run->plan.normalise_max);
    for (size_t t = 0; t < run->manifest->count; t++) {
        const struct tier_tensor *tensor = &run->manifest->tensors[t];
        for (uint64_t i = tensor->at; !tensor->state && i < tensor->at + tensor->count; i++)
            w->model[i] = (float)((double)w->model[i] / tau);
    }
    return tier_metrics_add(metrics, TIER_NOVA_METRIC, 1, &value, err);
}

/* What is kept of a control variate, or of a curvature, is of the run's manifest, as long as the
 * model alone, or as what goes with it. */
static struct tier_manifest kept_beside(const struct spoke_run *run, uint64_t elements) {
    struct tier_manifest m = *run->manifest;
    m.elements = elements;
    return m;
}

/* The base model's control variate and this hospital's own; where it has none yet, they are one. */
static enum tier_status read_controls(struct spoke_run *run, struct work *w,
                                      struct spoke_recipe *recipe, struct tier_err *err) {
    const struct tier_manifest m = kept_beside(run, w->shared);
    const float *control = w->model + w->shared;
    bool found = false;

    assert(w->own_control && w->control_all && w->own_control_all);
    TIER_TRY(spoke_state_read(SPOKE_STATE_CONTROL, run->spoke->config->data_dir, &run->id, &m,
                              w->own_control, &found, err));
    if (!found)
        memcpy(w->own_control, control, w->shared * sizeof *control);
    tier_share_put(&run->plan, run->graph, false, control, w->control_all);
    tier_share_put(&run->plan, run->graph, false, w->own_control, w->own_control_all);
    recipe->control = w->control_all;
    recipe->own_control = w->own_control_all;
    return TIER_OK;
}

/* The model's half of the deltas is there: their mean over K steps is what the gradients were. */
static void advance_controls(struct spoke_run *run, struct work *w, uint64_t steps, float lr) {
    float *control = w->model + w->shared;
    double scale = 1 / ((double)steps * (double)lr);
    size_t trained = 0;

    assert(w->own_control);
    /* Trained parameters come first. What a state moved by was no gradient: it has no control. */
    for (size_t i = 0; i < tier_graph_param_count(run->graph); i++) {
        const struct tier_graph_param *p = tier_graph_param(run->graph, i);
        if (p->trained && tier_share_travels(&run->plan, p->name))
            trained += p->elements;
    }
    memset(control + trained, 0, (w->shared - trained) * sizeof *control);
    for (size_t i = 0; i < trained; i++) {
        double c = (double)control[i], own = (double)w->own_control[i];
        w->own_control[i] = (float)(own - c - (double)w->model[i] * scale);
        control[i] = w->own_control[i] - control[i];
    }
}

/* With the other servers' devices: they have the plan, the graph and the rows, and get from here
 * the parameters to start from, which spoke_train hands out, and the arrays of the recipe. */
static enum tier_status train_with(struct spoke_run *run, const struct spoke_order *order,
                                   struct spoke_recipe *recipe, struct spoke_train_stats *stats,
                                   struct tier_err *err) {
    struct spoke_team *team = &run->spoke->team;
    struct kern_group *group;
    float *none = NULL;
    struct tier_hash model;
    enum tier_status st;

    TIER_TRY(spoke_servers_begin(run->spoke->servers, order, &group, err));
    TIER_TRY_OUT(spoke_team_share(group, team->dev, recipe, order->elements, &none, err));
    TIER_TRY_OUT(spoke_train_replicas(run->nets, team->count, group, run->data, recipe, order->seed,
                                      stats, err));
    TIER_TRY_OUT(spoke_team_model(run->nets[0], &model, err));
out:
    return spoke_servers_end(run->spoke->servers, st, &model, err);
}

static enum tier_status train_team(struct spoke_run *run, uint64_t round,
                                   struct spoke_recipe *recipe, uint64_t seed,
                                   struct spoke_train_stats *stats, struct tier_err *err) {
    struct spoke_team *team = &run->spoke->team;
    struct tier_hash graph;
    char *text = NULL;
    size_t bytes = 0;

    if (!run->spoke->servers)
        return spoke_train_replicas(run->nets, team->count, team->group, run->data, recipe, seed,
                                    stats, err);
    TIER_TRY(tier_plan_canonical(&run->plan, &text, &bytes, NULL, err));
    tier_hash_parse(run->plan.model_sha256, &graph);
    char *path = tier_content_path(run->spoke->home.models_dir, &graph, TIER_CONTENT_GRAPH);
    struct spoke_order order = {.plan = text,
                                .plan_bytes = bytes,
                                .graph_path = path,
                                .round = round,
                                .seed = seed,
                                .elements = spoke_net_elements(run->nets[0]),
                                .ranks = run->net_ranks};
    spoke_team_data(run->data, &order.data);
    enum tier_status st = train_with(run, &order, recipe, stats, err);
    free(path);
    free(text);
    return st;
}

/* The pull of the others: the sums of the base model, less this hospital's part where it is known
 * to be of that very round. */
static enum tier_status read_curvature(struct spoke_run *run, uint64_t weight, struct work *w,
                                       struct spoke_recipe *recipe, struct tier_err *err) {
    const struct tier_manifest m = kept_beside(run, 2 * w->shared);
    const char *dir = run->spoke->config->data_dir;
    bool found = false;

    if (w->base_round == 0)
        return TIER_OK;
    TIER_TRY(
        spoke_state_read(SPOKE_STATE_CURVATURE, dir, &run->id, &m, w->curvature.own, &found, err));
    found = found && spoke_state_round(SPOKE_STATE_CURVATURE, dir, &run->id) == w->base_round;
    spoke_curvature_before(&w->curvature, w->model + w->shared, found,
                           (double)weight / (double)w->base_weight, recipe);
    return TIER_OK;
}

static enum tier_status train(struct spoke_run *run, uint64_t round, uint64_t weight,
                              struct work *w, uint64_t *steps_out, struct tier_err *err) {
    struct spoke_recipe recipe;
    struct spoke_train_stats stats = {0};
    char stream[40];

    spoke_round_recipe(&run->plan, round, &recipe);
    if (recipe.sample_clip > 0)
        recipe.noise_key = &run->noise_key;
    if (w->own_control)
        TIER_TRY(read_controls(run, w, &recipe, err));
    if (tier_fedcurv_on(&run->plan))
        TIER_TRY(read_curvature(run, weight, w, &recipe, err));
    TIER_TRY(train_team(run, round, &recipe, seed_of(run, round), &stats, err));
    enum tier_status st = spoke_net_get(run->nets[0], w->all, err);
    if (st == TIER_OK)
        st = take_deltas(run, w, err);
    if (st == TIER_OK && w->own_control)
        advance_controls(run, w, stats.steps, recipe.lr);
    if (st == TIER_OK && tier_fedcurv_on(&run->plan)) {
        snprintf(stream, sizeof stream, "curvature %" PRIu64, run->plan.seed);
        st = spoke_curvature_after(&w->curvature, run->nets[0], run->data,
                                   spoke_train_seed(stream, round, run->spoke->config->name),
                                   w->model, w->model + w->shared, err);
    }
    tier_log_info("run %.12s round %" PRIu64 ": %" PRIu64 " steps, mean loss %.4f", run->hex, round,
                  stats.steps, stats.loss_mean);
    *steps_out = stats.steps;
    return st;
}

/* What was dropped of a state is not owed: it follows the data from wherever the model's is, so
 * that the next change holds it already. */
static void carry_on(const struct tier_manifest *m, const float *dropped, float *delta) {
    for (size_t t = 0; t < m->count; t++) {
        const struct tier_tensor *tensor = &m->tensors[t];
        for (uint64_t i = tensor->at; !tensor->state && i < tensor->at + tensor->count; i++)
            delta[i] += dropped[i];
    }
}

/* By the site's own secret, and but for it as the order of rows: from the plan, not the run. */
static uint64_t rounding_of(const struct spoke_run *run, uint64_t round) {
    char stream[120], hex[TIER_HASH_HEX];
    struct tier_hash secret;

    _Static_assert(sizeof secret == sizeof run->spoke->rounding, "it is written as a hash is");
    memcpy(&secret, &run->spoke->rounding, sizeof secret);
    snprintf(stream, sizeof stream, "rounding %s %" PRIu64, tier_hash_hex(&secret, hex),
             run->plan.seed);
    uint64_t key = spoke_train_seed(stream, round, run->spoke->config->name);
    OPENSSL_cleanse(stream, sizeof stream);
    OPENSSL_cleanse(hex, sizeof hex);
    OPENSSL_cleanse(&secret, sizeof secret);
    return key;
}

/*
 * As the plan's codec has it. With error feedback, what the last committed round dropped is added
 * first, and what this one drops is kept until it is committed. `delta` is NULL for an evaluation.
 */
static enum tier_status seal(struct spoke_run *run, const struct tier_update_header *header,
                             float *delta, struct tier_hash *id_out, struct tier_err *err) {
    const struct tier_home *home = &run->spoke->home;
    struct tier_seal_as as = {.encoding = tier_task_encoding(&run->plan),
                              .zip = run->plan.codec.entropy == TIER_PLAN_ENTROPY_ZSTD,
                              .share = run->plan.codec.share,
                              .narrow = tier_narrow_shift(&run->plan)};
    bool feedback = delta && run->plan.codec.error_feedback;
    size_t n = run->manifest->elements;
    enum tier_status st = TIER_OK;
    struct tier_hash id;
    bool found = false;
    char stream[40];

    /* From the plan, as the order of rows: the same plan on the same data seals the same bytes. */
    snprintf(stream, sizeof stream, "codec %" PRIu64, run->plan.seed);
    as.key = spoke_train_seed(stream, header->round, run->spoke->config->name);
    if (as.narrow)
        as.key = rounding_of(run, header->round);
    if (feedback) {
        as.dropped = malloc(n * sizeof *as.dropped);
        if (!as.dropped)
            return tier_fail(err, TIER_ENOMEM, "no memory for what an update of %zu drops", n);
        TIER_TRY_OUT(spoke_state_read(SPOKE_STATE_RESIDUAL, home->config->data_dir, &run->id,
                                      run->manifest, as.dropped, &found, err));
        if (found)
            carry_on(run->manifest, as.dropped, delta);
    }
    TIER_TRY_OUT(tier_update_seal(home->spool, header, run->manifest, delta, run->plan.saturate,
                                  &as, &id, err));
    if (feedback)
        TIER_TRY_OUT(spoke_state_write(SPOKE_STATE_RESIDUAL, home->config->data_dir, &run->id,
                                       run->manifest, header->round, &id, as.dropped, err));
    *id_out = id;
out:
    free(as.dropped);
    return st;
}

/* What this round made of the tensors that stay here, beside the update it was made with. */
static enum tier_status keep(struct spoke_run *run, uint64_t round, const struct tier_hash *id,
                             struct work *w, struct tier_err *err) {
    if (run->plan.scaffold) {
        const struct tier_manifest m = kept_beside(run, w->shared);
        TIER_TRY(spoke_state_write(SPOKE_STATE_CONTROL, run->spoke->config->data_dir, &run->id, &m,
                                   round, id, w->own_control, err));
    }
    if (tier_fedcurv_on(&run->plan)) {
        const struct tier_manifest m = kept_beside(run, 2 * w->shared);
        TIER_TRY(spoke_state_write(SPOKE_STATE_CURVATURE, run->spoke->config->data_dir, &run->id,
                                   &m, round, id, w->curvature.own, err));
    }
    if (!w->kept)
        return TIER_OK;
    assert(w->kept);
    tier_share_take(&run->plan, run->graph, true, w->all, w->kept);
    for (uint64_t i = 0; i < run->kept->elements; i++)
        if (!isfinite(w->kept[i]))
            return tier_fail(err, TIER_EPLAN,
                             "training diverged: a tensor that stays here is not "
                             "finite; a lower lr would be right");
    return spoke_state_write(SPOKE_STATE_PRIVATE, run->spoke->config->data_dir, &run->id, run->kept,
                             round, id, w->kept, err);
}

/* A server came back with another number of devices: slices are of another size. */
static void drop_nets(struct spoke_run *run) {
    for (size_t i = 0; i < KERN_GROUP_RANKS_MAX; i++) {
        spoke_net_free(run->nets[i]);
        run->nets[i] = NULL;
    }
}

static enum tier_status make_nets(struct spoke_run *run, size_t ranks, struct tier_err *err) {
    const struct spoke_objective objective = spoke_objective_for(&run->plan, run->data);
    const struct spoke_team *team = &run->spoke->team;

    TIER_TRY(spoke_team_nets(team, run->graph, &objective, run->plan.batch, ranks, true, run->nets,
                             err));
    run->net_ranks = ranks;
    enum tier_status st = spoke_round_freeze(&run->plan, run->graph, run->nets, team->count, err);
    if (st == TIER_OK)
        return spoke_eval_fits(run->nets[0], run->data, err);
    drop_nets(run);
    return st;
}

/* With this spoke's own data and devices. */
static enum tier_status by_itself(struct spoke_run *run, struct tier_update_header *header,
                                  struct work *w, uint64_t *steps, struct tier_err *err) {
    size_t ranks = run->spoke->team.count;
    uint64_t round = header->round, rows = spoke_data_rows(run->data, SPOKE_TRAIN);
    bool trains = tier_task_trains(&run->plan, round) && rows > 0;

    if (trains)
        header->weight = run->plan.weights == TIER_PLAN_UNIFORM ? 1 : rows;
    if (trains && run->spoke->servers)
        TIER_TRY(spoke_servers_ranks(run->spoke->servers, &ranks, err));
    else if (run->nets[0])
        ranks = run->net_ranks;
    if (run->net_ranks != ranks)
        drop_nets(run);
    if (!run->nets[0])
        TIER_TRY(make_nets(run, ranks, err));
    TIER_TRY(spoke_net_set(run->nets[0], w->all, err));
    /* Behind masks all tell of the same metrics, or none could be told. */
    if (tier_task_evaluates(&run->plan, round) &&
        (spoke_run_evaluates(run) || spoke_secure_on(&run->plan)))
        TIER_TRY(evaluate(run, header->metrics, err));
    return trains ? train(run, round, header->weight, w, steps, err) : TIER_OK;
}

/* A trainer trains as it likes, but for what the plan says of the model. */
static enum tier_status check_frozen(const struct spoke_run *run, const struct work *w,
                                     struct tier_err *err) {
    const float *delta = w->model;

    for (size_t i = 0; i < tier_graph_param_count(run->graph); i++) {
        const struct tier_graph_param *p = tier_graph_param(run->graph, i);
        if (!tier_share_travels(&run->plan, p->name))
            continue;
        for (uint64_t k = 0; tier_share_frozen(&run->plan, p) && k < p->elements; k++)
            if (delta[k] != 0)
                return tier_fail(err, TIER_EUPDATE,
                                 "the trainer changed tensor %.200s, element %" PRIu64
                                 ": the plan's local.freeze keeps it as it began",
                                 p->name, k);
        delta += p->elements;
    }
    return TIER_OK;
}

/* With those of the hospital's own trainer. */
static enum tier_status by_trainer(struct spoke_run *run, struct tier_update_header *header,
                                   struct work *w, uint64_t *steps, struct tier_err *err) {
    struct spoke_trainer_result r = {0};
    struct tier_hash graph;
    enum tier_status st;

    tier_hash_parse(run->plan.model_sha256, &graph);
    char *path = tier_content_path(run->spoke->home.models_dir, &graph, TIER_CONTENT_GRAPH);
    struct spoke_trainer_order order = {.run = &run->id,
                                        .round = header->round,
                                        .seed = seed_of(run, header->round),
                                        .over = &run->over,
                                        .train = tier_task_trains(&run->plan, header->round),
                                        .evaluate = tier_task_evaluates(&run->plan, header->round),
                                        .plan = &run->plan,
                                        .graph = run->graph,
                                        .graph_path = path};
    TIER_TRY_OUT(spoke_trainer_begin(run->spoke->trainer, &order, w->all, &r, err));
    if (r.metrics)
        TIER_TRY_OUT(tier_metrics_merge(header->metrics, r.metrics, err));
    *steps = r.steps;
    if (r.weight > 0) {
        header->weight = run->plan.weights == TIER_PLAN_UNIFORM ? 1 : r.weight;
        TIER_TRY_OUT(take_deltas(run, w, err));
        TIER_TRY_OUT(check_frozen(run, w, err));
    }
    tier_log_info("run %.12s round %" PRIu64 ": the trainer's %" PRIu64 " steps on %" PRIu64
                  " rows",
                  run->hex, header->round, r.steps, r.weight);
out:
    tier_metrics_free(r.metrics);
    free(path);
    return st;
}

/* Counts its rows, and runs no model. */
static enum tier_status by_counting(struct spoke_run *run, struct tier_update_header *header,
                                    struct work *w, uint64_t *steps, struct tier_err *err) {
    const struct tier_config_spoke *c = &run->spoke->config->spoke;
    struct spoke_consent *own = NULL; /* the loop's may change while this thread reads */

    (void)w;
    *steps = 0;
    if ((*c->consent_table || *c->opt_out) &&
        spoke_consent_load(c->consent_table, c->opt_out, &own, NULL) != TIER_OK)
        return tier_fail(err, TIER_EPOLICY, "this site's consents cannot be read now");
    enum tier_status st =
        spoke_statistics_run(&run->plan, c->schema, c->csv, own, c->rows_min, header->metrics, err);
    spoke_consent_free(own);
    return st;
}

/* What a hub behind masks cannot do: the change of the parameters is cut to the plan's norm. States
 * follow the data, and are left as they are. */
static void bound(const struct spoke_run *run, struct work *w) {
    const struct tier_manifest *m = run->manifest;
    double most = run->plan.secure.norm_max, squares = 0;

    if (!(most > 0))
        return;
    for (size_t t = 0; t < m->count; t++) {
        const struct tier_tensor *tensor = &m->tensors[t];
        for (uint64_t i = tensor->at; !tensor->state && i < tensor->at + tensor->count; i++)
            squares += (double)w->model[i] * (double)w->model[i];
    }
    double norm = sqrt(squares);
    if (!(norm > most)) /* what is not finite is refused when it is sealed */
        return;
    tier_log_info("run %.12s: the change is cut from norm %g to %g", run->hex, norm, most);
    for (size_t t = 0; t < m->count; t++) {
        const struct tier_tensor *tensor = &m->tensors[t];
        for (uint64_t i = tensor->at; !tensor->state && i < tensor->at + tensor->count; i++)
            w->model[i] = (float)((double)w->model[i] / norm * most);
    }
}

/* Behind masks all tell of the same metrics, or none could be told: a site that trained nothing has
 * nothing to say of its change's norm, and a trainer's figures are those of the plan. */
static enum tier_status tell_the_same(const struct spoke_run *run, uint64_t round,
                                      struct tier_metrics *metrics, struct tier_err *err) {
    const struct tier_layout_of of = {&run->plan, tier_graph_classes(run->graph),
                                      tier_graph_outputs(run->graph) /
                                          tier_graph_classes(run->graph)};
    bool cut = tier_site_adapts(&run->plan) && tier_task_trains(&run->plan, round);
    const int64_t none = 0;

    if (cut) /* in what trained, tier_site_seal adds to it */
        TIER_TRY(tier_metrics_add(metrics, TIER_SITE_METRIC, 1, &none, err));
    return tier_layout_check(&of, round, metrics, err);
}

enum tier_status spoke_round_run(struct spoke_run *run, uint64_t round,
                                 const struct tier_hash *base, struct tier_hash *id_out,
                                 struct tier_err *err) {
    struct spoke_trainer *trainer = run->spoke->trainer;
    struct tier_metrics *metrics = tier_metrics_new();
    struct work w = {0};
    uint64_t steps = 0;
    struct tier_update_header header = {
        .run = run->id, .round = round, .base_model = *base, .metrics = metrics};
    enum tier_status st = TIER_OK;
    struct tier_hash id;

    if (!metrics) {
        st = tier_fail(err, TIER_ENOMEM, "no memory for metrics");
        goto out;
    }
    TIER_TRY_OUT(take_memory(run, &w, err));
    TIER_TRY_OUT(set_all(run, base, &w, err));
    bool counts = tier_statistics_on(&run->plan);
    TIER_TRY_OUT((counts    ? by_counting
                  : trainer ? by_trainer
                            : by_itself)(run, &header, &w, &steps, err));
    bool trained = header.weight > 0;
    if (spoke_secure_on(&run->plan))
        TIER_TRY_OUT(tell_the_same(run, round, metrics, err));
    if (trained && run->plan.normalise)
        TIER_TRY_OUT(normalise(run, steps, header.weight, &w, metrics, err));
    if (trained)
        bound(run, &w);
    header.saturated = w.curvature.cut;
    if (trained && tier_site_on(&run->plan))
        TIER_TRY_OUT(tier_site_seal(run->spoke->home.spool, &run->plan, &header, run->manifest,
                                    w.model, w.site_clip, &run->site_key, &id, err));
    else
        TIER_TRY_OUT(seal(run, &header, trained ? w.model : NULL, &id, err));
    if (trained)
        TIER_TRY_OUT(keep(run, round, &id, &w, err));
    *id_out = id;
out:
    if (trainer)
        st = spoke_trainer_end(trainer, st, err);
    tier_metrics_free(metrics);
    release(&w);
    return st;
}
