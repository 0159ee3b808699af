/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory of a GPU, and what is copied to and from it. Arrays come from a pool of the context's own,
 * in the order of its stream, which gives nothing back to the driver before the device is closed:
 * once a training has taken its first steps, arrays and scratch cost no call of the driver, and
 * freeing waits for nothing. A driver without pools (some virtual GPUs), or whose pools keep other
 * GPUs out that could come in, gives each array itself.
 *
 * Beside the stream that computes there is one that copies: kern_upload_beside brings bytes to a
 * landing place while the stream computes, and the stream moves them from there when it comes to
 * them. Two events order the two: `arrived`, which the computing stream waits for, and `landed`,
 * the landing place being free again, which the copying one does.
 */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/kernels.h"

#include <stdio.h>

/* ---- taking and giving ----------------------------------------------------------------------- */

/* Groups of one process read and write each other's arrays where the GPUs can: memory of a pool
 * says so itself, unlike cudaMalloc's. */
static enum kern_status let_peers(struct kern_cuda *cuda) {
    int count = 0;
    CUDA_TRY(cuda, cudaGetDeviceCount(&count), "cudaGetDeviceCount");
    for (int i = 0; i < count; i++) {
        const struct cudaMemAccessDesc peer = {
            .location = {.type = cudaMemLocationTypeDevice, .id = i},
            .flags = cudaMemAccessFlagsProtReadWrite};
        int can = 0;
        if (i == cuda->device) {
            continue;
        }
        CUDA_TRY(cuda, cudaDeviceCanAccessPeer(&can, i, cuda->device), "cudaDeviceCanAccessPeer");
        if (can != 0) {
            CUDA_TRY(cuda, cudaMemPoolSetAccess(cuda->pool, &peer, 1), "cudaMemPoolSetAccess");
        }
    }
    return KERN_OK;
}

static enum kern_status open_pool(struct kern_cuda *cuda) {
    const struct cudaMemPoolProps props = {
        .allocType = cudaMemAllocationTypePinned,
        .location = {.type = cudaMemLocationTypeDevice, .id = cuda->device}};
    uint64_t keep = UINT64_MAX;
    int pools = 0;
    CUDA_TRY(cuda, cudaDeviceGetAttribute(&pools, cudaDevAttrMemoryPoolsSupported, cuda->device),
             "cudaDeviceGetAttribute");
    if (pools == 0) {
        return KERN_OK;
    }
    CUDA_TRY(cuda, cudaMemPoolCreate(&cuda->pool, &props), "cudaMemPoolCreate");
    CUDA_TRY(cuda, cudaMemPoolSetAttribute(cuda->pool, cudaMemPoolAttrReleaseThreshold, &keep),
             "cudaMemPoolSetAttribute");
    if (let_peers(cuda) != KERN_OK) { /* a group needs them more than anyone needs a pool */
        (void)cudaMemPoolDestroy(cuda->pool);
        cuda->pool = NULL;
        cuda->base.error[0] = '\0';
    }
    return KERN_OK;
}

enum kern_status kern_cuda_memory_open(struct kern_cuda *cuda) {
    CUDA_TRY(cuda, cudaStreamCreateWithFlags(&cuda->stream, cudaStreamNonBlocking),
             "cudaStreamCreateWithFlags");
    CUDA_TRY(cuda, cudaStreamCreateWithFlags(&cuda->copies, cudaStreamNonBlocking),
             "cudaStreamCreateWithFlags");
    CUDA_TRY(cuda, cudaEventCreateWithFlags(&cuda->arrived, cudaEventDisableTiming),
             "cudaEventCreateWithFlags");
    CUDA_TRY(cuda, cudaEventCreateWithFlags(&cuda->landed, cudaEventDisableTiming),
             "cudaEventCreateWithFlags");
    enum kern_status st = open_pool(cuda);
    if (st == KERN_OK) {
        st = kern_cuda_take(cuda, KERN_CUDA_PARTS * sizeof(float), (void **)&cuda->parts);
    }
    if (st == KERN_OK) {
        st = kern_cuda_take(cuda, sizeof *cuda->turn, (void **)&cuda->turn);
    }
    return st;
}

