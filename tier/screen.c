/* SPDX-License-Identifier: Apache-2.0 */
/* One pass (merge_pass.c) gives three sums for each update; all else is arithmetic on those. */
#include "tier/screen.h"

#include "kernels/kern.h"
#include "tier/merge_pass.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool tier_screen_on(const struct tier_plan_screen *limits) {
    return limits->norm > 0 || limits->cosine_distance > 0 || limits->loss > 0;
}

static struct tier_merge_shape shape_of(const struct tier_manifest *manifest, size_t count) {
    return (struct tier_merge_shape){.manifest = manifest,
                                     .count = count,
                                     .screen = true,
                                     .scratch_bytes = KERN_TRIM_WORK(count) * sizeof(float)};
}

size_t tier_screen_memory_min(const struct tier_manifest *manifest, size_t count) {
    struct tier_merge_shape shape = shape_of(manifest, count);

    return tier_merge_look_bytes(count) + tier_merge_worker_bytes_min(&shape);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t n) {
    qsort(values, n, sizeof *values, ascending);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

static void judge(const struct tier_plan_screen *limits, const struct tier_screen_figures *all,
                  struct tier_screened *one) {
    /* A round in which most change nothing has no length to compare with. */
    bool longer = limits->norm > 0 && all->norm > 0 && one->norm > limits->norm * all->norm;
    bool turned = limits->cosine_distance > 0 && 1 - one->cosine > limits->cosine_distance;

    one->fails = longer || turned;
    if (longer)
        snprintf(one->why, sizeof one->why,
                 "its length %.4g is %.4g times the median of the round's %zu updates, and "
                 "screen.norm is %.4g",
                 one->norm, one->norm / all->norm, all->looked_at, limits->norm);
    else if (turned)
        snprintf(one->why, sizeof one->why,
                 "its cosine with the median of the round's %zu updates is %.4f, and "
                 "screen.cosine_distance asks for %.4f",
                 all->looked_at, one->cosine, 1 - limits->cosine_distance);
}

static void judge_all(const struct tier_merge_job *job, const struct tier_plan_screen *limits,
                      double *norms, struct tier_screened *out, struct tier_screen_figures *all) {
    for (size_t i = 0; i < job->count; i++) {
        const double *sums = job->screen + 3 * i; /* <x, x>, <m, x>, <m, m> */
        struct tier_screened *one = &out[job->inputs[i].place];
        one->norm = norms[i] = sqrt(sums[0]);
        if (sums[0] > 0 && sums[2] > 0)
            one->cosine = sums[1] / (sqrt(sums[0]) * sqrt(sums[2]));
    }
    all->norm = median(norms, job->count);
    for (size_t i = 0; i < job->count; i++)
        judge(limits, all, &out[job->inputs[i].place]);
}

enum tier_status tier_screen_run(const struct tier_screen *screen, struct tier_screened *out,
                                 struct tier_screen_figures *figures_out, struct tier_err *err) {
    const struct tier_merge merge = {.fold = {.spool = screen->spool,
                                              .manifest = screen->manifest,
                                              .inputs = screen->inputs,
                                              .count = screen->count,
                                              .threads = screen->threads}};
    struct tier_merge_job job = {.merge = &merge};
    double *norms = NULL;
    enum tier_status st = TIER_OK;

    if (screen->count == 0 || screen->count > TIER_CHILDREN_MAX ||
        screen->memory_bytes < tier_screen_memory_min(screen->manifest, screen->count))
        return tier_fail(err, TIER_EARG, "%zu updates to screen in %zu bytes of memory",
                         screen->count, screen->memory_bytes);
    for (size_t i = 0; i < screen->count; i++)
        out[i] = (struct tier_screened){.norm = NAN, .cosine = NAN, .loss = NAN};
    TIER_TRY_OUT(tier_merge_look(&job, err));
    struct tier_screen_figures all = {.looked_at = job.count, .norm = NAN, .loss = NAN};
    if (job.count >= TIER_SCREEN_UPDATES_MIN) {
        job.shape = shape_of(screen->manifest, job.count);
        job.memory_bytes = screen->memory_bytes - tier_merge_look_bytes(screen->count);
        norms = malloc(job.count * sizeof *norms);
        if (!norms) {
            st = tier_fail(err, TIER_ENOMEM, "no memory to screen %zu updates", job.count);
            goto out;
        }
        TIER_TRY_OUT(tier_merge_pass_screen(&job, err));
        judge_all(&job, screen->limits, norms, out, &all);
    }
    *figures_out = all;
out:
    free(norms);
    tier_merge_look_release(&job);
    return st;
}

static int by_id(const void *a, const void *b) {
    return memcmp(a, b, TIER_HASH_BYTES);
}

void tier_screen_set(struct tier_hash *ids, size_t count, struct tier_hash *out) {
    if (count > 1)
        qsort(ids, count, sizeof *ids, by_id);
    tier_hash_data(ids, count * sizeof *ids, out);
}
