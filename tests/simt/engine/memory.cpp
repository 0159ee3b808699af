/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Device memory is one reserved arena; allocations never touch and are never reused, so a stray or
 * late access lands on nothing. Beside it, and beside shared memory, lies a shadow: a
 * cell for each four bytes that knows which bytes exist, which were written, and who wrote and read
 * them last. An access is judged against its cell:
 *
 *   two accesses, one of them a write, not both atomic, race unless something orders them: another
 *   launch, the same thread, a __syncthreads between them in one block, or a __syncwarp that both
 *   lanes took part in. Nothing orders two blocks of a launch.
 *
 * A cell remembers one write and two reads; which read is replaced is random, so what one seed
 * misses another finds.
 */
#include "tests/simt/engine/engine.h"

#include <cstdio>
#include <cstdlib>
#include <link.h>
#include <map>
#include <sys/mman.h>

/* The linker's names for the ends of the program. */
extern "C" {
extern char __executable_start[], _end[];
}

namespace simt {

struct Access {
    uint32_t launch = 0, block = 0; /* launch 0: none yet */
    uint16_t thread = 0, epoch = 0, clock = 0;
    uint8_t bytes = 0; /* which of the four, as bits */
    bool atomic = false;
};

struct Cell {
    Access write, read[2];
    uint8_t exists, written;
    int16_t device;
};

struct Allocation {
    size_t bytes;
    int device;
    bool live;
};

Place place;

constexpr size_t ARENA = (size_t)1 << 30;
constexpr size_t GAP = 4096;
constexpr size_t WORD = 4;
static char *arena;
static Cell *arena_shadow;
static size_t arena_used, live_bytes;
static std::map<const char *, Allocation> allocations;
static std::vector<Cell> shared_shadow;
static char *shared_low;
static size_t shared_bytes;

static void *reserve(size_t bytes) {
    void *p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        perror("simt: mmap");
        abort();
    }
    return p;
}

void *device_alloc(size_t bytes, int device) {
    if (arena == nullptr) {
        arena = (char *)reserve(ARENA);
        arena_shadow = (Cell *)reserve(ARENA / WORD * sizeof(Cell));
        arena_used = GAP;
    }
    size_t span = (bytes + 255) / 256 * 256 + GAP;
    if (bytes > ARENA || span > ARENA - arena_used) {
        return nullptr;
    }
    char *p = arena + arena_used;
    arena_used += span;
    allocations[p] = {bytes, device, true};
    live_bytes += bytes;
    memset(p, 0xff, bytes); /* NaN: what is read unwritten shows in results too */
    for (size_t i = 0; i < bytes; i++) {
        Cell &cell = arena_shadow[(size_t)(p - arena + i) / WORD];
        cell.exists |= (uint8_t)(1u << ((uintptr_t)(p + i) % WORD));
        cell.device = (int16_t)device;
    }
    return p;
}

bool is_device(const void *p) {
    return arena != nullptr && (size_t)((const char *)p - arena) < ARENA;
}

size_t device_bytes(const void *p) {
    auto it = allocations.find((const char *)p);
    return it == allocations.end() || !it->second.live ? 0 : it->second.bytes;
}

/* The allocation p is in or behind. */
static std::pair<const char *const, Allocation> *find(const void *p) {
    auto it = allocations.upper_bound((const char *)p);
    return is_device(p) && it != allocations.begin() ? &*--it : nullptr;
}

bool device_free(void *p) {
    auto it = allocations.find((const char *)p);
    if (it == allocations.end() || !it->second.live) {
        report("bad-free", nullptr, "cudaFree(%p) of no live allocation", p);
        return false;
    }
    it->second.live = false;
    live_bytes -= it->second.bytes;
    memset(p, 0xfe, it->second.bytes);
    size_t words = (it->second.bytes + WORD - 1) / WORD;
    std::fill_n(arena_shadow + ((char *)p - arena) / WORD, words, Cell{});
    return true;
}

