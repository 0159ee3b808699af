/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Devices that add for a hub's folds. Each adds the chunks of its inputs, those are dealt to the
 * devices in turn, and a group (kernels/group.h) reduces the integer sums, so the bits are the
 * CPU's. What is refused, and any doubt, is settled by the CPU: the same segment is added there
 * again and its word, or its error, counts. A device that fails is said once and left; the folds go
 * on without.
 *
 * Threads: a fold takes all devices or none, and gives them back; another that runs at the same
 * time adds on the CPU. Ownership: the hub opens and closes, when no fold runs.
 */
#ifndef CONSILIUM_TIER_FOLD_DEVICES_H
#define CONSILIUM_TIER_FOLD_DEVICES_H

#include "tier/fold_add.h"

struct tier_fold_devices;

/*
 * `list` as kern_devices_open takes it, but "cuda" is every GPU there is, "auto" the same or none,
 * and "cpu" or "" none: *out is NULL then. TIER_EDEVICE where one cannot be opened.
 */
enum tier_status tier_fold_devices_open(const char *list, unsigned threads,
                                        struct tier_fold_devices **out, struct tier_err *err);
void tier_fold_devices_close(struct tier_fold_devices *devices);
/* "2 devices: cuda:0 NVIDIA H200, ..." */
const char *tier_fold_devices_text(const struct tier_fold_devices *devices);
/* Segments added on devices so far. */
uint64_t tier_fold_devices_added(const struct tier_fold_devices *devices);

/* Host memory (pinned where they are GPUs) that a fold over that manifest stages its chunks in. */
size_t tier_fold_devices_bytes(const struct tier_fold_devices *devices,
                               const struct tier_manifest *manifest);
/* Takes them for one fold; false where another has them, or they failed, or memory is short. */
bool tier_fold_devices_take(struct tier_fold_devices *devices,
                            const struct tier_manifest *manifest);
void tier_fold_devices_give_back(struct tier_fold_devices *devices);
/* A tier_fold_add_fn; `adder` is the devices, taken. */
enum tier_status tier_fold_add_devices(void *adder, const struct tier_fold_part *part,
                                       struct tier_err *err);

#endif
