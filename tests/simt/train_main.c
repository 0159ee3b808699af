/* SPDX-License-Identifier: Apache-2.0 */
/*
 * simt_train SEED [no-nccl]: a spoke trains on 1, 2, 4 and 8 emulated GPUs, with every term a
 * gradient may have, and works out its Fisher information; all end near one CPU
 * device, a second run ends in the same bits, so does one whose steps are not recorded, and a GPU
 * that fails in the middle is an error. A network of images (convolution, GroupNorm, rectifier,
 * cross-entropy) does the same on one and two of them.
 */
#include "kernels/backend.h"
#include "spoke/fisher.h"
#include "spoke/team.h"
#include "spoke/train.h"
#include "tests/simt/engine/control.h"
#include "tests/support/onnx_writer.h"
#include "tests/support/temp_file.h"
#include "tier/log.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const struct kern_ops *kern_plugin_ops_v1(uint32_t abi);

#define HIDDEN 5
#define PIXELS (2 * 5 * 4) /* of an image: channels, height, width */
#define ELEMENTS 512       /* room for the parameters of any of the networks */
#define SAMPLES 7

static int bad;
static struct tier_err err;
/* The one in use; without and with Dropout; of images. */
static struct tier_graph *graph, *dry, *wet, *images;
static struct spoke_data *data;

static void expect(bool ok, const char *what) {
    if (!ok) {
        fprintf(stderr, "simt_train: FAILED %s (%s)\n", what, err.text);
        bad++;
    }
}

static void make_graph(bool dropout, struct tier_graph **out) {
    static struct onnx_msg g, m;
    float w[3 * HIDDEN], v[HIDDEN];
    const float zeros[HIDDEN] = {0};

    g.n = m.n = 0;
    for (int i = 0; i < 3 * HIDDEN; i++)
        w[i] = (float)sin(i + 1.0);
    for (int i = 0; i < HIDDEN; i++)
        v[i] = (float)cos(i + 1.0);
    onnx_add_value(&g, 11, "x", 0, 3);
    onnx_add_value(&g, 12, "y", 0, 1);
    onnx_add_tensor(&g, "w", 3, HIDDEN, w);
    onnx_add_tensor(&g, "b", HIDDEN, 0, zeros);
    onnx_add_tensor(&g, "v", HIDDEN, 1, v);
    onnx_add_tensor(&g, "c", 1, 0, zeros);
    onnx_add_node(&g, "Gemm", "x w b", "h");
    onnx_add_node(&g, "Relu", "h", "r");
    if (dropout)
        onnx_add_node(&g, "Dropout", "r", "d");
    onnx_add_node(&g, "Gemm", dropout ? "d v c" : "r v c", "z");
    onnx_add_node(&g, "Sigmoid", "z", "y");
    onnx_model(&m, &g, 13);
    if (tier_graph_parse(m.b, m.n, out, &err) != TIER_OK) {
        fprintf(stderr, "simt_train: FAILED %s\n", err.text);
        exit(1);
    }
}

static void add_filled(struct onnx_msg *g, const char *name, size_t rank, const int64_t *dims,
                       double step) {
    static float values[ELEMENTS];
    int64_t n = 1;

    for (size_t d = 0; d < rank; d++)
        n *= dims[d];
    for (int64_t i = 0; i < n; i++)
        values[i] = (float)sin(step * (double)(i + 1));
    onnx_add_dims(g, name, rank, dims, 1, values);
}

/* A row's three numbers spread over an image, which convolutions and GroupNorm reduce to classes.
 */
