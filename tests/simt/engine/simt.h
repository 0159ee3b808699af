/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a .cu file sees when g++ compiles it for the CPU instead of nvcc for a GPU: the toolkit's
 * own headers in host mode, so that every type and signature is the real one, and this file for
 * what only nvcc knows: the qualifiers, the launch, the built-in variables and functions. Included
 * before the .cu file, which does not change by a character.
 *
 * Each CUDA thread is a fiber on one thread of the operating system, so plain memory operations
 * here are atomic; what they would be on a GPU is judged by the engine (engine.h).
 */
#ifndef CONSILIUM_SIMT_H
#define CONSILIUM_SIMT_H

#include <cuda_runtime_api.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <tuple>

/* The headers define these to nothing outside nvcc. */
#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __forceinline__
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
/* One block runs at a time, on one thread: its thread-local memory is the block's shared memory. (A
 * section of its own would do too, but g++ forgets the attribute inside templates.) */
#define __shared__ static thread_local

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace simt {

/* A kernel with its arguments, as copied at the launch. */
struct Body {
    virtual void run() = 0;
    virtual ~Body() = default;
};

/* The engine checks memory between these two only: a fiber's own plumbing is no kernel. */
void enter_kernel();
void leave_kernel();

template <class... P> struct BodyOf final : Body {
    void (*kernel)(P...);
    std::tuple<P...> args;
    template <class... A>
    explicit BodyOf(void (*k)(P...), A &&...a) : kernel(k), args(static_cast<P>(a)...) {}
    void run() override {
        auto k = kernel;
        std::apply(
            [k](P... p) {
                enter_kernel();
                k(p...);
                leave_kernel();
            },
            args);
    }
};

/* Takes the body. */
cudaError_t launch_body(const char *name, dim3 grid, dim3 block, cudaStream_t stream, Body *body);

template <class... P, class... A>
cudaError_t launch(const char *name, void (*k)(P...), dim3 grid, dim3 block, cudaStream_t stream,
                   A &&...a) {
    return launch_body(name, grid, block, stream, new BodyOf<P...>(k, a...));
}

enum class Warp { Sync, Index, Up, Down, Xor, Ballot };
void block_barrier(const char *file, int line);
uint64_t warp_collective(Warp kind, unsigned mask, uint64_t value, int arg, const char *file,
                         int line);
void atomic_access(const void *p, size_t bytes, const void *pc);

template <class T> uint64_t to_bits(T v) {
    static_assert(sizeof v <= sizeof(uint64_t), "shuffles move at most eight bytes");
    uint64_t bits = 0;
    memcpy(&bits, &v, sizeof v);
    return bits;
}

template <class T> T from_bits(uint64_t bits) {
    T v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

/* The read and the write are one step here, and one access for the engine. */
template <class T, class F>
__attribute__((no_sanitize("thread"), noinline)) T atomic_update(T *p, F next) {
    atomic_access(p, sizeof *p, __builtin_return_address(0));
    T old = *p;
    *p = next(old);
    return old;
}

} // namespace simt

#define KERN_LAUNCH(kernel, grid, block, stream, ...)                                              \
    simt::launch(#kernel, kernel, dim3(grid), dim3(block), stream, __VA_ARGS__)

/* Where a collective stands in the source: mixing up two of them is a finding. */
#define SIMT_HERE const char *file_ = __builtin_FILE(), int line_ = __builtin_LINE()

inline void __syncthreads(SIMT_HERE) {
    simt::block_barrier(file_, line_);
}

inline void __syncwarp(unsigned mask = 0xffffffffu, SIMT_HERE) {
    simt::warp_collective(simt::Warp::Sync, mask, 0, 0, file_, line_);
}

template <class T> T __shfl_sync(unsigned mask, T v, int lane, SIMT_HERE) {
    return simt::from_bits<T>(
        simt::warp_collective(simt::Warp::Index, mask, simt::to_bits(v), lane, file_, line_));
}

template <class T> T __shfl_up_sync(unsigned mask, T v, unsigned by, SIMT_HERE) {
    return simt::from_bits<T>(
        simt::warp_collective(simt::Warp::Up, mask, simt::to_bits(v), (int)by, file_, line_));
}

template <class T> T __shfl_down_sync(unsigned mask, T v, unsigned by, SIMT_HERE) {
    return simt::from_bits<T>(
        simt::warp_collective(simt::Warp::Down, mask, simt::to_bits(v), (int)by, file_, line_));
}

template <class T> T __shfl_xor_sync(unsigned mask, T v, int by, SIMT_HERE) {
    return simt::from_bits<T>(
        simt::warp_collective(simt::Warp::Xor, mask, simt::to_bits(v), by, file_, line_));
}

inline unsigned __ballot_sync(unsigned mask, int predicate, SIMT_HERE) {
    return (unsigned)simt::warp_collective(simt::Warp::Ballot, mask, predicate != 0, 0, file_,
                                           line_);
}

template <class T> T atomicAdd(T *p, T v) {
    return simt::atomic_update(p, [=](T old) { return (T)(old + v); });
}

template <class T> T atomicMax(T *p, T v) {
    return simt::atomic_update(p, [=](T old) { return old < v ? v : old; });
}

/* Rounded once, whatever the compiler would like to fuse. */
inline float __fmul_rn(float a, float b) {
    volatile float product = a * b;
    return product;
}

/* The GPU's conversion saturates, and turns NaN into 0. */
inline int __float2int_rn(float x) {
    if (std::isnan(x)) {
        return 0;
    }
    return x >= 2147483648.0f ? INT32_MAX : x < -2147483648.0f ? INT32_MIN : (int)lrintf(x);
}

#endif
