/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/task.h"
#include "tier/fedcurv.h"
#include "tier/model.h"
#include "tier/nova.h"
#include "tier/scaffold.h"
#include "tier/score.h"
#include "tier/share.h"
#include "tier/site.h"
#include "tier/stale.h"
#include "tier/statistics.h"

#include <fnmatch.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The plan's list decides. Without one, running statistics are wide: a variance may be far larger
 * than any change of a weight. A codec that drops bits has no second limb, for them neither. */
static bool is_wide(const struct tier_plan *plan, const struct tier_graph_param *p) {
    for (size_t i = 0; i < plan->wide.count; i++)
        if (fnmatch(tier_keys_list_item(&plan->wide, i), p->name, 0) == 0)
            return true;
    return plan->wide.count == 0 && !p->trained && plan->codec.name == TIER_PLAN_F32 &&
           plan->codec.down == TIER_PLAN_DOWN_F32 && plan->secure.bits != TIER_PLAN_BITS_32;
}

/* How often a model's tensors are in its manifest. */
static unsigned times_of(const struct tier_plan *plan) {
    return tier_fedcurv_on(plan) ? 3 : plan->scaffold ? 2 : 1;
}

uint64_t tier_task_model_elements(const struct tier_plan *plan,
                                  const struct tier_manifest *manifest) {
    return manifest->elements / times_of(plan);
}

bool tier_task_is_parameter(const char *name) {
    static const char *const prefixes[] = {TIER_SCAFFOLD_PREFIX, TIER_FEDCURV_FISHER,
                                           TIER_FEDCURV_PULL};

    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++)
        if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0)
            return false;
    return true;
}

enum tier_status tier_task_manifest(const struct tier_plan *plan, const struct tier_graph *graph,
                                    struct tier_manifest **out, struct tier_err *err) {
    size_t n = tier_graph_param_count(graph), count = 0;
    enum tier_status st = TIER_OK;

    TIER_TRY(tier_share_check(plan, graph, err));
    TIER_TRY(tier_plan_patch_fits(plan, graph, err));
    struct tier_tensor *tensors = calloc(n ? times_of(plan) * n : 1, sizeof *tensors);
    if (!tensors)
        return tier_fail(err, TIER_ENOMEM, "no memory for a manifest of %zu tensors", n);
    for (size_t i = 0; i < n && st == TIER_OK; i++) {
        const struct tier_graph_param *p = tier_graph_param(graph, i);
        if (strlen(p->name) > TIER_TENSOR_NAME_LEN_MAX) {
            st = tier_fail(err, TIER_EMODEL, "parameter %zu has a name of %zu bytes, at most %d", i,
                           strlen(p->name), TIER_TENSOR_NAME_LEN_MAX);
            break;
        }
        if (!tier_share_travels(plan, p->name))
            continue;
        struct tier_tensor *t = &tensors[count++];
        tier_share_tensor(plan, p, t);
        t->wide = is_wide(plan, p);
    }
    size_t shared = count;
    for (size_t i = 0; i < shared && plan->scaffold && st == TIER_OK; i++)
        st = tier_scaffold_tensor(plan, &tensors[i], &tensors[count++], err);
    for (size_t i = 0; i < shared && tier_fedcurv_on(plan) && st == TIER_OK; i++, count += 2)
        st = tier_fedcurv_tensors(plan, &tensors[i], &tensors[shared + i], &tensors[2 * shared + i],
                                  err);
    struct tier_manifest *made = NULL;
    if (st == TIER_OK)
        st = tier_manifest_new(tensors, count, &made, err);
    if (st == TIER_OK)
        st = tier_site_manifest_check(plan, made, err);
    if (st == TIER_OK)
        *out = made;
    else
        tier_manifest_free(made);
    free(tensors);
    return st;
}

/* As many values of the graph's parameter as the tensor has. */
static enum tier_status append_values(struct tier_model_writer *w, const struct tier_graph *graph,
                                      size_t param, struct tier_err *err) {
    uint64_t count = tier_graph_param(graph, param)->elements;
    float block[4096];

    for (uint64_t at = 0, n; at < count; at += n) {
        n = count - at < 4096 ? count - at : 4096;
        TIER_TRY(tier_graph_read(graph, param, at, n, block, err));
        TIER_TRY(tier_model_writer_append(w, block, n, err));
    }
    return TIER_OK;
}

