/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Training that runs out of memory says so, wherever it does, gives back what it had, and trains
 * the next time as if nothing had been. This program's allocations go through the functions below
 * (the linker's --wrap), which fail one of them.
 */
#include "spoke/team.h"
#include "spoke/train.h"
#include "tests/support/onnx_writer.h"
#include "tests/support/temp_file.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <limits.h>
#include <stdatomic.h>

#define ALL LONG_MAX
#define MOST 2000 /* allocations of one training */

static atomic_long granted = ALL; /* until one fails; the rest succeed */

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
int __real_posix_memalign(void **out, size_t align, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
int __wrap_posix_memalign(void **out, size_t align, size_t n);

static bool fails(void) {
    return atomic_load(&granted) != ALL && atomic_fetch_sub(&granted, 1) == 0;
}

void *__wrap_malloc(size_t n) {
    return fails() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size) {
    return fails() ? NULL : __real_calloc(n, size);
}

int __wrap_posix_memalign(void **out, size_t align, size_t n) {
    return fails() ? ENOMEM : __real_posix_memalign(out, align, n);
}

static struct tier_err err;
static struct tier_graph *graph;
static struct spoke_data *data;

static void set_up(void) {
    static struct onnx_msg g, m;
    static const float w[2 * 3] = {1, -1, 0.5f, 0.25f, -0.5f, 2}, b[3] = {0.1f, 0, -0.1f};
    char csv[2048];
    size_t at = (size_t)snprintf(csv, sizeof csv, "a,b,t,s\n");

    onnx_add_value(&g, 11, "x", 0, 2);
    onnx_add_value(&g, 12, "y", 0, 3);
    onnx_add_tensor(&g, "w", 2, 3, w);
    onnx_add_tensor(&g, "b", 3, 0, b);
    onnx_add_node(&g, "Gemm", "x w b", "h");
    onnx_add_node(&g, "Relu", "h", "y");
    onnx_model(&m, &g, 13);
    cr_assert(eq(int, tier_graph_parse(m.b, m.n, &graph, &err), TIER_OK), "%s", err.text);
    for (int i = 0; i < 30; i++)
        at += (size_t)snprintf(csv + at, sizeof csv - at, "%d,%d,k%d,train\n", i % 7, i % 5, i % 3);
    cr_assert(eq(int,
                 spoke_data_open(temp_file("s.yaml",
                                           "columns:\n  - {name: a, type: number}\n"
                                           "  - {name: b, type: number}\n"
                                           "  - {name: t, type: target, categories: [k0, k1, k2]}\n"
                                           "  - {name: s, type: split}\nsplit: {by: column}\n"),
                                 temp_file("t.csv", csv), NULL, &data, &err),
                 TIER_OK),
              "%s", err.text);
    kern_init(NULL);
}

static void tear_down(void) {
    spoke_data_free(data);
    tier_graph_free(graph);
    temp_release();
}

TestSuite(spoke_memory, .init = set_up, .fini = tear_down);

/* One training from the same weights, in which allocation `n` fails; what it ends with. */
static enum tier_status train(const struct spoke_team *team, struct spoke_net *const *nets,
                              const struct spoke_recipe *r, long n, float out[9]) {
    static const float start[9] = {1, -1, 0.5f, 0.25f, -0.5f, 2, 0.1f, 0, -0.1f};
    for (size_t i = 0; i < team->count; i++)
        cr_assert(eq(int, spoke_net_set(nets[i], start, &err), TIER_OK));
    atomic_store(&granted, n);
    enum tier_status st =
        spoke_train_replicas(nets, team->count, team->group, data, r, 1, NULL, &err);
    if (n == ALL || atomic_load(&granted) >= 0)
        cr_assert(eq(int, st, TIER_OK), "%s", err.text);
    else
        cr_assert(st != TIER_OK && strstr(err.text, "memory") != NULL, "allocation %ld: %s", n,
                  err.text);
    bool all = atomic_exchange(&granted, ALL) >= 0;
    cr_assert(eq(int, spoke_net_get(nets[0], out, &err), TIER_OK));
    return all ? TIER_OK : st;
}

static void run_out(const char *devices, const struct spoke_recipe *r, long least) {
    const struct spoke_objective objective = spoke_objective_plain(SPOKE_LOSS_CE);
    struct spoke_net *nets[KERN_GROUP_RANKS_MAX] = {NULL};
    struct spoke_team team;
    float want[9], got[9];
    long n = 0;

    cr_assert(eq(int, spoke_team_open(devices, 1, true, &team, &err), TIER_OK), "%s", err.text);
    cr_assert(eq(int,
                 spoke_team_nets(&team, graph, &objective, r->batch, team.count, true, nets, &err),
                 TIER_OK),
              "%s", err.text);
    train(&team, nets, r, ALL, want);
    while (n < MOST && train(&team, nets, r, n, got) != TIER_OK)
        n++;
    cr_expect(n >= least && n < MOST, "%s: %ld allocations", devices, n);
    cr_expect(memcmp(got, want, sizeof got) == 0, "%s: it trains as ever", devices);
    for (size_t i = 0; i < team.count; i++)
        spoke_net_free(nets[i]);
    spoke_team_close(&team);
}

static const struct spoke_recipe plain = {.optimiser = SPOKE_OPT_ADAMW,
                                          .lr = 0.01f,
                                          .beta1 = 0.9f,
                                          .beta2 = 0.99f,
                                          .eps = 1e-6f,
                                          .clip_norm = 1,
                                          .products = KERN_BF16,
                                          .ema = 0.5f,
                                          .batch = 8,
                                          .epochs = 2};

Test(spoke_memory, each_allocation_of_a_training_may_fail) {
    run_out("cpu", &plain, 5);
}

Test(spoke_memory, each_allocation_of_a_training_on_two_devices_may_fail) {
    run_out("cpu*2", &plain, 8);
}

Test(spoke_memory, each_allocation_of_a_private_training_may_fail) {
    struct tier_noise_key key = {{1}};
    struct spoke_recipe r = {.optimiser = SPOKE_OPT_SGD,
                             .lr = 0.1f,
                             .batch = 8,
                             .steps = 3,
                             .sample_clip = 0.5f,
                             .sample_noise = 1,
                             .noise_key = &key};
    run_out("cpu", &r, 5);
}
