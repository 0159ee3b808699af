/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NCCL's operations are ours, so a call is one group call of it over the caller's ranks. All of a
 * caller's ranks are made in one group too, from one thread, or each would wait for the next.
 * A communicator that failed is aborted, not destroyed: destroying waits for its work.
 */
#include "kernels/cuda/nccl_group.h"

#include <nccl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(ncclUniqueId) <= KERN_GROUP_ID_BYTES, "an id carries NCCL's");

struct kern_nccl {
    pthread_mutex_t lock; /* an abort comes from any thread */
    bool aborted;
    size_t first, count;
    ncclComm_t comm[];
};

static struct {
    pthread_once_t once;
    bool here;
    __typeof__(&ncclGetUniqueId) unique_id;
    __typeof__(&ncclCommInitAll) init_all;
    __typeof__(&ncclCommInitRank) init_rank;
    __typeof__(&ncclCommDestroy) destroy;
    __typeof__(&ncclCommAbort) abort;
    __typeof__(&ncclGroupStart) group_start;
    __typeof__(&ncclGroupEnd) group_end;
    __typeof__(&ncclReduce) reduce;
    __typeof__(&ncclAllReduce) all_reduce;
    __typeof__(&ncclReduceScatter) reduce_scatter;
    __typeof__(&ncclAllGather) all_gather;
    __typeof__(&ncclBroadcast) broadcast;
    __typeof__(&ncclGetErrorString) error_string;
} lib = {.once = PTHREAD_ONCE_INIT};

static bool bind(void *target, const char *name) {
    void *symbol = kern_nccl_symbol(name);
    memcpy(target, &symbol, sizeof symbol);
    return symbol != NULL;
}

static void bind_all(void) {
    lib.here = bind(&lib.unique_id, "ncclGetUniqueId") && bind(&lib.init_all, "ncclCommInitAll") &&
               bind(&lib.init_rank, "ncclCommInitRank") && bind(&lib.destroy, "ncclCommDestroy") &&
               bind(&lib.abort, "ncclCommAbort") && bind(&lib.group_start, "ncclGroupStart") &&
               bind(&lib.group_end, "ncclGroupEnd") && bind(&lib.reduce, "ncclReduce") &&
               bind(&lib.all_reduce, "ncclAllReduce") &&
               bind(&lib.reduce_scatter, "ncclReduceScatter") &&
               bind(&lib.all_gather, "ncclAllGather") && bind(&lib.broadcast, "ncclBroadcast") &&
               bind(&lib.error_string, "ncclGetErrorString");
}

static enum kern_status need_library(char *why, size_t why_bytes) {
    pthread_once(&lib.once, bind_all);
    if (!lib.here) {
        snprintf(why, why_bytes, "libnccl.so.2 is not here, or lacks a function");
    }
    return lib.here ? KERN_OK : KERN_ENODEV;
}

static enum kern_status told(const char *call, ncclResult_t result, char *why, size_t why_bytes) {
    if (result == ncclSuccess) {
        return KERN_OK;
    }
    snprintf(why, why_bytes, "%s: %.180s", call, lib.error_string(result));
    return KERN_EDEVICE;
}

enum kern_status kern_nccl_id(struct kern_group_id *out, char *why, size_t why_bytes) {
    ncclUniqueId id;
    enum kern_status st = need_library(why, why_bytes);
    if (st == KERN_OK) {
        st = told("ncclGetUniqueId", lib.unique_id(&id), why, why_bytes);
    }
    if (st == KERN_OK) {
        memset(out, 0, sizeof *out);
        memcpy(out->bytes, &id, sizeof id);
    }
    return st;
}

static void abort_all(struct kern_nccl *nccl) {
    for (size_t i = 0; i < nccl->count; i++) {
        if (nccl->comm[i] != NULL) {
            (void)lib.abort(nccl->comm[i]);
        }
        nccl->comm[i] = NULL;
    }
    nccl->aborted = true;
}

static enum kern_status make_ranks(struct kern_nccl *nccl, const struct kern_group_id *id,
                                   size_t ranks, const int *device, char *why, size_t why_bytes) {
    ncclUniqueId unique;
    if (id == NULL) {
        return told("ncclCommInitAll", lib.init_all(nccl->comm, (int)ranks, device), why,
                    why_bytes);
    }
    memcpy(&unique, id->bytes, sizeof unique);
    ncclResult_t result = lib.group_start();
    for (size_t i = 0; result == ncclSuccess && i < nccl->count; i++) {
        if (cudaSetDevice(device[i]) != cudaSuccess) {
            result = ncclUnhandledCudaError;
        } else {
            result = lib.init_rank(&nccl->comm[i], (int)ranks, unique, (int)(nccl->first + i));
        }
    }
    ncclResult_t ended = lib.group_end();
    return told("ncclCommInitRank", result != ncclSuccess ? result : ended, why, why_bytes);
}

