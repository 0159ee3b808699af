/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Everything is of three axes here: an image with fewer is one spot thick along those it has not.
 */
#include "spoke/patch.h"
#include "spoke/draw.h"

#include <assert.h>
#include <math.h>
#include <string.h>

struct box {
    size_t whole[SPOKE_AXES_MAX], side[SPOKE_AXES_MAX];
};

static struct box box_of(const struct spoke_patch *p, const struct spoke_shape *s) {
    struct box b = {{1, 1, 1}, {1, 1, 1}};
    size_t flat = SPOKE_AXES_MAX - s->axes;

    assert(p->axes == s->axes);
    for (size_t i = 0; i < s->axes; i++) {
        b.whole[flat + i] = s->side[i];
        b.side[flat + i] = p->side[i];
    }
    return b;
}

struct spoke_patch spoke_patch_of(const struct tier_plan *plan) {
    struct spoke_patch p = {.positive = plan->patch.positive, .overlap = plan->patch.overlap};
    uint64_t side[TIER_PLAN_PATCH_AXES_MAX];

    p.axes = tier_plan_patch_sides(plan, side);
    for (size_t i = 0; i < p.axes; i++)
        p.side[i] = (size_t)side[i];
    if (plan->loss_options.ignore_class != TIER_PLAN_IGNORE_NONE)
        p.ignore = (int32_t)plan->loss_options.ignore_class;
    return p;
}

enum tier_status spoke_patch_check(const struct spoke_patch *p, const struct spoke_shape *s,
                                   bool masks, struct tier_err *err) {
    if (p->axes == 0)
        return TIER_OK;
    if (!masks)
        return tier_fail(err, TIER_EDATA,
                         "windows of an image are for masks: a column of type mask would be right, "
                         "or a plan without local.patch");
    if (p->axes != s->axes)
        return tier_fail(err, TIER_EDATA,
                         "windows of %zu sides were asked for: the schema's images have %zu",
                         p->axes, s->axes);
    for (size_t i = 0; i < p->axes; i++)
        if (p->side[i] < 1 || p->side[i] > s->side[i])
            return tier_fail(err, TIER_EDATA,
                             "a window's side %zu is %zu: the schema's images are %zu there, and a "
                             "window is no longer than an image",
                             i + 1, p->side[i], s->side[i]);
    if (!(p->overlap >= 0.0 && p->overlap < 1.0) || !(p->positive >= 0.0 && p->positive <= 1.0))
        return tier_fail(err, TIER_EDATA,
                         "windows overlap by a share of at least 0 and below 1, and have a share "
                         "of positives from 0 to 1");
    return TIER_OK;
}

struct spoke_shape spoke_patch_shape(const struct spoke_patch *p, const struct spoke_shape *s) {
    struct spoke_shape out = *s;

    for (size_t i = 0; i < p->axes; i++)
        out.side[i] = p->side[i];
    return out;
}

/* ---- where ----------------------------------------------------------------------------------- */

/* In [0, n), for n far below 2^53: no value is likelier than another by more than n / 2^53. */
static size_t below(uint64_t *state, size_t n) {
    return (size_t)(spoke_draw_uniform(state) * (double)n);
}

static bool is_positive(const struct spoke_patch *p, int32_t label) {
    return label > 0 && label != p->ignore;
}

void spoke_patch_draw(const struct spoke_patch *p, const struct spoke_shape *s, uint64_t seed,
                      const int32_t *mask, size_t at_out[SPOKE_AXES_MAX]) {
    const struct box b = box_of(p, s);
    size_t spots = b.whole[0] * b.whole[1] * b.whole[2], positives = 0, spot = 0;
    uint64_t state = seed;
    bool around = spoke_draw_uniform(&state) < p->positive;

    for (size_t i = 0; around && i < spots; i++)
        positives += is_positive(p, mask[i]);
    if (positives == 0) {
        for (int k = 0; k < (int)SPOKE_AXES_MAX; k++)
            at_out[k] = below(&state, b.whole[k] - b.side[k] + 1);
        return;
    }
    for (size_t nth = below(&state, positives);; spot++) {
        if (is_positive(p, mask[spot]) && nth-- == 0)
            break;
    }
    const size_t centre[SPOKE_AXES_MAX] = {spot / (b.whole[1] * b.whole[2]),
                                           spot / b.whole[2] % b.whole[1], spot % b.whole[2]};
    for (int k = 0; k < (int)SPOKE_AXES_MAX; k++) {
        size_t half = b.side[k] / 2, last = b.whole[k] - b.side[k];
        size_t first = centre[k] > half ? centre[k] - half : 0;
        at_out[k] = first < last ? first : last;
    }
}

void spoke_patch_cut(const struct spoke_patch *p, const struct spoke_shape *s,
                     const size_t at[SPOKE_AXES_MAX], const float *x, const int32_t *mask,
                     float *x_out, int32_t *mask_out) {
    const struct box b = box_of(p, s);
    size_t area = b.whole[1] * b.whole[2], run = b.side[2];

    for (size_t c = 0; x && c < s->channels; c++)
        for (size_t z = 0; z < b.side[0]; z++)
            for (size_t y = 0; y < b.side[1]; y++, x_out += run)
                memcpy(x_out,
                       x + (c * b.whole[0] + at[0] + z) * area + (at[1] + y) * b.whole[2] + at[2],
                       run * sizeof *x);
    for (size_t z = 0; mask && z < b.side[0]; z++)
        for (size_t y = 0; y < b.side[1]; y++, mask_out += run)
            memcpy(mask_out, mask + (at[0] + z) * area + (at[1] + y) * b.whole[2] + at[2],
                   run * sizeof *mask);
}

/* ---- all of them ----------------------------------------------------------------------------- */

static size_t stride(const struct spoke_patch *p, size_t side) {
    size_t n = (size_t)((double)side * (1.0 - p->overlap));
    return n > 0 ? n : 1;
}

static size_t along(const struct spoke_patch *p, const struct box *b, size_t axis) {
    size_t step = stride(p, b->side[axis]);
    return (b->whole[axis] - b->side[axis] + step - 1) / step + 1;
}

size_t spoke_patch_windows(const struct spoke_patch *p, const struct spoke_shape *s) {
    const struct box b = box_of(p, s);
    return along(p, &b, 0) * along(p, &b, 1) * along(p, &b, 2);
}

void spoke_patch_window(const struct spoke_patch *p, const struct spoke_shape *s, size_t i,
                        size_t at_out[SPOKE_AXES_MAX]) {
    const struct box b = box_of(p, s);

    for (int k = (int)SPOKE_AXES_MAX - 1; k >= 0; k--) {
        size_t n = along(p, &b, (size_t)k), last = b.whole[k] - b.side[k];
        size_t first = i % n * stride(p, b.side[k]);
        at_out[k] = first < last ? first : last;
        i /= n;
    }
}
