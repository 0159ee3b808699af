/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is received is hashed, checked and written on threads of their own, so that the loop's
 * thread only moves bytes off the network. A strand is one call's ordered run of pieces: at most
 * two of its messages are here at a time, one being absorbed while the next arrives, and over all
 * strands of an intake no more than TIER_CREDIT_CHUNKS are here or on their way, but for those of
 * senders that are slow (tier_intake_set_patience), which may have one each. That is the
 * bound on received memory, whatever children and parents do.
 *
 * Threads: every call on the loop's; `absorb` and a submitted `work` run on an intake's thread, all
 * others of the loop. One strand's pieces are absorbed in order on one thread.
 */
#ifndef CONSILIUM_TIER_INTAKE_H
#define CONSILIUM_TIER_INTAKE_H

#include "tier/loop.h"
#include "tier/piece.h"

struct tier_intake;
struct tier_strand;

/* With no threads everything is done on the loop's, at once. */
enum tier_status tier_intake_new(struct tier_loop *loop, unsigned threads, struct tier_intake **out,
                                 struct tier_err *err);
/* Strands must be closed; what they still had at work is waited for. */
void tier_intake_free(struct tier_intake *intake);
/* As many threads as are right for this machine: a core is the loop's. */
unsigned tier_intake_threads(void);

/* Messages that are here or asked for, over all strands, but for those that are long in coming. */
unsigned tier_intake_held(const struct tier_intake *intake);
/* How long a message may take to come before others need not wait for it: 100 ms, unless told
 * otherwise. */
void tier_intake_set_patience(struct tier_intake *intake, uint32_t patience_ms);

/* Runs work(arg) on one of its threads, then done(arg) on the loop; drop(arg) takes the place of
 * done where the intake is freed first. */
void tier_intake_submit(struct tier_intake *intake, tier_loop_fn work, tier_loop_fn done,
                        tier_loop_fn drop, void *arg);

struct tier_strand_events {
    /* One piece; `scratch` [TIER_CHUNK_BYTES] is the thread's. After a failure no further piece is
     * absorbed. */
    enum tier_status (*absorb)(void *owner, struct tier_piece_reader *piece, uint8_t *scratch,
                               struct tier_err *err);
    /* What became of it, and its bytes of data. */
    void (*absorbed)(void *owner, enum tier_status st, const struct tier_err *err, size_t bytes);
    /* After tier_strand_end: everything before it was absorbed. */
    void (*drained)(void *owner);
    /* After tier_strand_close, perhaps before it returns: no thread knows the owner any more. The
     * strand is gone. */
    void (*released)(void *owner);
};

/* A strand of this call, which it asks for messages until it is told that there are no more. */
struct tier_strand *tier_strand_open(struct tier_intake *intake, struct tier_rpc_call *call,
                                     const struct tier_strand_events *events, void *owner);
/* Asks for the first message; the strand asks for all others. */
void tier_strand_read(struct tier_strand *strand);
/* Takes the message over; from the call's `message`. */
void tier_strand_take(struct tier_strand *strand, struct tier_rpc_message *message);
/* No more messages will come; `drained` follows, perhaps before this returns. The call may be gone
 * afterwards. */
void tier_strand_end(struct tier_strand *strand);
/* From `absorbed`: whether nothing else of the strand is at work. */
bool tier_strand_idle(const struct tier_strand *strand);
/* Nothing more is wanted; `released` follows. NULL is fine. */
void tier_strand_close(struct tier_strand *strand);

#endif
