/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Blocks run one after the other, in random order; the threads of a block are fibers, and whoever
 * can run next is chosen at random whenever one waits. Barriers and warp collectives are met by
 * exactly the threads that must meet them: fewer, others, or the wrong ones are findings, and a
 * block in which nobody can go on is a deadlock.
 */
#include "tests/simt/engine/engine.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <sys/mman.h>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

/* Saves the callee-saved registers on this stack and goes on with those of another (System V
 * x86-64). */
extern "C" void simt_switch(void **save, void *to);
asm(".text\n"
    ".globl simt_switch\n"
    ".type simt_switch,@function\n"
    "simt_switch:\n"
    "  push %rbp\n  push %rbx\n  push %r12\n  push %r13\n  push %r14\n  push %r15\n"
    "  mov %rsp,(%rdi)\n"
    "  mov %rsi,%rsp\n"
    "  pop %r15\n  pop %r14\n  pop %r13\n  pop %r12\n  pop %rbx\n  pop %rbp\n"
    "  ret\n"
    ".size simt_switch,.-simt_switch\n");

namespace simt {

constexpr size_t STACK = 64 << 10;
constexpr size_t SAVED = 6; /* registers simt_switch pushes */
constexpr size_t PENDING = 8;

enum class State { Ready, AtBarrier, InWarp, Done };

struct Thread {
    State state = State::Done;
    char *stack = nullptr; /* kept from block to block */
    void *sp = nullptr;
    const char *file = nullptr;
    int line = 0;
    bool inside = false;
    uint64_t result = 0;
};

struct Pending {
    bool used = false;
    Warp kind = Warp::Sync;
    unsigned mask = 0, arrived = 0;
    const char *file = nullptr;
    int line = 0;
    uint64_t value[WARP_LANES];
    int arg[WARP_LANES];
};

struct WarpState {
    unsigned exists = 0, left = 0; /* lanes of the block, lanes that returned */
    Pending pending[PENDING];
    uint16_t known[WARP_LANES][WARP_LANES];
};

static Thread threads[BLOCK_THREADS_MAX];
static WarpState warps[BLOCK_THREADS_MAX / WARP_LANES];
static std::vector<int> ready;
static int thread_count, done_count, barrier_count, current = -1;
static const char *barrier_file;
static int barrier_line;
static void *scheduler_sp;
static Body *running_body;
static const char *running_name;
static uint64_t kernels_run, threads_run;

bool grid_running() {
    return running_body != nullptr;
}

const char *where_text() {
    static char text[160];
    if (!grid_running()) {
        return "host";
    }
    snprintf(text, sizeof text, "%s block (%u,%u,%u) thread %d", running_name, blockIdx.x,
             blockIdx.y, blockIdx.z, current);
    return text;
}

void enter_kernel() {
    threads[current].inside = place.inside = true;
}

void leave_kernel() {
    threads[current].inside = place.inside = false;
}

static void make_ready(int t) {
    threads[t].state = State::Ready;
    ready.push_back(t);
}

/* Back to the scheduler until somebody makes this thread ready. */
static void wait_in(State state, const char *file, int line) {
    Thread &me = threads[current];
    me.state = state;
    me.file = file;
    me.line = line;
    place.inside = false;
    simt_switch(&me.sp, scheduler_sp);
}

static void release_barrier() {
    barrier_count = 0;
    place.epoch++;
    for (int t = 0; t < thread_count; t++) {
        if (threads[t].state == State::AtBarrier) {
            make_ready(t);
        }
    }
}

void block_barrier(const char *file, int line) {
    if (barrier_count != 0 && (line != barrier_line || strcmp(file, barrier_file) != 0)) {
        report("divergent-barrier", __builtin_return_address(0),
               "__syncthreads at line %d while others wait at line %d", line, barrier_line);
    }
    if (done_count != 0) {
        report("exited-thread", __builtin_return_address(0),
               "__syncthreads at line %d after %d threads have returned", line, done_count);
    }
    barrier_file = file;
    barrier_line = line;
    int me = current;
    barrier_count++;
    threads[me].state = State::AtBarrier;
    if (barrier_count + done_count == thread_count) {
        release_barrier();
    }
    State now = threads[me].state;
    wait_in(now, file, line);
}

/* The lane whose value lane l gets; itself where the distance leads out of the warp. */
static int source_lane(Warp kind, int l, int arg) {
    switch (kind) {
    case Warp::Index:
        return arg & (WARP_LANES - 1);
    case Warp::Up:
        return l - arg >= 0 ? l - arg : l;
    case Warp::Down:
        return l + arg < WARP_LANES ? l + arg : l;
    case Warp::Xor:
        return (l ^ arg) < WARP_LANES ? l ^ arg : l;
    default:
        return l;
    }
}

/* After __syncwarp each lane knows what any of the lanes knew, and begins a new interval. */
static void share_knowledge(WarpState &warp, unsigned mask) {
    uint16_t all[WARP_LANES] = {0};
    for (int l = 0; l < WARP_LANES; l++) {
        for (int k = 0; (mask >> l & 1) != 0 && k < WARP_LANES; k++) {
            all[k] = std::max(all[k], warp.known[l][k]);
        }
    }
    for (int l = 0; l < WARP_LANES; l++) {
        if ((mask >> l & 1) != 0) {
            memcpy(warp.known[l], all, sizeof all);
            warp.known[l][l]++;
        }
    }
}

static void complete(int w, Pending &p) {
    unsigned mask = p.arrived;
    uint64_t ballot = 0;
    for (int l = 0; l < WARP_LANES; l++) {
        ballot |= (mask >> l & 1) != 0 && p.value[l] != 0 ? UINT64_C(1) << l : 0;
    }
    for (int l = 0; l < WARP_LANES; l++) {
        if ((mask >> l & 1) == 0) {
            continue;
        }
        int from = source_lane(p.kind, l, p.arg[l]);
        uint64_t result = p.kind == Warp::Ballot ? ballot : p.value[l];
        if (p.kind != Warp::Ballot && (mask >> from & 1) == 0) {
            report("inactive-lane", nullptr, "line %d: lane %d reads lane %d, not in mask %08x",
                   p.line, l, from, mask);
            result = ~UINT64_C(0); /* undefined on a GPU: NaN here */
        } else if (p.kind != Warp::Ballot) {
            result = p.value[from];
        }
        threads[w * WARP_LANES + l].result = result;
        make_ready(w * WARP_LANES + l);
    }
    if (p.kind == Warp::Sync) {
        share_knowledge(warps[w], mask);
    }
    p.used = false;
}

/* The mask as it can be met: wrong lanes are findings and left out. */
static unsigned judge_mask(const WarpState &warp, int lane, unsigned mask, int line,
                           const void *pc) {
    if ((mask >> lane & 1) == 0) {
        report("bad-mask", pc, "line %d: lane %d is not in its own mask %08x", line, lane, mask);
        mask |= 1u << lane;
    }
    if ((mask & warp.left) != 0) {
        report("exited-thread", pc, "line %d: mask %08x names lanes that have returned", line,
               mask);
        mask &= ~warp.left;
    }
    if ((mask & ~warp.exists) != 0 && mask != 0xffffffffu) {
        report("bad-mask", pc, "line %d: mask %08x names lanes beyond the block", line, mask);
    }
    return mask & warp.exists;
}

static Pending *join(WarpState &warp, Warp kind, unsigned mask, int lane, const char *file,
                     int line) {
    Pending *empty = nullptr;
    for (Pending &p : warp.pending) {
        if (p.used && p.kind == kind && p.mask == mask && (p.arrived >> lane & 1) == 0) {
            if (p.line != line || strcmp(p.file, file) != 0) {
                report("divergent-collective", nullptr, "line %d joins lanes that wait at line %d",
                       line, p.line);
            }
            return &p;
        }
        empty = !p.used && empty == nullptr ? &p : empty;
    }
    if (empty != nullptr) {
        empty->used = true;
        empty->kind = kind;
        empty->mask = mask;
        empty->arrived = 0;
        empty->file = file;
        empty->line = line;
    }
    return empty;
}

uint64_t warp_collective(Warp kind, unsigned mask, uint64_t value, int arg, const char *file,
                         int line) {
    int me = current, w = me / WARP_LANES, lane = me % WARP_LANES;
    mask = judge_mask(warps[w], lane, mask, line, __builtin_return_address(0));
    Pending *p = join(warps[w], kind, mask, lane, file, line);
    if (p == nullptr) {
        report("bad-mask", nullptr, "line %d: more collectives pending than a warp can have", line);
        return value;
    }
    p->value[lane] = value;
    p->arg[lane] = arg;
    p->arrived |= 1u << lane;
    threads[me].state = State::InWarp;
    if (p->arrived == mask) {
        complete(w, *p);
    }
    wait_in(threads[me].state, file, line);
    return threads[me].result;
}

/* A thread returned: whoever still waits for it learns so. */
static void thread_left(int t) {
    int w = t / WARP_LANES, lane = t % WARP_LANES;
    threads[t].state = State::Done;
    done_count++;
    warps[w].left |= 1u << lane;
    for (Pending &p : warps[w].pending) {
        if (p.used && (p.mask >> lane & 1) != 0 && (p.arrived >> lane & 1) == 0) {
            report("exited-thread", nullptr, "lane %d returned; line %d waits for it", lane,
                   p.line);
            p.mask &= ~(1u << lane);
            if (p.arrived == p.mask) {
                complete(w, p);
            }
        }
    }
    if (barrier_count != 0) {
        report("exited-thread", nullptr, "thread %d returned; __syncthreads at line %d waits", t,
               barrier_line);
        if (barrier_count + done_count == thread_count) {
            release_barrier();
        }
    }
}

static void fiber_main() {
    running_body->run();
    thread_left(current);
    void *unused;
    simt_switch(&unused, scheduler_sp); /* never to come back */
    abort();
}

static void prepare(int t) {
    Thread &thread = threads[t];
    if (thread.stack == nullptr) {
        void *p = mmap(nullptr, STACK + 4096, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED || mprotect(p, 4096, PROT_NONE) != 0) {
            perror("simt: mmap");
            abort();
        }
        thread.stack = (char *)p + 4096;
    }
    /* As after a call: the return address, then the stack off by eight. */
    void **top = (void **)(thread.stack + STACK) - 2;
    *top = (void *)fiber_main;
    thread.sp = top - SAVED;
    thread.inside = false;
    make_ready(t);
}

static void resume(int t) {
    unsigned x = blockDim.x, y = blockDim.y;
    current = t;
    threadIdx = uint3{(unsigned)t % x, (unsigned)t / x % y, (unsigned)t / x / y};
    place.thread = (uint16_t)t;
    place.known = warps[t / WARP_LANES].known[t % WARP_LANES];
    place.stack_low = threads[t].stack;
    place.stack_bytes = STACK;
    place.inside = threads[t].inside;
    simt_switch(&scheduler_sp, threads[t].sp);
    place.inside = false;
}

static void begin_block(uint32_t block) {
    place.block = block;
    place.epoch = 1;
    done_count = barrier_count = 0;
    ready.clear();
    shared_clear();
    for (int t = 0; t < thread_count; t++) {
        WarpState &warp = warps[t / WARP_LANES];
        if (t % WARP_LANES == 0) {
            warp.exists = warp.left = 0;
            memset(warp.known, 0, sizeof warp.known);
            for (Pending &p : warp.pending) {
                p.used = false;
            }
        }
        warp.exists |= 1u << (t % WARP_LANES);
        warp.known[t % WARP_LANES][t % WARP_LANES] = 1;
        prepare(t);
    }
}

static bool run_block(uint32_t block) {
    begin_block(block);
    while (!ready.empty()) {
        size_t i = pick(ready.size());
        int t = ready[i];
        ready[i] = ready.back();
        ready.pop_back();
        resume(t);
    }
    for (int t = 0; t < thread_count; t++) {
        if (threads[t].state != State::Done) {
            current = t;
            report("deadlock", nullptr, "%d of %d threads wait for ever, this one at line %d",
                   thread_count - done_count, thread_count, threads[t].line);
            return false;
        }
    }
    return true;
}

void run_grid(const char *name, dim3 grid, dim3 block, int device, Body &body) {
    std::vector<uint32_t> order((size_t)grid.x * grid.y * grid.z);
    std::iota(order.begin(), order.end(), 0);
    for (size_t i = order.size(); i > 1; i--) {
        std::swap(order[i - 1], order[pick(i)]);
    }
    running_name = name;
    running_body = &body;
    blockDim = block;
    gridDim = grid;
    thread_count = (int)(block.x * block.y * block.z);
    place.launch++;
    place.device = device;
    kernels_run++;
    for (uint32_t b : order) {
        blockIdx = uint3{b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y};
        threads_run += (uint64_t)thread_count;
        if (!run_block(b)) {
            break;
        }
    }
    running_body = nullptr;
}

} // namespace simt

uint64_t simt_kernels_run(void) {
    return simt::kernels_run;
}

uint64_t simt_threads_run(void) {
    return simt::threads_run;
}
