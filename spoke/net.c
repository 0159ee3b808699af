/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Activations and their gradients lie in two arenas of batch_max rows each, an activation of v at
 * the same place in both. Identity nodes own no place: `home` leads to the activation they repeat.
 * A gradient that several nodes add to is written by the first and added to by the others, so
 * nothing but the parameters' gradients is cleared between steps.
 */
#include "spoke/net.h"

#include <inttypes.h>
#include <stdlib.h>

#define ARENA_ALIGN 64 /* floats: a place never shares a cache line with its neighbour */
#define ARENA_BYTES_MAX (UINT64_C(1) << 40)

struct spoke_net {
    struct kern_device *dev;
    const struct tier_graph *graph;
    enum spoke_loss loss;
    size_t batch_max, elements, outputs;
    size_t logits; /* activation the loss is computed on */
    size_t *home;  /* of each activation */
    size_t *place; /* of each activation in the arenas */
    bool *written; /* gradient of an activation holds something, within one backward */
    struct kern_buf *params, *grads, *acts, *act_grads;
    struct kern_buf *scratch; /* where an activation is read twice, else NULL */
    struct kern_buf *ones;    /* float[batch_max], where a Gemm scales its bias, else NULL */
    struct kern_vec x;        /* activation 0 of the running call */
};

enum tier_status spoke_net_kern_fail(struct kern_device *dev, enum kern_status status,
                                     const char *what, struct tier_err *err) {
    const char *words = kern_device_error(dev);
    enum tier_status st = status == KERN_ENOMEM ? TIER_ELIMIT
                          : status == KERN_EARG ? TIER_EINTERNAL
                                                : TIER_EDEVICE;

    return tier_fail(err, st, "%s: %s failed: %s%s%s%s", kern_device_name(dev), what,
                     kern_status_text(status), *words ? ": " : "", words,
                     status == KERN_ENOMEM ? "; a smaller batch or model would fit" : "");
}

#define KERN_TRY(net, what, call)                                                                  \
    do {                                                                                           \
        enum kern_status kern_try_ = (call);                                                       \
        if (kern_try_ != KERN_OK)                                                                  \
            return spoke_net_kern_fail((net)->dev, kern_try_, what, err);                          \
    } while (0)

/* ---- places -------------------------------------------------------------------------------- */

static struct kern_vec act(const struct spoke_net *net, size_t v) {
    v = net->home[v];
    return v == 0 ? net->x : (struct kern_vec){net->acts, net->place[v]};
}

static struct kern_vec act_grad(const struct spoke_net *net, size_t v) {
    return (struct kern_vec){net->act_grads, net->place[net->home[v]]};
}

static struct kern_vec param(const struct spoke_net *net, struct kern_buf *buf, int32_t index) {
    return (struct kern_vec){buf, tier_graph_param(net->graph, (size_t)index)->at};
}

/* The logits are the graph's output, or what its last activation function reads. */
static enum tier_status find_logits(struct spoke_net *net, struct tier_err *err) {
    const struct tier_graph *g = net->graph;
    size_t v = net->home[tier_graph_node_count(g)];
    enum tier_op op = v > 0 ? tier_graph_node(g, v - 1)->op : TIER_OP_IDENTITY;
    bool bce = net->loss == SPOKE_LOSS_BCE;

    if ((op == TIER_OP_SOFTMAX && bce) || (op == TIER_OP_SIGMOID && !bce))
        return tier_fail(err, TIER_EMODEL,
                         "the model ends in %s, which does not go with the loss: binary "
                         "cross-entropy takes Sigmoid or logits, cross-entropy Softmax or logits",
                         tier_op_text(op));
    if (op == TIER_OP_SOFTMAX || op == TIER_OP_SIGMOID)
        v = net->home[tier_graph_node(g, v - 1)->x[0]];
    if (v == 0)
        return tier_fail(err, TIER_EMODEL, "the model's output is its input");
    if (bce && net->outputs != 1)
        return tier_fail(err, TIER_EMODEL,
                         "the model has %zu outputs: binary cross-entropy takes one", net->outputs);
    if (!bce && net->outputs < 2)
        return tier_fail(err, TIER_EMODEL,
                         "the model has one output: cross-entropy takes one for each class");
    net->logits = v;
    return TIER_OK;
}

