/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tapes are made when a batch size first comes along and kept, a few of them: an epoch has two
 * sizes (its last batch is smaller), an evaluation two more. They share one arena, as large as the
 * largest needs, for no two run at once.
 */
#include "spoke/net.h"

#include "spoke/replay.h"
#include "spoke/tape.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TAPES 8
#define SAMPLES_MAX 32 /* rows whose gradients are worked out at once */
#define DRAW UINT64_C(0x9e3779b97f4a7c15)

struct spoke_net {
    struct kern_device *dev;
    const struct tier_graph *graph;
    struct spoke_objective objective;
    size_t batch_max, elements, trained;
    size_t logits;         /* the graph's value that the loss is computed on */
    size_t outputs, spots; /* of a row of it */
    struct kern_buf *params, *grads, *arena, *class_weight;
    struct spoke_stretch *stretches; /* that are trained */
    size_t stretch_count;
    struct kern_buf *scale; /* [2]: of the loss, and what takes it off again */
    bool scaled;
    struct kern_buf *sample_sum;  /* [trained]: where samples are clipped */
    struct kern_buf *sample_loss; /* [2]: a row's loss and squared norm; the batch's loss */
    struct kern_buf *sample_rows; /* [3][SAMPLES_MAX]: squared norms, losses, factors */
    struct kern_buf *sample_room;
    size_t samples_max, step_floats; /* rows at once, 0: not known; the arena of batch_max rows */
    bool samples_forced;             /* at once, whether it pays or not */
    bool *frozen;                    /* of each of the graph's parameters; NULL: none are */
    struct tape *tapes[TAPES];
    struct spoke_replay replays[TAPES]; /* of the tapes' backward passes */
    uint64_t uses, seed, draws;
};

enum tier_status spoke_net_kern_fail(struct kern_device *dev, enum kern_status status,
                                     const char *what, struct tier_err *err) {
    return tape_kern_fail(dev, status, what, err);
}

#define KERN_TRY(net, what, call)                                                                  \
    do {                                                                                           \
        enum kern_status kern_try_ = (call);                                                       \
        if (kern_try_ != KERN_OK)                                                                  \
            return tape_kern_fail((net)->dev, kern_try_, what, err);                               \
    } while (0)

/* ---- what the loss is computed on ------------------------------------------------------------ */

static const struct tier_graph_node *maker(const struct tier_graph *g, size_t value) {
    const struct tier_graph_value *v = tier_graph_value(g, value);
    return v->kind == TIER_VALUE_NODE ? tier_graph_node(g, v->index) : NULL;
}

/* Operators that change nothing, or the shape alone, do not hide an activation function. */
static size_t behind_identities(const struct tier_graph *g, const struct tier_shapes *shapes,
                                size_t value) {
    for (;;) {
        const struct tier_graph_node *n = maker(g, value);
        if (!n || n->op != TIER_OP_RESHAPE)
            return value;
        const struct tier_shape *x = tier_shapes_of(shapes, (size_t)n->in[0]);
        const struct tier_shape *y = tier_shapes_of(shapes, value);
        bool same = x->rank == y->rank;
        for (unsigned i = 0; same && i < x->rank; i++)
            same = x->dims[i] == y->dims[i];
        if (!same)
            return value;
        value = (size_t)n->in[0];
    }
}

