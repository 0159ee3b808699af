/* SPDX-License-Identifier: Apache-2.0 */
#include "spoke/step.h"

#include <math.h>

#define KERN_TRY(s, what, call)                                                                    \
    do {                                                                                           \
        enum kern_status kern_try_ = (call);                                                       \
        if (kern_try_ != KERN_OK)                                                                  \
            return spoke_net_kern_fail(spoke_net_device((s)->net), kern_try_, what, err);          \
    } while (0)

static enum tier_status new_buf(struct spoke_stepper *s, size_t count, struct kern_buf **out,
                                struct tier_err *err) {
    KERN_TRY(s, "taking memory for training",
             kern_buf_new(spoke_net_device(s->net), count * sizeof(float), out));
    return TIER_OK;
}

/* What a recipe has for every parameter; nothing where it has none. */
static enum tier_status put_array(struct spoke_stepper *s, const float *values,
                                  struct kern_buf **out, struct tier_err *err) {
    size_t elements = spoke_net_elements(s->net);

    if (!values)
        return TIER_OK;
    TIER_TRY(new_buf(s, elements, out, err));
    KERN_TRY(s, "an upload", kern_upload(*out, 0, values, elements * sizeof *values));
    return TIER_OK;
}

enum tier_status spoke_stepper_init(struct spoke_stepper *s, struct spoke_net *net,
                                    const struct spoke_recipe *r, struct tier_err *err) {
    size_t elements = spoke_net_elements(net);
    bool adaptive = r->optimiser != SPOKE_OPT_SGD;

    *s = (struct spoke_stepper){.net = net, .recipe = r};
    if (adaptive)
        TIER_TRY(new_buf(s, elements, &s->m, err));
    if (adaptive || r->momentum > 0.0f)
        TIER_TRY(new_buf(s, elements, &s->v, err));
    TIER_TRY(put_array(s, r->control, &s->control, err));
    TIER_TRY(put_array(s, r->own_control, &s->own_control, err));
    TIER_TRY(put_array(s, r->stiffness, &s->stiffness, err));
    TIER_TRY(put_array(s, r->centre, &s->centre, err));
    if (r->clip_norm > 0.0f)
        TIER_TRY(new_buf(s, 1, &s->squares, err));
    if (r->ema > 0.0f)
        TIER_TRY(new_buf(s, elements, &s->mean, err));
    if (r->prox_mu > 0.0f) {
        struct kern_vec w = spoke_net_params(net);
        TIER_TRY(new_buf(s, elements, &s->start, err));
        KERN_TRY(s, "keeping the start",
                 kern_copy(s->start, 0, w.buf, w.at * sizeof(float), elements * sizeof(float)));
    }
    return TIER_OK;
}

void spoke_stepper_release(struct spoke_stepper *s) {
    kern_buf_free(s->m);
    kern_buf_free(s->v);
    kern_buf_free(s->start);
    kern_buf_free(s->squares);
    kern_buf_free(s->mean);
    kern_buf_free(s->control);
    kern_buf_free(s->own_control);
    kern_buf_free(s->stiffness);
    kern_buf_free(s->centre);
    *s = (struct spoke_stepper){0};
}

static struct kern_vec from(struct kern_buf *buf, size_t at) {
    return (struct kern_vec){buf, buf ? at : 0};
}

/* Parameters [at, at + n) of a vector that begins at v. */
static struct kern_vec part(struct kern_vec v, size_t at) {
    return (struct kern_vec){v.buf, v.at + at};
}

static enum tier_status add_terms(struct spoke_stepper *s, struct spoke_stretch p,
                                  struct tier_err *err) {
    const struct spoke_recipe *r = s->recipe;
    struct kern_vec w = part(spoke_net_params(s->net), p.at);
    struct kern_vec g = part(spoke_net_grads(s->net), p.at);

    if (s->start)
        KERN_TRY(s, "the proximal term",
                 kern_prox_grad(g, w, from(s->start, p.at), p.n, r->prox_mu));
    /* The proximal term's kernel with mu = 1: g += 1 * (control - own_control). */
    if (s->control)
        KERN_TRY(s, "the control variates",
                 kern_prox_grad(g, from(s->control, p.at), from(s->own_control, p.at), p.n, 1.0f));
    if (s->stiffness)
        KERN_TRY(s, "the pull towards the others",
                 kern_stiff_grad(g, w, from(s->centre, p.at), from(s->stiffness, p.at), p.n,
                                 2.0f * r->lambda));
    if (r->clip_value > 0.0f)
        KERN_TRY(s, "clipping gradients", kern_clip_value(g, p.n, r->clip_value));
    return TIER_OK;
}

