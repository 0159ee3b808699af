/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several devices that add up what each of them holds. A group has `ranks` ranks, each a device of
 * one kind; a caller holds one or more of them, in a row, and calls once for all it holds. A call
 * is done when every rank of the group made it: the same operation, type, n, root and way.
 *
 *   CPU devices    threads of one process: every rank has its own, and reads its neighbours'
 *                  arrays where they lie, so that a group needs no memory beside them; by a link
 *                  that its owner brings, of several processes on several servers
 *   CUDA devices   NCCL, in one process or, by an id, in several on several servers; copies from
 *                  GPU to GPU where NCCL is not there or where one GPU is more than one rank
 *
 * int64 sums are exact (they wrap) and the same whatever the way, the ranks' order and the backend.
 * float32 sums are added in an order that is fixed by ranks, n and way: the same bits at every run,
 * and every rank holds the same bits where an operation gives all of them the sum. On CPU devices
 * the order is told below; NCCL's follows from its version, its settings and the machine; copies
 * add rank after rank. So float32 sums of different backends differ by rounding.
 *
 *   KERN_WAY_RING  share c of the array (cut as evenly as may be, the first ones longer) is
 *                  (((x[c+1] + x[c+2]) + ...) + x[c]), ranks counted modulo `ranks`
 *   KERN_WAY_TREE  a binomial tree: rank r, counted from the root (0 where there is none), adds
 *                  r+1, then r+2, then r+4 and so on as long as the bit is not set in r
 *   KERN_WAY_AUTO  the tree up to KERN_GROUP_TREE_BYTES an array, the ring beyond
 *
 * Threads: a group belongs to one thread at a time, as its devices do for the time of a call; only
 * kern_group_abort may be called by any. Ranks of different callers are called from different
 * threads, or processes: on CPU devices a call waits (asleep) for the others, on CUDA devices it
 * enqueues. Ownership: a group borrows its devices, which must outlive it.
 *
 * Errors: KERN_EARG where the ranks did not call alike (CPU devices of one process; every rank is
 * told, and the group lives on; over a link it is KERN_EGROUP) or an array does not fit;
 * KERN_EGROUP where a rank aborted or left: every call of every rank fails so from then on, the
 * arrays are spoilt, and the devices live on; KERN_EDEVICE. A caller that is refused for its own
 * arrays has not come: the others wait until it calls rightly, aborts or leaves. NCCL does not find
 * out that callers ask for different things: they must not. Words are in kern_device_error of the
 * caller's first device.
 */
#ifndef CONSILIUM_KERN_GROUP_H
#define CONSILIUM_KERN_GROUP_H

#include "kernels/kern.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KERN_GROUP_RANKS_MAX 64
#define KERN_GROUP_TREE_BYTES (64u << 10)

enum kern_type { KERN_I64, KERN_F32 };
enum kern_way { KERN_WAY_AUTO, KERN_WAY_RING, KERN_WAY_TREE }; /* NCCL chooses by itself */

struct kern_group;

/* What ranks of several callers meet by: made by one of them, carried to the others by their owner,
 * used for one group. */
#define KERN_GROUP_ID_BYTES 128
struct kern_group_id {
    unsigned char bytes[KERN_GROUP_ID_BYTES];
};

/* A group of these devices, all of the caller's: different handles, of one backend. */
enum kern_status kern_group_open(struct kern_device *const *devs, size_t count,
                                 struct kern_group **out);
/* An id for a group of devices of `dev`'s backend. KERN_ENODEV where that is CUDA without NCCL. */
enum kern_status kern_group_id_new(struct kern_device *dev, struct kern_group_id *out);
/*
 * Ranks [first, first + count) of the group of `ranks` that meets by `id`. May wait for the others,
 * and on CUDA does, for ever if they do not come. KERN_EARG where a rank is taken or the others
 * speak of another number of ranks.
 */
enum kern_status kern_group_join(const struct kern_group_id *id, size_t ranks, size_t first,
                                 struct kern_device *const *devs, size_t count,
                                 struct kern_group **out);
