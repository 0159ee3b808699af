/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A federation on real patients' tables worked out in one process, with no network, no files and no
 * code of tier/: each site trains with the engine, and what it sends is rounded, summed in integers
 * and divided here. What a tree of nodes publishes is compared with it bit by bit.
 *
 * Threads: the caller's. Ownership: reference_new gives it, reference_free takes it.
 */
#ifndef CONSILIUM_TESTS_LOCAL_REFERENCE_H
#define CONSILIUM_TESTS_LOCAL_REFERENCE_H

#include "spoke/eval.h"
#include "spoke/fisher.h"
#include "spoke/spoke.h"
#include "tests/support/wdbc.h"

#include <assert.h>

#define REFERENCE_SITES 4

struct reference {
    struct kern_device *dev;
    struct tier_graph *graph;
    struct spoke_net *net;
    struct tier_plan plan;
    size_t elements;
    bool *stays;    /* by element: it is each site's own */
    int *bits;      /* by element: in which parts of 1 it is summed; the plan's, but for a test's */
    float *model;   /* all parameters; those that stay are unused */
    float *control; /* SCAFFOLD's, of all parameters: zero of those that stay */
    /* FedCurv's, likewise: the graph's values, the means of the last round, and its weight. */
    float *start, *fisher, *pull;
    int64_t weight;
    struct {
        struct spoke_data *data;
        float *own; /* all parameters; those that travel are unused */
        float *control;
        bool controlled; /* it has trained before */
        float *fisher, *pull;
        float *ended; /* all parameters, as its training of the last round left them */
    } site[REFERENCE_SITES];
};

static inline struct reference *reference_on(const struct tier_plan *plan,
                                             bool (*stays)(const char *name), const char *onnx) {
    struct reference *r = calloc(1, sizeof *r);
    struct tier_err err = {0};
    char csv[128];
    r->plan = *plan;
    kern_init(NULL);
    cr_assert(kern_device_open("cpu", 1, &r->dev) == KERN_OK);
    cr_assert(tier_graph_open(onnx, &r->graph, &err) == TIER_OK);
    cr_assert(spoke_net_new(r->dev, r->graph, SPOKE_LOSS_BCE, plan->batch, &r->net, &err) ==
              TIER_OK);
    cr_assert(spoke_round_freeze(plan, r->graph, &r->net, 1, &err) == TIER_OK, "%s", err.text);
    r->elements = spoke_net_elements(r->net);
    r->stays = calloc(r->elements, sizeof *r->stays);
    r->bits = calloc(r->elements, sizeof *r->bits);
    for (size_t i = 0; i < r->elements; i++)
        r->bits[i] = plan->frac_bits;
    r->model = calloc(r->elements, sizeof *r->model);
    r->control = calloc(r->elements, sizeof *r->control);
    r->start = calloc(r->elements, sizeof *r->start);
    r->fisher = calloc(r->elements, sizeof *r->fisher);
    r->pull = calloc(r->elements, sizeof *r->pull);
    cr_assert(tier_graph_values(r->graph, r->model, NULL) == TIER_OK);
    cr_assert(tier_graph_values(r->graph, r->start, NULL) == TIER_OK);
    for (size_t p = 0; p < tier_graph_param_count(r->graph); p++) {
        const struct tier_graph_param *q = tier_graph_param(r->graph, p);
        for (size_t i = 0; i < q->elements; i++)
            r->stays[q->at + i] = stays && stays(q->name);
    }
    for (size_t s = 0; s < REFERENCE_SITES; s++) {
        snprintf(csv, sizeof csv, "%s/tables/%s.csv", work, sites[s]);
        cr_assert(spoke_data_open(EXAMPLE "/schema.yaml", csv, NULL, &r->site[s].data, &err) ==
                  TIER_OK);
        r->site[s].own = calloc(r->elements, sizeof *r->model);
        r->site[s].control = calloc(r->elements, sizeof *r->model);
        r->site[s].fisher = calloc(r->elements, sizeof *r->model);
        r->site[s].pull = calloc(r->elements, sizeof *r->model);
        r->site[s].ended = calloc(r->elements, sizeof *r->model);
        cr_assert(tier_graph_values(r->graph, r->site[s].own, NULL) == TIER_OK);
    }
    return r;
}