static enum tier_status append_zeros(struct tier_model_writer *w, uint64_t count,
                                     struct tier_err *err) {
    static const float zeros[4096];

    for (uint64_t at = 0, n; at < count; at += n) {
        n = count - at < 4096 ? count - at : 4096;
        TIER_TRY(tier_model_writer_append(w, zeros, n, err));
    }
    return TIER_OK;
}

enum tier_status tier_task_first_model(const struct tier_graph *graph,
                                       const struct tier_manifest *manifest, const char *models_dir,
                                       struct tier_hash *model_out, struct tier_err *err) {
    struct tier_model_writer *w = NULL;
    const struct tier_kv metadata[] = {{"format", "pt"}, {"consilium.round", "0"}};
    enum tier_status st;
    size_t t = 0; /* the manifest's next tensor: it has the graph's order */

    TIER_TRY(tier_model_writer_begin(models_dir, manifest, metadata, 2, &w, err));
    for (size_t i = 0; i < tier_graph_param_count(graph) && t < manifest->count; i++) {
        if (strcmp(tier_graph_param(graph, i)->name, manifest->tensors[t].name) != 0)
            continue;
        t++;
        TIER_TRY_OUT(append_values(w, graph, i, err));
    }
    for (; t < manifest->count; t++) /* what goes with them is zero at first */
        TIER_TRY_OUT(append_zeros(w, manifest->tensors[t].count, err));
    return tier_model_writer_finish(w, model_out, err);
out:
    tier_model_writer_abort(w);
    return st;
}

bool tier_task_server(const struct tier_plan *plan, struct kern_server *out) {
    static const enum kern_server_kind kinds[] = {
        [TIER_PLAN_SERVER_MOMENTUM] = KERN_SERVER_MOMENTUM,
        [TIER_PLAN_SERVER_ADAM] = KERN_SERVER_ADAM,
        [TIER_PLAN_SERVER_YOGI] = KERN_SERVER_YOGI,
        [TIER_PLAN_SERVER_ADAGRAD] = KERN_SERVER_ADAGRAD,
    };
    const struct tier_plan_server *s = &plan->server;

    if (s->kind == TIER_PLAN_SERVER_NONE)
        return false;
    *out = (struct kern_server){.kind = kinds[s->kind],
                                .lr = s->lr,
                                .momentum = s->momentum,
                                .beta1 = s->beta1,
                                .beta2 = s->beta2,
                                .tau = s->tau};
    return true;
}

bool tier_task_down(const struct tier_plan *plan, uint64_t round, struct tier_delta_form *out) {
    static const enum tier_encoding encodings[] = {[TIER_PLAN_DOWN_F32] = TIER_ENC_F32,
                                                   [TIER_PLAN_DOWN_BF16] = TIER_ENC_BF16,
                                                   [TIER_PLAN_DOWN_Q8] = TIER_ENC_Q8,
                                                   [TIER_PLAN_DOWN_Q4] = TIER_ENC_Q4};

    /* Another stream of random numbers than any spoke's: those mix in a name. */
    *out = (struct tier_delta_form){.encoding = encodings[plan->codec.down],
                                    .key = plan->seed * UINT64_C(0x9e3779b97f4a7c15) + round};
    return plan->codec.down != TIER_PLAN_DOWN_F32;
}

enum tier_encoding tier_task_encoding(const struct tier_plan *plan) {
    static const enum tier_encoding encodings[] = {
        [TIER_PLAN_F32] = TIER_ENC_F32,       [TIER_PLAN_F16] = TIER_ENC_F16,
        [TIER_PLAN_BF16] = TIER_ENC_BF16,     [TIER_PLAN_Q8] = TIER_ENC_Q8,
        [TIER_PLAN_Q4] = TIER_ENC_Q4,         [TIER_PLAN_TOP_K] = TIER_ENC_TOPK,
        [TIER_PLAN_ONE_BIT] = TIER_ENC_ONEBIT};

    return encodings[plan->codec.name];
}