static enum tier_status find_logits(struct spoke_net *net, const struct tier_shapes *shapes,
                                    struct tier_err *err) {
    const struct tier_graph *g = net->graph;
    size_t value = behind_identities(g, shapes, tier_graph_output(g));
    const struct tier_graph_node *n = maker(g, value);
    const char *loss = spoke_objective_text(&net->objective);
    bool bce = net->objective.loss == SPOKE_LOSS_BCE;
    bool by_class = spoke_objective_by_class(&net->objective);
    bool soft = n && (n->op == TIER_OP_SOFTMAX || n->op == TIER_OP_LOG_SOFTMAX);
    bool sigmoid = n && n->op == TIER_OP_SIGMOID;

    if ((soft && !by_class) || (sigmoid && by_class))
        return tier_fail(err, TIER_EMODEL,
                         "the model ends in %s, which does not go with the loss %s: bce takes "
                         "Sigmoid or logits, losses of several classes Softmax or logits",
                         tier_op_text(n->op), loss);
    if ((soft && by_class) || (sigmoid && bce))
        value = behind_identities(g, shapes, (size_t)n->in[0]);
    if (!maker(g, value))
        return tier_fail(err, TIER_EMODEL, "the model's output is its input");
    const struct tier_shape *z = tier_shapes_of(shapes, value);
    net->outputs = z->rank < 2 ? 1 : z->dims[1];
    net->spots = z->elements / z->dims[0] / net->outputs;
    if (!by_class && net->outputs * net->spots != 1)
        return tier_fail(err, TIER_EMODEL, "the model has %zu outputs: %s takes one",
                         net->outputs * net->spots, loss);
    if (by_class && (net->outputs < 2 || net->outputs > KERN_LOSS_CLASSES_MAX))
        return tier_fail(err, TIER_EMODEL,
                         "the model has %zu outputs: %s takes one for each class, 2 to %u",
                         net->outputs, loss, KERN_LOSS_CLASSES_MAX);
    if (net->objective.weights_count && net->objective.weights_count != net->outputs)
        return tier_fail(err, TIER_EMODEL,
                         "local.class_weights has %zu numbers: the model has %zu classes",
                         net->objective.weights_count, net->outputs);
    net->logits = value;
    return TIER_OK;
}

/* ---- life cycle
 * ----------------------------------------------------------------------------------- */

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

static enum tier_status prepare(struct spoke_net *net, struct tier_err *err) {
    struct tier_shapes *shapes = NULL;
    size_t bytes = net->elements * sizeof(float);

    TIER_TRY(tier_graph_infer(net->graph, 2, &shapes, err));
    enum tier_status st = find_logits(net, shapes, err);
    tier_shapes_free(shapes);
    if (st != TIER_OK)
        return st;
    KERN_TRY(net, "taking memory for the model", kern_buf_new(net->dev, bytes, &net->params));
    KERN_TRY(net, "taking memory for the model", kern_buf_new(net->dev, bytes, &net->grads));
    bytes = net->objective.weights_count * sizeof(float);
    if (bytes) {
        KERN_TRY(net, "taking memory for class weights",
                 kern_buf_new(net->dev, bytes, &net->class_weight));
        KERN_TRY(net, "an upload",
                 kern_upload(net->class_weight, 0, net->objective.class_weight, bytes));
    }
    return start_values(net, err);
}

static void drop_tape(struct spoke_net *net, size_t i) {
    spoke_replay_release(&net->replays[i]);
    tape_free(net->tapes[i]);
    net->tapes[i] = NULL;
}

/* The tape for so many rows; the one unused for longest makes room. */
static enum tier_status get_tape(struct spoke_net *net, size_t rows, enum tape_use use,
                                 struct tape **out, struct tier_err *err) {
    size_t oldest = 0;

    for (size_t i = 0; i < TAPES; i++) {
        struct tape *t = net->tapes[i];
        if (t && t->rows == rows && t->training == (use != TAPE_FOR_EVALUATION) &&
            t->keeps == (use == TAPE_FOR_SAMPLES)) {
            t->age = ++net->uses;
            *out = t;
            return TIER_OK;
        }
        const struct tape *o = net->tapes[oldest];
        if (o && (!t || t->age < o->age))
            oldest = i;
    }
    drop_tape(net, oldest);
    struct tape *made = NULL;
    TIER_TRY(tape_new(net->dev, net->graph, rows, net->logits, use, net->frozen, &made, err));
    net->tapes[oldest] = made;
    made->age = ++net->uses;
    *out = made;
    return TIER_OK;
}

