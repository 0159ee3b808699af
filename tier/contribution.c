/* SPDX-License-Identifier: Apache-2.0 */
/*
 * With G the matrix of inner products, w the weights and W(S) their sum over S:
 * |m(S) - m|^2 = a / W(S)^2 - 2 b / (W(S) W) + c / W^2, where a sums w_i w_j G_ij over S, b over S
 * and all, c over all. A coalition that grows by j adds 2 w_j sum_(i in S) w_i G_ij + w_j^2 G_jj to
 * a, so an order of n players costs n^2 and no file is read again.
 */
#include "tier/contribution.h"

#include "tier/bytes.h"
#include "tier/merge_pass.h"
#include "tier/shapley.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define STEPS_MAX (UINT64_C(1) << 31) /* of all orders: a few seconds */
#define SEED_TEXT "consilium contribution"

struct means {
    const struct tier_merge_job *job;
    double *weight;   /* of each */
    double *with_all; /* w_j * sum over all i of w_i G_ij */
    double total, c;  /* W, and the square of all */
    size_t *in;       /* the coalition */
    size_t count;
    double w, a, b;
};

static double product(const struct means *m, size_t i, size_t j) {
    return m->job->gram[i * (m->job->count + 1) + j];
}

static double utility_of(const struct means *m, double w, double a, double b) {
    if (w == 0)
        return 0;
    return 1 - (a / (w * w) - 2 * b / (w * m->total) + m->c / (m->total * m->total)) /
                   (m->c / (m->total * m->total));
}

static double begin(void *arg) {
    struct means *m = arg;

    m->count = 0;
    m->w = m->a = m->b = 0;
    return 0;
}

static enum tier_status add(void *arg, size_t player, double *utility_out, struct tier_err *err) {
    struct means *m = arg;
    double cross = 0, w = m->weight[player];

    (void)err;
    for (size_t k = 0; k < m->count; k++)
        cross += m->weight[m->in[k]] * product(m, m->in[k], player);
    m->a += 2 * w * cross + w * w * product(m, player, player);
    m->b += m->with_all[player];
    m->w += w;
    m->in[m->count++] = player;
    *utility_out = utility_of(m, m->w, m->a, m->b);
    return TIER_OK;
}

static enum tier_status means_init(struct means *m, const struct tier_merge_job *job,
                                   struct tier_err *err) {
    size_t n = job->count;

    *m = (struct means){.job = job};
    m->weight = calloc(n, sizeof *m->weight);
    m->with_all = calloc(n, sizeof *m->with_all);
    m->in = calloc(n, sizeof *m->in);
    if (!m->weight || !m->with_all || !m->in)
        return tier_fail(err, TIER_ENOMEM, "no memory for the means of %zu updates", n);
    for (size_t i = 0; i < n; i++) {
        m->weight[i] = (double)job->inputs[i].weight;
        m->total += m->weight[i];
    }
    for (size_t j = 0; j < n; j++) {
        for (size_t i = 0; i < n; i++)
            m->with_all[j] += m->weight[i] * product(m, i, j);
        m->with_all[j] *= m->weight[j];
        m->c += m->with_all[j];
    }
    return TIER_OK;
}

static void means_release(struct means *m) {
    free(m->weight);
    free(m->with_all);
    free(m->in);
}

/* The mean without one: its part is subtracted. */
static double without(const struct means *m, size_t i) {
    double w = m->weight[i], rest = m->total - w;
    double a = m->c - 2 * m->with_all[i] + w * w * product(m, i, i);

    return utility_of(m, m->total, m->c, m->c) - utility_of(m, rest, a, m->c - m->with_all[i]);
}

static bool same(const struct tier_merge_input *x, const struct tier_merge_input *y) {
    return x->weight == y->weight && tier_hash_equal(&tier_spool_update_header(x->update)->root,
                                                     &tier_spool_update_header(y->update)->root);
}

/* Equal ones lie side by side; which of them a sampled order took first says nothing. */
static void level(const struct tier_merge_job *job, struct tier_contribution *out) {
    for (size_t i = 0, end; i < job->count; i = end) {
        double share = 0, error = 0, rest = 0;
        for (end = i; end < job->count && same(&job->inputs[i], &job->inputs[end]); end++) {
            const struct tier_contribution *one = &out[job->inputs[end].place];
            share += one->share;
            error = fmax(error, one->error);
            rest += one->without;
        }
        for (size_t k = i; k < end; k++) {
            struct tier_contribution *one = &out[job->inputs[k].place];
            one->share = share / (double)(end - i);
            one->error = error;
            one->without = rest / (double)(end - i);
        }
    }
}

