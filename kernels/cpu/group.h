/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A group of CPU devices, in two halves: group_meet.c is where the ranks of a group meet, wait for
 * each other and are let go; group_ways.c is what each of them does in between. A group over a link
 * has a meeting in each process, of the ranks there; what they read of the others' comes by it.
 *
 * Threads: a rank's own. Ownership: a call borrows the arrays of all ranks until all are done.
 */
#ifndef CONSILIUM_KERN_CPU_GROUP_H
#define CONSILIUM_KERN_CPU_GROUP_H

#include "kernels/backend.h"

struct kern_meeting;

/* One rank within a call that every rank has come to. */
struct kern_rank {
    struct kern_meeting *meeting;
    struct kern_group_call call;
    size_t rank, ranks;
    void *const *part;      /* of every rank that is here */
    uint64_t number;        /* of the call, in the group's life */
    unsigned char *message; /* this rank's room for one, where the group has a link */
};

/* What a rank tells the others: counters that only grow within a call, two for each rank. */
enum kern_track { KERN_TRACK_UP, KERN_TRACK_DOWN };
void kern_rank_tell(const struct kern_rank *r, enum kern_track track, size_t done);
/* Sleeps until `other` has told at least `done`; false where the group was broken. */
bool kern_rank_wait(const struct kern_rank *r, enum kern_track track, size_t other, size_t done);

/* Whether `other` is a rank of this process, whose array lies in `part`. */
bool kern_rank_here(const struct kern_rank *r, size_t other);
/* Bytes to a rank elsewhere, and the next from it, in place of tell and wait: at most
 * KERN_GROUP_MESSAGE_BYTES - 64 at a time. False where the group was broken, or the other rank
 * sends for another call than this one. */
bool kern_rank_send(const struct kern_rank *r, size_t to, const void *bytes, size_t n);
/* Valid until this rank sends or receives again; NULL for false. */
const void *kern_rank_receive(const struct kern_rank *r, size_t from, size_t n);

/* This rank's share of the work; false where the group was broken meanwhile. */
bool kern_rank_work(const struct kern_rank *r);

enum kern_status kern_cpu_group_id(struct kern_ctx *ctx, struct kern_group_id *out);
enum kern_status kern_cpu_group_join(const struct kern_group_id *id, size_t ranks, size_t first,
                                     struct kern_ctx *const *ctx, size_t count, void **out);
enum kern_status kern_cpu_group_span(const struct kern_group_link *link, size_t ranks, size_t first,
                                     struct kern_ctx *const *ctx, size_t count, void **out);
void kern_cpu_group_leave(void *state);
void kern_cpu_group_abort(void *state);
enum kern_status kern_cpu_group_run(void *state, const struct kern_group_call *call,
                                    void *const *parts);
void kern_cpu_group_each(void *state, void (*fn)(void *arg, size_t i), void *arg);

#endif
