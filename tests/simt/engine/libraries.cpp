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
#include <cmath>
#include <cstring>
#include <map>

/* The real ones are opaque; a stream is all a handle has. */
struct cublasContext {
    simt::Stream *stream;
    bool pedantic, tf32, plain; /* else a mode that the backend may not use */
    bool workspace;             /* the caller's: without it a product cannot be captured */
};

struct ncclComm {
    int rank, ranks, device;
    uint64_t clique;
    bool by_id; /* other callers may hold other ranks */
};

namespace simt {

static bool nccl_absent;
static uint64_t nccl_calls, cliques, ids;
static int group_depth;

enum class Op { reduce, all_reduce, reduce_scatter, all_gather, broadcast };
struct Part {
    Op op;
    const void *src;
    void *dst;
    size_t n;
    ncclDataType_t type;
    int root;
    ncclComm comm; /* as it is at the call: an abort ends it before its work */
    Stream *stream;
};
static std::vector<Part> group;

/* A call of a clique of several callers that lacks ranks. */
struct Open {
    std::vector<Part> parts;
    std::shared_ptr<Collective> all;
};
static std::map<uint64_t, Open> open_calls;

void libraries_begin() {
    group.clear();
    open_calls.clear();
    group_depth = 0;
}

struct Product {
    bool ta, tb;
    int m, n, k, lda, ldb, ldc;
    float alpha, beta;
    const void *a, *b;
    float *c;
    bool tf32;
    cudaDataType_t type_a, type_b;
};

static size_t bytes_of(cudaDataType_t type) {
    return type == CUDA_R_32F ? 4 : 2;
}

/* As tensor cores take it: the nearest with 10 bits after the point. */
static double rounded(float x, bool tf32) {
    uint32_t bits;
    if (!tf32 || !std::isfinite(x)) {
        return (double)x;
    }
    memcpy(&bits, &x, sizeof bits);
    bits = (bits + 0x1000) & ~UINT32_C(0x1fff);
    memcpy(&x, &bits, sizeof bits);
    return (double)x;
}

/* Element i of an operand. Halves by their definition: a sign, an exponent and a fraction. */
static double element(const void *p, cudaDataType_t type, size_t i, bool tf32) {
    if (type == CUDA_R_32F) {
        return rounded(((const float *)p)[i], tf32);
    }
    unsigned h = ((const uint16_t *)p)[i];
    int digits = type == CUDA_R_16F ? 10 : 7, bias = type == CUDA_R_16F ? 15 : 127;
    int exponent = (int)(h & 0x7fff) >> digits, most = 2 * bias + 1;
    double fraction = std::ldexp((double)(h & ((1u << digits) - 1)), -digits);
    double v = exponent == most ? (fraction != 0 ? NAN : INFINITY)
               : exponent == 0  ? std::ldexp(fraction, 1 - bias)
                                : std::ldexp(1 + fraction, exponent - bias);
    return (h & 0x8000) != 0 ? -v : v;
}

/* Column by column: what lies between the columns is not the product's. */
static bool touch(const void *p, int rows, int cols, int ld, size_t size, bool write, int device,
                  const char *what) {
    bool ok = true;
    for (int c = 0; c < (ld == rows ? 1 : cols) && ok; c++) {
        size_t bytes = (ld == rows ? (size_t)rows * (size_t)cols : (size_t)rows) * size;
        ok = device_touch((const char *)p + (size_t)c * (size_t)ld * size, bytes, write, device,
                          what);
    }
    return ok;
}

static void multiply(const Product &p, int device) {
    bool ok = touch(p.a, p.ta ? p.k : p.m, p.ta ? p.m : p.k, p.lda, bytes_of(p.type_a), false,
                    device, "cuBLAS reads A");
    ok = touch(p.b, p.tb ? p.n : p.k, p.tb ? p.k : p.n, p.ldb, bytes_of(p.type_b), false, device,
               "cuBLAS reads B") &&
         ok;
    ok = (p.beta == 0 || touch(p.c, p.m, p.n, p.ldc, 4, false, device, "cuBLAS reads C")) && ok;
    ok = touch(p.c, p.m, p.n, p.ldc, 4, true, device, "cuBLAS writes C") && ok;
    for (int j = 0; ok && j < p.n; j++) {
        for (int i = 0; i < p.m; i++) {
            double sum = 0;
            for (int l = 0; l < p.k; l++) {
                size_t ia = p.ta ? (size_t)i * p.lda + l : (size_t)l * p.lda + i;
                size_t ib = p.tb ? (size_t)l * p.ldb + j : (size_t)j * p.ldb + l;
                sum += element(p.a, p.type_a, ia, p.tf32) * element(p.b, p.type_b, ib, p.tf32);
            }
            float *c = p.c + (size_t)j * p.ldc + i;
            *c = (float)(p.alpha * sum + (p.beta != 0 ? (double)p.beta * *c : 0));
        }
    }
}

/* `count` products that lie so far apart; results may interleave, but not meet. */
static cublasStatus_t push_products(const char *name, cublasHandle_t handle, const Product &first,
                                    long long step_a, long long step_b, long long step_c,
                                    int count) {
    const Product &p = first;
    if (injected(name)) {
        return CUBLAS_STATUS_EXECUTION_FAILED;
    }
    bool apart = count == 1 || step_c >= (long long)p.ldc * (p.n - 1) + p.m ||
                 (step_c >= p.m && step_c * (count - 1) + p.m <= p.ldc);
    if (p.m < 0 || p.n < 0 || p.k < 0 || p.lda < std::max(1, p.ta ? p.k : p.m) ||
        p.ldb < std::max(1, p.tb ? p.n : p.k) || p.ldc < std::max(1, p.m) || count < 1 ||
        step_a < 0 || step_b < 0 || !apart ||
        (!handle->pedantic && !handle->tf32 && !handle->plain)) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (!handle->workspace && capture_spoilt()) {
        return CUBLAS_STATUS_EXECUTION_FAILED;
    }
    int device = stream_device(handle->stream);
    stream_push(handle->stream, [=] {
        for (int i = 0; i < count; i++) {
            Product one = first;
            one.a = (const char *)one.a + i * step_a * (long long)bytes_of(one.type_a);
            one.b = (const char *)one.b + i * step_b * (long long)bytes_of(one.type_b);
            one.c += i * step_c;
            multiply(one, device);
        }
    });
    return CUBLAS_STATUS_SUCCESS;
}

template <typename T, typename Sum> static void run_call(std::vector<Part> parts) {
    std::sort(parts.begin(), parts.end(),
              [](const Part &a, const Part &b) { return a.comm.rank < b.comm.rank; });
    Op op = parts[0].op;
    size_t n = parts[0].n, ranks = parts.size();
    size_t read = op == Op::reduce_scatter ? n * ranks : n;
    size_t written = op == Op::all_gather ? n * ranks : n;
    std::vector<std::vector<T>> in(ranks);
    for (size_t r = 0; r < ranks; r++) {
        const Part &p = parts[r];
        bool reads = op != Op::broadcast || (int)r == p.root;
        bool writes = op != Op::reduce || (int)r == p.root;
        if ((reads && !device_touch(p.src, read * sizeof(T), false, p.comm.device, "nccl reads")) ||
            (writes &&
             !device_touch(p.dst, written * sizeof(T), true, p.comm.device, "nccl writes"))) {
            return;
        }
        in[r].assign((const T *)p.src, (const T *)p.src + (reads ? read : 0));
    }
    std::vector<T> out(op == Op::broadcast || op == Op::all_gather ? 0 : read, T(0));
    for (size_t r = 0; !out.empty() && r < ranks; r++) {
        for (size_t i = 0; i < read; i++) {
            out[i] = (T)((Sum)out[i] + (Sum)in[r][i]);
        }
    }
    for (size_t r = 0; op == Op::all_gather && r < ranks; r++) {
        out.insert(out.end(), in[r].begin(), in[r].end());
    }
    for (size_t r = 0; r < ranks; r++) {
        const Part &p = parts[r];
        if (op == Op::broadcast) {
            out = in[(size_t)p.root];
        }
        if (op != Op::reduce || (int)r == p.root) {
            memcpy(p.dst, out.data() + (op == Op::reduce_scatter ? r * n : 0), written * sizeof(T));
        }
    }
    nccl_calls++;
}

static void complete(const std::vector<Part> &parts, const std::shared_ptr<Collective> &all) {
    bool f32 = parts[0].type == ncclFloat32;
    all->work = [parts, f32] {
        f32 ? run_call<float, float>(parts) : run_call<int64_t, uint64_t>(parts);
    };
}

/* One call for each clique of the group; every rank must have come, once and alike, or may still
 * come from another caller. */
static ncclResult_t close_group() {
    while (!group.empty()) {
        std::vector<Part> mine, others;
        for (const Part &part : group) {
            bool same = part.comm.clique == group[0].comm.clique;
            (same ? mine : others).push_back(part);
        }
        group = others;
        const ncclComm comm = mine[0].comm;
        Open &open = open_calls[comm.clique];
        if (!open.all) {
            open.all = std::make_shared<Collective>();
        }
        for (const Part &part : mine) {
            open.parts.push_back(part);
            stream_push_collective(open.all, part.stream);
        }
        const Part &first = open.parts[0];
        bool alike = std::all_of(open.parts.begin(), open.parts.end(), [&](const Part &p) {
            return p.op == first.op && p.n == first.n && p.type == first.type &&
                   p.root == first.root;
        });
        bool whole = (int)open.parts.size() == comm.ranks;
        if (!alike || (!whole && !comm.by_id)) {
            report("nccl-group", nullptr, "%zu of %d ranks came, or for different things",
                   open.parts.size(), comm.ranks);
            open.all->work = [] {};
            open_calls.erase(comm.clique);
            group.clear();
            return ncclInvalidUsage;
        }
        if (whole) {
            complete(open.parts, open.all);
            open_calls.erase(comm.clique);
        }
    }
    return ncclSuccess;
}

static ncclResult_t call(const char *name, const Part &part, cudaStream_t stream, int op) {
    Part p = part;
    p.stream = stream_of(stream);
    if (injected(name) || p.stream == nullptr || op != ncclSum ||
        (p.type != ncclInt64 && p.type != ncclFloat32) || p.root < 0 || p.root >= p.comm.ranks) {
        return ncclInvalidArgument;
    }
    if (stream_device(p.stream) != p.comm.device) {
        report("wrong-device", nullptr, "%s of device %d in a stream of device %d", name,
               p.comm.device, stream_device(p.stream));
        return ncclInvalidArgument;
    }
    group.push_back(p);
    if (group_depth > 0) {
        return ncclSuccess;
    }
    if (p.comm.ranks > 1 && !p.comm.by_id) {
        report("nccl-group", nullptr,
               "one thread calls for %d ranks outside a group: it waits for ever", p.comm.ranks);
        group.clear();
        return ncclInvalidUsage;
    }
    return close_group();
}

} // namespace simt

