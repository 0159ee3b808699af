/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Axes are gone through one after another, those that shrink most first, so that nothing in between
 * is larger than the larger of input and output. Weights of an axis are worked out once. Sums are
 * in float, in order of the input: the same bits on every machine.
 */
#include "spoke/grid.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void spoke_grid_release(struct spoke_grid *g) {
    free(g->at);
    *g = (struct spoke_grid){0};
}

struct spoke_axis spoke_axis_stretch(size_t in, size_t out) {
    double step = (double)in / (double)out;
    return (struct spoke_axis){.in = in, .out = out, .start = 0.5 * step - 0.5, .step = step};
}

struct spoke_axis spoke_axis_centre(size_t in, size_t out, double step, bool mirror) {
    double half_in = ((double)in - 1.0) / 2.0, half_out = ((double)out - 1.0) / 2.0;
    double way = mirror ? -step : step;

    /* Without resampling, elements fall on elements: an odd rest goes to the far side. */
    if (step == 1.0 && (in + out) % 2 == 1)
        half_in -= mirror ? -0.5 : 0.5;
    return (struct spoke_axis){
        .in = in, .out = out, .start = half_in - half_out * way, .step = way};
}

/* ---- weights ------------------------------------------------------------------------------- */

struct weights {
    size_t per; /* room of each output */
    size_t *first, *count;
    float *w; /* [out x per] */
};

static void weights_release(struct weights *w) {
    free(w->first);
    free(w->count);
    free(w->w);
}

/* A triangle of half width `reach` around x, cut at the input's ends, to a sum of 1. */
static void triangle(double x, double reach, size_t in, size_t *first, size_t *count, float *w) {
    double low = ceil(x - reach), high = floor(x + reach), sum = 0.0;

    low = low < 0.0 ? 0.0 : low;
    high = high > (double)(in - 1) ? (double)(in - 1) : high;
    *first = (size_t)low;
    *count = (size_t)(high - low) + 1;
    for (size_t k = 0; k < *count; k++)
        sum += 1.0 - fabs(low + (double)k - x) / reach;
    for (size_t k = 0; k < *count; k++)
        w[k] = (float)((1.0 - fabs(low + (double)k - x) / reach) / sum);
}

static bool weights_make(const struct spoke_axis *a, enum spoke_interpolation how,
                         struct weights *out) {
    double step = fabs(a->step), reach = how == SPOKE_AREA && step > 1.0 ? step : 1.0;
    double last = (double)(a->in - 1);

    if (reach > (double)a->in + 1.0)
        reach = (double)a->in + 1.0;
    out->per = how == SPOKE_NEAREST ? 1 : (size_t)(2.0 * reach) + 2;
    out->first = calloc(a->out, sizeof *out->first);
    out->count = calloc(a->out, sizeof *out->count);
    out->w = calloc(a->out, out->per * sizeof *out->w);
    if (!out->first || !out->count || !out->w)
        return false;
    for (size_t o = 0; o < a->out; o++) {
        double x = a->start + (double)o * a->step;
        float *w = out->w + o * out->per;
        if (!(x >= -0.5 - 1e-9 && x <= last + 0.5 + 1e-9))
            continue; /* outside: no input, 0 */
        x = x < 0.0 ? 0.0 : x > last ? last : x;
        if (how == SPOKE_NEAREST || x == floor(x + 0.5)) {
            double nearest = floor(x + 0.5);
            if (how != SPOKE_AREA || reach == 1.0) {
                out->first[o] = (size_t)(nearest > last ? last : nearest);
                out->count[o] = 1;
                w[0] = 1.0f;
                continue;
            }
        }
        triangle(x, reach, a->in, &out->first[o], &out->count[o], w);
    }
    return true;
}

/* ---- passes -------------------------------------------------------------------------------- */

/* One axis of before x in x after. */
static void pass(const float *in, size_t before, const struct spoke_axis *a, size_t after,
                 const struct weights *weights, float *out) {
    for (size_t b = 0; b < before; b++) {
        for (size_t o = 0; o < a->out; o++) {
            float *to = out + (b * a->out + o) * after;
            const float *w = weights->w + o * weights->per;
            memset(to, 0, after * sizeof *to);
            for (size_t k = 0; k < weights->count[o]; k++) {
                const float *from = in + (b * a->in + weights->first[o] + k) * after;
                for (size_t i = 0; i < after; i++)
                    to[i] += w[k] * from[i];
            }
        }
    }
}

