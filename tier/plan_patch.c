/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Windows of images in a plan: the contract says how large a hospital's images are, the plan how
 * large a piece of them its model takes, for hospitals keep one contract and try several models.
 */
#include "tier/graph.h"
#include "tier/plan_keys.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define complain tier_plan_complain
#define SIDE_MAX 65536
#define OVERLAP 0.25

/* 0 for what is no whole number from 1 to SIDE_MAX, in its only spelling. */
static uint64_t side_of(const char *text) {
    size_t digits = strspn(text, "0123456789");
    uint64_t value = digits > 0 && digits <= 5 && !text[digits] ? strtoull(text, NULL, 10) : 0;
    return *text != '0' && value <= SIDE_MAX ? value : 0;
}

size_t tier_plan_patch_sides(const struct tier_plan *p, uint64_t side[TIER_PLAN_PATCH_AXES_MAX]) {
    size_t n = 0;

    for (; n < p->patch.size.count && n < TIER_PLAN_PATCH_AXES_MAX; n++)
        side[n] = side_of(tier_keys_list_item(&p->patch.size, n));
    return n;
}

static void check_sides(const struct tier_plan_checker *c) {
    const struct tier_keys_list *size = &c->plan->patch.size;

    for (size_t i = 0; i < size->count; i++)
        if (side_of(tier_keys_list_item(size, i)) == 0) {
            complain(c, "local.patch.size", "must be whole numbers from 1 to %d, not '%.40s'",
                     SIDE_MAX, tier_keys_list_item(size, i));
            return;
        }
    if (size->count > TIER_PLAN_PATCH_AXES_MAX)
        complain(c, "local.patch.size", "has %zu sides: an image has at most %d", size->count,
                 TIER_PLAN_PATCH_AXES_MAX);
}

void tier_plan_check_patch(const struct tier_plan_checker *c) {
    const struct tier_plan *p = c->plan;
    bool masks = p->loss == TIER_PLAN_CROSS_ENTROPY || p->loss == TIER_PLAN_DICE ||
                 p->loss == TIER_PLAN_DICE_CE;

    check_sides(c);
    if (p->patch.size.count == 0) {
        if (p->patch.positive > 0)
            complain(c, "local.patch.positive", "needs local.patch.size");
        if (p->patch.overlap != OVERLAP && p->patch.overlap > 0)
            complain(c, "local.patch.overlap", "needs local.patch.size");
        return;
    }
    if (p->loss >= 0 && !masks)
        complain(c, "local.patch.size",
                 "is for masks: it needs local.loss: dice, dice_ce or cross_entropy");
    if (p->curvature.lambda > 0)
        complain(c, "local.patch.size",
                 "excludes local.curvature.lambda: Fisher information is of whole rows");
}

/* "16 x 16 x 8" */
static const char *sides_text(const uint64_t *side, size_t n, char *text, size_t size) {
    size_t at = 0;

    text[0] = '\0';
    for (size_t i = 0; i < n && at < size; i++)
        at += (size_t)snprintf(text + at, size - at, i ? " x %" PRIu64 : "%" PRIu64, side[i]);
    return text;
}

enum tier_status tier_plan_patch_fits(const struct tier_plan *p, const struct tier_graph *graph,
                                      struct tier_err *err) {
    uint64_t side[TIER_PLAN_PATCH_AXES_MAX];
    size_t n = tier_plan_patch_sides(p, side);
    struct tier_shapes *shapes = NULL;
    char wanted[80], has[160];

    if (n == 0)
        return TIER_OK;
    TIER_TRY(tier_graph_infer(graph, 1, &shapes, err));
    const struct tier_shape *in = tier_shapes_of(shapes, tier_graph_input(graph));
    bool same = in->rank == n + 2;
    for (size_t i = 0; same && i < n; i++)
        same = in->dims[2 + i] == side[i];
    sides_text(in->dims, in->rank, has, sizeof has);
    tier_shapes_free(shapes);
    if (same)
        return TIER_OK;
    return tier_fail(err, TIER_EPLAN,
                     "local.patch.size is %s: the model's input is %s, where batch, channels and "
                     "those sides would be right",
                     sides_text(side, n, wanted, sizeof wanted), has);
}