using namespace simt;

void simt_without_nccl(void) {
    nccl_absent = true;
}

uint64_t simt_nccl_calls(void) {
    return nccl_calls;
}

extern "C" {

cublasStatus_t cublasCreate_v2(cublasHandle_t *handle) {
    if (injected("cublasCreate")) {
        return CUBLAS_STATUS_ALLOC_FAILED;
    }
    *handle = new cublasContext{nullptr, false, false, true, false};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
    handle->stream = stream_of(stream);
    handle->workspace = false; /* the real one forgets it too */
    return CUBLAS_STATUS_SUCCESS;
}

/* Needed by who wants to be captured: else cuBLAS takes memory of its own. */
cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void *p, size_t bytes) {
    handle->workspace = p != nullptr && bytes > 0 && handle->stream != nullptr;
    return (uintptr_t)p % 256 == 0 && is_device(p) ? CUBLAS_STATUS_SUCCESS
                                                   : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
    handle->pedantic = mode == CUBLAS_PEDANTIC_MATH;
    handle->tf32 = mode == CUBLAS_TF32_TENSOR_OP_MATH;
    handle->plain = mode == CUBLAS_DEFAULT_MATH;
    return CUBLAS_STATUS_SUCCESS;
}

const char *cublasGetStatusString(cublasStatus_t status) {
    return status == CUBLAS_STATUS_SUCCESS ? "success" : "a failure of the emulated cuBLAS";
}

