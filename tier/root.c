/* SPDX-License-Identifier: Apache-2.0 */
/* The plan, not the run, is named in a model: the same plan on the same data publishes the same
 * file again. */
#include "tier/root.h"
#include "tier/content.h"
#include "tier/fedcurv.h"
#include "tier/nova.h"
#include "tier/stale.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

void tier_root_init(struct tier_root *root, const struct tier_plan *plan, const void *text,
                    size_t bytes, uint64_t round) {
    *root = (struct tier_root){.round = round,
                               .normalises = plan->normalise,
                               .buffers = tier_stale_in(plan),
                               .weighs = tier_fedcurv_on(plan)};
    tier_hash_data(text, bytes, &root->plan);
    root->optimises = tier_task_server(plan, &root->optimiser);
    root->shortens = tier_task_down(plan, round + 1, &root->down);
}

static enum tier_status publish(const struct tier_root *root, const struct tier_update *u,
                                const struct tier_manifest *manifest, const char *models_dir,
                                struct tier_published *made, struct tier_err *err) {
    const struct tier_update_header *h = tier_spool_update_header(u);
    struct tier_model *base = NULL;
    char round[24], weight[24], plan[TIER_HASH_HEX];
    const struct tier_kv metadata[] = {{"format", "pt"},
                                       {TIER_FEDCURV_ROUND, round},
                                       {"consilium.plan", tier_hash_hex(&root->plan, plan)},
                                       {TIER_FEDCURV_WEIGHT, weight}};
    enum tier_status st;

    snprintf(round, sizeof round, "%" PRIu64, root->round);
    snprintf(weight, sizeof weight, "%" PRIu64, h->weight);
    char *path = tier_content_path(models_dir, &root->base, TIER_CONTENT_MODEL);
    TIER_TRY_OUT(tier_model_open(path, &base, err));
    const struct tier_publish p = {.sum = u,
                                   .manifest = manifest,
                                   .base = base,
                                   .models_dir = models_dir,
                                   .metadata = metadata,
                                   .metadata_count = root->weighs ? 4 : 3,
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
        st = publish(root, u, manifest, models_dir, made_out, err);
    tier_spool_update_close(u);
    return st;
}