/* Gives every activation its place; how many floats the arena and the scratch need. */
static void lay_out(struct spoke_net *net, uint64_t *arena, uint64_t *scratch, bool *ones) {
    const struct tier_graph *g = net->graph;
    size_t nodes = tier_graph_node_count(g);
    uint64_t at = 0, widest = 0;
    bool shared = false;

    for (size_t i = 0; i < nodes; i++) {
        const struct tier_graph_node *n = tier_graph_node(g, i);
        net->home[i + 1] = n->op == TIER_OP_IDENTITY ? net->home[n->x[0]] : i + 1;
        *ones |= n->op == TIER_OP_GEMM && n->bias >= 0 && n->beta != 1.0f && n->beta != 0.0f;
        for (int k = 0; k < 2 && n->op != TIER_OP_IDENTITY; k++) {
            if (n->x[k] < 0)
                continue;
            /* `written` counts readers here, and is cleared before the first backward. */
            bool *read = &net->written[net->home[n->x[k]]];
            shared |= *read;
            *read = true;
        }
        if (n->op == TIER_OP_IDENTITY)
            continue;
        net->place[i + 1] = at;
        uint64_t size = n->cols_out * net->batch_max;
        at += (size + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
        if (size > widest)
            widest = size;
    }
    *arena = at;
    *scratch = shared ? widest : 0;
}

/* ---- life cycle ---------------------------------------------------------------------------- */

static enum tier_status new_floats(struct spoke_net *net, uint64_t count, struct kern_buf **out,
                                   struct tier_err *err) {
    if (count > ARENA_BYTES_MAX / sizeof(float))
        return tier_fail(err, TIER_ELIMIT,
                         "a batch of %zu rows of this model takes %" PRIu64
                         " floats: use a smaller batch",
                         net->batch_max, count);
    KERN_TRY(net, "taking memory for the model",
             kern_buf_new(net->dev, count * sizeof(float), out));
    return TIER_OK;
}

static enum tier_status fill_ones(struct spoke_net *net, struct tier_err *err) {
    float *ones = malloc(net->batch_max * sizeof *ones);

    if (!ones)
        return tier_fail(err, TIER_ENOMEM, "no memory for a batch of %zu rows", net->batch_max);
    for (size_t i = 0; i < net->batch_max; i++)
        ones[i] = 1.0f;
    enum kern_status st = kern_upload(net->ones, 0, ones, net->batch_max * sizeof *ones);
    free(ones);
    KERN_TRY(net, "an upload", st);
    return TIER_OK;
}

static enum tier_status start_values(struct spoke_net *net, struct tier_err *err) {
    float block[4096];

    for (size_t i = 0; i < tier_graph_param_count(net->graph); i++) {
        const struct tier_graph_param *p = tier_graph_param(net->graph, i);
        for (uint64_t at = 0, n; at < p->elements; at += n) {
            n = p->elements - at < 4096 ? p->elements - at : 4096;
            TIER_TRY(tier_graph_read(net->graph, i, at, n, block, err));
            KERN_TRY(
                net, "an upload",
                kern_upload(net->params, (p->at + at) * sizeof(float), block, n * sizeof(float)));
        }
    }
    return TIER_OK;
}

static enum tier_status take_memory(struct spoke_net *net, struct tier_err *err) {
    size_t values = tier_graph_node_count(net->graph) + 1;
    uint64_t arena = 0, scratch = 0;
    bool ones = false;

    net->home = calloc(values, sizeof *net->home);
    net->place = calloc(values, sizeof *net->place);
    net->written = calloc(values, sizeof *net->written);
    if (!net->home || !net->place || !net->written)
        return tier_fail(err, TIER_ENOMEM, "no memory for a model of %zu nodes", values - 1);
    lay_out(net, &arena, &scratch, &ones);
    TIER_TRY(find_logits(net, err));
    TIER_TRY(new_floats(net, net->elements, &net->params, err));
    TIER_TRY(new_floats(net, net->elements, &net->grads, err));
    TIER_TRY(new_floats(net, arena, &net->acts, err));
    TIER_TRY(new_floats(net, arena, &net->act_grads, err));
    if (scratch)
        TIER_TRY(new_floats(net, scratch, &net->scratch, err));
    if (ones) {
        TIER_TRY(new_floats(net, net->batch_max, &net->ones, err));
        TIER_TRY(fill_ones(net, err));
    }
    return start_values(net, err);
}

enum tier_status spoke_net_new(struct kern_device *dev, const struct tier_graph *graph,
                               enum spoke_loss loss, size_t batch_max, struct spoke_net **net_out,
                               struct tier_err *err) {
    if (batch_max == 0 || batch_max > SPOKE_BATCH_MAX)
        return tier_fail(err, TIER_EARG, "a batch of %zu rows: 1 to %u are possible", batch_max,
                         SPOKE_BATCH_MAX);
    struct spoke_net *net = calloc(1, sizeof *net);
    if (!net)
        return tier_fail(err, TIER_ENOMEM, "no memory for a model");
    net->dev = dev;
    net->graph = graph;
    net->loss = loss;
    net->batch_max = batch_max;
    net->elements = tier_graph_elements(graph);
    net->outputs = tier_graph_outputs(graph);
    enum tier_status st = take_memory(net, err);
    if (st != TIER_OK) {
        spoke_net_free(net);
        return st;
    }
    *net_out = net;
    return TIER_OK;
}

void spoke_net_free(struct spoke_net *net) {
    if (!net)
        return;
    kern_buf_free(net->params);
    kern_buf_free(net->grads);
    kern_buf_free(net->acts);
    kern_buf_free(net->act_grads);
    kern_buf_free(net->scratch);
    kern_buf_free(net->ones);
    free(net->home);
    free(net->place);
    free(net->written);
    free(net);
}

/* ---- forward ------------------------------------------------------------------------------- */

static enum tier_status forward_gemm(struct spoke_net *net, const struct tier_graph_node *n,
                                     struct kern_vec y, size_t rows, struct tier_err *err) {
    KERN_TRY(net, n->name,
             kern_gemm(y, act(net, n->x[0]), param(net, net->params, n->weight), rows, n->cols_out,
                       n->cols_in, false, n->trans_b, n->alpha, 0.0f));
    if (n->bias < 0 || n->beta == 0.0f)
        return TIER_OK;
    struct kern_vec bias = param(net, net->params, n->bias);
    if (n->beta == 1.0f)
        KERN_TRY(net, n->name, kern_bias_add(y, bias, rows, n->cols_out));
    else
        KERN_TRY(net, n->name,
                 kern_gemm(y, (struct kern_vec){net->ones, 0}, bias, rows, n->cols_out, 1, false,
                           false, n->beta, 1.0f));
    return TIER_OK;
}

static enum tier_status forward_node(struct spoke_net *net, size_t i, size_t rows,
                                     struct tier_err *err) {
    const struct tier_graph_node *n = tier_graph_node(net->graph, i);
    struct kern_vec x = act(net, n->x[0]), y = act(net, i + 1);
    size_t count = rows * n->cols_out;

    switch (n->op) {
    case TIER_OP_GEMM:
    case TIER_OP_MATMUL:
        return forward_gemm(net, n, y, rows, err);
    case TIER_OP_ADD_BIAS:
        KERN_TRY(net, n->name,
                 kern_copy(y.buf, y.at * sizeof(float), x.buf, x.at * sizeof(float),
                           count * sizeof(float)));
        KERN_TRY(net, n->name,
                 kern_bias_add(y, param(net, net->params, n->bias), rows, n->cols_out));
        break;
    case TIER_OP_ADD:
        KERN_TRY(net, n->name, kern_add(y, x, act(net, n->x[1]), count));
        break;
    case TIER_OP_RELU:
        KERN_TRY(net, n->name, kern_relu(y, x, count));
        break;
    case TIER_OP_SIGMOID:
        KERN_TRY(net, n->name, kern_sigmoid(y, x, count));
        break;
    case TIER_OP_SOFTMAX:
        KERN_TRY(net, n->name, kern_softmax(y, x, rows, n->cols_out));
        break;
    case TIER_OP_IDENTITY:
    case TIER_OP_COUNT:
        break;
    }
    return TIER_OK;
}

enum tier_status spoke_net_forward(struct spoke_net *net, struct kern_vec x, size_t rows,
                                   struct kern_vec *logits_out, struct tier_err *err) {
    if (rows == 0 || rows > net->batch_max)
        return tier_fail(err, TIER_EARG, "a batch of %zu rows: this model was made for 1 to %zu",
                         rows, net->batch_max);
    net->x = x;
    for (size_t i = 0; i < net->logits; i++)
        TIER_TRY(forward_node(net, i, rows, err));
    if (logits_out)
        *logits_out = act(net, net->logits);
    return TIER_OK;
}

/* ---- backward ------------------------------------------------------------------------------ */

/* Where the gradient towards activation v may be written: its own place, or the scratch if that
 * holds a part already. settle() then adds the scratch. The input's gradient is not needed. */
static struct kern_vec grad_target(const struct spoke_net *net, size_t v) {
    return net->written[net->home[v]] ? (struct kern_vec){net->scratch, 0} : act_grad(net, v);
}

static enum tier_status settle(struct spoke_net *net, size_t v, size_t count,
                               struct tier_err *err) {
    size_t home = net->home[v];
    if (net->written[home])
        KERN_TRY(net, "adding gradients",
                 kern_add(act_grad(net, v), act_grad(net, v), (struct kern_vec){net->scratch, 0},
                          count));
    net->written[home] = true;
    return TIER_OK;
}

/* The gradient passes unchanged to activation v. */
static enum tier_status pass_on(struct spoke_net *net, size_t v, struct kern_vec dy, size_t count,
                                struct tier_err *err) {
    size_t home = net->home[v];
    struct kern_vec dx = act_grad(net, v);

    if (home == 0)
        return TIER_OK;
    if (net->written[home])
        KERN_TRY(net, "adding gradients", kern_add(dx, dx, dy, count));
    else
        KERN_TRY(net, "copying a gradient",
                 kern_copy(dx.buf, dx.at * sizeof(float), dy.buf, dy.at * sizeof(float),
                           count * sizeof(float)));
    net->written[home] = true;
    return TIER_OK;
}

static enum tier_status backward_gemm(struct spoke_net *net, const struct tier_graph_node *n,
                                      struct kern_vec dy, size_t rows, struct tier_err *err) {
    struct kern_vec x = act(net, n->x[0]), dw = param(net, net->grads, n->weight);
    size_t in = n->cols_in, out = n->cols_out, home = net->home[n->x[0]];

    if (n->trans_b) /* dW[out x in] += alpha dy' x */
        KERN_TRY(net, n->name, kern_gemm(dw, dy, x, out, in, rows, true, false, n->alpha, 1.0f));
    else /* dW[in x out] += alpha x' dy */
        KERN_TRY(net, n->name, kern_gemm(dw, x, dy, in, out, rows, true, false, n->alpha, 1.0f));
    if (n->bias >= 0 && n->beta == 1.0f)
        KERN_TRY(net, n->name, kern_bias_grad(param(net, net->grads, n->bias), dy, rows, out));
    else if (n->bias >= 0 && n->beta != 0.0f)
        KERN_TRY(net, n->name,
                 kern_gemm(param(net, net->grads, n->bias), (struct kern_vec){net->ones, 0}, dy, 1,
                           out, rows, false, false, n->beta, 1.0f));
    if (home == 0)
        return TIER_OK;
    /* dx = alpha dy op(W)', added to what is there */
    KERN_TRY(net, n->name,
             kern_gemm(act_grad(net, n->x[0]), dy, param(net, net->params, n->weight), rows, in,
                       out, false, !n->trans_b, n->alpha, net->written[home] ? 1.0f : 0.0f));
    net->written[home] = true;
    return TIER_OK;
}

static enum tier_status backward_node(struct spoke_net *net, size_t i, size_t rows,
                                      struct tier_err *err) {
    const struct tier_graph_node *n = tier_graph_node(net->graph, i);
    struct kern_vec dy = act_grad(net, i + 1), y = act(net, i + 1);
    size_t v = n->x[0], count = rows * n->cols_out;

    switch (n->op) {
    case TIER_OP_GEMM:
    case TIER_OP_MATMUL:
        return backward_gemm(net, n, dy, rows, err);
    case TIER_OP_ADD_BIAS:
        KERN_TRY(net, n->name,
                 kern_bias_grad(param(net, net->grads, n->bias), dy, rows, n->cols_out));
        return pass_on(net, v, dy, count, err);
    case TIER_OP_ADD:
        TIER_TRY(pass_on(net, v, dy, count, err));
        return pass_on(net, n->x[1], dy, count, err);
    case TIER_OP_IDENTITY:
    case TIER_OP_COUNT:
        return TIER_OK;
    case TIER_OP_RELU:
    case TIER_OP_SIGMOID:
    case TIER_OP_SOFTMAX:
        break;
    }
    if (net->home[v] == 0)
        return TIER_OK;
    struct kern_vec dx = grad_target(net, v);
    if (n->op == TIER_OP_RELU)
        KERN_TRY(net, n->name, kern_relu_grad(dx, dy, y, count));
    else if (n->op == TIER_OP_SIGMOID)
        KERN_TRY(net, n->name, kern_sigmoid_grad(dx, dy, y, count));
    else
        KERN_TRY(net, n->name, kern_softmax_grad(dx, dy, y, rows, n->cols_out));
    return settle(net, v, count, err);
}

enum tier_status spoke_net_backward(struct spoke_net *net, struct kern_vec x,
                                    struct kern_vec target, size_t rows, struct kern_vec loss,
                                    struct tier_err *err) {
    struct kern_vec z, dz = act_grad(net, net->logits);

    TIER_TRY(spoke_net_forward(net, x, rows, &z, err));
    KERN_TRY(net, "clearing gradients", kern_zero(net->grads, 0, net->elements * sizeof(float)));
    for (size_t v = 0; v <= net->logits; v++)
        net->written[v] = false;
    if (net->loss == SPOKE_LOSS_BCE)
        KERN_TRY(net, "the loss", kern_bce_logits(loss, dz, z, target, rows));
    else
        KERN_TRY(net, "the loss", kern_softmax_ce(loss, dz, z, target, rows, net->outputs));
    net->written[net->logits] = true;
    for (size_t i = net->logits; i-- > 0;)
        TIER_TRY(backward_node(net, i, rows, err));
    return TIER_OK;
}

/* ---- parameters ---------------------------------------------------------------------------- */

struct kern_device *spoke_net_device(const struct spoke_net *net) {
    return net->dev;
}

enum spoke_loss spoke_net_loss(const struct spoke_net *net) {
    return net->loss;
}

size_t spoke_net_batch_max(const struct spoke_net *net) {
    return net->batch_max;
}

size_t spoke_net_features(const struct spoke_net *net) {
    return tier_graph_features(net->graph);
}

size_t spoke_net_outputs(const struct spoke_net *net) {
    return net->outputs;
}

size_t spoke_net_elements(const struct spoke_net *net) {
    return net->elements;
}

struct kern_vec spoke_net_params(const struct spoke_net *net) {
    return (struct kern_vec){net->params, 0};
}

struct kern_vec spoke_net_grads(const struct spoke_net *net) {
    return (struct kern_vec){net->grads, 0};
}

enum tier_status spoke_net_set(struct spoke_net *net, const float *values, struct tier_err *err) {
    KERN_TRY(net, "an upload", kern_upload(net->params, 0, values, net->elements * sizeof *values));
    return TIER_OK;
}

enum tier_status spoke_net_get(const struct spoke_net *net, float *values, struct tier_err *err) {
    KERN_TRY(net, "a download",
             kern_download(values, net->params, 0, net->elements * sizeof *values));
    return TIER_OK;
}