/* And room to run it. */
static enum tier_status find_tape(struct spoke_net *net, size_t rows, enum tape_use use,
                                  struct tape **out, struct tier_err *err) {
    struct tape *made = NULL;

    TIER_TRY(get_tape(net, rows, use, &made, err));
    size_t bytes = made->arena_floats * sizeof(float);
    if (!net->arena || kern_buf_bytes(net->arena) < bytes) {
        kern_buf_free(net->arena);
        net->arena = NULL;
        KERN_TRY(net, "taking memory for the model", kern_buf_new(net->dev, bytes, &net->arena));
    }
    *out = made;
    return TIER_OK;
}

enum tier_status spoke_net_new(struct kern_device *dev, const struct tier_graph *graph,
                               enum spoke_loss loss, size_t batch_max, struct spoke_net **net_out,
                               struct tier_err *err) {
    const struct spoke_objective plain = spoke_objective_plain(loss);

    return spoke_net_new_for(dev, graph, &plain, batch_max, net_out, err);
}

enum tier_status spoke_net_new_for(struct kern_device *dev, const struct tier_graph *graph,
                                   const struct spoke_objective *objective, size_t batch_max,
                                   struct spoke_net **net_out, struct tier_err *err) {
    if (batch_max == 0 || batch_max > SPOKE_BATCH_MAX)
        return tier_fail(err, TIER_EARG, "a batch of %zu rows: 1 to %u are possible", batch_max,
                         SPOKE_BATCH_MAX);
    struct spoke_net *net = calloc(1, sizeof *net);
    struct tape *tape;
    if (!net)
        return tier_fail(err, TIER_ENOMEM, "no memory for a model");
    net->dev = dev;
    net->graph = graph;
    net->objective = *objective;
    net->batch_max = batch_max;
    net->elements = tier_graph_elements(graph);
    net->trained = tier_graph_trained(graph);
    net->stretches = malloc(sizeof *net->stretches);
    if (!net->stretches) {
        spoke_net_free(net);
        return tier_fail(err, TIER_ENOMEM, "no memory for a model");
    }
    net->stretches[0] = (struct spoke_stretch){0, net->trained};
    net->stretch_count = 1;
    enum tier_status st = prepare(net, err);
    /* What the device cannot do, or hold, is said now. */
    if (st == TIER_OK)
        st = find_tape(net, batch_max, TAPE_FOR_TRAINING, &tape, err);
    if (st != TIER_OK) {
        spoke_net_free(net);
        return st;
    }
    net->step_floats = tape->arena_floats;
    *net_out = net;
    return TIER_OK;
}

void spoke_net_free(struct spoke_net *net) {
    if (!net)
        return;
    for (size_t i = 0; i < TAPES; i++)
        drop_tape(net, i);
    kern_buf_free(net->params);
    kern_buf_free(net->grads);
    kern_buf_free(net->arena);
    kern_buf_free(net->scale);
    kern_buf_free(net->sample_sum);
    kern_buf_free(net->sample_loss);
    kern_buf_free(net->sample_room);
    kern_buf_free(net->sample_rows);
    free(net->stretches);
    free(net->frozen);
    kern_buf_free(net->class_weight);
    free(net);
}

/* Trained and not frozen, neighbours in one stretch. */
static size_t find_stretches(const struct tier_graph *g, const bool *frozen,
                             struct spoke_stretch *out) {
    size_t count = 0;

    for (size_t i = 0; i < tier_graph_param_count(g); i++) {
        const struct tier_graph_param *p = tier_graph_param(g, i);
        if (!p->trained || frozen[i])
            continue;
        if (count > 0 && out[count - 1].at + out[count - 1].n == p->at)
            out[count - 1].n += p->elements;
        else
            out[count++] = (struct spoke_stretch){p->at, p->elements};
    }
    return count;
}

enum tier_status spoke_net_freeze(struct spoke_net *net, const bool *frozen, struct tier_err *err) {
    size_t params = tier_graph_param_count(net->graph);
    struct spoke_stretch *stretches = malloc(params * sizeof *stretches);
    bool *kept = malloc(params * sizeof *kept);
    struct tape *tape;

