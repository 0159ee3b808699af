/* SPDX-License-Identifier: Apache-2.0 */
/* The plan, not the run, is named in a model: the same plan on the same data publishes the same
 * file again. */
#include "tier/root.h"
#include "tier/content.h"
#include "tier/fedcurv.h"
#include "tier/nova.h"
#include "tier/stale.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

void tier_root_init(struct tier_root *root, const struct tier_plan *plan, const void *text,
                    size_t bytes, uint64_t round) {
    *root = (struct tier_root){.round = round,
                               .normalises = plan->normalise,
                               .buffers = tier_stale_in(plan),
                               .weighs = tier_fedcurv_on(plan),
                               .plan_of = tier_site_on(plan) ? plan : NULL};
    tier_hash_data(text, bytes, &root->plan);
    root->optimises = tier_task_server(plan, &root->optimiser);
    root->shortens = tier_task_down(plan, round + 1, &root->down);
}

/* With weights of 1, the weight is the number of sites. */
static enum tier_status enough_sites(const struct tier_root *root,
                                     const struct tier_update_header *h, struct tier_err *err) {
    const struct tier_plan *plan = root->plan_of;

    if (!plan || h->weight >= plan->site.honest)
        return TIER_OK;
    return tier_fail(err, TIER_EPLAN,
                     "round %" PRIu64 " has the updates of %" PRIu64 " sites, and their noise is "
                     "that of privacy.site.honest_min, %" PRIu64 ": it is not published",
                     root->round, h->weight, plan->site.honest);
}

/* What the noise of this round is, and what the clip of the next. */
static enum tier_status site_step(const struct tier_root *root, const struct tier_update_header *h,
                                  const struct tier_model *base, uint64_t *variance_out,
                                  double *clip_out, struct tier_err *err) {
    const struct tier_plan *plan = root->plan_of;
    int64_t noise = 0, below;
    double clip;

    TIER_TRY(tier_site_clip_of(plan, base, &clip, err));
    *variance_out = tier_site_variance(plan, tier_site_units(plan, clip));
    *clip_out = clip;
    if (!tier_site_adapts(plan))
        return TIER_OK;
    below = h->metrics ? tier_metrics_scalar(h->metrics, TIER_SITE_METRIC) : 0;
    if (!tier_site_at_spokes(plan))
        TIER_TRY(tier_site_count(plan, &root->noise_key, NULL, &noise, err));
    *clip_out = tier_site_clip_next(plan, clip, below + noise, h->weight);
    return TIER_OK;
}

static enum tier_status publish(const struct tier_root *root, const struct tier_update *u,
                                const struct tier_manifest *manifest, const char *models_dir,
                                struct tier_published *made, struct tier_err *err) {
    const struct tier_update_header *h = tier_spool_update_header(u);
    struct tier_model *base = NULL;
    char round[24], weight[24], plan[TIER_HASH_HEX], clip[32] = "";
    struct tier_kv metadata[5] = {{"format", "pt"},
                                  {TIER_FEDCURV_ROUND, round},
                                  {"consilium.plan", tier_hash_hex(&root->plan, plan)}};
    size_t count = 3;
    uint64_t variance = 0;
    double next_clip = 0;
    enum tier_status st;

    snprintf(round, sizeof round, "%" PRIu64, root->round);
    snprintf(weight, sizeof weight, "%" PRIu64, h->weight);
    char *path = tier_content_path(models_dir, &root->base, TIER_CONTENT_MODEL);
    TIER_TRY_OUT(tier_model_open(path, &base, err));
    if (root->plan_of)
        TIER_TRY_OUT(site_step(root, h, base, &variance, &next_clip, err));
    if (root->weighs)
        metadata[count++] = (struct tier_kv){TIER_FEDCURV_WEIGHT, weight};
    if (root->plan_of && tier_site_adapts(root->plan_of))
        metadata[count++] =
            (struct tier_kv){TIER_SITE_CLIP, tier_real_text(next_clip, clip, sizeof clip)};
    bool noises = root->plan_of && !tier_site_at_spokes(root->plan_of);
    assert(!noises || !tier_noise_key_is_zero(&root->noise_key));
    const struct tier_publish p = {.sum = u,
                                   .manifest = manifest,
                                   .base = base,
                                   .models_dir = models_dir,
                                   .metadata = metadata,
                                   .metadata_count = count,
                                   .noise_key = noises ? &root->noise_key : NULL,
                                   .noise_variance = variance,
                                   .down = root->shortens ? &root->down : NULL,
                                   .optimiser = root->optimises ? &root->optimiser : NULL,
                                   .state = root->state,
                                   .stretch = root->normalises ? tier_nova_effective(h)
                                              : root->buffers  ? tier_stale_damping(h)
                                                               : 0};
    st = tier_publish_run(&p, made, err);
    if (st == TIER_EMODEL)
        tier_content_check(models_dir, &root->base, TIER_CONTENT_MODEL, NULL);
out:
    free(path);
    tier_model_close(base);
    return st;
}

enum tier_status tier_root_run(const struct tier_root *root, const struct tier_spool *spool,
                               const struct tier_manifest *manifest, const char *models_dir,
                               struct tier_published *made_out,
                               struct tier_task_figures *figures_out, uint64_t *weight_out,
                               struct tier_err *err) {
    struct tier_update *u = NULL;
    enum tier_status st = TIER_OK;

    TIER_TRY(tier_spool_update_open(spool, &root->update, &u, err));
    const struct tier_update_header *h = tier_spool_update_header(u);
    *figures_out = tier_task_figures(h->metrics);
    *weight_out = h->weight;
    *made_out = (struct tier_published){.model = root->base, .state = root->state};
    if (h->weight > 0)
        st = enough_sites(root, h, err);
    if (h->weight > 0 && st == TIER_OK)
        st = publish(root, u, manifest, models_dir, made_out, err);
    tier_spool_update_close(u);
    return st;
}