cublasStatus_t cublasSgemm_v2(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb,
                              int m, int n, int k, const float *alpha, const float *a, int lda,
                              const float *b, int ldb, const float *beta, float *c, int ldc) {
    Product p{ta != CUBLAS_OP_N,
              tb != CUBLAS_OP_N,
              m,
              n,
              k,
              lda,
              ldb,
              ldc,
              *alpha,
              *beta,
              a,
              b,
              c,
              handle->tf32,
              CUDA_R_32F,
              CUDA_R_32F};
    return push_products("cublasSgemm", handle, p, 0, 0, 0, 1);
}

cublasStatus_t cublasSgemmStridedBatched(cublasHandle_t handle, cublasOperation_t ta,
                                         cublasOperation_t tb, int m, int n, int k,
                                         const float *alpha, const float *a, int lda,
                                         long long int step_a, const float *b, int ldb,
                                         long long int step_b, const float *beta, float *c, int ldc,
                                         long long int step_c, int count) {
    Product p{ta != CUBLAS_OP_N,
              tb != CUBLAS_OP_N,
              m,
              n,
              k,
              lda,
              ldb,
              ldc,
              *alpha,
              *beta,
              a,
              b,
              c,
              handle->tf32,
              CUDA_R_32F,
              CUDA_R_32F};
    return push_products("cublasSgemmStridedBatched", handle, p, step_a, step_b, step_c, count);
}

