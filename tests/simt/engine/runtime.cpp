/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stand-in for the CUDA runtime, against its real headers. A captured stream runs nothing: its
 * work becomes a graph, which is done again at each launch, and judged again as if it were new. A
 * stream runs nothing until somebody waits for it, and then other streams go on by chance in
 * between: what a program forgot to wait for is not there. What a copy to the host will write is
 * overwritten at the call, and what a copy from the host reads is read when the copy runs, the
 * latest a real machine might.
 */
#include "tests/simt/engine/engine.h"

#include <algorithm>
#include <cstdio>
#include <deque>

/* The real ones are opaque. */
struct CUevent_st {
    simt::Stream *stream; /* where it was recorded last */
    uint64_t recorded, done;
};
struct CUgraph_st {
    std::vector<std::function<void()>> nodes;
    int device;
};
struct CUgraphExec_st {
    CUgraph_st graph;
};

namespace simt {

void report_begin(uint64_t seed, bool quiet);
void libraries_begin();

/* Waits for the event's recording number `until` first. */
struct Work {
    std::function<void()> run;
    std::shared_ptr<Collective> all;
    cudaEvent_t event = nullptr;
    uint64_t until = 0;
};

struct Stream {
    int device = 0;
    bool destroyed = false;
    std::deque<Work> queue;
    std::unique_ptr<CUgraph_st> capture;
    bool spoilt = false; /* the capture */
};

static std::vector<std::unique_ptr<Stream>> streams;
static int device_count = 1, current_device;
static cudaError_t last_error;
static std::vector<cudaGraphExec_t> graphs;

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
    if (s->capture) {
        s->capture->nodes.push_back(std::move(work));
    } else {
        s->queue.push_back(Work{std::move(work), nullptr});
    }
}

bool capture_spoilt() {
    bool any = false;
    for (const auto &s : streams) {
        s->spoilt = s->spoilt || s->capture;
        any = any || s->capture;
    }
    return any;
}

void stream_push_collective(std::shared_ptr<Collective> all, Stream *s) {
    if (capture_spoilt()) {
        report("bad-graph", nullptr, "a sum of several devices in a graph");
    }
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
    Work work = std::move(s->queue.front());
    s->queue.pop_front();
    while (work.event != nullptr && work.event->done < work.until) {
        if (work.event->stream->queue.empty()) {
            report("bad-event", nullptr, "a stream waits for ever");
            return;
        }
        run_one(work.event->stream);
    }
    if (work.run) {
        work.run();
    }
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
    prop->major = injected("old device") ? 6 : injected("turing") ? 7 : 9;
    prop->minor = prop->major == 7 ? 5 : 0;
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
    if (capture_spoilt()) {
        return fail(cudaErrorStreamCaptureUnsupported);
    }
    void *fresh = injected("cudaMalloc") ? nullptr : device_alloc(bytes, current_device);
    if (fresh == nullptr) {
        return fail(cudaErrorMemoryAllocation);
    }
    *p = fresh;
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **p, size_t bytes) {
    if (capture_spoilt()) {
        return fail(cudaErrorStreamCaptureUnsupported);
    }
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
    (void)injected("cudaFree");
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
    if ((!to_device || !from_device) && capture_spoilt()) {
        report("bad-graph", __builtin_return_address(0), "a copy from or to the host in a graph");
        return fail(cudaErrorStreamCaptureUnsupported);
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
    if (s->capture) {
        s->spoilt = true;
        return fail(cudaErrorStreamCaptureUnsupported);
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

/* ---- events ---------------------------------------------------------------------------------- */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) {
    if (injected("cudaEventCreateWithFlags")) {
        return fail(cudaErrorMemoryAllocation);
    }
    *event = new CUevent_st{nullptr, 0, 0};
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    if (event->done < event->recorded) {
        report("bad-event", nullptr, "an event is destroyed that has not come");
    }
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    Stream *s = stream_of(stream);
    if (s == nullptr || injected("cudaEventRecord")) {
        return fail(cudaErrorUnknown);
    }
    uint64_t number = ++event->recorded;
    event->stream = s;
    stream_push(s, [=] { event->done = std::max(event->done, number); });
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    Stream *s = stream_of(stream);
    if (s == nullptr || injected("cudaStreamWaitEvent")) {
        return fail(cudaErrorUnknown);
    }
    if (s->capture) {
        s->spoilt = true;
        return fail(cudaErrorStreamCaptureUnsupported);
    }
    if (event->recorded > 0) {
        s->queue.push_back(Work{nullptr, nullptr, event, event->recorded});
    }
    return cudaSuccess;
}

/* Others go on by chance, as when a stream is waited for. */
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    if (injected("cudaEventSynchronize")) {
        return fail(cudaErrorUnknown);
    }
    uint64_t until = event->recorded;
    while (event->done < until && !event->stream->queue.empty()) {
        Stream *other = streams[pick(streams.size())].get();
        bool stuck = other->queue.empty() ||
                     (other->queue.front().all != nullptr && !other->queue.front().all->work);
        run_one(pick(2) == 0 && !stuck ? other : event->stream);
    }
    return cudaSuccess;
}

/* ---- graphs ---------------------------------------------------------------------------------- */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    Stream *s = stream_of(stream);
    if (s == nullptr || s->capture || injected("cudaStreamBeginCapture")) {
        return fail(cudaErrorUnknown);
    }
    s->capture = std::make_unique<CUgraph_st>();
    s->capture->device = s->device;
    s->spoilt = false;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    Stream *s = stream_of(stream);
    *graph = nullptr;
    if (s == nullptr || !s->capture) {
        return fail(cudaErrorIllegalState);
    }
    std::unique_ptr<CUgraph_st> captured = std::move(s->capture);
    if (s->spoilt || injected("cudaStreamEndCapture")) {
        return fail(cudaErrorStreamCaptureInvalidated);
    }
    *graph = captured.release();
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long) {
    if (injected("cudaGraphInstantiate")) {
        return fail(cudaErrorMemoryAllocation);
    }
    *exec = new CUgraphExec_st{*graph};
    graphs.push_back(*exec);
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}

static bool known_graph(cudaGraphExec_t exec) {
    if (std::find(graphs.begin(), graphs.end(), exec) != graphs.end()) {
        return true;
    }
    report("bad-graph", nullptr, "no such graph, or one destroyed");
    return false;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    if (!known_graph(exec)) {
        return fail(cudaErrorInvalidResourceHandle);
    }
    graphs.erase(std::find(graphs.begin(), graphs.end(), exec));
    delete exec;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    Stream *s = stream_of(stream);
    if (s == nullptr || injected("cudaGraphLaunch")) {
        return fail(cudaErrorUnknown);
    }
    if (!known_graph(exec) || exec->graph.device != s->device || s->capture) {
        return fail(cudaErrorInvalidResourceHandle);
    }
    for (const auto &node : exec->graph.nodes) {
        stream_push(s, node);
    }
    return cudaSuccess;
}

} // extern "C"