    if (!stretches || !kept) {
        free(stretches);
        free(kept);
        return tier_fail(err, TIER_ENOMEM, "no memory for a model");
    }
    memcpy(kept, frozen, params * sizeof *kept);
    free(net->stretches);
    free(net->frozen);
    net->stretches = stretches;
    net->frozen = kept;
    net->stretch_count = find_stretches(net->graph, kept, stretches);
    for (size_t i = 0; i < TAPES; i++)
        drop_tape(net, i);
    kern_buf_free(net->arena); /* less is needed */
    net->arena = NULL;
    net->samples_max = 0;
    if (net->stretch_count == 0)
        return tier_fail(err, TIER_EMODEL, "every parameter of the model is frozen");
    TIER_TRY(find_tape(net, net->batch_max, TAPE_FOR_TRAINING, &tape, err));
    net->step_floats = tape->arena_floats;
    return TIER_OK;
}

/* ---- running
 * -------------------------------------------------------------------------------------- */

static enum tier_status check_rows(const struct spoke_net *net, size_t rows, struct tier_err *err) {
    if (rows == 0 || rows > net->batch_max)
        return tier_fail(err, TIER_EARG, "a batch of %zu rows: this model was made for 1 to %zu",
                         rows, net->batch_max);
    return TIER_OK;
}

enum tier_status spoke_net_forward(struct spoke_net *net, struct kern_vec x, size_t rows,
                                   struct kern_vec *logits_out, struct tier_err *err) {
    struct tape *tape = NULL;

    TIER_TRY(check_rows(net, rows, err));
    TIER_TRY(find_tape(net, rows, TAPE_FOR_EVALUATION, &tape, err));
    assert(tape);
    struct tape_run run = {
        .tape = tape, .params = net->params, .arena = net->arena, .x = x, .err = err};
    TIER_TRY(tape_forward(&run));
    if (logits_out)
        *logits_out = tape_at(&run, tape->logits);
    return TIER_OK;
}

static enum tier_status add_loss(struct spoke_net *net, struct kern_vec loss, struct kern_vec dz,
                                 struct kern_vec z, struct kern_vec target, size_t rows,
                                 struct tier_err *err) {
    const struct spoke_objective *o = &net->objective;
    struct kern_loss_spec spec = spoke_objective_spec(o, rows, net->spots, net->outputs);

    if (!spoke_objective_is_plain(o))
        KERN_TRY(net, "the loss",
                 kern_loss(loss, dz, z, target, (struct kern_vec){net->class_weight, 0}, &spec));
    else if (o->loss == SPOKE_LOSS_BCE)
        KERN_TRY(net, "the loss", kern_bce_logits(loss, dz, z, target, rows));
    else
        KERN_TRY(net, "the loss",
                 kern_softmax_ce(loss, dz, z, target, rows * net->spots, net->outputs));
    return TIER_OK;
}

/* x *= element `which` of the scale, which lies on the device: what is recorded of a pass holds
 * for another one too. */
static enum tier_status scale_by(struct spoke_net *net, struct kern_vec x, size_t n, size_t which,
                                 struct tier_err *err) {
    const struct kern_nd nd = {.rank = 1, .dims = {n}};
    const kern_strides same = {0};
    kern_strides dense;

    if (!net->scaled)
        return TIER_OK;
    kern_nd_dense(&nd, dense);
    KERN_TRY(
        net, "scaling the loss",
        kern_nd_binary(KERN_MUL, x, x, dense, (struct kern_vec){net->scale, which}, same, &nd));
    return TIER_OK;
}

/* One backward pass: what it needs beside the net. */
struct pass {
    struct spoke_net *net;
    struct tape_run run;
    struct kern_vec target, loss;
};

static enum tier_status make_pass(void *arg, struct tier_err *err) {
    struct pass *p = arg;
    struct spoke_net *net = p->net;
    struct tape_run *run = &p->run;
    const struct tape *tape = run->tape;

