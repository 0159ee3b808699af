/* SPDX-License-Identifier: Apache-2.0 */
/* In the place of nccl_group.c where NCCL's header was not there at build time. */
#include "kernels/cuda/nccl_group.h"

#include <stdio.h>

static enum kern_status none(char *why, size_t why_bytes) {
    snprintf(why, why_bytes, "built without NCCL");
    return KERN_ENODEV;
}

enum kern_status kern_nccl_id(struct kern_group_id *out, char *why, size_t why_bytes) {
    (void)out;
    return none(why, why_bytes);
}

enum kern_status kern_nccl_open(const struct kern_group_id *id, size_t ranks, size_t first,
                                const int *device, size_t count, struct kern_nccl **out, char *why,
                                size_t why_bytes) {
    (void)id, (void)ranks, (void)first, (void)device, (void)count, (void)out;
    return none(why, why_bytes);
}

void kern_nccl_close(struct kern_nccl *nccl) {
    (void)nccl;
}

void kern_nccl_abort(struct kern_nccl *nccl) {
    (void)nccl;
}

enum kern_status kern_nccl_run(struct kern_nccl *nccl, const struct kern_group_call *call,
                               void *const *parts, const cudaStream_t *stream, char *why,
                               size_t why_bytes) {
    (void)nccl, (void)call, (void)parts, (void)stream;
    return none(why, why_bytes);
}