static void make_images(void) {
    static struct onnx_msg g, m, node;
    const int64_t image[] = {-1, 2, 5, 4};

    onnx_add_value(&g, 11, "x", 0, 3);
    onnx_add_value(&g, 12, "y", 0, 2);
    add_filled(&g, "w", 2, (int64_t[]){3, PIXELS}, 1.1);
    add_filled(&g, "b", 1, (int64_t[]){PIXELS}, 0.7);
    add_filled(&g, "k1", 4, (int64_t[]){4, 2, 3, 3}, 1.7);
    add_filled(&g, "o1", 1, (int64_t[]){4}, 0.4);
    add_filled(&g, "s1", 1, (int64_t[]){4}, 0.9);
    add_filled(&g, "h1", 1, (int64_t[]){4}, 0.3);
    add_filled(&g, "k2", 4, (int64_t[]){6, 4, 3, 2}, 2.3);
    add_filled(&g, "v", 2, (int64_t[]){6, 2}, 1.3);
    add_filled(&g, "c", 1, (int64_t[]){2}, 0.2);
    onnx_add_ints(&g, "shape", 4, image);
    onnx_add_node(&g, "Gemm", "x w b", "flat");
    onnx_add_node(&g, "Reshape", "flat shape", "image");
    onnx_node(&node, "Conv", "image k1 o1", "c1");
    onnx_attr_ints(&node, "pads", 4, (int64_t[]){1, 1, 1, 1});
    onnx_sub(&g, 1, &node);
    onnx_node(&node, "GroupNormalization", "c1 s1 h1", "n1");
    onnx_attr_int(&node, "num_groups", 2);
    onnx_sub(&g, 1, &node);
    onnx_add_node(&g, "Relu", "n1", "r1");
    onnx_add_node(&g, "Conv", "r1 k2", "c2");
    onnx_add_node(&g, "Relu", "c2", "r2");
    onnx_add_node(&g, "GlobalAveragePool", "r2", "p");
    onnx_add_node(&g, "Flatten", "p", "f");
    onnx_add_node(&g, "Gemm", "f v c", "y");
    onnx_model(&m, &g, 21);
    if (tier_graph_parse(m.b, m.n, &images, &err) != TIER_OK) {
        fprintf(stderr, "simt_train: FAILED %s\n", err.text);
        exit(1);
    }
}

static void make_world(void) {
    static const char schema[] = "columns:\n  - {name: a, type: number}\n"
                                 "  - {name: b, type: number}\n"
                                 "  - {name: c, type: number}\n"
                                 "  - {name: t, type: target, categories: [lo, hi]}\n"
                                 "  - {name: s, type: split}\nsplit: {by: column}\n";
    char csv[8192];
    size_t at = (size_t)snprintf(csv, sizeof csv, "a,b,c,t,s\n");
    for (int i = 0; i < 45; i++)
        at += (size_t)snprintf(csv + at, sizeof csv - at, "%.6f,%.6f,%.6f,%s,%s\n", sin(i * 1.3),
                               cos(i * 2.1), sin(i * 0.7), sin(i * 1.3) > 0 ? "hi" : "lo",
                               i % 5 ? "train" : "test");
    make_graph(false, &dry);
    make_graph(true, &wet);
    make_images();
    graph = dry;
    if (spoke_data_open(temp_file("s.yaml", schema), temp_file("t.csv", csv), NULL, &data, &err) !=
        TIER_OK) {
        fprintf(stderr, "simt_train: FAILED %s\n", err.text);
        exit(1);
    }
}

static enum kern_products allowed; /* in training */
static bool recorded = true;       /* steps may be */
static float noise;                /* rows are read anew each time where it is not 0 */
static unsigned rows_each = 6;     /* of a batch */
static unsigned epochs = 2;

static struct spoke_objective objective(void) {
    return spoke_objective_plain(graph == images ? SPOKE_LOSS_CE : SPOKE_LOSS_BCE);
}

/* What it ends with, and the Fisher information there. */
static enum tier_status train_on(const char *list, float out[ELEMENTS], float fisher[ELEMENTS]) {
    float stiffness[ELEMENTS], centre[ELEMENTS];
    const struct spoke_recipe recipe = {
        .optimiser = SPOKE_OPT_ADAMW,
        .lr = 0.02f,
        .beta1 = 0.9f,
        .beta2 = 0.99f,
        .eps = 1e-3f,
        .prox_mu = 0.01f,
        .stiffness = stiffness,
        .centre = centre,
        .lambda = 0.05f,
        .weight_decay = 0.1f,
        .clip_norm = 0.2f,
        .products = allowed,
        .ema = 0.6f,
        .schedule = {.kind = SPOKE_SCHEDULE_COSINE, .per_step = true, .rounds = 1},
        .augment = {.noise = noise},
        .batch = rows_each,
        .accumulate = 2,
        .epochs = epochs};
    struct spoke_net *nets[KERN_GROUP_RANKS_MAX] = {NULL};
    const struct spoke_objective loss = objective();
    struct spoke_team team;