    run->err = err;
    TIER_TRY(tape_forward(run));
    struct kern_vec z = tape_at(run, tape->logits), dz = tape_grad_at(run, tape->logits);
    KERN_TRY(net, "clearing gradients", kern_zero(net->grads, 0, net->elements * sizeof(float)));
    TIER_TRY(add_loss(net, p->loss, dz, z, p->target, tape->rows, err));
    TIER_TRY(scale_by(net, dz, tape->rows * net->spots * net->outputs, 0, err));
    TIER_TRY(tape_backward(run));
    return scale_by(net, (struct kern_vec){net->grads, 0}, net->trained, 1, err);
}

enum tier_status spoke_net_backward(struct spoke_net *net, struct kern_vec x,
                                    struct kern_vec target, size_t rows, struct kern_vec loss,
                                    struct tier_err *err) {
    struct tape *tape = NULL;
    size_t at = 0;

    TIER_TRY(check_rows(net, rows, err));
    TIER_TRY(find_tape(net, rows, TAPE_FOR_TRAINING, &tape, err));
    while (net->tapes[at] != tape)
        at++;
    struct pass p = {.net = net,
                     .run = {.tape = tape,
                             .params = net->params,
                             .grads = net->grads,
                             .arena = net->arena,
                             .x = x,
                             .seed = net->seed + ++net->draws * DRAW},
                     .target = target,
                     .loss = loss};
    const struct spoke_replay_key key = {x, target, loss, net->arena, net->scaled};
    return spoke_replay_run(&net->replays[at], net->dev, &key, p.run.seed, make_pass, &p, err);
}

/* ---- sample by sample ------------------------------------------------------------------------ */

static enum tier_status samples_alone(struct spoke_net *net, struct tier_err *err) {
    struct tape *tape = NULL;

    if (net->objective.loss == SPOKE_LOSS_COX)
        return tier_fail(err, TIER_EMODEL,
                         "a row alone has no loss in Cox's partial likelihood, and so no gradient "
                         "that could be bounded by itself");
    TIER_TRY(find_tape(net, 1, TAPE_FOR_TRAINING, &tape, err));
    assert(tape);
    for (size_t i = 0; i < tape->step_count; i++)
        if (tape->steps[i].op == TIER_OP_BATCH_NORM)
            return tier_fail(err, TIER_EMODEL,
                             "node '%s' is a BatchNormalization: a row's gradient depends on the "
                             "rows beside it, so that it cannot be bounded by itself; "
                             "GroupNormalization would be right",
                             tape->steps[i].name);
    if (!net->sample_sum)
        KERN_TRY(net, "taking memory for samples",
                 kern_buf_new(net->dev, net->trained * sizeof(float), &net->sample_sum));
    if (!net->sample_loss)
        KERN_TRY(net, "taking memory for samples",
                 kern_buf_new(net->dev, 2 * sizeof(float), &net->sample_loss));
    return TIER_OK;
}

/* Losses of rows, of those that have one. */
struct tally {
    double sum;
    size_t rows;
};

static void count_loss(struct tally *t, float loss) {
    if (!isfinite(loss))
        return;
    t->sum += (double)loss;
    t->rows++;
}

static bool is_norm(float square) {
    return isfinite(square) && square >= 0.0f;
}

static float factor_of(float square, float clip_norm) {
    return fminf(1.0f, clip_norm / (sqrtf(square) + 1e-6f));
}

/* The row's gradient, cut, to the sum. One without a finite norm is not multiplied by 0, which
 * would leave NaN, but left out; so is its loss. */
