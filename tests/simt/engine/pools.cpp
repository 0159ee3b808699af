/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stand-ins for the calls of memory pools. What is taken exists at once, what is given back is
 * freed when the stream comes to it, and nothing is given out twice, so that every access is judged
 * as with memory of cudaMalloc.
 */
#include "tests/simt/engine/engine.h"

#include <algorithm>

/* The real one is opaque. */
struct CUmemPoolHandle_st {
    int device;
    uint64_t used, most;
};

namespace simt {

static bool pools_absent;
static std::map<void *, std::pair<cudaMemPool_t, size_t>> taken;

} // namespace simt

using namespace simt;

void simt_without_pools(void) {
    pools_absent = true;
}

extern "C" {

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attr, int) {
    if (attr != cudaDevAttrMemoryPoolsSupported) {
        return cudaErrorInvalidValue;
    }
    *value = pools_absent ? 0 : 1;
    return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer) {
    *can = device != peer;
    return cudaSuccess;
}

cudaError_t cudaMemPoolCreate(cudaMemPool_t *pool, const cudaMemPoolProps *props) {
    if (injected("cudaMemPoolCreate")) {
        return cudaErrorMemoryAllocation;
    }
    *pool = new CUmemPoolHandle_st{props->location.id, 0, 0};
    return cudaSuccess;
}

cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool) {
    if (pool->used != 0) {
        report("bad-free", nullptr, "a pool is destroyed with %zu bytes not given back",
               (size_t)pool->used);
    }
    delete pool;
    return cudaSuccess;
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void *) {
    return cudaSuccess;
}

cudaError_t cudaMemPoolSetAccess(cudaMemPool_t pool, const cudaMemAccessDesc *peers, size_t count) {
    if (injected("cudaMemPoolSetAccess")) {
        return cudaErrorUnknown;
    }
    for (size_t i = 0; i < count; i++) {
        if (peers[i].location.id == pool->device) {
            return cudaErrorInvalidValue;
        }
    }
    return cudaSuccess;
}

cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attr, void *value) {
    *(uint64_t *)value = attr == cudaMemPoolAttrUsedMemHigh ? pool->most : pool->used;
    return cudaSuccess;
}

cudaError_t cudaMallocFromPoolAsync(void **p, size_t bytes, cudaMemPool_t pool,
                                    cudaStream_t stream) {
    Stream *s = stream_of(stream);
    if (s == nullptr || capture_spoilt()) {
        return cudaErrorStreamCaptureUnsupported;
    }
    if (stream_device(s) != pool->device) {
        report("wrong-device", nullptr, "memory of device %d's pool in a stream of device %d",
               pool->device, stream_device(s));
    }
    void *fresh = injected("cudaMalloc") ? nullptr : device_alloc(bytes, pool->device);
    if (fresh == nullptr) {
        return cudaErrorMemoryAllocation;
    }
    taken[fresh] = {pool, bytes};
    pool->used += bytes;
    pool->most = std::max(pool->most, pool->used);
    *p = fresh;
    return cudaSuccess;
}

cudaError_t cudaFreeAsync(void *p, cudaStream_t stream) {
    Stream *s = stream_of(stream);
    auto it = taken.find(p);
    (void)injected("cudaFree");
    if (s == nullptr || capture_spoilt()) {
        return cudaErrorStreamCaptureUnsupported;
    }
    if (it == taken.end()) {
        report("bad-free", nullptr, "cudaFreeAsync(%p), which no pool gave", p);
        return cudaErrorInvalidValue;
    }
    it->second.first->used -= it->second.second;
    taken.erase(it);
    stream_push(s, [=] { device_free(p); });
    return cudaSuccess;
}

} // extern "C"