    memset(out, 0, ELEMENTS * sizeof *out);
    memset(fisher, 0, ELEMENTS * sizeof *fisher);
    enum tier_status st = spoke_team_open(list, 1, true, &team, &err);
    if (st != TIER_OK)
        return st;
    for (size_t i = 0; i < team.count; i++)
        kern_device_recordings(team.dev[i], recorded);
    st = spoke_team_nets(&team, graph, &loss, recipe.batch, team.count, true, nets, &err);
    for (int i = 0; i < ELEMENTS; i++) {
        out[i] = (float)sin(i * 0.9); /* the others begin where the first does */
        stiffness[i] = (float)(1 + cos(i * 0.4));
        centre[i] = (float)cos(i * 0.9);
    }
    if (st == TIER_OK)
        st = spoke_net_elements(nets[0]) <= ELEMENTS ? spoke_net_set(nets[0], out, &err)
                                                     : TIER_EINTERNAL;
    size_t unused = st == TIER_OK ? ELEMENTS - spoke_net_elements(nets[0]) : 0;
    memset(out + ELEMENTS - unused, 0, unused * sizeof *out);
    if (st == TIER_OK)
        st = spoke_train_replicas(nets, team.count, team.group, data, &recipe, 3, NULL, &err);
    if (st == TIER_OK)
        st = spoke_net_get(nets[team.count - 1], out, &err);
    if (st == TIER_OK)
        st = spoke_fisher(nets[0], data, 20, 3, fisher, &err);
    for (size_t i = 0; i < team.count; i++)
        spoke_net_free(nets[i]);
    spoke_team_close(&team);
    return st;
}

static float distance(const float *a, const float *b) {
    float off = 0;
    for (int k = 0; k < ELEMENTS; k++)
        off = fmaxf(off, fabsf(a[k] - b[k]));
    return off;
}

/* The same bits whether steps are replayed or called. */
static void compare_recordings(const char *list, const float *with) {
    float out[ELEMENTS], fisher[ELEMENTS];
    uint64_t before = simt_calls("cudaGraphLaunch");
    recorded = false;
    expect(train_on(list, out, fisher) == TIER_OK, "training without recordings");
    expect(simt_calls("cudaGraphLaunch") == before, "nothing is replayed");
    expect(memcmp(out, with, sizeof out) == 0, "the bits of recorded steps");
    recorded = true;
}

/* Half precisions end near the CPU, which rounds alike, and not where float32 does. */
static void compare_halves(const float *exact) {
    static const enum kern_products halves[] = {KERN_BF16, KERN_F16};
    float cpu[ELEMENTS], a[ELEMENTS], b[ELEMENTS], fisher[ELEMENTS];
    for (int i = 0; i < 2; i++) {
        allowed = halves[i];
        expect(train_on("cpu", cpu, fisher) == TIER_OK, "training in halves on the CPU");
        expect(train_on("cuda:0,1", a, fisher) == TIER_OK, "training in halves");
        expect(train_on("cuda:0,1", b, fisher) == TIER_OK && memcmp(a, b, sizeof a) == 0,
               "the same bits again in halves");
        expect(distance(a, cpu) < 2e-3f, "what the CPU ends with in halves");
        expect(distance(a, exact) > 1e-6f && distance(a, exact) < 0.1f,
               "halves round, and not more than they may");
        compare_recordings("cuda:0,1", a);
    }
    allowed = KERN_EXACT;
}

/* Rows that are read go to the device beside its work. */
static void compare_read_rows(void) {
    float cpu[ELEMENTS], a[ELEMENTS], fisher[ELEMENTS];
    noise = 0.1f;
    expect(train_on("cpu", cpu, fisher) == TIER_OK, "training on rows that are read, on the CPU");
    uint64_t before = simt_calls("cudaEventRecord");
    expect(train_on("cuda:3", a, fisher) == TIER_OK, "training on rows that are read");
    expect(simt_calls("cudaEventRecord") > before, "rows go beside the work");
    expect(distance(a, cpu) < 1e-4f, "what the CPU ends with on rows that are read");
    compare_recordings("cuda:3", a);
    noise = 0;
}

/* Draws are the CPU's, whether their step is replayed or called, and others in each. */
static void compare_draws(const float *plain) {
    float cpu[ELEMENTS], a[ELEMENTS], fisher[ELEMENTS];
    graph = wet;
    expect(train_on("cpu", cpu, fisher) == TIER_OK, "training with Dropout on the CPU");
    expect(train_on("cuda:3", a, fisher) == TIER_OK, "training with Dropout");
    expect(distance(a, cpu) < 1e-4f, "what the CPU ends with, with Dropout");
    expect(distance(a, plain) > 1e-3f, "Dropout drops something");
    compare_recordings("cuda:3", a);
    graph = dry;
}

static uint64_t calls_of(const char *call) {
    float a[ELEMENTS], fisher[ELEMENTS];
    uint64_t before = simt_calls(call);
    expect(train_on("cuda:1", a, fisher) == TIER_OK, "training with counted calls");
    return simt_calls(call) - before;
}

