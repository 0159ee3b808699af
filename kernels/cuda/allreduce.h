/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sum across GPUs by NCCL. The library is loaded when it is first needed, not with the plugin:
 * most hospitals have one GPU, and NCCL costs some 100 MB resident. allreduce_nccl.c is built where
 * its header is found, allreduce_none.c where not; the backend sums by copies where this cannot.
 *
 * Threads: any; communicators are shared by the process and a lock covers their use.
 * Ownership: communicators are kept until the process ends.
 */
#ifndef CONSILIUM_KERN_CUDA_ALLREDUCE_H
#define CONSILIUM_KERN_CUDA_ALLREDUCE_H

#include "kernels/kern.h"

#include <cuda_runtime_api.h>

#define KERN_NCCL_RANKS_MAX 64

/*
 * Enqueues the in-place sum of int64[n] over `count` different devices, parts[i] on device[i] in
 * the order of stream[i]. KERN_ENODEV where NCCL is not here: nothing was done. KERN_EDEVICE with
 * the reason in `why` where it failed.
 */
enum kern_status kern_nccl_sum(const int *device, const cudaStream_t *stream, int64_t *const *parts,
                               size_t count, size_t n, char *why, size_t why_bytes);

/* A function of NCCL by its name, or NULL. Of nccl_load.c; a test may bring its own. */
void *kern_nccl_symbol(const char *name);

#endif