static inline struct reference *reference_new(const struct tier_plan *plan,
                                              bool (*stays)(const char *name)) {
    return reference_on(plan, stays, EXAMPLE "/model.onnx");
}

static inline void reference_free(struct reference *r) {
    for (size_t s = 0; s < REFERENCE_SITES; s++) {
        spoke_data_free(r->site[s].data);
        free(r->site[s].own);
        free(r->site[s].control);
        free(r->site[s].fisher);
        free(r->site[s].pull);
        free(r->site[s].ended);
    }
    free(r->control);
    free(r->start);
    free(r->fisher);
    free(r->pull);
    free(r->stays);
    free(r->bits);
    free(r->model);
    spoke_net_free(r->net);
    tier_graph_free(r->graph);
    kern_device_close(r->dev);
    free(r);
}

/* The model as site s holds it. */
static inline void reference_at(struct reference *r, size_t s, float *all) {
    for (size_t i = 0; i < r->elements; i++)
        all[i] = r->stays[i] ? r->site[s].own[i] : r->model[i];
    cr_assert(spoke_net_set(r->net, all, NULL) == TIER_OK);
}

/* The least power of two that is no less than the bound is within 2^30 units. */
static inline int reference_bits_of(double bound) {
    int f = 30;
    for (; bound > 1; bound /= 2)
        f--;
    for (; bound <= 0.5; bound *= 2)
        f++;
    return f;
}

static inline int reference_bits(const struct reference *r) {
    return reference_bits_of(4 * r->plan.clip / r->plan.optimiser.lr);
}

/* FedCurv's numbers on their way through a round: penalty, and what is summed. */
struct reference_curvature {
    bool on;
    int fisher_bits, pull_bits;
    double reach;
    float *stiffness, *centre, *now;
    int64_t *fisher, *pull;
};

static inline struct reference_curvature reference_curvature_new(const struct reference *r) {
    struct reference_curvature c = {.on = r->plan.curvature.lambda > 0};
    if (!c.on)
        return c;
    c.reach = ldexp((double)r->plan.rounds, 30 - r->plan.frac_bits);
    c.fisher_bits = reference_bits_of(r->plan.curvature.clip);
    c.pull_bits = reference_bits_of(ldexp(2 * c.reach, 30 - c.fisher_bits));
    c.stiffness = calloc(r->elements, sizeof *c.stiffness);
    c.centre = calloc(r->elements, sizeof *c.centre);
    c.now = calloc(r->elements, sizeof *c.now);
    c.fisher = calloc(r->elements, sizeof *c.fisher);
    c.pull = calloc(r->elements, sizeof *c.pull);
    return c;
}

static inline void reference_curvature_free(struct reference_curvature *c) {
    free(c->stiffness);
    free(c->centre);
    free(c->now);
    free(c->fisher);
    free(c->pull);
}

/* What the other sites pull site s, of w rows, with: nothing in the first round. */
static inline void reference_pull(const struct reference *r, size_t s, int64_t w,
                                  struct reference_curvature *c, struct spoke_recipe *recipe) {
    if (!c->on || r->weight == 0)
        return;
    double share = (double)w / (double)r->weight;
    assert(c->stiffness && c->centre);
    for (size_t i = 0; i < r->elements; i++) {
        double a = (double)r->fisher[i] - share * (double)r->site[s].fisher[i];
        double b = (double)r->pull[i] - share * (double)r->site[s].pull[i];
        bool any = !r->stays[i] && a > ldexp(1, -c->fisher_bits);
        double at = any ? b / a : 0;
        at = at > c->reach ? c->reach : at < -c->reach ? -c->reach : at;
        c->stiffness[i] = any ? (float)a : 0;
        c->centre[i] = r->stays[i] ? 0 : (float)((double)r->start[i] + at);
    }
    recipe->stiffness = c->stiffness;
    recipe->centre = c->centre;
    recipe->lambda = (float)r->plan.curvature.lambda;
}