static void report_outside(const void *p, size_t bytes, const void *pc, const char *who) {
    auto *a = find(p);
    if (a == nullptr) {
        report("not-device", pc, "%s: %p is not device memory", who, p);
    } else if (!a->second.live && (const char *)p < a->first + a->second.bytes) {
        report("use-after-free", pc, "%s: %zu bytes of freed memory", who, bytes);
    } else {
        report("out-of-bounds", pc, "%s: %zu bytes at %td of an allocation of %zu", who, bytes,
               (const char *)p - a->first, a->second.bytes);
    }
}

bool device_touch(const void *p, size_t bytes, bool write, int device, const char *who) {
    auto *a = find(p);
    size_t at = a == nullptr ? 0 : (size_t)((const char *)p - a->first);
    if (bytes == 0) {
        return true;
    }
    if (a == nullptr || !a->second.live || at > a->second.bytes || bytes > a->second.bytes - at) {
        report_outside(p, bytes, nullptr, who);
        return false;
    }
    if (device >= 0 && a->second.device != device) {
        report("wrong-device", nullptr, "%s: memory of device %d on device %d", who,
               a->second.device, device);
        return false;
    }
    for (size_t i = 0; i < bytes; i++) {
        Cell &cell = arena_shadow[(size_t)((const char *)p + i - arena) / WORD];
        uint8_t bit = (uint8_t)(1u << ((uintptr_t)((const char *)p + i) % WORD));
        if (!write && (cell.written & bit) == 0) {
            report("uninitialised", nullptr, "%s reads byte %zu, never written, of %zu", who,
                   at + i, a->second.bytes);
            return true;
        }
        cell.written |= write ? bit : 0;
    }
    return true;
}

/* The program's own thread-local memory; the first object listed is the program. */
static int find_shared(dl_phdr_info *info, size_t, void *) {
    for (int i = 0; i < info->dlpi_phnum; i++) {
        if (info->dlpi_phdr[i].p_type == PT_TLS) {
            shared_low = (char *)info->dlpi_tls_data;
            shared_bytes = info->dlpi_phdr[i].p_memsz;
        }
    }
    return 1;
}

void shared_clear() {
    if (shared_low == nullptr) {
        dl_iterate_phdr(find_shared, nullptr);
    }
    shared_shadow.assign(shared_bytes / WORD + 2, Cell{});
}

static bool ordered(const Access &before) {
    if (before.launch != place.launch) {
        return true;
    }
    if (before.block != place.block) {
        return false;
    }
    if (before.thread == place.thread || before.epoch < place.epoch) {
        return true;
    }
    return before.thread / WARP_LANES == place.thread / WARP_LANES &&
           place.known[before.thread % WARP_LANES] >= before.clock;
}

static bool races(const Access &before, const Access &now) {
    return before.launch != 0 && (before.bytes & now.bytes) != 0 &&
           !(before.atomic && now.atomic) && !ordered(before);
}

static void judge_race(Cell &cell, const Access &now, bool write, bool shared, const void *pc) {
    const char *kind = shared ? "race-shared" : "race-global";
    const Access *other = races(cell.write, now) ? &cell.write : nullptr;
    for (const Access &read : cell.read) {
        other = other == nullptr && write && races(read, now) ? &read : other;
    }
    if (other != nullptr) {
        report(kind, pc, "%s by thread %u of block %u, %s by thread %u of block %u, unordered",
               other == &cell.write ? "a write" : "a read", other->thread, other->block,
               write ? "a write" : "a read", now.thread, now.block);
    }
    if (write) {
        cell.write = now;
        cell.written |= now.bytes;
        return;
    }
    for (Access &read : cell.read) {
        if (read.launch == 0 || read.thread == now.thread || ordered(read)) {
            read = now;
            return;
        }
    }
    cell.read[pick(2)] = now;
}

