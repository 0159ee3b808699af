/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What tape_forward.c and tape_backward.c share: where a running step finds its arrays, and how an
 * operation of the graph is called in kernels/nn.h.
 */
#ifndef CONSILIUM_SPOKE_TAPE_RUN_H
#define CONSILIUM_SPOKE_TAPE_RUN_H

#include "spoke/tape_build.h"

static inline struct kern_vec tape_buffer_at(const struct tape_run *r, int32_t buffer) {
    const struct tape_buffer *own = &r->tape->buffers[buffer];
    if (!r->whole)
        return (struct kern_vec){r->arena, own->at};
    const struct tape_buffer *all = &r->whole->buffers[buffer];
    return (struct kern_vec){r->arena,
                             all->at + (all->floats == own->floats ? 0 : r->row * own->floats)};
}
static inline const struct tape_tensor *tape_in(const struct tape_run *r, const struct tape_step *s,
                                                size_t i) {
    return &r->tape->tensors[s->in[i]];
}
static inline const struct tape_tensor *tape_out(const struct tape_run *r,
                                                 const struct tape_step *s) {
    return &r->tape->tensors[s->out[0]];
}
/* The operand's values; no buffer where it is left out. */
static inline struct kern_vec tape_x(const struct tape_run *r, const struct tape_step *s,
                                     size_t i) {
    return i < s->in_count && s->in[i] != SIZE_MAX ? tape_at(r, s->in[i])
                                                   : (struct kern_vec){NULL, 0};
}
static inline struct kern_vec tape_y(const struct tape_run *r, const struct tape_step *s) {
    return tape_at(r, s->out[0]);
}

/* Strides of `x` for a walk over y's dimensions as they lie in memory; 0 where x is broadcast. */
void tape_walk(const struct tape_tensor *x, const struct tape_tensor *y, kern_strides out);
/* Strides of t in ONNX's order, put in the order of y's memory; equal ranks. */
void tape_walk_axes(const struct tape_tensor *y, const kern_strides axes, kern_strides out);
/* Strides of y in its own memory's order: dense. */
void tape_dense(const struct tape_tensor *y, kern_strides out);

/* A function of one array, as kernels/nn.h calls it; false for those it has no entry for. */
bool tape_unary(const struct tape_step *s, enum kern_unary *op, float *alpha, float *beta);
struct kern_batch_norm tape_batch_norm(const struct tape_run *r, const struct tape_step *s);
/* Of INSTANCE_NORM, GROUP_NORM and LAYER_NORM. */
struct kern_group_norm tape_group_norm(const struct tape_run *r, const struct tape_step *s);
/* How often and with which steps matrices are multiplied; m, n, k of one product. */
struct kern_gemm_batch tape_products(const struct tape_run *r, const struct tape_step *s, size_t *m,
                                     size_t *n, size_t *k);
/* Where operand i of a Concat, or result i of a Split, begins along its axis. */
size_t tape_piece(const struct tape_run *r, const struct tape_step *s, size_t i);
/* y is [rows][cols] with x of y's last dimension alone, in the same order. */
bool tape_is_row(const struct tape_tensor *x, const struct tape_tensor *y);
/* A piece of `whole` along one axis, from `first` on, copied into it or out of it. */
enum kern_status tape_copy_piece(const struct tape_tensor *whole, struct kern_vec at,
                                 const struct tape_tensor *piece, struct kern_vec part,
                                 unsigned axis, size_t first, bool into, bool add);
/* Slice's view of its operand, in the order of the result's memory. */
void tape_slice(const struct tape_run *r, const struct tape_step *s, kern_strides out,
                size_t *first_out);
/* Where the operand lies in a padded result: strides of both in the order of the operand's memory,
 * and the first element's place in the result. */
void tape_pad(const struct tape_run *r, const struct tape_step *s, kern_strides xs, kern_strides ys,
              size_t *first_out);
/* The axes that a reduction sums, as they lie in x's memory; *share_out: 1 / elements summed. */
unsigned tape_reduced(const struct tape_tensor *x, const struct tier_call *c, float *share_out);
/* [outer][len][inner] of a gather's data, and how many indices. */
void tape_gather(const struct tape_run *r, const struct tape_step *s, size_t *outer, size_t *len,
                 size_t *count, size_t *inner);
/* DROPOUT of n elements, forward or back. */
enum kern_status tape_drop(const struct tape_run *r, const struct tape_step *s, struct kern_vec y,
                           struct kern_vec x, size_t n);
enum kern_status tape_step_back(struct tape_run *r, const struct tape_step *s);
/* Whether the step has a gradient to hand to anyone. */
bool tape_flows_any(const struct tape_step *s);
/* Over which of y's dimensions, as they lie, x is broadcast. */
unsigned tape_broadcast(const struct tape_tensor *x, const struct tape_tensor *y);

#define TAPE_TRY(call)                                                                             \
    do {                                                                                           \
        enum kern_status kern_try_ = (call);                                                       \
        if (kern_try_ != KERN_OK)                                                                  \
            return kern_try_;                                                                      \
    } while (0)

#endif