enum kern_status kern_nccl_open(const struct kern_group_id *id, size_t ranks, size_t first,
                                const int *device, size_t count, struct kern_nccl **out, char *why,
                                size_t why_bytes) {
    enum kern_status st = need_library(why, why_bytes);
    if (st != KERN_OK) {
        return st;
    }
    struct kern_nccl *nccl = calloc(1, sizeof *nccl + count * sizeof nccl->comm[0]);
    if (nccl == NULL) {
        return KERN_ENOMEM;
    }
    pthread_mutex_init(&nccl->lock, NULL);
    nccl->first = first;
    nccl->count = count;
    st = make_ranks(nccl, id, ranks, device, why, why_bytes);
    if (st != KERN_OK) {
        abort_all(nccl);
        kern_nccl_close(nccl);
        return st;
    }
    *out = nccl;
    return KERN_OK;
}

void kern_nccl_close(struct kern_nccl *nccl) {
    if (nccl == NULL) {
        return;
    }
    for (size_t i = 0; i < nccl->count; i++) {
        if (nccl->comm[i] != NULL) {
            (void)lib.destroy(nccl->comm[i]);
        }
    }
    pthread_mutex_destroy(&nccl->lock);
    free(nccl);
}

void kern_nccl_abort(struct kern_nccl *nccl) {
    pthread_mutex_lock(&nccl->lock);
    abort_all(nccl);
    pthread_mutex_unlock(&nccl->lock);
}

static ncclResult_t call_rank(const struct kern_group_call *call, ncclComm_t comm, size_t rank,
                              void *part, cudaStream_t stream) {
    bool f32 = call->type == KERN_F32;
    ncclDataType_t type = f32 ? ncclFloat32 : ncclInt64;
    size_t n = call->n;
    char *share = (char *)part + rank * n * (f32 ? sizeof(float) : sizeof(int64_t));
    switch (call->op) {
    case KERN_GROUP_REDUCE:
        return lib.reduce(part, part, n, type, ncclSum, (int)call->root, comm, stream);
    case KERN_GROUP_ALL_REDUCE:
        return lib.all_reduce(part, part, n, type, ncclSum, comm, stream);
    case KERN_GROUP_REDUCE_SCATTER:
        return lib.reduce_scatter(part, share, n, type, ncclSum, comm, stream);
    case KERN_GROUP_ALL_GATHER:
        return lib.all_gather(share, part, n, type, comm, stream);
    case KERN_GROUP_BROADCAST:
        return lib.broadcast(part, part, n, type, (int)call->root, comm, stream);
    }
    return ncclInvalidArgument;
}

static enum kern_status enqueue(struct kern_nccl *nccl, const struct kern_group_call *call,
                                void *const *parts, const cudaStream_t *stream, char *why,
                                size_t why_bytes) {
    ncclResult_t result = lib.group_start();
    const char *name = "ncclGroupStart";
    if (result != ncclSuccess) {
        return told(name, result, why, why_bytes);
    }
    for (size_t i = 0; result == ncclSuccess && i < nccl->count; i++) {
        result = call_rank(call, nccl->comm[i], nccl->first + i, parts[i], stream[i]);
        name = "an operation of NCCL";
    }
    ncclResult_t ended = lib.group_end(); /* also after a failure: the group must be closed */
    if (result == ncclSuccess) {
        result = ended;
        name = "ncclGroupEnd";
    }
    return told(name, result, why, why_bytes);
}

enum kern_status kern_nccl_run(struct kern_nccl *nccl, const struct kern_group_call *call,
                               void *const *parts, const cudaStream_t *stream, char *why,
                               size_t why_bytes) {
    enum kern_status st = KERN_EGROUP;
    pthread_mutex_lock(&nccl->lock);
    if (nccl->aborted) {
        snprintf(why, why_bytes, "the group was aborted");
    } else {
        st = enqueue(nccl, call, parts, stream, why, why_bytes);
    }
    if (st == KERN_EDEVICE) {
        abort_all(nccl); /* a failed communicator is no longer usable */
    }
    pthread_mutex_unlock(&nccl->lock);
    return st;
}
