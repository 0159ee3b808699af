/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the makers of a tape share: tape_build.c (steps, layouts, gradients), tape_melt.c (nodes
 * that are one operation) and tape_prepare.c (what single operations need made for them).
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

bool tape_is_norm(int op);
/* After it is known what is needed and who reads it. */
void tape_find_melts(struct builder *b);
enum tier_status tape_new_buffer(struct builder *b, size_t floats, int32_t *out);
enum tier_status tape_value(struct builder *b, size_t value, size_t *out);
enum tier_status tape_value_as(struct builder *b, size_t value, enum tape_layout layout,
                               size_t *out);
/* A buffer that forward fills and backward reads. */
enum tier_status tape_aux(struct builder *b, struct tape_step *s, unsigned which, size_t floats);

/* Makes what the step's operation needs: convolution, window, tables, statistics. TIER_EMODEL where
 * the kernels cannot do it. */
enum tier_status tape_prepare(struct builder *b, struct tape_step *s);
void tape_release_step(struct tape_step *s);
/* Floats that the backward step needs for itself; `spare`: its kernel cannot add. */
void tape_temps(const struct builder *b, const struct tape_step *s, bool spare, size_t floats[2]);

#endif