/* Halves in, floats out, summed in float32 and, in no pedantic mode, on tensor cores. */
static cublasStatus_t push_halves(const char *name, cublasHandle_t handle, const Product &p,
                                  long long step_a, long long step_b, long long step_c, int count,
                                  cudaDataType_t type_c, cublasComputeType_t compute) {
    bool halves = p.type_a == CUDA_R_16F || p.type_a == CUDA_R_16BF;
    if (!halves || p.type_b != p.type_a || type_c != CUDA_R_32F || compute != CUBLAS_COMPUTE_32F ||
        !handle->plain) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    return push_products(name, handle, p, step_a, step_b, step_c, count);
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb,
                            int m, int n, int k, const void *alpha, const void *a,
                            cudaDataType_t type_a, int lda, const void *b, cudaDataType_t type_b,
                            int ldb, const void *beta, void *c, cudaDataType_t type_c, int ldc,
                            cublasComputeType_t compute, cublasGemmAlgo_t) {
    Product p{ta != CUBLAS_OP_N,     tb != CUBLAS_OP_N,    m, n, k,          lda,   ldb,    ldc,
              *(const float *)alpha, *(const float *)beta, a, b, (float *)c, false, type_a, type_b};
    return push_halves("cublasGemmEx", handle, p, 0, 0, 0, 1, type_c, compute);
}

cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t handle, cublasOperation_t ta,
                                          cublasOperation_t tb, int m, int n, int k,
                                          const void *alpha, const void *a, cudaDataType_t type_a,
                                          int lda, long long int step_a, const void *b,
                                          cudaDataType_t type_b, int ldb, long long int step_b,
                                          const void *beta, void *c, cudaDataType_t type_c, int ldc,
                                          long long int step_c, int count,
                                          cublasComputeType_t compute, cublasGemmAlgo_t) {
    Product p{ta != CUBLAS_OP_N,     tb != CUBLAS_OP_N,    m, n, k,          lda,   ldb,    ldc,
              *(const float *)alpha, *(const float *)beta, a, b, (float *)c, false, type_a, type_b};
    return push_halves("cublasGemmStridedBatchedEx", handle, p, step_a, step_b, step_c, count,
                       type_c, compute);
}

ncclResult_t ncclCommInitAll(ncclComm_t *comms, int ranks, const int *devices) {
    if (injected("ncclCommInitAll")) {
        return ncclSystemError;
    }
    cliques++;
    for (int i = 0; i < ranks; i++) {
        comms[i] = new ncclComm{i, ranks, devices[i], cliques, false};
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

ncclResult_t ncclReduce(const void *src, void *dst, size_t n, ncclDataType_t type, ncclRedOp_t op,
                        int root, ncclComm_t comm, cudaStream_t stream) {
    return call("ncclReduce", Part{Op::reduce, src, dst, n, type, root, *comm, nullptr}, stream,
                op);
}

ncclResult_t ncclAllReduce(const void *src, void *dst, size_t n, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
    return call("ncclAllReduce", Part{Op::all_reduce, src, dst, n, type, 0, *comm, nullptr}, stream,
                op);
}

ncclResult_t ncclReduceScatter(const void *src, void *dst, size_t n, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
    return call("ncclReduceScatter", Part{Op::reduce_scatter, src, dst, n, type, 0, *comm, nullptr},
                stream, op);
}

ncclResult_t ncclAllGather(const void *src, void *dst, size_t n, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
    return call("ncclAllGather", Part{Op::all_gather, src, dst, n, type, 0, *comm, nullptr}, stream,
                ncclSum);
}

ncclResult_t ncclBroadcast(const void *src, void *dst, size_t n, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
    return call("ncclBroadcast", Part{Op::broadcast, src, dst, n, type, root, *comm, nullptr},
                stream, ncclSum);
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    if (injected("ncclGetUniqueId")) {
        return ncclSystemError;
    }
    memset(id, 0, sizeof *id);
    uint64_t number = ++ids << 32; /* apart from the cliques of ncclCommInitAll */
    memcpy(id->internal, &number, sizeof number);
    return ncclSuccess;
}

/* Does not wait for the others, as the real one does: all callers are one thread here. */
ncclResult_t ncclCommInitRank(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank) {
    uint64_t number;
    memcpy(&number, id.internal, sizeof number);
    if (injected("ncclCommInitRank") || number == 0 || rank < 0 || rank >= ranks) {
        return ncclInvalidArgument;
    }
    *comm = new ncclComm{rank, ranks, device_current(), number, true};
    return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
    delete comm;
    return ncclSuccess;
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
        {"ncclReduce", (void *)&ncclReduce},
        {"ncclAllReduce", (void *)&ncclAllReduce},
        {"ncclReduceScatter", (void *)&ncclReduceScatter},
        {"ncclAllGather", (void *)&ncclAllGather},
        {"ncclBroadcast", (void *)&ncclBroadcast},
        {"ncclGetUniqueId", (void *)&ncclGetUniqueId},
        {"ncclCommInitRank", (void *)&ncclCommInitRank},
        {"ncclCommAbort", (void *)&ncclCommAbort},
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
