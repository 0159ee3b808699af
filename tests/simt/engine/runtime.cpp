/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stand-in for the CUDA runtime, against its real headers. A stream runs nothing until somebody
 * waits for it, and then other streams go on by chance in between: what a program forgot to wait
 * for is not there. What a copy to the host will write is overwritten at the call, and what a copy
 * from the host reads is read when the copy runs, the latest a real machine might.
 */
#include "tests/simt/engine/engine.h"

#include <cstdio>
#include <deque>

namespace simt {

void report_begin(uint64_t seed, bool quiet);
void libraries_begin();

struct Work {
    std::function<void()> run;
    std::shared_ptr<Collective> all;
};

struct Stream {
    int device = 0;
    bool destroyed = false;
    std::deque<Work> queue;
};

static std::vector<std::unique_ptr<Stream>> streams;
static int device_count = 1, current_device;
static cudaError_t last_error;

static cudaError_t fail(cudaError_t err) {
    last_error = err;
    return err;
}

Stream *stream_of(cudaStream_t s) {
    Stream *stream = reinterpret_cast<Stream *>(s);
    for (const auto &known : streams) {
        if (known.get() == stream && !stream->destroyed) {
            return stream;
        }
    }
    report("bad-stream", __builtin_return_address(0), "no such stream, or one destroyed");
    return nullptr;
}

int stream_device(const Stream *s) {
    return s->device;
}

void stream_push(Stream *s, std::function<void()> work) {
    s->queue.push_back(Work{std::move(work), nullptr});
}

void stream_push_collective(std::shared_ptr<Collective> all, Stream *s) {
    all->streams.push_back(s);
    s->queue.push_back(Work{nullptr, all});
}

int device_current() {
    return current_device;
}

static void run_one(Stream *s);

/* Everything before the collective in each of its streams, then the collective itself. */
static void run_collective(const std::shared_ptr<Collective> &all) {
    if (all->done) {
        return; /* what is left of it in this stream */
    }
    for (Stream *s : all->streams) {
        while (!s->queue.empty() && s->queue.front().all != all) {
            run_one(s);
        }
    }
    all->done = true;
    if (all->work) {
        all->work();
    } else {
        report("nccl-group", nullptr, "only %zu ranks came: the others wait for ever",
               all->streams.size());
    }
}

static void run_one(Stream *s) {
    if (std::shared_ptr<Collective> all = s->queue.front().all) {
        run_collective(all);
        if (!s->queue.empty() && s->queue.front().all == all) {
            s->queue.pop_front();
        }
        return;
    }
    std::function<void()> run = std::move(s->queue.front().run);
    s->queue.pop_front();
    run();
}

static void drain(Stream *s) {
    while (!s->queue.empty()) {
        Stream *other = streams[pick(streams.size())].get();
        bool stuck = other->queue.empty() ||
                     (other->queue.front().all != nullptr && !other->queue.front().all->work);
        run_one(pick(2) == 0 && !stuck ? other : s);
    }
}

cudaError_t launch_body(const char *name, dim3 grid, dim3 block, cudaStream_t stream, Body *owned) {
    std::shared_ptr<Body> body(owned);
    size_t threads = (size_t)block.x * block.y * block.z;
    Stream *s = stream_of(stream);
    if (injected("launch")) {
        return fail(cudaErrorLaunchFailure);
    }
    if (threads == 0 || threads > BLOCK_THREADS_MAX || block.z > 64 || grid.x == 0 || grid.y == 0 ||
        grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
        report("bad-launch", nullptr, "%s: grid %u x %u x %u, block %u x %u x %u", name, grid.x,
               grid.y, grid.z, block.x, block.y, block.z);
        return fail(cudaErrorInvalidConfiguration);
    }
    if (s == nullptr || s->device != current_device) {
        report("wrong-device", nullptr, "%s: the stream is not of device %d, the current one", name,
               current_device);
        return fail(cudaErrorInvalidResourceHandle);
    }
    stream_push(s, [=] { run_grid(name, grid, block, s->device, *body); });
    return cudaSuccess;
}

/* A plain copy when its turn has come. */
static void copy_now(void *dst, const void *src, size_t bytes, int dst_device, int src_device) {
    bool ok = dst_device < -1 || device_touch(dst, bytes, true, dst_device, "copy to");
    ok = (src_device < -1 || device_touch(src, bytes, false, src_device, "copy from")) && ok;
    if (ok) {
        memmove(dst, src, bytes);
    }
}

constexpr int HOST = -2, ANY = -1;

} // namespace simt