enum tier_encoding tier_task_masked(const struct tier_plan *plan) {
    return plan->secure.bits == TIER_PLAN_BITS_32 ? TIER_ENC_MASKED32 : TIER_ENC_MASKED;
}

enum tier_status tier_task_encoding_check(const struct tier_plan *plan, enum tier_encoding encoding,
                                          bool zipped, struct tier_err *err) {
    enum tier_encoding chosen = tier_task_encoding(plan);

    if (zipped && !(plan->codec.entropy == TIER_PLAN_ENTROPY_ZSTD && encoding == chosen))
        return tier_fail(err, TIER_EUPDATE,
                         "the update has encoding %s in zstd frames; the plan's codec is %s%s",
                         tier_encoding_text(encoding), tier_encoding_text(chosen),
                         plan->codec.entropy == TIER_PLAN_ENTROPY_ZSTD ? " in them"
                                                                       : " without them");
    if (plan->secure.sums != TIER_PLAN_SECURE_NONE &&
        (encoding == tier_task_masked(plan) || encoding == TIER_ENC_SUM))
        return TIER_OK;
    if (plan->secure.sums != TIER_PLAN_SECURE_NONE)
        return tier_fail(err, TIER_EUPDATE,
                         "the update has encoding %s; the plan has secure.sums: %s, or a hub's "
                         "sum, would be right",
                         tier_encoding_text(encoding), tier_encoding_text(tier_task_masked(plan)));
    if (encoding == chosen || encoding == TIER_ENC_F32 || encoding == TIER_ENC_SUM)
        return TIER_OK;
    return tier_fail(err, TIER_EUPDATE,
                     "the update has encoding %s; the plan's codec is %s: %sf32 or sum would be "
                     "right",
                     tier_encoding_text(encoding), tier_encoding_text(chosen),
                     chosen == TIER_ENC_F32 ? "" : "that, ");
}

uint64_t tier_task_rounds(const struct tier_plan *plan) {
    return plan->rounds + (plan->evaluate_every ? 1 : 0);
}

uint64_t tier_task_model_bytes_max(const struct tier_plan *plan) {
    return times_of(plan) * plan->model_bytes + TIER_MANIFEST_BYTES_MAX;
}

bool tier_task_trains(const struct tier_plan *plan, uint64_t round) {
    return round <= plan->rounds && !tier_statistics_on(plan);
}

bool tier_task_evaluates(const struct tier_plan *plan, uint64_t round) {
    return plan->evaluate_every &&
           ((round - 1) % plan->evaluate_every == 0 || round > plan->rounds);
}

/* 2^27 rows of the greatest loss, and 256 times that in 64 bits. */
#define METRIC_VALUE_MAX TIER_SCORE_SUM_MAX

enum tier_status tier_task_metrics_check(const struct tier_metrics *sums, struct tier_err *err) {
    static const struct {
        const char *name;
        size_t bins; /* 0: one to each class */
    } known[] = {{TIER_SCORE_COUNT, 1},
                 {TIER_SCORE_CORRECT, 1},
                 {TIER_SCORE_LOSS, 1},
                 {TIER_SCORE_HIST_POS, TIER_SCORE_BINS},
                 {TIER_SCORE_HIST_NEG, TIER_SCORE_BINS},
                 {TIER_SCORE_SPOTS, 1},
                 {TIER_SCORE_OVERLAP, 0},
                 {TIER_SCORE_SIZES, 0},
                 {TIER_SCORE_CASE_DICE, 0},
                 {TIER_SCORE_CASES, 0},
                 {TIER_SCORE_SQUARED, 1},
                 {TIER_SCORE_ABSOLUTE, 1},
                 {TIER_SCORE_EVENTS, 1},
                 {TIER_SCORE_COMPARABLE, 1},
                 {TIER_SCORE_CONCORDANT, 1}};
    const size_t known_count = sizeof known / sizeof known[0];

