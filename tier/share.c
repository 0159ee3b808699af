/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/share.h"

#include "tier/stale.h"

#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NEAREST 3

static bool matches(const struct tier_keys_list *list, const char *name) {
    for (size_t i = 0; i < list->count; i++)
        if (fnmatch(tier_keys_list_item(list, i), name, 0) == 0)
            return true;
    return false;
}

bool tier_share_travels(const struct tier_plan *plan, const char *name) {
    return (plan->share.count == 0 || matches(&plan->share, name)) && !matches(&plan->keep, name);
}

bool tier_share_frozen(const struct tier_plan *plan, const struct tier_graph_param *p) {
    return p->trained && matches(&plan->freeze, p->name);
}

void tier_share_tensor(const struct tier_plan *plan, const struct tier_graph_param *p,
                       struct tier_tensor *out) {
    *out = (struct tier_tensor){.ndim = (unsigned)p->dims_count,
                                .frac_bits = tier_plan_tensor_bits(plan, p->name),
                                .state = !p->trained};
    snprintf(out->name, sizeof out->name, "%s", p->name);
    memcpy(out->dims, p->dims, p->dims_count * sizeof p->dims[0]);
}

/* The names most like a pattern, as "'fc1.bias', 'fc2.bias'"; the file's order among equals. */
static void say_nearest(const struct tier_graph *graph, const char *pattern, char *out,
                        size_t bytes) {
    size_t said[NEAREST], count = tier_graph_param_count(graph);

    out[0] = '\0';
    for (size_t k = 0; k < NEAREST && k < count; k++) {
        size_t best = count, used = strlen(out);
        unsigned least = 0;
        for (size_t i = 0; i < count; i++) {
            unsigned d = tier_text_distance(pattern, tier_graph_param(graph, i)->name);
            bool taken = false;
            for (size_t j = 0; j < k; j++)
                taken = taken || said[j] == i;
            if (!taken && (best == count || d < least)) {
                best = i;
                least = d;
            }
        }
        said[k] = best;
        snprintf(out + used, bytes - used, "%s'%.60s'", k ? ", " : "",
                 tier_graph_param(graph, best)->name);
    }
}

static enum tier_status check_pattern(const char *pattern, const char *key,
                                      const struct tier_graph *graph, struct tier_err *err) {
    char nearest[NEAREST * 66];

    for (size_t p = 0; p < tier_graph_param_count(graph); p++)
        if (fnmatch(pattern, tier_graph_param(graph, p)->name, 0) == 0)
            return TIER_OK;
    say_nearest(graph, pattern, nearest, sizeof nearest);
    return tier_fail(err, TIER_EPLAN,
                     "%s: the pattern '%.80s' matches no tensor of the model; the nearest: %s", key,
                     pattern, nearest);
}

static enum tier_status check_list(const struct tier_keys_list *list, const char *key,
                                   const struct tier_graph *graph, struct tier_err *err) {
    for (size_t i = 0; i < list->count; i++)
        TIER_TRY(check_pattern(tier_keys_list_item(list, i), key, graph, err));
    return TIER_OK;
}

static enum tier_status check_clips(const struct tier_plan *plan, const struct tier_graph *graph,
                                    struct tier_err *err) {
    char pattern[TIER_TENSOR_NAME_LEN_MAX + 1];

    for (size_t i = 0; i < plan->clips.count; i++)
        if (tier_plan_clip_pattern(plan, i, pattern))
            TIER_TRY(check_pattern(pattern, "exact.clips", graph, err));
    return TIER_OK;
}

/* A pattern that only states match would do nothing, and something must be left to train. */
static enum tier_status check_frozen(const struct tier_plan *plan, const struct tier_graph *graph,
                                     struct tier_err *err) {
    size_t left = 0;

    for (size_t i = 0; i < plan->freeze.count; i++) {
        bool found = false;
        for (size_t p = 0; p < tier_graph_param_count(graph) && !found; p++)
            found = tier_graph_param(graph, p)->trained &&
                    fnmatch(tier_keys_list_item(&plan->freeze, i), tier_graph_param(graph, p)->name,
                            0) == 0;
        if (!found)
            return tier_fail(err, TIER_EPLAN,
                             "local.freeze: the pattern '%.80s' matches running statistics alone, "
                             "which no step trains: they follow the data",
                             tier_keys_list_item(&plan->freeze, i));
    }
    for (size_t p = 0; p < tier_graph_param_count(graph); p++)
        left += tier_graph_param(graph, p)->trained &&
                !tier_share_frozen(plan, tier_graph_param(graph, p));
    if (left == 0)
        return tier_fail(err, TIER_EPLAN,
                         "local.freeze leaves no tensor of the model to be trained");
    return TIER_OK;
}