static enum tier_status add_sample(struct spoke_net *net, float clip_norm, struct tally *tally,
                                   struct tier_err *err) {
    float got[2]; /* loss, squared norm */

    for (size_t i = 0; i < net->stretch_count; i++) {
        const struct spoke_stretch s = net->stretches[i];
        KERN_TRY(net, "a sample's norm",
                 kern_square_sum((struct kern_vec){net->sample_loss, 1},
                                 (struct kern_vec){net->grads, s.at}, s.n));
    }
    KERN_TRY(net, "a sample's norm", kern_download(got, net->sample_loss, 0, sizeof got));
    if (!is_norm(got[1]))
        return TIER_OK;
    count_loss(tally, got[0]);
    for (size_t i = 0; i < net->stretch_count; i++) {
        const struct spoke_stretch s = net->stretches[i];
        KERN_TRY(net, "adding a sample",
                 kern_axpby((struct kern_vec){net->sample_sum, s.at},
                            (struct kern_vec){net->grads, s.at}, s.n, factor_of(got[1], clip_norm),
                            1.0f));
    }
    return TIER_OK;
}

/* Row by row: each forward and back alone. */
static enum tier_status samples_by_row(struct spoke_net *net, struct kern_vec x,
                                       struct kern_vec target, size_t rows, float clip_norm,
                                       struct kern_vec norms, struct tally *tally,
                                       struct tier_err *err) {
    size_t features = tier_graph_features(net->graph);
    size_t words = spoke_objective_words(&net->objective, net->spots);

    KERN_TRY(net, "clearing the sum", kern_zero(net->sample_sum, 0, net->trained * sizeof(float)));
    for (size_t i = 0; i < rows; i++) {
        KERN_TRY(net, "clearing norms", kern_zero(net->sample_loss, 0, 2 * sizeof(float)));
        TIER_TRY(spoke_net_backward(net, (struct kern_vec){x.buf, x.at + i * features},
                                    (struct kern_vec){target.buf, target.at + i * words}, 1,
                                    (struct kern_vec){net->sample_loss, 0}, err));
        TIER_TRY(add_sample(net, clip_norm, tally, err));
        KERN_TRY(net, "norms",
                 kern_copy(norms.buf, (norms.at + i) * sizeof(float), net->sample_loss,
                           sizeof(float), sizeof(float)));
    }
    for (size_t i = 0; i < net->stretch_count; i++) {
        const struct spoke_stretch s = net->stretches[i];
        KERN_TRY(net, "the sum of samples",
                 kern_copy(net->grads, s.at * sizeof(float), net->sample_sum, s.at * sizeof(float),
                           s.n * sizeof(float)));
    }
    return TIER_OK;
}

/* How many rows may go together: a power of two, 1 where rows are not shown to stay apart. */
static enum tier_status find_samples_max(struct spoke_net *net, struct tier_err *err) {
    struct tape *one = NULL, *many = NULL;
    size_t n = 1;

    while (2 * n <= net->batch_max && 2 * n <= SAMPLES_MAX)
        n *= 2;
    for (; n > 1; n /= 2) {
        TIER_TRY(get_tape(net, 1, TAPE_FOR_SAMPLES, &one, err));
        TIER_TRY(get_tape(net, n, TAPE_FOR_SAMPLES, &many, err));
        assert(one && many);
        tape_judge(many, one);
        if (!many->apart || !(net->samples_forced || tape_pays(many)))
            n = 1;
        if (n == 1 || many->arena_floats + tape_room(many) <= 2 * net->step_floats)
            break;
    }
    net->samples_max = n;
    return TIER_OK;
}

static enum tier_status samples_room(struct spoke_net *net, const struct tape *many,
                                     struct tier_err *err) {
    size_t floats = tape_room(many);

    if (!net->sample_room || kern_buf_bytes(net->sample_room) < floats * sizeof(float)) {
        kern_buf_free(net->sample_room);
        net->sample_room = NULL;
        KERN_TRY(net, "taking memory for samples",
                 kern_buf_new(net->dev, floats * sizeof(float), &net->sample_room));
    }
    if (!net->sample_rows)
        KERN_TRY(net, "taking memory for samples",
                 kern_buf_new(net->dev, 3 * SAMPLES_MAX * sizeof(float), &net->sample_rows));
    return TIER_OK;
}

