/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Flips, rotation and scaling are one map of the plane, so that a pixel is interpolated once.
 * Random numbers are drawn in one order whatever is asked for: switching noise on leaves the
 * rotations as they were.
 */
#include "spoke/augment.h"
#include "spoke/draw.h"

#include <math.h>
#include <string.h>

#define PI 3.14159265358979323846

static double either_way(uint64_t *state) {
    return 2.0 * spoke_draw_uniform(state) - 1.0;
}

bool spoke_augment_is_none(const struct spoke_augment *a) {
    bool flips = false;
    for (int i = 0; i < (int)SPOKE_AXES_MAX; i++)
        flips = flips || a->flip[i];
    return !flips && a->rotate_deg == 0.0 && a->scale == 0.0 && a->gain == 0.0 &&
           a->offset == 0.0 && a->noise == 0.0;
}

enum tier_status spoke_augment_check(const struct spoke_augment *a, const struct spoke_shape *shape,
                                     struct tier_err *err) {
    const double given[] = {a->rotate_deg, a->scale, a->gain, a->offset, a->noise};
    const double most[] = {180.0, 10.0, 1.0, 1e6, 1e6};
    static const char *const names[] = {"rotate_deg", "scale", "contrast", "brightness", "noise"};

    for (size_t i = 0; i < sizeof most / sizeof most[0]; i++)
        if (!(given[i] >= 0.0 && given[i] <= most[i]))
            return tier_fail(err, TIER_EARG, "augmentation: %s must be from 0 to %g", names[i],
                             most[i]);
    struct spoke_augment rest = *a;
    rest.noise = 0.0;
    if (shape->axes == 0 && !spoke_augment_is_none(&rest))
        return tier_fail(err, TIER_EARG,
                         "augmentation: rows of a table can have noise alone: flips, rotations, "
                         "scale, contrast and brightness belong to images");
    for (size_t i = shape->axes; i < SPOKE_AXES_MAX; i++)
        if (a->flip[i])
            return tier_fail(err, TIER_EARG,
                             "augmentation: there is no %c to flip: the data have %zu axes",
                             "xyz"[i], shape -> axes);
    if ((a->rotate_deg > 0.0 || a->scale > 0.0) && shape->axes < 2)
        return tier_fail(err, TIER_EARG, "augmentation: rotate_deg and scale need two axes");
    return TIER_OK;
}

/* ---- places -------------------------------------------------------------------------------- */

/* Where output (y, x) of a plane comes from, around its centre: the inverse of turn and scale. */
struct map {
    size_t depth, height, width;
    bool flip_depth, flip_y, flip_x, moves;
    double cosine, sine; /* over the scale */
};

/* Of places in a plane, a few thousand at most; a call of floor for each pixel would be half of it.
 */
static double floor_of(double v) {
    double whole = (double)(int64_t)v;
    return whole > v ? whole - 1.0 : whole;
}

static size_t clamp(double at, size_t n) {
    return at <= 0.0 ? 0 : at >= (double)(n - 1) ? n - 1 : (size_t)at;
}

static void source_of(const struct map *m, size_t y, size_t x, double *from_y, double *from_x) {
    double cy = ((double)m->height - 1.0) / 2.0, cx = ((double)m->width - 1.0) / 2.0;
    double dy = (double)y - cy, dx = (double)x - cx;

    *from_y = m->moves ? cy + m->cosine * dy - m->sine * dx : (double)y;
    *from_x = m->moves ? cx + m->sine * dy + m->cosine * dx : (double)x;
    if (m->flip_y)
        *from_y = (double)m->height - 1.0 - *from_y;
    if (m->flip_x)
        *from_x = (double)m->width - 1.0 - *from_x;
}

static float linear(const float *plane, const struct map *m, double y, double x) {
    double low_y = floor_of(y), low_x = floor_of(x);
    const float *above = plane + clamp(low_y, m->height) * m->width;
    const float *below = plane + clamp(low_y + 1.0, m->height) * m->width;
    size_t left = clamp(low_x, m->width), right = clamp(low_x + 1.0, m->width);
    float fy = (float)(y - low_y), fx = (float)(x - low_x);
    float top = above[left] + fx * (above[right] - above[left]);
    float low = below[left] + fx * (below[right] - below[left]);
    return top + fy * (low - top);
}