/* By the norm of all that is trained together. */
static enum tier_status clip(struct spoke_stepper *s, const struct spoke_stretch *stretches,
                             size_t count, struct tier_err *err) {
    struct kern_vec squares = {s->squares, 0}, g = spoke_net_grads(s->net);

    KERN_TRY(s, "clearing the norm", kern_zero(s->squares, 0, sizeof(float)));
    for (size_t i = 0; i < count; i++)
        KERN_TRY(s, "the gradient's norm",
                 kern_square_sum(squares, part(g, stretches[i].at), stretches[i].n));
    for (size_t i = 0; i < count; i++)
        KERN_TRY(s, "clipping gradients",
                 kern_clip_norm(part(g, stretches[i].at), squares, stretches[i].n,
                                s->recipe->clip_norm));
    return TIER_OK;
}

static enum tier_status move(struct spoke_stepper *s, struct spoke_stretch p, uint64_t step,
                             float lr, struct tier_err *err) {
    const struct spoke_recipe *r = s->recipe;
    struct kern_vec w = part(spoke_net_params(s->net), p.at);
    struct kern_vec g = part(spoke_net_grads(s->net), p.at);
    struct kern_vec m = from(s->m, p.at), v = from(s->v, p.at);

    if (r->optimiser == SPOKE_OPT_SGD) {
        struct kern_sgd opt = {.lr = lr,
                               .momentum = r->momentum,
                               .weight_decay = r->weight_decay,
                               .nesterov = r->nesterov};
        KERN_TRY(s, "the optimiser", kern_sgd_step(w, g, v, p.n, &opt));
        return TIER_OK;
    }
    struct kern_adam opt = {.lr = lr,
                            .beta1 = r->beta1,
                            .beta2 = r->beta2,
                            .eps = r->eps,
                            .weight_decay = r->weight_decay,
                            .step = step,
                            .decoupled = r->optimiser == SPOKE_OPT_ADAMW};
    KERN_TRY(s, "the optimiser", kern_adam_step(w, g, m, v, p.n, &opt));
    return TIER_OK;
}

/* The mean of the parameters after steps 1 to k, weighted by ema^(k - j) for step j: after step k
 * it keeps ema (1 - ema^(k-1)) / (1 - ema^k) of what it was, nothing after the first. */
static enum tier_status follow(struct spoke_stepper *s, struct spoke_stretch p, uint64_t step,
                               struct tier_err *err) {
    double decay = (double)s->recipe->ema;
    double keep = decay * (1 - pow(decay, (double)(step - 1))) / (1 - pow(decay, (double)step));

    KERN_TRY(s, "averaging parameters",
             kern_axpby(from(s->mean, p.at), part(spoke_net_params(s->net), p.at), p.n,
                        (float)(1 - keep), (float)keep));
    return TIER_OK;
}

enum tier_status spoke_stepper_step(struct spoke_stepper *s, uint64_t step, float lr,
                                    struct tier_err *err) {
    size_t count;
    const struct spoke_stretch *stretches = spoke_net_stretches(s->net, &count);

    for (size_t i = 0; i < count; i++)
        TIER_TRY(add_terms(s, stretches[i], err));
    if (s->squares)
        TIER_TRY(clip(s, stretches, count, err));
    for (size_t i = 0; i < count; i++) {
        TIER_TRY(move(s, stretches[i], step, lr, err));
        if (s->mean)
            TIER_TRY(follow(s, stretches[i], step, err));
    }
    return TIER_OK;
}

enum tier_status spoke_stepper_end(struct spoke_stepper *s, struct tier_err *err) {
    struct kern_vec w = spoke_net_params(s->net);
    size_t count;
    const struct spoke_stretch *stretches = spoke_net_stretches(s->net, &count);

    for (size_t i = 0; s->mean && i < count; i++)
        KERN_TRY(s, "handing out the average",
                 kern_copy(w.buf, (w.at + stretches[i].at) * sizeof(float), s->mean,
                           stretches[i].at * sizeof(float), stretches[i].n * sizeof(float)));
    return TIER_OK;
}