/* What may add a change to a running statistic that is of where it was before. */
static const char *adds_old_changes(const struct tier_plan *plan) {
    const struct tier_plan_merge *merges[] = {&plan->top.merge, &plan->hub.merge};

    for (size_t i = 0; i < 2; i++)
        if (!*merges[i]->rule.own && merges[i]->rule.choice == TIER_PLAN_CENTRED_CLIPPING)
            return "merge.rule: centred_clipping";
    return tier_stale_in(plan) ? "sync: buffered" : NULL;
}

/* Added to where it is by now, such a change may take a variance below 0. */
static enum tier_status check_states(const struct tier_plan *plan, const struct tier_graph *graph,
                                     struct tier_err *err) {
    const char *what = adds_old_changes(plan);

    for (size_t p = 0; what && p < tier_graph_param_count(graph); p++) {
        const struct tier_graph_param *param = tier_graph_param(graph, p);
        if (!param->trained && tier_share_travels(plan, param->name))
            return tier_fail(err, TIER_EPLAN,
                             "%s and the running statistic %.80s exclude each other: it adds "
                             "changes of older statistics, and a variance may fall below 0; under "
                             "keep it would stay at each hospital",
                             what, param->name);
    }
    return TIER_OK;
}

enum tier_status tier_share_check(const struct tier_plan *plan, const struct tier_graph *graph,
                                  struct tier_err *err) {
    TIER_TRY(check_list(&plan->share, "share", graph, err));
    TIER_TRY(check_list(&plan->keep, "keep", graph, err));
    TIER_TRY(check_list(&plan->freeze, "local.freeze", graph, err));
    TIER_TRY(check_clips(plan, graph, err));
    TIER_TRY(check_frozen(plan, graph, err));
    TIER_TRY(check_states(plan, graph, err));
    for (size_t i = 0; i < tier_graph_param_count(graph); i++)
        if (tier_share_travels(plan, tier_graph_param(graph, i)->name))
            return TIER_OK;
    return tier_fail(err, TIER_EPLAN,
                     "share and keep leave no tensor of the model to be shared: a federation needs "
                     "at least one");
}

enum tier_status tier_share_kept(const struct tier_plan *plan, const struct tier_graph *graph,
                                 struct tier_manifest **out, struct tier_err *err) {
    size_t n = tier_graph_param_count(graph), count = 0;
    struct tier_tensor *tensors = calloc(n ? n : 1, sizeof *tensors);
    enum tier_status st = TIER_OK;

    if (!tensors)
        return tier_fail(err, TIER_ENOMEM, "no memory for a manifest of %zu tensors", n);
    for (size_t i = 0; i < n; i++) {
        const struct tier_graph_param *p = tier_graph_param(graph, i);
        if (!tier_share_travels(plan, p->name))
            tier_share_tensor(plan, p, &tensors[count++]);
    }
    if (count == 0)
        *out = NULL;
    else
        st = tier_manifest_new(tensors, count, out, err);
    free(tensors);
    return st;
}

void tier_share_take(const struct tier_plan *plan, const struct tier_graph *graph, bool kept,
                     const float *all, float *part) {
    for (size_t i = 0; i < tier_graph_param_count(graph); i++) {
        const struct tier_graph_param *p = tier_graph_param(graph, i);
        if (tier_share_travels(plan, p->name) == kept)
            continue;
        memcpy(part, all + p->at, p->elements * sizeof *part);
        part += p->elements;
    }
}

void tier_share_put(const struct tier_plan *plan, const struct tier_graph *graph, bool kept,
                    const float *part, float *all) {
    for (size_t i = 0; i < tier_graph_param_count(graph); i++) {
        const struct tier_graph_param *p = tier_graph_param(graph, i);
        if (tier_share_travels(plan, p->name) == kept)
            continue;
        memcpy(all + p->at, part, p->elements * sizeof *part);
        part += p->elements;
    }
}