void kern_cuda_memory_close(struct kern_cuda *cuda) {
    kern_cuda_give(cuda, cuda->parts);
    kern_cuda_give(cuda, cuda->turn);
    for (size_t i = 0; i < KERN_CUDA_SCRATCHES; i++) {
        kern_cuda_give(cuda, cuda->scratch[i]);
    }
    if (cuda->copies != NULL) {
        (void)cudaStreamSynchronize(cuda->copies);
        (void)cudaStreamDestroy(cuda->copies);
    }
    if (cuda->stream != NULL) {
        (void)cudaStreamSynchronize(cuda->stream);
        (void)cudaStreamDestroy(cuda->stream);
    }
    if (cuda->arrived != NULL) {
        (void)cudaEventDestroy(cuda->arrived);
    }
    if (cuda->landed != NULL) {
        (void)cudaEventDestroy(cuda->landed);
    }
    if (cuda->pool != NULL) {
        (void)cudaMemPoolDestroy(cuda->pool);
    }
}

enum kern_status kern_cuda_take(struct kern_cuda *cuda, size_t bytes, void **out) {
    void *p = NULL;
    if (cuda->recording) {
        snprintf(cuda->base.error, sizeof cuda->base.error,
                 "a recording takes no memory, and %zu bytes more are needed", bytes);
        return KERN_EARG;
    }
    if (cuda->pool != NULL) {
        CUDA_TRY(cuda, cudaMallocFromPoolAsync(&p, bytes, cuda->pool, cuda->stream),
                 "cudaMallocFromPoolAsync");
    } else {
        CUDA_TRY(cuda, cudaMalloc(&p, bytes), "cudaMalloc");
    }
    *out = p;
    return KERN_OK;
}

/* In the stream's order: work that still uses the memory comes first. */
void kern_cuda_give(struct kern_cuda *cuda, void *p) {
    if (p == NULL) {
        return;
    }
    cuda->given++;
    (void)cudaSetDevice(cuda->device);
    if (cuda->pool != NULL) {
        (void)cudaFreeAsync(p, cuda->stream);
        return;
    }
    (void)cudaStreamSynchronize(cuda->stream);
    (void)cudaFree(p);
}

enum kern_status kern_cuda_alloc(struct kern_ctx *ctx, size_t bytes, void **out) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    void *p = NULL;
    ENTER(cuda);
    enum kern_status st = kern_cuda_take(cuda, bytes, &p);
    if (st == KERN_OK) {
        st = kern_cuda_check(cuda, cudaMemsetAsync(p, 0, bytes, cuda->stream), "cudaMemsetAsync");
    }
    if (st != KERN_OK) {
        kern_cuda_give(cuda, p);
        return st;
    }
    *out = p;
    return KERN_OK;
}

void kern_cuda_free(struct kern_ctx *ctx, void *p) {
    kern_cuda_give(kern_cuda_of(ctx), p);
}

enum kern_status kern_cuda_scratch(struct kern_cuda *cuda, unsigned which, size_t bytes,
                                   void **out) {
    if (cuda->scratch_bytes[which] < bytes) {
        size_t want = bytes + bytes / 8;
        void *p = NULL;
        enum kern_status st = kern_cuda_take(cuda, want, &p);
        if (st != KERN_OK) {
            return st;
        }
        kern_cuda_give(cuda, cuda->scratch[which]);
        cuda->scratch[which] = p;
        cuda->scratch_bytes[which] = want;
    }
    *out = cuda->scratch[which];
    return KERN_OK;
}

enum kern_status kern_cuda_memory(struct kern_ctx *ctx, struct kern_memory *out) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    uint64_t now = 0, most = 0;
    if (cuda->pool == NULL) {
        return KERN_OK;
    }
    ENTER(cuda);
    CUDA_TRY(cuda, cudaMemPoolGetAttribute(cuda->pool, cudaMemPoolAttrUsedMemCurrent, &now),
             "cudaMemPoolGetAttribute");
    CUDA_TRY(cuda, cudaMemPoolGetAttribute(cuda->pool, cudaMemPoolAttrUsedMemHigh, &most),
             "cudaMemPoolGetAttribute");
    *out = (struct kern_memory){now, most};
    return KERN_OK;
}

/* ---- copies ---------------------------------------------------------------------------------- */

enum kern_status kern_cuda_sync(struct kern_ctx *ctx) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return kern_cuda_check(cuda, cudaStreamSynchronize(cuda->stream), "cudaStreamSynchronize");
}

/* Waits, so that the caller may reuse src: on machines with shared page tables a copy from pageable
 * memory is asynchronous too. */
