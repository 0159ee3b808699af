/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine that runs CUDA kernels on a CPU and judges what they do. Its parts:
 *
 *   report.cpp    findings by kind, counted; the seeded choice of every order
 *   memory.cpp    device memory between guards, and the shadow that judges each access
 *   sched.cpp     fibers, blocks, barriers, warp collectives
 *   runtime.cpp   the stand-in for the CUDA runtime; streams run nothing until somebody waits
 *   pools.cpp     its memory pools, by which arrays are freed when the stream comes to it
 *   libraries.cpp the stand-ins for cuBLAS and NCCL
 *
 * Kernels are compiled with -fsanitize=thread,bounds,alignment but linked with none of their
 * libraries: the hooks those call are memory.cpp's.
 *
 * Threads: one. Nothing here is locked, and a second thread would be a bug of the test.
 */
#ifndef CONSILIUM_SIMT_ENGINE_H
#define CONSILIUM_SIMT_ENGINE_H

#include "tests/simt/engine/control.h"
#include "tests/simt/engine/simt.h"

#include <functional>
#include <map>
#include <memory>
#include <vector>

namespace simt {

constexpr int WARP_LANES = 32;
constexpr int BLOCK_THREADS_MAX = 1024;

/* ---- report.cpp */

/* Counts a finding of `kind`; prints it, with the source line of pc, unless the engine is quiet. */
void report(const char *kind, const void *pc, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* A number from the seeded sequence, below `below`. */
size_t pick(size_t below);
/* True where this call is the one to fail (simt_fail_at). */
bool injected(const char *call);

/* ---- memory.cpp */

void *device_alloc(size_t bytes, int device);
/* False, and a finding, where p is no live allocation. */
bool device_free(void *p);
/* Judges what a copy, cuBLAS or NCCL does on `device` (-1: any), and marks what it writes. */
bool device_touch(const void *p, size_t bytes, bool write, int device, const char *who);
bool is_device(const void *p);
/* Of the live allocation that begins at p; 0 where none does. */
size_t device_bytes(const void *p);
/* Where the running thread stands, as far as memory is concerned. */
struct Place {
    uint32_t launch, block;
    uint16_t thread, epoch;
    const char *stack_low;
    size_t stack_bytes;
    int device;
    /* What this lane knows of each lane of its warp, by __syncwarp. */
    const uint16_t *known;
    bool inside; /* a kernel's own code */
};
extern Place place;
/* Shared memory is undefined at the beginning of a block. */
void shared_clear();

/* ---- sched.cpp */

void run_grid(const char *name, dim3 grid, dim3 block, int device, Body &body);
bool grid_running();
/* "kernel softmax_kernel block 3 thread 17", or "host". */
const char *where_text();

/* ---- runtime.cpp */

struct Stream;
/* Work of several streams at once. Without work it still lacks ranks: streams wait at it. */
struct Collective {
    std::vector<Stream *> streams;
    std::function<void()> work;
    bool done = false;
};
int device_current();
Stream *stream_of(cudaStream_t s);
int stream_device(const Stream *s);
/* To the stream's end, or into the graph that it is captured into. */
void stream_push(Stream *s, std::function<void()> work);
/* True, and the capture is spoilt, where some stream is captured: such a call may not be made. */
bool capture_spoilt();
/* One more stream comes to it. */
void stream_push_collective(std::shared_ptr<Collective> all, Stream *s);

} // namespace simt

#endif
