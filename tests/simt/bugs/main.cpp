/* SPDX-License-Identifier: Apache-2.0 */
/*
 * simt_bugs: every planted bug must be found, as what it is, under every seed; every twin must give
 * no finding at all. One line for each that does not behave, exit 0 or 1.
 */
#include "tests/simt/engine/simt.h"

#include "tests/simt/bugs/bugs.h"
#include "tests/simt/engine/control.h"

#include <cstdio>

static const unsigned SEEDS = 8;
static int bad;

static void *make(size_t bytes, int device, cudaStream_t stream, bool written) {
    void *p = nullptr;
    (void)cudaSetDevice(device);
    (void)cudaMalloc(&p, bytes);
    if (written) {
        (void)cudaMemsetAsync(p, 0, bytes, stream);
        (void)cudaStreamSynchronize(stream);
    }
    return p;
}

/* Runs fn in a world of its own; false where it said that its result is wrong. */
static bool run(bugs_fn fn, unsigned seed) {
    bugs_env env{};
    simt_begin(seed, 2, true);
    (void)cudaSetDevice(1);
    (void)cudaStreamCreateWithFlags(&env.far_s, cudaStreamNonBlocking);
    (void)cudaSetDevice(0);
    (void)cudaStreamCreateWithFlags(&env.s, cudaStreamNonBlocking);
    size_t bytes = BUGS_N * sizeof(float);
    env.far = (float *)make(bytes, 1, env.far_s, true);
    env.x = (float *)make(bytes, 0, env.s, true);
    env.y = (float *)make(bytes, 0, env.s, true);
    env.fresh = (float *)make(bytes, 0, env.s, false);
    env.count = (unsigned *)make(sizeof(unsigned), 0, env.s, true);
    bool ok = fn(&env);
    (void)cudaStreamDestroy(env.s);
    (void)cudaStreamDestroy(env.far_s);
    for (void *p :
         {(void *)env.far, (void *)env.x, (void *)env.y, (void *)env.fresh, (void *)env.count}) {
        (void)cudaFree(p);
    }
    return ok;
}

static void judge(const bugs_pair &pair, unsigned seed) {
    bool right = run(pair.bug, seed);
    bool caught = pair.kind == nullptr ? !right : simt_findings_of(pair.kind) > 0;
    if (!caught) {
        printf("simt_bugs: MISSED %s (seed %u), %zu other findings\n", pair.name, seed,
               simt_findings());
        bad++;
    }
    right = run(pair.twin, seed);
    if (!right || simt_findings() != 0) {
        printf("simt_bugs: CRIED at the twin of %s (seed %u), %zu findings\n", pair.name, seed,
               simt_findings());
        bad++;
    }
}

int main() {
    const struct {
        const bugs_pair *pairs;
        size_t count;
    } tables[] = {{bugs_barrier, bugs_barrier_count},
                  {bugs_warp, bugs_warp_count},
                  {bugs_memory, bugs_memory_count},
                  {bugs_race, bugs_race_count},
                  {bugs_host, bugs_host_count}};
    size_t pairs = 0;
    for (const auto &table : tables) {
        for (size_t i = 0; i < table.count; i++, pairs++) {
            for (unsigned seed = 1; seed <= SEEDS; seed++) {
                judge(table.pairs[i], seed);
            }
        }
    }
    printf("simt_bugs: %zu bugs and their twins under %u seeds, %d failed\n", pairs, SEEDS, bad);
    return bad == 0 ? 0 : 1;
}