static void judge_words(Cell *cells, uintptr_t first, const char *p, size_t bytes, bool write,
                        bool atomic, bool shared, const void *pc) {
    uint16_t clock = place.known[place.thread % WARP_LANES];
    for (size_t i = 0; i < bytes;) {
        size_t low = ((uintptr_t)p + i) % WORD, take = WORD - low;
        take = take < bytes - i ? take : bytes - i;
        uint8_t bits = (uint8_t)(((1u << take) - 1) << low);
        Cell &cell = cells[((uintptr_t)p + i - first) / WORD];
        if (!shared && (cell.exists & bits) != bits) {
            report_outside(p, bytes, pc, write ? "write" : "read");
            return;
        }
        if (!shared && cell.device != place.device) {
            report("wrong-device", pc, "memory of device %d in a kernel on device %d", cell.device,
                   place.device);
        }
        if ((!write || atomic) && (cell.written & bits) != bits) {
            report("uninitialised", pc, "%s memory is read that nobody wrote",
                   shared ? "shared" : "device");
        }
        Access now{place.launch, place.block, place.thread, place.epoch, clock, bits, atomic};
        judge_race(cell, now, write, shared, pc);
        i += take;
    }
}

/* Every access of a kernel comes here. */
static void judge(const void *address, size_t bytes, bool write, bool atomic, const void *pc) {
    const char *p = (const char *)address;
    if (!place.inside || (size_t)(p - place.stack_low) < place.stack_bytes) {
        return;
    }
    bool shared = (size_t)(p - shared_low) < shared_bytes;
    if (!shared && !is_device(p)) {
        /* The built-in variables and constants of the program. */
        if (write || p < __executable_start || p >= _end) {
            report("not-device", pc, "a %s at host address %p", write ? "write" : "read", address);
        }
        return;
    }
    if (bytes <= 16 && (bytes & (bytes - 1)) == 0 && (uintptr_t)p % bytes != 0) {
        report("misaligned", pc, "%zu bytes at %p", bytes, address);
    }
    if (shared) {
        uintptr_t first = (uintptr_t)shared_low / WORD * WORD;
        judge_words(shared_shadow.data(), first, p, bytes, write, atomic, true, pc);
    } else {
        judge_words(arena_shadow, (uintptr_t)arena, p, bytes, write, atomic, false, pc);
    }
}

void atomic_access(const void *p, size_t bytes, const void *pc) {
    judge(p, bytes, true, true, pc);
}

} // namespace simt

size_t simt_live_bytes(void) {
    return simt::live_bytes;
}

/* What -fsanitize=thread calls before each access, and -fsanitize=bounds and =alignment for a wrong
 * index and a wrong address. */
#define CALLER __builtin_return_address(0)
#define HOOKS(n)                                                                                   \
    void __tsan_read##n(void *p) {                                                                 \
        simt::judge(p, n, false, false, CALLER);                                                   \
    }                                                                                              \
    void __tsan_write##n(void *p) {                                                                \
        simt::judge(p, n, true, false, CALLER);                                                    \
    }                                                                                              \
    void __tsan_unaligned_read##n(void *p) {                                                       \
        simt::judge(p, n, false, false, CALLER);                                                   \
    }                                                                                              \
    void __tsan_unaligned_write##n(void *p) {                                                      \
        simt::judge(p, n, true, false, CALLER);                                                    \
    }                                                                                              \
    void __tsan_volatile_read##n(void *p) {                                                        \
        simt::judge(p, n, false, false, CALLER);                                                   \
    }                                                                                              \
    void __tsan_volatile_write##n(void *p) {                                                       \
        simt::judge(p, n, true, false, CALLER);                                                    \
    }

extern "C" {
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
void __tsan_read_range(void *p, size_t bytes) {
    simt::judge(p, bytes, false, false, CALLER);
}
void __tsan_write_range(void *p, size_t bytes) {
    simt::judge(p, bytes, true, false, CALLER);
}
void __tsan_init(void) {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit(void) {}
void __tsan_vptr_update(void **, void *) {}
void __tsan_vptr_read(void **) {}
void __ubsan_handle_out_of_bounds(void *, void *index) {
    simt::report("out-of-bounds", CALLER, "index %zu of an array", (size_t)index);
}
void __ubsan_handle_type_mismatch_v1(void *, void *p) {
    simt::report("misaligned", CALLER, "%p is not aligned for its type", p);
}
}