static bool is_same(const struct spoke_axis *a) {
    return a->in == a->out && a->step == 1.0 && a->start == 0.0;
}

static enum tier_status do_axis(const float *in, const size_t side[3], int which,
                                const struct spoke_axis *a, enum spoke_interpolation how,
                                float *out, struct tier_err *err) {
    size_t before = 1, after = 1;
    struct weights w = {0};
    bool made = weights_make(a, how, &w);

    for (int i = 0; i < which; i++)
        before *= side[i];
    for (int i = which + 1; i < 3; i++)
        after *= side[i];
    if (made)
        pass(in, before, a, after, &w, out);
    weights_release(&w);
    return made ? TIER_OK : tier_fail(err, TIER_ENOMEM, "no memory to resample an image");
}

enum tier_status spoke_grid_resample(const float *in, const struct spoke_axis axis[3],
                                     enum spoke_interpolation how, float *out,
                                     struct tier_err *err) {
    size_t side[3] = {axis[0].in, axis[1].in, axis[2].in};
    bool done[3];
    float *held = NULL;
    int left = 0;
    enum tier_status st = TIER_OK;

    for (int i = 0; i < 3; i++) {
        done[i] = is_same(&axis[i]);
        left += !done[i];
    }
    if (left == 0)
        memcpy(out, in, side[0] * side[1] * side[2] * sizeof *out);
    for (; left > 0; left--) {
        int next = -1;
        for (int i = 0; i < 3; i++)
            if (!done[i] && (next < 0 || (double)axis[i].out / (double)axis[i].in <
                                             (double)axis[next].out / (double)axis[next].in))
                next = i;
        size_t n = axis[next].out;
        for (int i = 0; i < 3; i++)
            n *= i == next ? 1 : side[i];
        float *to = left == 1 ? out : malloc(n * sizeof *to);
        if (!to) {
            st = tier_fail(err, TIER_ENOMEM, "no memory to resample an image");
            break;
        }
        st = do_axis(held ? held : in, side, next, &axis[next], how, to, err);
        free(held);
        held = to == out ? NULL : to;
        if (st != TIER_OK)
            break;
        side[next] = axis[next].out;
        done[next] = true;
    }
    free(held);
    return st;
}

/* ---- percentiles --------------------------------------------------------------------------- */

static void swap(float *a, float *b) {
    float t = *a;
    *a = *b;
    *b = t;
}

/* Selection by three-way partition: x[k] is then the k-th smallest, nothing after it is smaller. */
static void select_kth(float *x, size_t n, size_t k) {
    size_t low = 0, high = n - 1;

    while (low < high) {
        float pivot = x[low + (high - low) / 2];
        size_t below = low, above = high, i = low;
        while (i <= above) {
            if (x[i] < pivot)
                swap(&x[below++], &x[i++]);
            else if (x[i] > pivot)
                swap(&x[i], &x[above--]); /* the pivot's own place keeps this above `low` */
            else
                i++;
        }
        if (k < below)
            high = below - 1;
        else if (k > above)
            low = above + 1;
        else
            return;
    }
}

static double percentile(float *x, size_t n, double percent) {
    double at = percent / 100.0 * (double)(n - 1);
    size_t k = (size_t)at;

    select_kth(x, n, k);
    double value = x[k];
    if (k + 1 == n || at == (double)k)
        return value;
    float next = x[k + 1];
    for (size_t i = k + 2; i < n; i++)
        next = x[i] < next ? x[i] : next;
    return value + (at - (double)k) * (next - value);
}

enum tier_status spoke_grid_clip(float *at, size_t n, double low, double high, bool nonzero,
                                 struct tier_err *err) {
    float *x = calloc(n ? n : 1, sizeof *x);
    size_t used = 0;

    if (!x)
        return tier_fail(err, TIER_ENOMEM, "no memory for the percentiles of an image");
    for (size_t i = 0; i < n; i++)
        if (!nonzero || at[i] != 0.0f)
            x[used++] = at[i];
    if (used > 0) {
        float least = (float)percentile(x, used, low), most = (float)percentile(x, used, high);
        for (size_t i = 0; i < n; i++) {
            if (nonzero && at[i] == 0.0f)
                continue;
            at[i] = at[i] < least ? least : at[i] > most ? most : at[i];
        }
    }
    free(x);
    return TIER_OK;
}