/* Each row's loss and its gradient. */
static enum tier_status each_loss(struct spoke_net *net, const struct tape_run *run,
                                  struct kern_vec target, struct tier_err *err) {
    struct kern_vec z = tape_at(run, run->tape->logits), dz = tape_grad_at(run, run->tape->logits);
    size_t words = spoke_objective_words(&net->objective, net->spots);

    for (size_t i = 0; i < run->tape->rows; i++) {
        struct kern_vec loss = {net->sample_rows, SAMPLES_MAX + i};
        TIER_TRY(add_loss(net, loss, dz, z, target, 1, err));
        z.at += net->spots * net->outputs;
        dz.at += net->spots * net->outputs;
        target.at += words;
    }
    return TIER_OK;
}

/*
 * The rows of one tape together. The first `done` have been counted: their norms are worked out
 * once more, so that the last rows of a batch need no tape of their own size, and go into nothing.
 * *whole_out is false, and nothing is added, where a row has no finite norm: what it would have to
 * be left out of is a product over all rows.
 */
static enum tier_status samples_at_once(struct spoke_net *net, const struct tape *one,
                                        struct tape_run *run, struct kern_vec target, size_t done,
                                        float clip_norm, struct kern_vec norms, struct tally *tally,
                                        bool *whole_out) {
    struct kern_vec squares = {net->sample_rows, 0}, factors = {net->sample_rows, 2 * SAMPLES_MAX};
    size_t rows = run->tape->rows, bytes = rows * sizeof(float);
    float got[2 * SAMPLES_MAX], factor[SAMPLES_MAX]; /* squares and losses */
    struct tier_err *err = run->err;

    KERN_TRY(net, "clearing norms", kern_zero(net->sample_rows, 0, sizeof got));
    TIER_TRY(tape_forward(run));
    TIER_TRY(each_loss(net, run, target, err));
    TIER_TRY(tape_back_norms(run, one, net->sample_sum, net->sample_room, squares));
    KERN_TRY(net, "reading norms", kern_download(got, net->sample_rows, 0, sizeof got));
    *whole_out = true;
    for (size_t i = 0; i < rows; i++) {
        *whole_out = *whole_out && is_norm(got[i]);
        factor[i] = i < done || !is_norm(got[i]) ? 0.0f : factor_of(got[i], clip_norm);
    }
    if (!*whole_out)
        return TIER_OK;
    for (size_t i = done; i < rows; i++)
        count_loss(tally, got[SAMPLES_MAX + i]);
    KERN_TRY(net, "factors", kern_upload(factors.buf, factors.at * sizeof(float), factor, bytes));
    KERN_TRY(net, "norms",
             kern_copy(norms.buf, norms.at * sizeof(float), squares.buf, done * sizeof(float),
                       bytes - done * sizeof(float)));
    return tape_back_sums(run, one, net->sample_sum, factors, factor);
}

static enum tier_status samples_together(struct spoke_net *net, struct kern_vec x,
                                         struct kern_vec target, size_t rows, float clip_norm,
                                         struct kern_vec norms, struct tally *tally,
                                         bool *whole_out, struct tier_err *err) {
    size_t features = tier_graph_features(net->graph), n = net->samples_max;
    size_t words = spoke_objective_words(&net->objective, net->spots);
    struct tape *one = NULL, *many = NULL;

    while (n > rows)
        n /= 2;
    TIER_TRY(get_tape(net, 1, TAPE_FOR_SAMPLES, &one, err));
    TIER_TRY(find_tape(net, n, TAPE_FOR_SAMPLES, &many, err));
    assert(one && many);
    tape_judge(many, one);
    if (!many->apart)
        return tier_fail(err, TIER_EINTERNAL, "%zu rows are not apart, but more were", n);
    TIER_TRY(samples_room(net, many, err));
    KERN_TRY(net, "clearing gradients", kern_zero(net->grads, 0, net->elements * sizeof(float)));
    for (size_t at = 0; at < rows; at += n) {
        size_t first = at + n <= rows ? at : rows - n;
        struct tape_run run = {.tape = many,
                               .params = net->params,
                               .grads = net->grads,
                               .arena = net->arena,
                               .x = {x.buf, x.at + first * features},
                               .seed = net->seed + (net->draws + 1 + first) * DRAW,
                               .seed_rows = DRAW,
                               .err = err};
        TIER_TRY(samples_at_once(
            net, one, &run, (struct kern_vec){target.buf, target.at + first * words}, at - first,
            clip_norm, (struct kern_vec){norms.buf, norms.at + at}, tally, whole_out));
        if (!*whole_out)
            return TIER_OK;
    }
    net->draws += rows;
    return TIER_OK;
}

