/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the makers of a tape share: tape_build.c (steps, layouts), tape_flow.c (gradients),
 * tape_melt.c (nodes that are one operation) and tape_prepare.c (what single operations need made
 * for them).
 */
#ifndef CONSILIUM_SPOKE_TAPE_BUILD_H
#define CONSILIUM_SPOKE_TAPE_BUILD_H

#include "spoke/tape.h"

/* A value's tensors by layout, and the layout it was made in. */
struct value_map {
    size_t tensor[2]; /* SIZE_MAX where there is none */
    enum tape_layout first;
};

/* Nodes that become one GROUP_NORM, said of the last of them (tape_melt.c). */
struct tape_melt {
    bool there, affine;
    size_t x, scale, bias; /* values; the latter two where affine */
    size_t norm, groups;   /* the node with the epsilon */
};

struct builder {
    struct tape *tape;
    const struct tier_graph *graph;
    const bool *frozen; /* of each parameter; NULL: none are */
    struct value_map *map;
    uint32_t *uses; /* of each value, by needed nodes */
    size_t *reader; /* of each value: the node that reads it, the first of several */
    bool *value_needed, *needed, *melted; /* the latter two of each node */
    struct tape_melt *melt;               /* of each node */
    size_t tensor_cap, step_cap, buffer_cap;
    float *const_data;
    size_t const_floats;
    uint64_t draws;
    struct tier_err *err;
};

/* What an operation's backward step reads, and what the two may share. */
enum {
    TAPE_NEEDS_X0 = 1,        /* backward reads the first operand */
    TAPE_NEEDS_X1 = 2,        /* the second */
    TAPE_NEEDS_Y = 4,         /* the result */
    TAPE_MAY_LIE_OVER = 8,    /* the result, over the first operand, where nobody else reads that */
    TAPE_TAKES_GRADIENT = 16, /* the first operand's may lie over the result's */
    TAPE_CANNOT_ADD = 32      /* the kernel cannot: where it must, it writes elsewhere first */
};
uint8_t tape_traits(int op);
bool tape_is_norm(int op);
/* After it is known what is needed and who reads it. */
void tape_find_melts(struct builder *b);
enum tier_status tape_new_buffer(struct builder *b, size_t floats, int32_t *out);
enum tier_status tape_value(struct builder *b, size_t value, size_t *out);
enum tier_status tape_value_as(struct builder *b, size_t value, enum tape_layout layout,
                               size_t *out);
/* The buffer is in use at that time: step i forward is i, backward 2 * step_count - i. */
void tape_touch(struct tape_buffer *buf, size_t time);
void tape_touch_tensor(struct builder *b, size_t tensor, size_t time);
bool tape_wants_any(const struct builder *b, const struct tape_step *s);
/* Gives each step of the whole tape its places for gradients. TIER_EMODEL where none is trained. */
enum tier_status tape_flow_back(struct builder *b);
/* A buffer that forward fills and backward reads. */
enum tier_status tape_aux(struct builder *b, struct tape_step *s, unsigned which, size_t floats);

/* Makes what the step's operation needs: convolution, window, tables, statistics. TIER_EMODEL where
 * the kernels cannot do it. */
enum tier_status tape_prepare(struct builder *b, struct tape_step *s);
void tape_release_step(struct tape_step *s);
/* Floats that the backward step needs for itself; `spare`: its kernel cannot add. */
void tape_temps(const struct builder *b, const struct tape_step *s, bool spare, size_t floats[2]);

#endif