/* Three times the steps ask the driver for no more memory; and, in as many epochs, wait for the
 * device no more often, though each step has rows of its own to send. */
static void count_calls(void) {
    for (int read = 0; read < 2; read++) {
        noise = read ? 0.1f : 0;
        uint64_t taken = calls_of("cudaMalloc"), freed = calls_of("cudaFree");
        epochs = 6;
        expect(taken > 0 && calls_of("cudaMalloc") == taken, "a step takes no memory");
        expect(freed > 0 && calls_of("cudaFree") == freed, "a step gives none back");
        epochs = 2;
    }
    uint64_t waits = calls_of("cudaStreamSynchronize");
    rows_each = 2;
    expect(waits > 0 && calls_of("cudaStreamSynchronize") == waits, "a step does not wait");
    rows_each = 6;
    noise = 0;
}

/* The norms of some rows' gradients, and the sum of what is left of them when they are cut; rows go
 * together, or each alone. */
static enum tier_status samples_on(const char *device, bool together, float norms[SAMPLES],
                                   float sum[ELEMENTS]) {
    const struct spoke_objective loss = objective();
    struct kern_device *dev = NULL;
    struct spoke_net *net = NULL;
    struct kern_buf *x = NULL, *targets = NULL, *out = NULL;
    size_t bytes = SAMPLES * spoke_data_features(data) * sizeof(float);
    float classes[SAMPLES];
    enum tier_status st = TIER_EDEVICE;
    for (int i = 0; i < SAMPLES; i++)
        classes[i] = (float)spoke_data_labels(data, SPOKE_TRAIN)[i];
    if (kern_device_open(device, 1, &dev) == KERN_OK && kern_buf_new(dev, bytes, &x) == KERN_OK &&
        kern_buf_new(dev, sizeof classes, &targets) == KERN_OK &&
        kern_buf_new(dev, (SAMPLES + 1) * sizeof(float), &out) == KERN_OK &&
        kern_upload(x, 0, spoke_data_x(data, SPOKE_TRAIN), bytes) == KERN_OK &&
        kern_upload(targets, 0, classes, sizeof classes) == KERN_OK)
        st = spoke_net_new_for(dev, graph, &loss, SAMPLES, &net, &err);
    if (st == TIER_OK)
        spoke_net_samples_force(net, together);
    if (st == TIER_OK)
        st = spoke_net_backward_samples(net, (struct kern_vec){x, 0}, (struct kern_vec){targets, 0},
                                        SAMPLES, 0.3f, (struct kern_vec){out, 1},
                                        (struct kern_vec){out, 0}, &err);
    if (st == TIER_OK)
        expect((spoke_net_samples_at_once(net) > 1) == together, "how many rows go at once");
    if (st == TIER_OK &&
        (kern_download(norms, out, sizeof(float), SAMPLES * sizeof(float)) != KERN_OK ||
         kern_download(sum, spoke_net_grads(net).buf, 0, spoke_net_elements(net) * sizeof(float)) !=
             KERN_OK))
        st = TIER_EDEVICE;
    spoke_net_free(net);
    kern_device_close(dev);
    return st;
}

static void compare_samples(void) {
    float norms[SAMPLES] = {0}, sum[ELEMENTS] = {0}, want_norms[SAMPLES] = {0},
          want[ELEMENTS] = {0};
    expect(samples_on("cpu", false, want_norms, want) == TIER_OK, "samples on the CPU");
    for (int together = 0; together < 2; together++) {
        expect(samples_on("cuda:1", together, norms, sum) == TIER_OK, "samples");
        for (int i = 0; i < SAMPLES; i++)
            expect(fabsf(norms[i] - want_norms[i]) < 1e-5f * fmaxf(1, want_norms[i]),
                   "a sample's norm");
        expect(distance(sum, want) < 1e-5f, "the sum of samples");
    }
}