enum tier_status spoke_net_backward_samples(struct spoke_net *net, struct kern_vec x,
                                            struct kern_vec target, size_t rows, float clip_norm,
                                            struct kern_vec norms, struct kern_vec loss,
                                            struct tier_err *err) {
    TIER_TRY(check_rows(net, rows, err));
    if (!(clip_norm > 0.0f) || !isfinite(clip_norm))
        return tier_fail(err, TIER_EARG, "a clipping norm of %g: above 0 and finite would be right",
                         (double)clip_norm);
    TIER_TRY(samples_alone(net, err));
    if (net->samples_max == 0)
        TIER_TRY(find_samples_max(net, err));
    struct tally tally = {0};
    bool whole = false;
    if (rows > 1 && net->samples_max > 1)
        TIER_TRY(samples_together(net, x, target, rows, clip_norm, norms, &tally, &whole, err));
    if (!whole) {
        tally = (struct tally){0};
        TIER_TRY(samples_by_row(net, x, target, rows, clip_norm, norms, &tally, err));
    }
    KERN_TRY(net, "norms", kern_unary(KERN_SQRT, norms, norms, rows, 0.0f, 0.0f));
    struct kern_vec one = {net->sample_loss, 0};
    float mean = tally.rows > 0 ? (float)(tally.sum / (double)tally.rows) : 0.0f;
    KERN_TRY(net, "an upload", kern_upload(one.buf, 0, &mean, sizeof mean));
    KERN_TRY(net, "the loss", kern_axpby(loss, one, 1, 1.0f, 1.0f));
    return TIER_OK;
}

size_t spoke_net_samples_at_once(const struct spoke_net *net) {
    return net->samples_max;
}

void spoke_net_samples_force(struct spoke_net *net, bool together) {
    net->samples_max = together ? 0 : 1;
    net->samples_forced = together;
}

/* ---- parameters
 * ------------------------------------------------------------------------------------ */

void spoke_net_seed(struct spoke_net *net, uint64_t seed) {
    net->seed = seed;
    net->draws = 0;
}

enum tier_status spoke_net_scale(struct spoke_net *net, float scale, struct tier_err *err) {
    int exponent;
    const float both[2] = {scale, 1.0f / scale};

    if (!(scale > 0.0f) || !isfinite(scale) || frexpf(scale, &exponent) != 0.5f)
        return tier_fail(err, TIER_EARG, "a loss scale of %g: a power of two would be right",
                         (double)scale);
    net->scaled = scale != 1.0f;
    if (!net->scaled)
        return TIER_OK;
    if (!net->scale)
        KERN_TRY(net, "taking memory for the loss scale",
                 kern_buf_new(net->dev, sizeof both, &net->scale));
    KERN_TRY(net, "an upload", kern_upload(net->scale, 0, both, sizeof both));
    return TIER_OK;
}

struct kern_device *spoke_net_device(const struct spoke_net *net) {
    return net->dev;
}

const struct spoke_objective *spoke_net_objective(const struct spoke_net *net) {
    return &net->objective;
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

size_t spoke_net_spots(const struct spoke_net *net) {
    return net->spots;
}

size_t spoke_net_elements(const struct spoke_net *net) {
    return net->elements;
}

size_t spoke_net_trained(const struct spoke_net *net) {
    return net->trained;
}

const struct spoke_stretch *spoke_net_stretches(const struct spoke_net *net, size_t *count_out) {
    *count_out = net->stretch_count;
    return net->stretches;
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