/* The net is at `after`: what site s knows of its own rows there. */
static inline void reference_curve(struct reference *r, size_t s, int64_t w, uint64_t round,
                                   const float *after, struct reference_curvature *c) {
    char stream[40];
    if (!c->on)
        return;
    snprintf(stream, sizeof stream, "curvature %llu", (unsigned long long)r->plan.seed);
    cr_assert(spoke_fisher(r->net, r->site[s].data, r->plan.curvature.rows,
                           spoke_train_seed(stream, round, sites[s]), c->now, NULL) == TIER_OK);
    for (size_t i = 0; i < r->elements; i++) {
        if (r->stays[i])
            continue;
        float f = c->now[i], p = (float)((double)f * ((double)after[i] - (double)r->start[i]));
        r->site[s].fisher[i] = f;
        r->site[s].pull[i] = p;
        c->fisher[i] += w * llrint(ldexp((double)(f - r->fisher[i]), c->fisher_bits));
        c->pull[i] += w * llrint(ldexp((double)(p - r->pull[i]), c->pull_bits));
    }
}

/* States are summed wide, as a plan has it that says nothing of them, and of them the plain mean is
 * taken. */
/* One round; tau_of(plan, steps) divides what a site sends, and multiplies the mean (FedNova);
 * NULL: plain averaging. */
static inline void reference_round(struct reference *r, uint64_t round,
                                   double (*tau_of)(const struct tier_plan *plan, uint64_t steps)) {
    struct spoke_recipe recipe;
    struct spoke_train_stats stats;
    struct tier_err err = {0};
    int64_t *sum = calloc(r->elements, sizeof *sum), weight = 0, stretched = 0;
    __int128 *wide = calloc(r->elements, sizeof *wide); /* of states, in 2^30ths more */
    size_t trained = spoke_net_trained(r->net);
    int64_t *controls = calloc(r->elements, sizeof *controls);
    float *before = calloc(r->elements, sizeof *before), *after = calloc(r->elements, 4);
    struct reference_curvature curvature = reference_curvature_new(r);
    char stream[32];
    spoke_round_recipe(&r->plan, round, &recipe);
    snprintf(stream, sizeof stream, "%llu", (unsigned long long)r->plan.seed);
    for (size_t s = 0; s < REFERENCE_SITES; s++) {
        int64_t w = (int64_t)spoke_data_rows(r->site[s].data, SPOKE_TRAIN);
        reference_at(r, s, before);
        float *ci = r->site[s].control;
        if (r->plan.scaffold) {
            if (!r->site[s].controlled)
                memcpy(ci, r->control, r->elements * sizeof *ci);
            r->site[s].controlled = true;
            recipe.control = r->control;
            recipe.own_control = ci;
        }
        reference_pull(r, s, w, &curvature, &recipe);
        cr_assert(spoke_train(r->net, r->site[s].data, &recipe,
                              spoke_train_seed(stream, round, sites[s]), &stats, &err) == TIER_OK,
                  "%s", err.text);
        cr_assert(spoke_net_get(r->net, after, &err) == TIER_OK);
        memcpy(r->site[s].ended, after, r->elements * sizeof *after);
        reference_curve(r, s, w, round, after, &curvature);
        /* In 1024ths, as it travels. */
        int64_t tau = tau_of ? llrint(tau_of(&r->plan, stats.steps) * 1024) : 1024;
        for (size_t i = 0; i < r->elements; i++) {
            float delta = after[i] - before[i];
            if (tau_of && i < trained)
                delta = (float)((double)delta / ((double)tau / 1024));
            double scaled = ldexp((double)delta, r->bits[i]);
            if (r->stays[i])
                r->site[s].own[i] = after[i];
            else
                sum[i] += w * llrint(scaled);
            if (i >= trained)
                wide[i] += w * (__int128)llrint(ldexp(scaled - nearbyint(scaled), 30));
            if (!r->plan.scaffold || r->stays[i] || i >= trained)
                continue;
            double scale = 1 / ((double)stats.steps * (double)recipe.lr);
            ci[i] = (float)((double)ci[i] - (double)r->control[i] - (double)delta * scale);
            controls[i] += w * llrint(ldexp((double)(ci[i] - r->control[i]), reference_bits(r)));
        }
        weight += w;
        stretched += w * tau;
    }
    double effective = (double)stretched / (double)weight / 1024;
    for (size_t i = 0; i < r->elements; i++) {
        double mean = ldexp((double)sum[i] / (double)weight, -r->bits[i]);
        if (i >= trained)
            mean = ldexp((double)((__int128)sum[i] * (1 << 30) + wide[i]) / (double)weight,
                         -r->bits[i] - 30);
        else if (tau_of)
            mean *= effective;
        if (!r->stays[i])
            r->model[i] = (float)((double)r->model[i] + mean);
        mean = ldexp((double)controls[i] / (double)weight, -reference_bits(r));
        r->control[i] = (float)((double)r->control[i] + mean);
        if (!curvature.on)
            continue;
        mean = ldexp((double)curvature.fisher[i] / (double)weight, -curvature.fisher_bits);
        r->fisher[i] = (float)((double)r->fisher[i] + mean);
        mean = ldexp((double)curvature.pull[i] / (double)weight, -curvature.pull_bits);
        r->pull[i] = (float)((double)r->pull[i] + mean);
    }
    r->weight = weight;
    reference_curvature_free(&curvature);
    free(controls);
    free(wide);
    free(sum);
    free(before);
    free(after);
}

