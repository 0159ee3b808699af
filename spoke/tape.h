/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A graph made executable for one batch size: a list of steps, each one operation on arrays whose
 * places are known, and for training the same list backwards. Everything that can be decided is
 * decided when a tape is made: layouts, which operations melt into one, where each array lies, who
 * writes a gradient first and who adds to it. Running a tape allocates nothing.
 *
 * Images travel channels-last between the operations that want it so (kernels/nn.h); a value that
 * is wanted in ONNX's order too gets a step that turns it.
 *
 * Memory: an array's life begins and ends at known steps, so arrays whose lives do not overlap
 * share one place. What backward needs lives until then; the rest dies at its last reader.
 *
 * Threads and ownership: private to the net (spoke/net.h), which owns the arrays' buffer.
 */
#ifndef CONSILIUM_SPOKE_TAPE_H
#define CONSILIUM_SPOKE_TAPE_H

#include "kernels/nn.h"
#include "tier/graph.h"

#define TAPE_NONE (-1)

enum tape_use { TAPE_FOR_EVALUATION, TAPE_FOR_TRAINING, TAPE_FOR_SAMPLES };
enum tape_layout { TAPE_PLAIN, TAPE_LAST /* channels-last; only with 3 dimensions and more */ };
enum tape_kind { TAPE_INPUT, TAPE_PARAM, TAPE_CONST, TAPE_ARRAY };

/* A value in one layout. */
struct tape_tensor {
    struct tier_shape shape; /* in ONNX's order */
    enum tape_layout layout;
    enum tape_kind kind;
    size_t place; /* PARAM: in the vector; CONST: in the constants; ARRAY: its buffer */
    int32_t grad; /* ARRAY: its gradient's buffer, or TAPE_NONE */
    bool wants;   /* something trained lies before it */
    bool frozen;  /* PARAM: it would be trained, and is not */
    bool fixed;   /* of parameters and constants alone: the same for every row (training tapes) */
};

/* Floats that live from one step to another. Times: forward step i is i, the loss steps, backward
 * step i is 2 * steps - i. */
struct tape_buffer {
    size_t floats, first, last;
    size_t at;   /* in the arena */
    bool shared; /* several tensors lie here: nothing may be written over one */
    bool pinned; /* backward reads it: nothing may be written over it */
};

/* How a gradient reaches an operand. */
enum tape_flow {
    TAPE_STOP,  /* it does not */
    TAPE_WRITE, /* first to arrive, in a buffer of its own */
    TAPE_TAKE,  /* first to arrive, in the buffer of the result's gradient */
    TAPE_ADD    /* added to what is there */
};

/* What an operation is here, beyond tier_op. */
enum { TAPE_OP_TURN = TIER_OP_COUNT /* the same value in the other layout */ };

/* One axis of an interpolation: sparse products forward and backward. */
struct tape_mix {
    size_t outer, in, out, inner, taps;
    struct kern_buf *start, *from, *weight, *back_start, *back_from, *back_weight;
    int32_t result, slope; /* buffers of what lies between two axes; TAPE_NONE at the ends */
};

struct tape_step {
    int op; /* tier_op, or TAPE_OP_TURN */
    const char *name;
    size_t node; /* of the graph */
    const struct tier_call *call;
    size_t *in, *out; /* tensors; SIZE_MAX where left out */
    size_t in_count, out_count;
    enum tape_flow *flow; /* of each input */
    bool relu;            /* a normalisation that ends in max(0, y) */
    size_t groups;        /* of INSTANCE_NORM and GROUP_NORM */
    bool nothing;         /* the result is the operand, where it lies */
    uint64_t draw;        /* DROPOUT: which of the step's random draws */
    int32_t aux[2];       /* buffers: statistics, indices */
    int32_t temp[2];      /* buffers for the backward step alone */
    struct kern_conv *conv;
    struct kern_window window;
    struct kern_buf *index; /* GATHER: constant indices */
    struct tape_mix *mix;
    size_t mix_count;
};