/*
 * What lies between the processes of one group of CPU devices: messages from rank to rank, whole
 * and in the order in which they were sent. Called by the threads of any of the caller's ranks,
 * several at once, `from` or `to` being its own; false ends the group. `send` borrows the bytes
 * until it returns, and may wait for the network but not for the receiver to call `receive`: what
 * is on its way between two ranks is at most two arrays of the calls that are made. `receive`
 * waits, for exactly n bytes. `shut` is kern_group_abort's: whoever waits is let go with false, as
 * is whoever comes later.
 */
struct kern_group_link {
    void *arg;
    bool (*send)(void *arg, size_t from, size_t to, const void *bytes, size_t n);
    bool (*receive)(void *arg, size_t from, size_t to, void *bytes, size_t n);
    void (*shut)(void *arg);
};
/* The longest message of a link. */
#define KERN_GROUP_MESSAGE_BYTES ((256u << 10) + 64)
/*
 * As kern_group_join, for ranks of several processes: CPU devices add up over `link`, which must
 * outlive the group (borrowed), with the same bits as in one process; CUDA devices meet by `id` and
 * leave the link alone.
 */
enum kern_status kern_group_span(const struct kern_group_id *id, const struct kern_group_link *link,
                                 size_t ranks, size_t first, struct kern_device *const *devs,
                                 size_t count, struct kern_group **out);
/* Leaves: ranks that stay cannot go on. NULL is fine. */
void kern_group_close(struct kern_group *group);
/* Every call of any rank, one that waits too, fails with KERN_EGROUP. From any thread. */
void kern_group_abort(struct kern_group *group);

/* The ranks that the caller holds, the first of them, and those of all callers. */
size_t kern_group_count(const struct kern_group *group);
size_t kern_group_first(const struct kern_group *group);
size_t kern_group_ranks(const struct kern_group *group);
/* The way of calls to come; KERN_WAY_AUTO at first. The same on all ranks. */
void kern_group_set_way(struct kern_group *group, enum kern_way way);

/*
 * In place. parts[i] is the array of the caller's i-th rank: n elements, or `ranks` shares of n
 * elements where it says shares; `at` counts elements. n may be 0, and then parts are not read.
 */

/* parts of rank `root` = the sum; what the others hold is undefined afterwards. */
enum kern_status kern_group_reduce(struct kern_group *group, const struct kern_vec *parts, size_t n,
                                   enum kern_type type, size_t root);
/* Every rank holds the sum. */
enum kern_status kern_group_all_reduce(struct kern_group *group, const struct kern_vec *parts,
                                       size_t n, enum kern_type type);
/* Shares: rank r's share r = the sum of all ranks' share r; its other shares are undefined. */
enum kern_status kern_group_reduce_scatter(struct kern_group *group, const struct kern_vec *parts,
                                           size_t n, enum kern_type type);
/* Shares: every rank's share r = rank r's. */
enum kern_status kern_group_all_gather(struct kern_group *group, const struct kern_vec *parts,
                                       size_t n, enum kern_type type);
/* Every rank's array = the root's. */
enum kern_status kern_group_broadcast(struct kern_group *group, const struct kern_vec *parts,
                                      size_t n, enum kern_type type, size_t root);

/*
 * Calls fn(arg, i) for each rank i < count that the caller holds, and returns when all have: at the
 * same time, each on its rank's thread, where devices work while they are called (CPU), in turn
 * where calls only enqueue (CUDA). fn may use device i and nothing of another's.
 */
void kern_group_each(struct kern_group *group, void (*fn)(void *arg, size_t i), void *arg);

/*
 * Opens every device that a list names: "cpu", "cpu*4" (four CPU devices, which share `threads`),
 * "cuda", "cuda:1", "cuda:0,2,3", "cuda:all", "auto". All or none; KERN_EARG where there are more
 * than `max`, words in kern_device_error(NULL).
 */
enum kern_status kern_devices_open(const char *list, int threads, struct kern_device **devs,
                                   size_t max, size_t *count_out);
/* How many devices a list names at the least (0 for "cuda:all"); false where it is no such list. */
bool kern_devices_parse(const char *list, size_t *count_out);

#ifdef __cplusplus
}
#endif
#endif
