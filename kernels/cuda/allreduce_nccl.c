/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One process drives all its GPUs, so a round of NCCL is one group call from one thread. Making
 * communicators takes seconds, so each set of devices keeps its own; a process uses one set or two,
 * and the oldest of CLIQUES is replaced beyond that.
 */
#include "kernels/cuda/allreduce.h"

#include <nccl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define CLIQUES 4

struct clique {
    size_t count; /* 0: empty */
    int device[KERN_NCCL_RANKS_MAX];
    ncclComm_t comm[KERN_NCCL_RANKS_MAX];
};

static struct {
    pthread_mutex_t lock;
    bool tried, here;
    __typeof__(&ncclCommInitAll) init_all;
    __typeof__(&ncclCommDestroy) destroy;
    __typeof__(&ncclGroupStart) group_start;
    __typeof__(&ncclGroupEnd) group_end;
    __typeof__(&ncclAllReduce) all_reduce;
    __typeof__(&ncclGetErrorString) error_string;
    struct clique clique[CLIQUES];
    size_t next;
} nccl = {.lock = PTHREAD_MUTEX_INITIALIZER};

static bool bind(void *target, const char *name) {
    void *symbol = kern_nccl_symbol(name);
    memcpy(target, &symbol, sizeof symbol);
    return symbol != NULL;
}

static bool bind_all(void) {
    if (!nccl.tried) {
        nccl.tried = true;
        nccl.here =
            bind(&nccl.init_all, "ncclCommInitAll") && bind(&nccl.destroy, "ncclCommDestroy") &&
            bind(&nccl.group_start, "ncclGroupStart") && bind(&nccl.group_end, "ncclGroupEnd") &&
            bind(&nccl.all_reduce, "ncclAllReduce") &&
            bind(&nccl.error_string, "ncclGetErrorString");
    }
    return nccl.here;
}

static enum kern_status fail(const char *call, ncclResult_t result, char *why, size_t why_bytes) {
    snprintf(why, why_bytes, "%s: %.180s", call, nccl.error_string(result));
    return KERN_EDEVICE;
}

static void forget(struct clique *c) {
    for (size_t i = 0; i < c->count; i++) {
        (void)nccl.destroy(c->comm[i]);
    }
    c->count = 0;
}

static enum kern_status find_clique(const int *device, size_t count, struct clique **out, char *why,
                                    size_t why_bytes) {
    for (size_t i = 0; i < CLIQUES; i++) {
        struct clique *c = &nccl.clique[i];
        if (c->count == count && memcmp(c->device, device, count * sizeof *device) == 0) {
            *out = c;
            return KERN_OK;
        }
    }
    struct clique *c = &nccl.clique[nccl.next];
    forget(c);
    ncclResult_t result = nccl.init_all(c->comm, (int)count, device);
    if (result != ncclSuccess) {
        return fail("ncclCommInitAll", result, why, why_bytes);
    }
    nccl.next = (nccl.next + 1) % CLIQUES;
    memcpy(c->device, device, count * sizeof *device);
    c->count = count;
    *out = c;
    return KERN_OK;
}

static enum kern_status enqueue(struct clique *c, const cudaStream_t *stream, int64_t *const *parts,
                                size_t n, char *why, size_t why_bytes) {
    ncclResult_t result = nccl.group_start();
    if (result != ncclSuccess) {
        return fail("ncclGroupStart", result, why, why_bytes);
    }
    const char *call = "ncclAllReduce";
    for (size_t i = 0; result == ncclSuccess && i < c->count; i++) {
        result = nccl.all_reduce(parts[i], parts[i], n, ncclInt64, ncclSum, c->comm[i], stream[i]);
    }
    ncclResult_t ended = nccl.group_end(); /* also after a failure: the group must be closed */
    if (result == ncclSuccess) {
        result = ended;
        call = "ncclGroupEnd";
    }
    return result == ncclSuccess ? KERN_OK : fail(call, result, why, why_bytes);
}

enum kern_status kern_nccl_sum(const int *device, const cudaStream_t *stream, int64_t *const *parts,
                               size_t count, size_t n, char *why, size_t why_bytes) {
    struct clique *c = NULL;
    pthread_mutex_lock(&nccl.lock);
    enum kern_status st = KERN_ENODEV;
    if (bind_all() && count <= KERN_NCCL_RANKS_MAX) {
        st = find_clique(device, count, &c, why, why_bytes);
        if (st == KERN_OK) {
            st = enqueue(c, stream, parts, n, why, why_bytes);
        }
        if (st != KERN_OK && c != NULL) {
            forget(c); /* a failed communicator is no longer usable */
        }
    }
    pthread_mutex_unlock(&nccl.lock);
    return st;
}