    for (size_t i = 0; sums && i < tier_metrics_count(sums); i++) {
        const char *name;
        size_t bins, k = 0;
        const int64_t *values = tier_metrics_at(sums, i, &name, &bins);
        if (strcmp(name, TIER_NOVA_METRIC) == 0 || strcmp(name, TIER_STALE_METRIC) == 0 ||
            strcmp(name, TIER_SITE_METRIC) == 0 || tier_statistics_is(name))
            continue; /* tier_nova_check, tier_stale_check, tier_site_check, tier_statistics_check
                         know them */
        while (k < known_count && strcmp(known[k].name, name) != 0)
            k++;
        if (k == known_count)
            return tier_fail(err, TIER_EUPDATE, "metric %s is not one that this version knows",
                             name);
        if (known[k].bins == 0 && bins > TIER_SCORE_CLASSES_MAX)
            return tier_fail(err, TIER_EUPDATE, "metric %s has %zu bins; at most %d would be right",
                             name, bins, TIER_SCORE_CLASSES_MAX);
        if (known[k].bins != 0 && bins != known[k].bins)
            return tier_fail(err, TIER_EUPDATE, "metric %s has %zu bins; %zu would be right", name,
                             bins, known[k].bins);
        for (size_t b = 0; b < bins; b++)
            if (values[b] < 0 || values[b] > METRIC_VALUE_MAX)
                return tier_fail(err, TIER_EUPDATE,
                                 "metric %s, bin %zu, is %" PRId64 "; 0 to 2^55 would be right",
                                 name, b, values[b]);
    }
    return TIER_OK;
}

enum tier_status tier_task_classes_check(const struct tier_metrics *sums, uint64_t classes,
                                         struct tier_err *err) {
    static const char *const by_class[] = {TIER_SCORE_OVERLAP, TIER_SCORE_SIZES,
                                           TIER_SCORE_CASE_DICE, TIER_SCORE_CASES};

    for (size_t i = 0; sums && i < sizeof by_class / sizeof by_class[0]; i++) {
        size_t bins = 0;
        if (tier_metrics_get(sums, by_class[i], &bins) && bins != classes)
            return tier_fail(err, TIER_EUPDATE,
                             "metric %s has %zu bins; %" PRIu64
                             ", the classes that the model gives, "
                             "would be right",
                             by_class[i], bins, classes);
    }
    return TIER_OK;
}

/* The mean over classes from 1 on of what is there of them, and NaN where nothing is. */
static double class_mean(double sum, size_t count) {
    return count > 0 ? sum / (double)count : NAN;
}

static void dice_figures(const struct tier_metrics *sums, struct tier_task_figures *f) {
    size_t bins[4] = {0};
    const int64_t *overlap = tier_metrics_get(sums, TIER_SCORE_OVERLAP, &bins[0]);
    const int64_t *sizes = tier_metrics_get(sums, TIER_SCORE_SIZES, &bins[1]);
    const int64_t *own = tier_metrics_get(sums, TIER_SCORE_CASE_DICE, &bins[2]);
    const int64_t *cases = tier_metrics_get(sums, TIER_SCORE_CASES, &bins[3]);
    double all = 0, by_case = 0;
    size_t classes = 0, with_cases = 0;

    if (!overlap || !sizes || !own || !cases || bins[1] != bins[0] || bins[2] != bins[0] ||
        bins[3] != bins[0])
        return;
    for (size_t c = 1; c < bins[0]; c++) {
        double dice = tier_score_dice(overlap[c], sizes[c]);
        if (c <= TIER_TASK_DICE_CLASSES)
            f->class_dice[c - 1] = dice;
        if (!isnan(dice)) {
            all += dice;
            classes++;
        }
        if (cases[c] > 0) {
            by_case += tier_score_loss(own[c], cases[c]);
            with_cases++;
        }
    }
    f->dice = class_mean(all, classes);
    f->case_dice = class_mean(by_case, with_cases);
}

static double ratio_of(const struct tier_metrics *sums, const char *name, int64_t count) {
    const int64_t *sum = tier_metrics_get(sums, name, NULL);
    return sum && *sum < TIER_SCORE_SUM_MAX ? tier_score_loss(*sum, count) : NAN;
}

struct tier_task_figures tier_task_figures(const struct tier_metrics *sums) {
    struct tier_task_figures f = {NAN, NAN, NAN, NAN, NAN, NAN, {0}, NAN, NAN, NAN};
    size_t pos_bins = 0, neg_bins = 0;