/* The same of a network of images, in float32 and in halves. */
static void compare_images(void) {
    static const char *const lists[] = {"cuda:3", "cuda:0,1"};
    float cpu[ELEMENTS], a[ELEMENTS], b[ELEMENTS], cpu_fisher[ELEMENTS], fa[ELEMENTS], fb[ELEMENTS];
    graph = images;
    expect(train_on("cpu", cpu, cpu_fisher) == TIER_OK, "training on images on the CPU");
    for (int i = 0; i < 2; i++) {
        uint64_t before = simt_calls("cudaGraphLaunch");
        expect(train_on(lists[i], a, fa) == TIER_OK, "training on images");
        expect(simt_calls("cudaGraphLaunch") > before, "steps on images are replayed");
        expect(train_on(lists[i], b, fb) == TIER_OK && memcmp(a, b, sizeof a) == 0 &&
                   memcmp(fa, fb, sizeof fa) == 0,
               "the same bits again on images");
        expect(distance(a, cpu) < 1e-4f && distance(fa, cpu_fisher) < 1e-4f,
               "what the CPU ends with on images");
        compare_recordings(lists[i], a);
    }
    allowed = KERN_BF16;
    expect(train_on("cpu", b, fb) == TIER_OK, "training on images in halves on the CPU");
    expect(train_on(lists[1], a, fa) == TIER_OK, "training on images in halves");
    expect(distance(a, b) < 2e-3f && distance(a, cpu) > 1e-6f, "halves round images");
    compare_recordings(lists[1], a);
    allowed = KERN_EXACT;
    compare_samples();
    graph = dry;
}

int main(int argc, char **argv) {
    static const char *const lists[] = {"cuda:3", "cuda:0,1", "cuda:0,1,2,3", "cuda:all"};
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    bool nccl = argc < 3;
    float cpu[ELEMENTS], a[ELEMENTS], b[ELEMENTS];
    float cpu_fisher[ELEMENTS], fa[ELEMENTS], fb[ELEMENTS];
    tier_log_init("simt", TIER_LOG_ERROR);
    simt_begin(seed, 8, false);
    if (!nccl) {
        simt_without_nccl();
        simt_without_pools();
    }
    kern_registry_set_cuda(kern_plugin_ops_v1(KERN_BACKEND_ABI));
    make_world();
    expect(train_on("cpu", cpu, cpu_fisher) == TIER_OK, "training on the CPU");
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        expect(train_on(lists[i], a, fa) == TIER_OK, lists[i]);
        expect(train_on(lists[i], b, fb) == TIER_OK, lists[i]);
        expect(memcmp(a, b, sizeof a) == 0 && memcmp(fa, fb, sizeof fa) == 0,
               "the same bits again");
        for (int k = 0; k < ELEMENTS; k++)
            expect(fabsf(a[k] - cpu[k]) < 1e-4f && fabsf(fa[k] - cpu_fisher[k]) < 1e-4f,
                   "what the CPU ends with");
        compare_recordings(lists[i], a);
    }
    expect(simt_calls("cudaGraphLaunch") > 0, "steps are replayed");
    compare_halves(cpu);
    compare_read_rows();
    compare_draws(cpu);
    count_calls();
    compare_samples();
    compare_images();
    /* cuda:0,1 from above, and what is worked out after training is exact again. */
    allowed = KERN_TF32;
    expect(train_on("cpu", b, fb) == TIER_OK && memcmp(b, cpu, sizeof b) == 0,
           "a CPU computes in float32 whatever is allowed");
    expect(train_on(lists[1], a, fa) == TIER_OK, "training in TF32");
    expect(train_on(lists[1], b, fb) == TIER_OK && memcmp(a, b, sizeof a) == 0 &&
               memcmp(fa, fb, sizeof fa) == 0,
           "the same bits again in TF32");
    float off = 0;
    for (int k = 0; k < ELEMENTS; k++)
        off = fmaxf(off, fabsf(a[k] - cpu[k]));
    expect(off > 1e-6f && off < 2e-2f, "TF32 rounds, and not more than it may");
    allowed = KERN_EXACT;
    expect(train_on(lists[1], b, fb) == TIER_OK && memcmp(b, cpu, sizeof b) != 0 &&
               memcmp(a, b, sizeof a) != 0,
           "another training is exact again");
    expect(simt_findings() == 0, "no finding before failures are injected");
    expect((simt_nccl_calls() > 0) == nccl, "the way sums go");
    simt_fail_at(nccl ? "ncclAllReduce" : "cudaMemcpyPeerAsync", 5);
    expect(train_on("cuda:0,1", a, fa) == TIER_EDEVICE, "a sum that fails");
    simt_fail_at("launch", 50);
    expect(train_on("cuda:0,1,2", a, fa) == TIER_EDEVICE, "a launch that fails");
    expect(simt_live_bytes() == 0, "all device memory is freed");
    spoke_data_free(data);
    tier_graph_free(dry);
    tier_graph_free(wet);
    tier_graph_free(images);
    temp_release();
    printf("simt_train: seed %llu, %llu kernels, %zu findings, %d failed\n",
           (unsigned long long)seed, (unsigned long long)simt_kernels_run(), simt_findings(), bad);
    return bad == 0 ? 0 : 1;
}