void tier_contribution_seed(const struct tier_fold *fold, struct tier_hash *out) {
    uint8_t text[sizeof SEED_TEXT - 1 + TIER_HASH_BYTES + 8];

    memcpy(text, SEED_TEXT, sizeof SEED_TEXT - 1);
    memcpy(text + sizeof SEED_TEXT - 1, fold->run.b, TIER_HASH_BYTES);
    tier_put_u64(text + sizeof SEED_TEXT - 1 + TIER_HASH_BYTES, fold->round);
    tier_hash_data(text, sizeof text, out);
}

/* An order of n costs n^2 / 2 sums, and n / 4 hashes, each as much as some 500 sums. */
uint64_t tier_contribution_orders(uint64_t permutations, size_t count) {
    uint64_t most = STEPS_MAX / (count * (count / 2 + 128));

    return permutations < most ? permutations : most;
}

static enum tier_status share_out(const struct tier_merge_job *job, uint64_t permutations,
                                  struct tier_contribution *out, bool *exact_out,
                                  struct tier_err *err) {
    struct tier_shapley_value *values = calloc(job->count, sizeof *values);
    struct tier_shapley settings = {.permutations =
                                        (size_t)tier_contribution_orders(permutations, job->count)};
    struct means m = {0};
    const struct tier_utility utility = {
        .count = job->count, .arg = &m, .begin = begin, .add = add};
    enum tier_status st = TIER_OK;

    if (!values)
        return tier_fail(err, TIER_ENOMEM, "no memory for %zu shares", job->count);
    TIER_TRY_OUT(means_init(&m, job, err));
    if (!(m.c > 0)) {
        for (size_t i = 0; i < job->count; i++)
            out[job->inputs[i].place].share = out[job->inputs[i].place].error =
                out[job->inputs[i].place].without = NAN;
        goto out;
    }
    tier_contribution_seed(&job->merge->fold, &settings.seed);
    TIER_TRY_OUT(tier_shapley_run(&utility, &settings, values, exact_out, err));
    for (size_t i = 0; i < job->count; i++) {
        struct tier_contribution *one = &out[job->inputs[i].place];
        one->share = values[i].value;
        one->error = values[i].error;
        one->without = without(&m, i);
    }
    level(job, out);
out:
    means_release(&m);
    free(values);
    return st;
}

static struct tier_merge_shape shape_of(const struct tier_manifest *manifest, size_t count) {
    return (struct tier_merge_shape){.manifest = manifest, .count = count, .gram = true};
}

static size_t shared_bytes(size_t count) {
    size_t w = count + 1;

    return tier_merge_look_bytes(count) + w * w * sizeof(double) + 8 * w * sizeof(double) +
           (sizeof(double) << TIER_SHAPLEY_EXACT_MAX);
}

size_t tier_contribution_memory_min(const struct tier_manifest *manifest, size_t count) {
    struct tier_merge_shape shape = shape_of(manifest, count);

    return shared_bytes(count) + tier_merge_worker_bytes_min(&shape);
}

enum tier_status tier_contribution_run(const struct tier_fold *fold, uint64_t permutations,
                                       struct tier_contribution *out, bool *exact_out,
                                       struct tier_err *err) {
    const struct tier_merge merge = {.fold = *fold};
    struct tier_merge_job job = {.merge = &merge};
    enum tier_status st = TIER_OK;

    if (fold->count == 0 || fold->count > TIER_CONTRIBUTION_UPDATES_MAX)
        return tier_fail(err, TIER_ELIMIT,
                         "contributions are worked out of 1 to %u updates, and here are %zu",
                         TIER_CONTRIBUTION_UPDATES_MAX, fold->count);
    if (fold->memory_bytes < tier_contribution_memory_min(fold->manifest, fold->count))
        return tier_fail(err, TIER_EARG, "contributions of %zu updates in %zu bytes of memory",
                         fold->count, fold->memory_bytes);
    *exact_out = true;
    memset(out, 0, fold->count * sizeof *out);
    TIER_TRY_OUT(tier_merge_look(&job, err));
    for (size_t i = 0; i < job.count; i++) {
        out[job.inputs[i].place].weight = job.inputs[i].weight;
        out[job.inputs[i].place].bytes =
            tier_spool_update_header(job.inputs[i].update)->payload_bytes;
    }
    if (job.count == 0)
        goto out;
    job.shape = shape_of(fold->manifest, job.count);
    job.memory_bytes = fold->memory_bytes - shared_bytes(fold->count);
    TIER_TRY_OUT(tier_merge_pass_gram(&job, err));
    TIER_TRY_OUT(share_out(&job, permutations, out, exact_out, err));
out:
    tier_merge_look_release(&job);
    return st;
}