using namespace simt;

void simt_begin(uint64_t seed, int devices, bool quiet) {
    report_begin(seed, quiet);
    libraries_begin();
    device_count = devices;
    current_device = 0;
}

extern "C" {

cudaError_t cudaGetDeviceCount(int *count) {
    *count = device_count;
    return device_count > 0 ? cudaSuccess : fail(cudaErrorNoDevice);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *prop, int device) {
    if (device < 0 || device >= device_count) {
        return fail(cudaErrorInvalidDevice);
    }
    *prop = cudaDeviceProp{};
    snprintf(prop->name, sizeof prop->name, "emulated device");
    prop->major = injected("old device") ? 6 : 9;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
    if (device < 0 || device >= device_count) {
        return fail(cudaErrorInvalidDevice);
    }
    current_device = device;
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void) {
    cudaError_t err = last_error;
    last_error = cudaSuccess;
    return err;
}

const char *cudaGetErrorString(cudaError_t err) {
    return err == cudaSuccess ? "no error" : "a failure of the emulated device";
}

const char *cudaGetErrorName(cudaError_t err) {
    return err == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "cudaError";
}

cudaError_t cudaMalloc(void **p, size_t bytes) {
    void *fresh = injected("cudaMalloc") ? nullptr : device_alloc(bytes, current_device);
    if (fresh == nullptr) {
        return fail(cudaErrorMemoryAllocation);
    }
    *p = fresh;
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **p, size_t bytes) {
    void *fresh = injected("cudaMallocHost") ? nullptr : malloc(bytes);
    if (fresh == nullptr) {
        return fail(cudaErrorMemoryAllocation);
    }
    *p = fresh;
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p) {
    free(p);
    return cudaSuccess;
}

/* Waits for no stream: a program that frees what is still in use is found out. */
cudaError_t cudaFree(void *p) {
    return p == nullptr || device_free(p) ? cudaSuccess : fail(cudaErrorInvalidValue);
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream) {
    Stream *s = stream_of(stream);
    if (s == nullptr || injected("cudaMemsetAsync")) {
        return fail(cudaErrorUnknown);
    }
    stream_push(s, [=] {
        if (device_touch(p, bytes, true, s->device, "memset")) {
            memset(p, value, bytes);
        }
    });
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
    Stream *s = stream_of(stream);
    if (s == nullptr || injected("cudaMemcpyAsync")) {
        return fail(cudaErrorUnknown);
    }
    bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (is_device(dst) != to_device || is_device(src) != from_device) {
        report("copy-direction", __builtin_return_address(0), "kind %d, %p from %p", (int)kind, dst,
               src);
        return fail(cudaErrorInvalidValue);
    }
    if (!to_device) {
        memset(dst, 0xee, bytes);
    }
    if (to_device && from_device && (const char *)dst < (const char *)src + bytes &&
        (const char *)src < (const char *)dst + bytes) {
        report("copy-direction", __builtin_return_address(0), "source and destination overlap");
    }
    stream_push(s, [=] {
        copy_now(dst, src, bytes, to_device ? s->device : HOST, from_device ? s->device : HOST);
    });
    return cudaSuccess;
}

cudaError_t cudaMemcpyPeerAsync(void *dst, int dst_device, const void *src, int src_device,
                                size_t bytes, cudaStream_t stream) {
    Stream *s = stream_of(stream);
    if (s == nullptr || injected("cudaMemcpyPeerAsync")) {
        return fail(cudaErrorUnknown);
    }
    stream_push(s, [=] { copy_now(dst, src, bytes, dst_device, src_device); });
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) {
    if (injected("cudaStreamCreateWithFlags")) {
        return fail(cudaErrorMemoryAllocation);
    }
    streams.push_back(std::make_unique<Stream>());
    streams.back()->device = current_device;
    *stream = reinterpret_cast<cudaStream_t>(streams.back().get());
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    Stream *s = stream_of(stream);
    if (s != nullptr && injected("cudaStreamSynchronize")) {
        s->queue.clear(); /* a failed device does none of what was asked */
        return fail(cudaErrorUnknown);
    }
    if (s == nullptr) {
        return fail(cudaErrorInvalidResourceHandle);
    }
    drain(s);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    Stream *s = stream_of(stream);
    if (s == nullptr) {
        return fail(cudaErrorInvalidResourceHandle);
    }
    drain(s);
    s->destroyed = true;
    return cudaSuccess;
}

} // extern "C"