/* Accuracy and mean loss over the test rows of all sites, each with what is its own. */
static inline struct tier_task_figures reference_figures(struct reference *r) {
    struct spoke_sums *sums = malloc(sizeof *sums);
    float *all = malloc(r->elements * sizeof *all);
    int64_t count = 0, correct = 0, loss = 0;
    for (size_t s = 0; s < REFERENCE_SITES; s++) {
        reference_at(r, s, all);
        cr_assert(spoke_evaluate(r->net, r->site[s].data, SPOKE_TEST, sums, NULL) == TIER_OK);
        count += sums->count;
        correct += sums->correct;
        loss += sums->loss;
    }
    free(all);
    free(sums);
    return (struct tier_task_figures){.accuracy = (double)correct / (double)count,
                                      .loss = tier_score_loss(loss, count),
                                      .count = (double)count};
}

/* The tensors of a file under their names: does each equal what the reference has at `values`? */
static inline void reference_equals(const struct reference *r, const char *path,
                                    const float *values, size_t tensors) {
    struct tier_model *m = NULL;
    struct tier_err err = {0};
    size_t count;
    cr_assert(tier_model_open(path, &m, &err) == TIER_OK, "%s", err.text);
    const struct tier_tensor *t = tier_model_tensors(m, &count);
    cr_assert(eq(sz, count, tensors));
    for (size_t k = 0; k < count; k++) {
        size_t p = 0;
        const char *last = strrchr(t[k].name, '/');
        const float *want = !last                                         ? values
                            : strncmp(t[k].name, "scaffold/", 9) == 0     ? r->control
                            : strncmp(t[k].name, "fedcurv/pull", 12) == 0 ? r->pull
                                                                          : r->fisher;
        while (strcmp(tier_graph_param(r->graph, p)->name, last ? last + 1 : t[k].name) != 0)
            p++;
        want += tier_graph_param(r->graph, p)->at;
        float *got = malloc(t[k].count * sizeof *got);
        cr_assert(tier_model_read(m, t[k].at, t[k].count, got, &err) == TIER_OK);
        for (size_t i = 0; i < t[k].count; i++)
            cr_assert(got[i] == want[i], "%s[%zu]: %a, %a", t[k].name, i, (double)got[i],
                      (double)want[i]);
        free(got);
    }
    tier_model_close(m);
}

/* The last figure of a run that the top has written down. */
struct reference_figure {
    const char *name;
    double value;
};
static inline enum tier_status reference_see(void *arg, uint64_t round, const char *name,
                                             double value, struct tier_err *err) {
    (void)round, (void)name, (void)err;
    ((struct reference_figure *)arg)->value = value;
    return TIER_OK;
}
static inline bool reference_read(struct hub *hub, void *arg) {
    struct reference_figure *f = arg;
    return tier_journal_metric_each(hub->home.journal, hub->runs->hex, f->name, reference_see, f,
                                    NULL) == TIER_OK;
}
static inline double last_figure(struct tree_node *top, const char *name) {
    struct reference_figure f = {name, 0};
    cr_assert(tree_until(top, reference_read, &f, TIMEOUT_MS));
    return f.value;
}

#endif
