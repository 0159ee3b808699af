/* SPDX-License-Identifier: Apache-2.0 */
#include "spoke/slide.h"
#include "spoke/patch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct spoke_slide {
    struct spoke_net *net;
    struct spoke_patch patch;
    struct spoke_shape shape;
    size_t features, spots, outputs, whole, batch; /* of a window; of an image; windows at once */
    struct kern_buf *device;
    float *x, *z;   /* [batch x features], [batch x spots x outputs] */
    float *weight;  /* [spots] of a window */
    float *weights; /* [whole]: the sum over the windows that a spot lies in */
};

/* Over the window's axes the product of exp(-(i - centre)^2 / 2 deviation^2). */
static void make_weights(struct spoke_slide *s) {
    for (size_t i = 0; i < s->spots; i++) {
        size_t rest = i;
        double exponent = 0.0;
        for (size_t k = s->patch.axes; k-- > 0;) {
            double side = (double)s->patch.side[k];
            double d = ((double)(rest % s->patch.side[k]) - (side - 1.0) / 2.0) / (side / 8.0);
            exponent += d * d / 2.0;
            rest /= s->patch.side[k];
        }
        s->weight[i] = (float)exp(-exponent);
    }
}

/* Adds a window to the image, `outputs` numbers a spot: z[spots x outputs] times the weight, or,
 * without z, the weight itself. */
static void add_window(const struct spoke_slide *s, const size_t at[SPOKE_AXES_MAX], const float *z,
                       size_t outputs, float *to) {
    size_t whole[SPOKE_AXES_MAX] = {1, 1, 1}, side[SPOKE_AXES_MAX] = {1, 1, 1};
    size_t flat = SPOKE_AXES_MAX - s->shape.axes, i = 0;

    for (size_t k = 0; k < s->shape.axes; k++) {
        whole[flat + k] = s->shape.side[k];
        side[flat + k] = s->patch.side[k];
    }
    for (size_t d = 0; d < side[0]; d++)
        for (size_t h = 0; h < side[1]; h++) {
            float *line = to + (((at[0] + d) * whole[1] + at[1] + h) * whole[2] + at[2]) * outputs;
            for (size_t w = 0; w < side[2]; w++, i++)
                for (size_t c = 0; c < outputs; c++)
                    line[w * outputs + c] += s->weight[i] * (z ? z[i * outputs + c] : 1.0f);
        }
}

enum tier_status spoke_slide_new(struct spoke_net *net, const struct spoke_patch *patch,
                                 const struct spoke_shape *shape, struct spoke_slide **slide_out,
                                 struct tier_err *err) {
    struct spoke_shape window = spoke_patch_shape(patch, shape);
    struct spoke_slide *s = calloc(1, sizeof *s);
    enum tier_status st = TIER_OK;

    if (!s)
        return tier_fail(err, TIER_ENOMEM, "no memory for windows of an image");
    *s = (struct spoke_slide){.net = net,
                              .patch = *patch,
                              .shape = *shape,
                              .features = spoke_net_features(net),
                              .spots = spoke_net_spots(net),
                              .outputs = spoke_net_outputs(net),
                              .batch = spoke_net_batch_max(net),
                              .whole = 1};
    size_t spots = 1, count = spoke_patch_windows(patch, shape);
    for (size_t i = 0; i < shape->axes; i++) {
        s->whole *= shape->side[i];
        spots *= window.side[i];
    }
    s->batch = count < s->batch ? count : s->batch;
    if (s->spots != spots || s->features != spots * shape->channels) {
        st = tier_fail(err, TIER_EDATA,
                       "a window has %zu values at %zu spots: the model takes %zu and predicts %zu",
                       spots * shape->channels, spots, s->features, s->spots);
        goto out;
    }
    s->x = malloc(s->batch * s->features * sizeof *s->x);
    s->z = malloc(s->batch * s->spots * s->outputs * sizeof *s->z);
    s->weight = malloc(s->spots * sizeof *s->weight);
    s->weights = calloc(s->whole, sizeof *s->weights);
    if (!s->x || !s->z || !s->weight || !s->weights) {
        st =
            tier_fail(err, TIER_ENOMEM, "no memory for windows of an image of %zu spots", s->whole);
        goto out;
    }
    enum kern_status kst =
        kern_buf_new(spoke_net_device(net), s->batch * s->features * sizeof(float), &s->device);
    if (kst != KERN_OK) {
        st = spoke_net_kern_fail(spoke_net_device(net), kst, "taking memory for windows", err);
        goto out;
    }
    make_weights(s);
    for (size_t i = 0; i < count; i++) {
        size_t at[SPOKE_AXES_MAX];
        spoke_patch_window(patch, shape, i, at);
        add_window(s, at, NULL, 1, s->weights);
    }
    *slide_out = s;
    return TIER_OK;
out:
    spoke_slide_free(s);
    return st;
}

void spoke_slide_free(struct spoke_slide *s) {
    if (!s)
        return;
    kern_buf_free(s->device);
    free(s->x);
    free(s->z);
    free(s->weight);
    free(s->weights);
    free(s);
}

/* Windows [first, first + n) of the image. */
static enum tier_status forward(struct spoke_slide *s, const float *x, size_t first, size_t n,
                                struct tier_err *err) {
    size_t at[SPOKE_AXES_MAX], each = s->spots * s->outputs;
    struct kern_vec z;

    for (size_t i = 0; i < n; i++) {
        spoke_patch_window(&s->patch, &s->shape, first + i, at);
        spoke_patch_cut(&s->patch, &s->shape, at, x, NULL, s->x + i * s->features, NULL);
    }
    enum kern_status st = kern_upload(s->device, 0, s->x, n * s->features * sizeof *s->x);
    if (st != KERN_OK)
        return spoke_net_kern_fail(spoke_net_device(s->net), st, "an upload", err);
    TIER_TRY(spoke_net_forward(s->net, (struct kern_vec){s->device, 0}, n, &z, err));
    st = kern_download(s->z, z.buf, z.at * sizeof(float), n * each * sizeof(float));
    if (st != KERN_OK)
        return spoke_net_kern_fail(spoke_net_device(s->net), st, "a download", err);
    for (size_t i = 0; i < n * each; i++)
        if (!isfinite(s->z[i]))
            return tier_fail(err, TIER_EMODEL,
                             "the model gives an output that is not finite: its training diverged");
    return TIER_OK;
}

enum tier_status spoke_slide_row(struct spoke_slide *s, const float *x, float *logits,
                                 struct tier_err *err) {
    size_t count = spoke_patch_windows(&s->patch, &s->shape), at[SPOKE_AXES_MAX];

    memset(logits, 0, s->whole * s->outputs * sizeof *logits);
    for (size_t first = 0, n; first < count; first += n) {
        n = count - first < s->batch ? count - first : s->batch;
        TIER_TRY(forward(s, x, first, n, err));
        for (size_t i = 0; i < n; i++) {
            spoke_patch_window(&s->patch, &s->shape, first + i, at);
            add_window(s, at, s->z + i * s->spots * s->outputs, s->outputs, logits);
        }
    }
    for (size_t i = 0; i < s->whole; i++)
        for (size_t c = 0; c < s->outputs; c++)
            logits[i * s->outputs + c] /= s->weights[i];
    return TIER_OK;
}