struct tape {
    struct kern_device *dev;
    const struct tier_graph *graph;
    struct tier_shapes *shapes;
    size_t rows;
    bool training;
    bool keeps; /* what parameters' gradients are made of lives to the end (tape_samples.c) */
    bool apart; /* of a tape that keeps: every row is shown to go its own way */
    struct tape_tensor *tensors;
    size_t tensor_count;
    struct tape_step *steps;
    size_t step_count;
    struct tape_buffer *buffers;
    size_t buffer_count;
    struct kern_buf *consts;
    size_t arena_floats;
    size_t logits; /* the tensor that the loss is computed on */
    uint64_t age;  /* when the net last used it */
};

/* Where a run finds everything. */
struct tape_run {
    const struct tape *tape;
    struct kern_buf *params, *grads, *arena;
    struct kern_vec x;
    uint64_t seed;      /* of this step's random draws */
    uint64_t seed_rows; /* each row draws by itself, from a seed so far from the last; or 0 */
    /* One row of another tape: `tape` is for one row, the arrays are those of `whole`. */
    const struct tape *whole;
    size_t row;
    struct tier_err *err;
};

/*
 * `logits` is the graph's value that the loss is computed on; nodes after it are left out. With
 * frozen[the graph's parameters] (NULL: none are) backward begins at the logits and ends where
 * nothing before is trained; what it leaves in the places of frozen gradients means nothing.
 * TIER_EMODEL where the device's kernels cannot do a node, by name.
 */
enum tier_status tape_new(struct kern_device *dev, const struct tier_graph *graph, size_t rows,
                          size_t logits, enum tape_use use, const bool *frozen, struct tape **out,
                          struct tier_err *err);
void tape_free(struct tape *tape);

enum tier_status tape_forward(struct tape_run *run);
/* After a forward run and with the gradient of the logits in its place; adds to grads. */
enum tier_status tape_backward(struct tape_run *run);

/*
 * Gradients sample by sample, of all rows at once; `many` and `one` are TAPE_FOR_SAMPLES, the
 * latter of one row. tape_judge sets many->apart: whether they are the same steps, none of which
 * mixes rows, and no parameter is read twice. Only then:
 *
 * After a forward run and with each row's own gradient of the logits in its place tape_back_norms
 * adds to squares[rows] the squared norm of each row's gradient, and keeps what tape_back_sums
 * needs to add the rows' gradients, each times factors[rows], to grads; each_factor is the same, on
 * the host. A factor of 0 adds nothing only of a row whose norm is finite. `spare` holds the
 * graph's elements and `room` tape_room(many) floats.
 */
void tape_judge(struct tape *many, const struct tape *one);
/* Whether it is less work than each row alone. */
bool tape_pays(const struct tape *many);
size_t tape_room(const struct tape *many);
enum tier_status tape_back_norms(struct tape_run *run, const struct tape *one,
                                 struct kern_buf *spare, struct kern_buf *room,
                                 struct kern_vec squares);
enum tier_status tape_back_sums(struct tape_run *run, const struct tape *one,
                                struct kern_buf *spare, struct kern_vec factors,
                                const float *each_factor);

struct kern_vec tape_at(const struct tape_run *run, size_t tensor);
struct kern_vec tape_grad_at(const struct tape_run *run, size_t tensor);

/* Turns a failed kernel call into a status with the device's own words. */
enum tier_status tape_kern_fail(struct kern_device *dev, enum kern_status status, const char *what,
                                struct tier_err *err);

/* ---- for tape*.c ----------------------------------------------------------------------------- */

/* The tensor's dimensions as they lie in memory, and where an index of ONNX's order counts. */
struct kern_nd tape_nd(const struct tape_tensor *t);
/* Which axis of ONNX's order lies at place `i` of memory's. */
unsigned tape_axis(const struct tape_tensor *t, unsigned i);
/* Strides of t in ONNX's order; 0 for dimensions of 1. */
void tape_strides(const struct tape_tensor *t, kern_strides out);
/* Gives every buffer its place; sets arena_floats. */
enum tier_status tape_lay_out(struct tape *tape, struct tier_err *err);

#endif