static void move_channel(const struct map *m, float *x, float *scratch) {
    size_t area = m->height * m->width;

    memcpy(scratch, x, m->depth * area * sizeof *x);
    for (size_t z = 0; z < m->depth; z++) {
        const float *plane = scratch + (m->flip_depth ? m->depth - 1 - z : z) * area;
        for (size_t y = 0; y < m->height; y++) {
            for (size_t i = 0; i < m->width; i++) {
                double from_y, from_x;
                source_of(m, y, i, &from_y, &from_x);
                *x++ = linear(plane, m, from_y, from_x);
            }
        }
    }
}

/* A class, and votes for classes, are below 2^24, so that a float carries it. */
static void move_mask(const struct map *m, int32_t *mask, float *scratch) {
    size_t area = m->height * m->width;

    for (size_t i = 0; i < m->depth * area; i++)
        scratch[i] = (float)mask[i];
    for (size_t z = 0; z < m->depth; z++) {
        const float *plane = scratch + (m->flip_depth ? m->depth - 1 - z : z) * area;
        for (size_t y = 0; y < m->height; y++) {
            for (size_t x = 0; x < m->width; x++) {
                double from_y, from_x;
                source_of(m, y, x, &from_y, &from_x);
                *mask++ = (int32_t)plane[clamp(floor_of(from_y + 0.5), m->height) * m->width +
                                         clamp(floor_of(from_x + 0.5), m->width)];
            }
        }
    }
}

static struct map draw_map(const struct spoke_augment *a, const struct spoke_shape *shape,
                           uint64_t *state) {
    struct map m = {.depth = 1, .height = 1, .width = 1};
    size_t axes = shape->axes;
    bool flip[SPOKE_AXES_MAX] = {false};

    for (size_t i = 0; i < SPOKE_AXES_MAX; i++)
        flip[i] = spoke_draw(state) >> 63 && a->flip[i];
    double turn = a->rotate_deg * either_way(state) * PI / 180.0;
    double factor = pow(1.0 + a->scale, either_way(state));
    m.depth = axes > 2 ? shape->side[axes - 3] : 1;
    m.height = axes > 1 ? shape->side[axes - 2] : 1;
    m.width = axes > 0 ? shape->side[axes - 1] : 1;
    m.flip_depth = axes > 2 && flip[2];
    m.flip_y = axes > 1 && flip[1];
    m.flip_x = axes > 0 && flip[0];
    m.moves = turn != 0.0 || factor != 1.0;
    m.cosine = cos(turn) / factor;
    m.sine = sin(turn) / factor;
    return m;
}

/* ---- values -------------------------------------------------------------------------------- */

static void change_values(const struct spoke_augment *a, uint64_t *state, float *x, size_t n) {
    float gain = (float)(1.0 + a->gain * either_way(state));
    float offset = (float)(a->offset * either_way(state));

    if (gain != 1.0f || offset != 0.0f)
        for (size_t i = 0; i < n; i++)
            x[i] = x[i] * gain + offset;
    uint64_t noise = spoke_draw(state); /* a stream of its own: it is long */
    for (size_t i = 0; a->noise > 0.0 && i < n; i += 2) {
        /* Box and Muller 1958, in pairs. */
        double radius = a->noise * sqrt(-2.0 * log(1.0 - spoke_draw_uniform(&noise)));
        double angle = 2.0 * PI * spoke_draw_uniform(&noise);
        x[i] += (float)(radius * cos(angle));
        if (i + 1 < n)
            x[i + 1] += (float)(radius * sin(angle));
    }
}

void spoke_augment_row(const struct spoke_augment *a, const struct spoke_shape *shape,
                       uint64_t seed, float *x, int32_t *mask, float *scratch) {
    struct map m = draw_map(a, shape, &seed);
    size_t n = m.depth * m.height * m.width;
    bool moved = m.moves || m.flip_depth || m.flip_y || m.flip_x;

    for (size_t c = 0; c < shape->channels; c++) {
        if (moved)
            move_channel(&m, x + c * n, scratch);
        change_values(a, &seed, x + c * n, n);
    }
    if (moved && mask)
        move_mask(&m, mask, scratch);
}