    for (size_t i = 0; i < TIER_TASK_DICE_CLASSES; i++)
        f.class_dice[i] = NAN;
    if (!sums || !tier_metrics_get(sums, TIER_SCORE_COUNT, NULL))
        return f;
    int64_t count = tier_metrics_scalar(sums, TIER_SCORE_COUNT);
    const int64_t *pos = tier_metrics_get(sums, TIER_SCORE_HIST_POS, &pos_bins);
    const int64_t *neg = tier_metrics_get(sums, TIER_SCORE_HIST_NEG, &neg_bins);
    f.count = (double)count;
    const int64_t *correct = tier_metrics_get(sums, TIER_SCORE_CORRECT, NULL);
    const int64_t *spots = tier_metrics_get(sums, TIER_SCORE_SPOTS, NULL);
    const int64_t *events = tier_metrics_get(sums, TIER_SCORE_EVENTS, NULL);
    if (correct)
        f.accuracy = tier_score_accuracy(*correct, spots ? *spots : count);
    f.loss = ratio_of(sums, TIER_SCORE_LOSS, events ? *events : count);
    f.mse = ratio_of(sums, TIER_SCORE_SQUARED, count);
    f.mae = ratio_of(sums, TIER_SCORE_ABSOLUTE, count);
    f.concordance = tier_score_concordance(tier_metrics_scalar(sums, TIER_SCORE_CONCORDANT),
                                           tier_metrics_scalar(sums, TIER_SCORE_COMPARABLE));
    dice_figures(sums, &f);
    if (pos && neg && pos_bins == neg_bins)
        f.auc = tier_score_auc(pos, neg, pos_bins);
    return f;
}

bool tier_task_figure(const struct tier_task_figures *f, size_t i, const char **name_out,
                      double *value_out) {
    const double *dice = f->class_dice;
    const struct {
        const char *name;
        double value;
    } all[] = {{"accuracy", f->accuracy},
               {"auc", f->auc},
               {"case_dice", f->case_dice},
               {"concordance", f->concordance},
               {"count", f->count},
               {"dice", f->dice},
               {"dice_1", dice[0]},
               {"dice_2", dice[1]},
               {"dice_3", dice[2]},
               {"dice_4", dice[3]},
               {"dice_5", dice[4]},
               {"dice_6", dice[5]},
               {"dice_7", dice[6]},
               {"dice_8", dice[7]},
               {"loss", f->loss},
               {"mae", f->mae},
               {"mse", f->mse}};

    if (i >= sizeof all / sizeof all[0])
        return false;
    *name_out = all[i].name;
    *value_out = all[i].value;
    return true;
}

const char *tier_task_stop(const struct tier_plan *plan, struct tier_task_stop *stop,
                           const struct tier_task_figures *figures) {
    double v;

    switch ((enum tier_plan_metric)plan->stop.metric) {
    case TIER_PLAN_ACCURACY:
        v = figures->accuracy;
        break;
    case TIER_PLAN_AUC:
        v = figures->auc;
        break;
    case TIER_PLAN_LOSS:
        v = figures->loss;
        break;
    case TIER_PLAN_METRIC_DICE:
        v = figures->dice;
        break;
    case TIER_PLAN_METRIC_MSE:
        v = figures->mse;
        break;
    case TIER_PLAN_METRIC_MAE:
        v = figures->mae;
        break;
    case TIER_PLAN_METRIC_CONCORDANCE:
        v = figures->concordance;
        break;
    default:
        return NULL;
    }
    if (isnan(v))
        return NULL;
    double sign = tier_plan_metric_falls(plan->stop.metric) ? -1 : 1; /* so that more is better */
    double target = sign * plan->stop.target;
    v *= sign;
    if (!isnan(target) && v >= target)
        return "the target is reached";
    if (!stop->any || v > stop->best) {
        *stop = (struct tier_task_stop){.any = true, .best = v};
        return NULL;
    }
    stop->since_best++;
    if (plan->stop.patience && stop->since_best >= plan->stop.patience)
        return "no improvement for as long as the plan's patience";
    return NULL;
}
