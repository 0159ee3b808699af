/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Groups by NCCL. The library is loaded when it is first needed, not with the plugin: most
 * hospitals have one GPU, and NCCL costs some 100 MB resident. nccl_group.c is built where its
 * header is found, nccl_none.c where not.
 *
 * Threads: the group's; abort any. Ownership: whoever opens closes.
 */
#ifndef CONSILIUM_KERN_CUDA_NCCL_GROUP_H
#define CONSILIUM_KERN_CUDA_NCCL_GROUP_H

#include "kernels/backend.h"

#include <cuda_runtime_api.h>

struct kern_nccl; /* the caller's communicators of one group */

/* KERN_ENODEV where NCCL is not here; every function leaves its reason in `why`. */
enum kern_status kern_nccl_id(struct kern_group_id *out, char *why, size_t why_bytes);
/* device[i] is the GPU of rank first + i; `id` is NULL where all ranks are the caller's. */
enum kern_status kern_nccl_open(const struct kern_group_id *id, size_t ranks, size_t first,
                                const int *device, size_t count, struct kern_nccl **out, char *why,
                                size_t why_bytes);
void kern_nccl_close(struct kern_nccl *nccl);
void kern_nccl_abort(struct kern_nccl *nccl);
/* Enqueues the call on each rank's stream. KERN_EGROUP after an abort. */
enum kern_status kern_nccl_run(struct kern_nccl *nccl, const struct kern_group_call *call,
                               void *const *parts, const cudaStream_t *stream, char *why,
                               size_t why_bytes);

/* A function of NCCL by its name, or NULL. Of nccl_load.c; a test may bring its own. */
void *kern_nccl_symbol(const char *name);

#endif
