/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stand-ins for the calls of cuBLAS and NCCL that the backend makes, against their real
 * headers. The product is the definition in double: what is tested is how the backend calls it, so
 * every extent a call implies is judged against the memory it names.
 */
#include "tests/simt/engine/engine.h"

#include <cublas_v2.h>
#include <nccl.h>

#include <algorithm>

/* The real ones are opaque; a stream is all a handle has. */
struct cublasContext {
    simt::Stream *stream;
    bool pedantic;
};

struct ncclComm {
    int rank, ranks, device;
    uint64_t clique;
};

namespace simt {

static bool nccl_absent;
static uint64_t nccl_sums, cliques;
static int group_depth;

struct Part {
    const void *src;
    void *dst;
    size_t n;
    ncclComm *comm;
    Stream *stream;
};
static std::vector<Part> group;

void libraries_begin() {
    group.clear();
    group_depth = 0;
}

/* Bytes from the first to the last element of a column-major matrix. */
static size_t extent(int rows, int cols, int ld) {
    return ((size_t)(cols - 1) * (size_t)ld + (size_t)rows) * sizeof(float);
}

struct Product {
    bool ta, tb;
    int m, n, k, lda, ldb, ldc;
    float alpha, beta;
    const float *a, *b;
    float *c;
};

static void multiply(const Product &p, int device) {
    bool ok = device_touch(p.a, extent(p.ta ? p.k : p.m, p.ta ? p.m : p.k, p.lda), false, device,
                           "cublasSgemm reads A");
    ok = device_touch(p.b, extent(p.tb ? p.n : p.k, p.tb ? p.k : p.n, p.ldb), false, device,
                      "cublasSgemm reads B") &&
         ok;
    if (p.beta != 0) {
        ok = device_touch(p.c, extent(p.m, p.n, p.ldc), false, device, "cublasSgemm reads C") && ok;
    }
    ok = device_touch(p.c, extent(p.m, p.n, p.ldc), true, device, "cublasSgemm writes C") && ok;
    for (int j = 0; ok && j < p.n; j++) {
        for (int i = 0; i < p.m; i++) {
            double sum = 0;
            for (int l = 0; l < p.k; l++) {
                size_t ia = p.ta ? (size_t)i * p.lda + l : (size_t)l * p.lda + i;
                size_t ib = p.tb ? (size_t)l * p.ldb + j : (size_t)j * p.ldb + l;
                sum += (double)p.a[ia] * (double)p.b[ib];
            }
            float *c = p.c + (size_t)j * p.ldc + i;
            *c = (float)(p.alpha * sum + (p.beta != 0 ? (double)p.beta * *c : 0));
        }
    }
}

static void sum_parts(const std::vector<Part> &parts) {
    size_t n = parts[0].n;
    std::vector<int64_t> total(n, 0);
    for (const Part &part : parts) {
        if (!device_touch(part.src, n * 8, false, part.comm->device, "ncclAllReduce reads") ||
            !device_touch(part.dst, n * 8, true, part.comm->device, "ncclAllReduce writes")) {
            return;
        }
        const int64_t *x = (const int64_t *)part.src;
        for (size_t i = 0; i < n; i++) {
            total[i] = (int64_t)((uint64_t)total[i] + (uint64_t)x[i]);
        }
    }
    for (const Part &part : parts) {
        memcpy(part.dst, total.data(), n * 8);
    }
    nccl_sums++;
}

/* One sum for each clique of the group; every rank must have come, once and alike. */
static ncclResult_t close_group() {
    while (!group.empty()) {
        std::vector<Part> mine, others;
        for (const Part &part : group) {
            bool same = part.comm->clique == group[0].comm->clique;
            (same ? mine : others).push_back(part);
        }
        group = others;
        bool alike =
            std::all_of(mine.begin(), mine.end(), [&](const Part &p) { return p.n == mine[0].n; });
        if ((int)mine.size() != mine[0].comm->ranks || !alike) {
            report("nccl-group", nullptr, "%zu of %d ranks came, or with different lengths",
                   mine.size(), mine[0].comm->ranks);
            group.clear();
            return ncclInvalidUsage;
        }
        auto all = std::make_shared<Collective>();
        for (const Part &part : mine) {
            all->streams.push_back(part.stream);
        }
        all->work = [mine] { sum_parts(mine); };
        stream_push_collective(all);
    }
    return ncclSuccess;
}

} // namespace simt