enum kern_status kern_cuda_upload(struct kern_ctx *ctx, void *dst, const void *src, size_t bytes) {
    enum kern_status st = kern_cuda_upload_start(ctx, dst, src, bytes);
    return st == KERN_OK ? kern_cuda_sync(ctx) : st;
}

enum kern_status kern_cuda_upload_start(struct kern_ctx *ctx, void *dst, const void *src,
                                        size_t bytes) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return kern_cuda_check(cuda,
                           cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, cuda->stream),
                           "cudaMemcpyAsync to the device");
}

static enum kern_status copy_plain(struct kern_cuda *cuda, void *dst, const void *src,
                                   size_t bytes) {
    return kern_cuda_check(cuda,
                           cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, cuda->stream),
                           "cudaMemcpyAsync on the device");
}

/* Room for bytes on their way; where it is made larger, it is there when the stream says so. */
static enum kern_status landing(struct kern_cuda *cuda, size_t bytes, void **out) {
    size_t had = cuda->scratch_bytes[KERN_CUDA_LANDING];
    enum kern_status st = kern_cuda_scratch(cuda, KERN_CUDA_LANDING, bytes, out);
    if (st == KERN_OK && cuda->scratch_bytes[KERN_CUDA_LANDING] != had) {
        CUDA_TRY(cuda, cudaEventRecord(cuda->landed, cuda->stream), "cudaEventRecord");
    }
    return st;
}

enum kern_status kern_cuda_upload_beside(struct kern_ctx *ctx, void *dst, const void *src,
                                         size_t bytes) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    void *at = NULL;
    ENTER(cuda);
    enum kern_status st = landing(cuda, bytes, &at);
    if (st != KERN_OK) {
        return st;
    }
    CUDA_TRY(cuda, cudaStreamWaitEvent(cuda->copies, cuda->landed, 0), "cudaStreamWaitEvent");
    CUDA_TRY(cuda, cudaMemcpyAsync(at, src, bytes, cudaMemcpyHostToDevice, cuda->copies),
             "cudaMemcpyAsync to the device");
    CUDA_TRY(cuda, cudaEventRecord(cuda->arrived, cuda->copies), "cudaEventRecord");
    CUDA_TRY(cuda, cudaStreamWaitEvent(cuda->stream, cuda->arrived, 0), "cudaStreamWaitEvent");
    st = copy_plain(cuda, dst, at, bytes);
    if (st == KERN_OK) {
        CUDA_TRY(cuda, cudaEventRecord(cuda->landed, cuda->stream), "cudaEventRecord");
    }
    return st;
}

enum kern_status kern_cuda_upload_wait(struct kern_ctx *ctx) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return kern_cuda_check(cuda, cudaEventSynchronize(cuda->arrived), "cudaEventSynchronize");
}

enum kern_status kern_cuda_host_alloc(struct kern_ctx *ctx, size_t bytes, void **out) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return kern_cuda_check(cuda, cudaMallocHost(out, bytes), "cudaMallocHost");
}

void kern_cuda_host_free(struct kern_ctx *ctx, void *p) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    (void)cudaSetDevice(cuda->device);
    (void)cudaStreamSynchronize(cuda->stream);
    (void)cudaFreeHost(p);
}

enum kern_status kern_cuda_download(struct kern_ctx *ctx, void *dst, const void *src,
                                    size_t bytes) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    CUDA_TRY(cuda, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, cuda->stream),
             "cudaMemcpyAsync to the host");
    return kern_cuda_sync(ctx);
}

enum kern_status kern_cuda_copy(struct kern_ctx *ctx, void *dst, const void *src, size_t bytes) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    const char *to = dst, *from = src;
    void *between = NULL;
    ENTER(cuda);
    if (to + bytes <= from || from + bytes <= to) {
        return copy_plain(cuda, dst, src, bytes);
    }
    enum kern_status st = kern_cuda_scratch(cuda, KERN_CUDA_BETWEEN, bytes, &between);
    if (st == KERN_OK) {
        st = copy_plain(cuda, between, src, bytes);
    }
    return st == KERN_OK ? copy_plain(cuda, dst, between, bytes) : st;
}

enum kern_status kern_cuda_zero(struct kern_ctx *ctx, void *dst, size_t bytes) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return kern_cuda_check(cuda, cudaMemsetAsync(dst, 0, bytes, cuda->stream), "cudaMemsetAsync");
}
