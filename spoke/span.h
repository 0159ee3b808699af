/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lies between the ranks of this process and those of other servers: a kern_group_link over
 * whatever stream its owner has. A span belongs to one group. What came and was not taken yet is
 * kept in memory, up to a limit that follows from the model: whoever sends more breaks the span.
 *
 * Threads: send, receive and shut are any rank's (kernels/group.h); `came` and what it calls are
 * the loop's; new, limit, break and unref any. Ownership: counted, because the loop may still hold
 * what a rank has sent when the group is gone.
 */
#ifndef CONSILIUM_SPOKE_SPAN_H
#define CONSILIUM_SPOKE_SPAN_H

#include "kernels/group.h"
#include "spoke/data.h"
#include "spoke/net.h"
#include "spoke/train.h"
#include "tier/loop.h"
#include "tier/team_wire.h"

#include <pthread.h>

struct spoke_span;

/* On the loop: puts a part on its way. `prefix` is copied; `bytes` are borrowed until done(arg), on
 * any thread, which must be called whatever becomes of them. False: it cannot be sent. */
typedef bool (*spoke_span_send)(void *owner, uint32_t to, const void *prefix, size_t prefix_bytes,
                                const void *bytes, size_t n, void (*done)(void *arg), void *arg);

/* Of group `group`: ranks [first, first + count) are here. `owner` outlives a broken span. */
struct spoke_span *spoke_span_new(struct tier_loop *loop, uint64_t group, size_t first,
                                  size_t count, spoke_span_send send, void *owner);
void spoke_span_unref(struct spoke_span *span); /* NULL is fine */
const struct kern_group_link *spoke_span_link(struct spoke_span *span);
uint64_t spoke_span_group(const struct spoke_span *span);
/* For a model of so many elements. */
void spoke_span_limit(struct spoke_span *span, uint64_t elements);
/* A part for one of the ranks here. Takes its data (m->data becomes NULL). False, and broken, where
 * it is for no rank here or one too many. Parts of another group are passed over. */
bool spoke_span_came(struct spoke_span *span, struct tier_team_message *m);
/* Nothing is sent or received from now on. NULL is fine. */
void spoke_span_break(struct spoke_span *span);

/*
 * A group of ranks on several servers and its span, as a leader and a member each have one. The
 * worker joins and drops, and trains in between; the loop hands in what comes, and breaks it.
 */
struct spoke_bond {
    pthread_mutex_t lock; /* guards all below against the loop; the worker reads its own writes */
    struct spoke_span *span;
    struct kern_group *group;
    bool broken;
    uint64_t joining, joins; /* the try under way, where it cannot be called off; tries so far */
};

void spoke_bond_init(struct spoke_bond *bond);
void spoke_bond_release(struct spoke_bond *bond);
/* Whether that group is here and fit for use. */
bool spoke_bond_holds(struct spoke_bond *bond, uint64_t group);
/* Takes the span in place of what there was. While no worker uses it. */
void spoke_bond_new(struct spoke_bond *bond, struct spoke_span *span);
/* The worker's: makes the group of the span, if there is none. May wait for the others (CUDA). */
enum tier_status spoke_bond_join(struct spoke_bond *bond, const struct kern_group_id *id,
                                 size_t ranks, size_t first, struct kern_device *const *dev,
                                 size_t count, struct tier_err *err);
/* A part, or NULL; for a model of so many elements, or 0 for as many as before. As
 * spoke_span_came. */
bool spoke_bond_came(struct spoke_bond *bond, struct tier_team_message *m, uint64_t elements);
void spoke_bond_break(struct spoke_bond *bond);
/*
 * The try to join that nothing ends but the others' coming, if one is under way, or 0: NCCL has no
 * way to call it off. A server that is lost just then leaves the process to be ended, as by kill,
 * and started again by its supervisor: SPOKE_STUCK_MS after the loss, or when it is told to stop.
 */
#define SPOKE_STUCK_MS 30000
uint64_t spoke_bond_joining(struct spoke_bond *bond);
_Noreturn void spoke_bond_stuck(void);
/* While no worker uses it. */
void spoke_bond_drop(struct spoke_bond *bond);

/* ---- what both ends say of themselves, so that unlike servers do not train together ---- */

enum tier_status spoke_team_build(struct tier_hash *out, struct tier_err *err); /* the program */
void spoke_team_data(const struct spoke_data *data, struct tier_hash *out);     /* training rows */
const char *spoke_team_backend(const struct kern_device *dev);
enum tier_status spoke_team_model(const struct spoke_net *net, struct tier_hash *out,
                                  struct tier_err *err);
/*
 * The arrays of the leader's recipe, of n elements each, to all servers. The worker's, at every
 * one; dev[] are the group's own here. A member's recipe gets them out of *owned_out, the caller's
 * to free once trained, also after an error; at the leader that stays NULL.
 */
enum tier_status spoke_team_share(struct kern_group *group, struct kern_device *const *dev,
                                  struct spoke_recipe *recipe, size_t n, float **owned_out,
                                  struct tier_err *err);

#endif