using namespace simt;

void simt_without_nccl(void) {
    nccl_absent = true;
}

uint64_t simt_nccl_sums(void) {
    return nccl_sums;
}

extern "C" {

cublasStatus_t cublasCreate_v2(cublasHandle_t *handle) {
    if (injected("cublasCreate")) {
        return CUBLAS_STATUS_ALLOC_FAILED;
    }
    *handle = new cublasContext{nullptr, false};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
    handle->stream = stream_of(stream);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
    handle->pedantic = mode == CUBLAS_PEDANTIC_MATH;
    return CUBLAS_STATUS_SUCCESS;
}

const char *cublasGetStatusString(cublasStatus_t status) {
    return status == CUBLAS_STATUS_SUCCESS ? "success" : "a failure of the emulated cuBLAS";
}

cublasStatus_t cublasSgemm_v2(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb,
                              int m, int n, int k, const float *alpha, const float *a, int lda,
                              const float *b, int ldb, const float *beta, float *c, int ldc) {
    Product p{ta != CUBLAS_OP_N, tb != CUBLAS_OP_N, m, n, k, lda, ldb, ldc, *alpha, *beta, a, b, c};
    if (injected("cublasSgemm")) {
        return CUBLAS_STATUS_EXECUTION_FAILED;
    }
    if (m < 0 || n < 0 || k < 0 || lda < std::max(1, p.ta ? k : m) ||
        ldb < std::max(1, p.tb ? n : k) || ldc < std::max(1, m) || !handle->pedantic) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    int device = stream_device(handle->stream);
    stream_push(handle->stream, [=] { multiply(p, device); });
    return CUBLAS_STATUS_SUCCESS;
}

ncclResult_t ncclCommInitAll(ncclComm_t *comms, int ranks, const int *devices) {
    if (injected("ncclCommInitAll")) {
        return ncclSystemError;
    }
    cliques++;
    for (int i = 0; i < ranks; i++) {
        comms[i] = new ncclComm{i, ranks, devices[i], cliques};
    }
    return ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
    delete comm;
    return ncclSuccess;
}

ncclResult_t ncclGroupStart(void) {
    group_depth++;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void) {
    return --group_depth == 0 ? close_group() : ncclSuccess;
}

ncclResult_t ncclAllReduce(const void *src, void *dst, size_t n, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
    Stream *s = stream_of(stream);
    if (injected("ncclAllReduce") || s == nullptr || type != ncclInt64 || op != ncclSum) {
        return ncclInvalidArgument;
    }
    if (stream_device(s) != comm->device) {
        report("wrong-device", nullptr, "ncclAllReduce of device %d in a stream of device %d",
               comm->device, stream_device(s));
        return ncclInvalidArgument;
    }
    group.push_back(Part{src, dst, n, comm, s});
    if (group_depth > 0) {
        return ncclSuccess;
    }
    if (comm->ranks > 1) {
        report("nccl-group", nullptr,
               "one thread calls for %d ranks outside a group: it waits "
               "for ever",
               comm->ranks);
        group.clear();
        return ncclInvalidUsage;
    }
    return close_group();
}

const char *ncclGetErrorString(ncclResult_t result) {
    return result == ncclSuccess ? "success" : "a failure of the emulated NCCL";
}

/* In the place of kernels/cuda/nccl_load.c. */
void *kern_nccl_symbol(const char *name) {
    static const struct {
        const char *name;
        void *symbol;
    } table[] = {
        {"ncclCommInitAll", (void *)&ncclCommInitAll},
        {"ncclCommDestroy", (void *)&ncclCommDestroy},
        {"ncclGroupStart", (void *)&ncclGroupStart},
        {"ncclGroupEnd", (void *)&ncclGroupEnd},
        {"ncclAllReduce", (void *)&ncclAllReduce},
        {"ncclGetErrorString", (void *)&ncclGetErrorString},
    };
    for (const auto &entry : table) {
        if (!nccl_absent && strcmp(entry.name, name) == 0) {
            return entry.symbol;
        }
    }
    return nullptr;
}

} // extern "C"
