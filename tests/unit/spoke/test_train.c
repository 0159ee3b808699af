/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/backend.h"
#include "spoke/eval.h"
#include "spoke/team.h"
#include "spoke/train.h"
#include "tests/support/npy_writer.h"
#include "tests/support/onnx_writer.h"
#include "tests/support/temp_file.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>

static struct tier_err err;
static struct kern_device *dev;
static struct tier_graph *graph;
static struct spoke_net *net;
static struct spoke_data *data;

static const struct spoke_recipe sgd = {
    .optimiser = SPOKE_OPT_SGD, .lr = 0.1f, .batch = 8, .epochs = 1};

/* Two features; the class is the sign of the first, or one of three by thirds of it. */
static void set_up(int outputs) {
    static struct onnx_msg g, m;
    static const float zeros[8];
    char csv[8192], schema[512];
    size_t at = 0;

    g.n = 0;
    onnx_add_value(&g, 11, "x", 0, 2);
    onnx_add_value(&g, 12, "y", 0, outputs);
    onnx_add_tensor(&g, "w", 2, outputs, zeros);
    onnx_add_tensor(&g, "b", outputs, 0, zeros);
    onnx_add_node(&g, "Gemm", "x w b", "z");
    onnx_add_node(&g, outputs == 1 ? "Sigmoid" : "Softmax", "z", "y");
    onnx_model(&m, &g, 13);
    snprintf(schema, sizeof schema,
             "columns:\n  - {name: a, type: number}\n  - {name: b, type: number}\n"
             "  - {name: t, type: target, categories: %s}\n  - {name: s, type: split}\n"
             "split: {by: column}\n",
             outputs == 1 ? "[lo, hi]" : "[lo, mid, hi]");
    at += (size_t)snprintf(csv, sizeof csv, "a,b,t,s\n");
    for (int i = 0; i < 101; i++) {
        double a = sin(i * 1.3), b = cos(i * 2.1);
        const char *t = outputs == 1 ? (a > 0 ? "hi" : "lo")
                                     : (a > 0.33    ? "hi"
                                        : a < -0.33 ? "lo"
                                                    : "mid");
        at += (size_t)snprintf(csv + at, sizeof csv - at, "%.6f,%.6f,%s,%s\n", a, b, t,
                               i % 4 ? "train" : "test");
    }
    kern_init(NULL);
    cr_assert(eq(int, kern_device_open("cpu", 1, &dev), KERN_OK));
    cr_assert(eq(int, tier_graph_parse(m.b, m.n, &graph, &err), TIER_OK), "%s", err.text);
    cr_assert(
        eq(int,
           spoke_net_new(dev, graph, outputs == 1 ? SPOKE_LOSS_BCE : SPOKE_LOSS_CE, 16, &net, &err),
           TIER_OK));
    cr_assert(
        eq(int,
           spoke_data_open(temp_file("s.yaml", schema), temp_file("t.csv", csv), NULL, &data, &err),
           TIER_OK),
        "%s", err.text);
}

static void tear_down(void) {
    spoke_data_free(data);
    spoke_net_free(net);
    tier_graph_free(graph);
    kern_device_close(dev);
    temp_release();
    data = NULL;
    net = NULL;
    graph = NULL;
    dev = NULL;
}

TestSuite(spoke_train, .fini = tear_down);

static struct spoke_train_stats train(struct spoke_recipe r) {
    struct spoke_train_stats stats;
    cr_assert(eq(int, spoke_train(net, data, &r, 1, &stats, &err), TIER_OK), "%s", err.text);
    return stats;
}

Test(spoke_train, an_epoch_sees_every_row_once_and_ends_in_a_smaller_batch) {
    int32_t seen[75] = {0}, order[75];
    set_up(1);
    struct spoke_train_stats stats = train(sgd);
    cr_expect(eq(u64, stats.steps, 10)); /* 75 rows in batches of 8 */
    cr_expect(eq(u64, stats.rows, 75));
    spoke_train_shuffle(1, 0, order, 75);
    for (int i = 0; i < 75; i++)
        seen[order[i]]++;
    for (int i = 0; i < 75; i++)
        cr_expect(eq(int, seen[i], 1));
}

Test(spoke_train, steps_go_on_through_epochs) {
    float a[3], b[3], start[3] = {0};
    struct spoke_recipe steps = sgd, epochs = sgd;
    set_up(1);
    steps.epochs = 0;
    steps.steps = 20;
    epochs.epochs = 2;
    train(steps);
    spoke_net_get(net, a, &err);
    spoke_net_set(net, start, &err);
    train(epochs);
    spoke_net_get(net, b, &err);
    cr_expect(memcmp(a, b, sizeof a) == 0);
}

static double accuracy_after(struct spoke_recipe r) {
    static struct spoke_sums sums;
    train(r);
    cr_assert(eq(int, spoke_evaluate(net, data, SPOKE_TEST, &sums, &err), TIER_OK), "%s", err.text);
    cr_expect(eq(i64, sums.count, 26));
    return tier_score_accuracy(sums.correct, sums.count);
}

Test(spoke_train, sgd_with_momentum_learns_two_classes) {
    struct spoke_recipe r = sgd;
    set_up(1);
    r.momentum = 0.9f;
    r.nesterov = true;
    r.epochs = 20;
    cr_expect(ge(dbl, accuracy_after(r), 0.95));
}

Test(spoke_train, adam_learns_three_classes) {
    struct spoke_recipe r = {.optimiser = SPOKE_OPT_ADAM,
                             .lr = 0.05f,
                             .beta1 = 0.9f,
                             .beta2 = 0.999f,
                             .eps = 1e-8f,
                             .batch = 8,
                             .epochs = 60};
    set_up(3);
    cr_expect(ge(dbl, accuracy_after(r), 0.9));
}

/* How far training moves from where it starts, and where it ends. */
static double moved(float mu, float end[3]) {
    static const float start[3] = {0.3f, -0.2f, 0.1f};
    struct spoke_recipe r = sgd;
    double squares = 0;
    r.epochs = 8;
    r.momentum = 0.5f;
    r.prox_mu = mu;
    spoke_net_set(net, start, &err);
    train(r);
    spoke_net_get(net, end, &err);
    for (int i = 0; i < 3; i++)
        squares += (double)((end[i] - start[i]) * (end[i] - start[i]));
    return sqrt(squares);
}

Test(spoke_train, fedprox_pulls_towards_the_start_and_at_zero_is_not_there) {
    float plain[3], zero[3], weak[3], strong[3];
    set_up(1);
    double free_way = moved(0, plain);
    cr_assert(eq(dbl, moved(0, zero), free_way));
    cr_expect(memcmp(plain, zero, sizeof plain) == 0);
    double weak_way = moved(0.1f, weak), strong_way = moved(2, strong);
    cr_expect(lt(dbl, weak_way, 0.95 * free_way));
    cr_expect(lt(dbl, strong_way, 0.3 * free_way));
    cr_expect(gt(dbl, strong_way, 0));
}

Test(spoke_train, the_first_step_of_fedprox_is_a_plain_one) {
    static const float start[3] = {0.3f, -0.2f, 0.1f};
    struct spoke_recipe one = sgd, pulled;
    float a[3], b[3];
    set_up(1);
    one.epochs = 0;
    one.steps = 1;
    pulled = one;
    pulled.prox_mu = 5;
    spoke_net_set(net, start, &err);
    train(one);
    spoke_net_get(net, a, &err);
    spoke_net_set(net, start, &err);
    train(pulled);
    spoke_net_get(net, b, &err);
    cr_expect(memcmp(a, b, sizeof a) == 0, "w is still w0");
}

/* ---- several devices ---- */

static const float begin[3] = {0.3f, -0.2f, 0.1f};

static enum tier_status train_on(const char *list, struct spoke_recipe r, float *out,
                                 struct spoke_train_stats *stats) {
    const struct spoke_objective bce = spoke_objective_plain(SPOKE_LOSS_BCE);
    struct spoke_team team;
    struct spoke_net *nets[KERN_GROUP_RANKS_MAX] = {NULL};
    cr_assert(eq(int, spoke_team_open(list, 2, true, &team, &err), TIER_OK), "%s", err.text);
    cr_assert(eq(int, spoke_team_nets(&team, graph, &bce, r.batch, team.count, true, nets, &err),
                 TIER_OK));
    spoke_net_set(nets[0], begin, &err); /* the others begin where the first does */
    enum tier_status st =
        spoke_train_replicas(nets, team.count, team.group, data, &r, 1, stats, &err);
    spoke_net_get(nets[team.count - 1], out, &err);
    for (size_t i = 0; i < team.count; i++)
        spoke_net_free(nets[i]);
    spoke_team_close(&team);
    return st;
}

Test(spoke_train, replicas_train_as_one_and_give_the_same_bits_again) {
    static const char *const lists[] = {"cpu*1", "cpu*2", "cpu*3", "cpu*8"};
    struct spoke_train_stats one, many, again;
    struct spoke_recipe r = sgd;
    float alone[3], a[3], b[3];
    set_up(1);
    r.epochs = 6;
    r.momentum = 0.5f;
    r.prox_mu = 0.1f;
    spoke_net_set(net, begin, &err);
    one = train(r);
    spoke_net_get(net, alone, &err);
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        /* The last batch of an epoch has 3 rows: fewer than there are replicas of cpu*8. */
        cr_assert(eq(int, train_on(lists[i], r, a, &many), TIER_OK), "%s", err.text);
        cr_assert(eq(int, train_on(lists[i], r, b, &again), TIER_OK), "%s", err.text);
        cr_expect(memcmp(a, b, sizeof a) == 0, "%s", lists[i]);
        cr_expect(i > 0 || memcmp(a, alone, sizeof a) == 0, "one of a list is one");
        cr_expect(many.steps == one.steps && many.rows == one.rows);
        cr_expect(fabs(many.loss_mean - one.loss_mean) < 1e-5);
        for (int k = 0; k < 3; k++)
            cr_expect(fabs((double)(a[k] - alone[k])) < 1e-5, "%s: %g and %g", lists[i],
                      (double)a[k], (double)alone[k]);
    }
}

/* A backend like CUDA whose second device makes a small mistake in every step. */
static struct kern_ctx *opened[2];
static int opened_count;

static enum kern_status two_devices(int *count_out, char *why, size_t why_bytes) {
    (void)why, (void)why_bytes;
    *count_out = 2;
    return KERN_OK;
}

static enum kern_status note_open(int index, int threads, struct kern_ctx **out, char *why,
                                  size_t why_bytes) {
    enum kern_status st = kern_cpu_ops.open(index, threads, out, why, why_bytes);
    opened[opened_count++ % 2] = *out;
    return st;
}

static enum kern_status wrong_step(struct kern_ctx *ctx, float *w, const float *g, float *v,
                                   size_t n, const struct kern_sgd *opt) {
    enum kern_status st = kern_cpu_ops.sgd_step(ctx, w, g, v, n, opt);
    w[0] += ctx == opened[1] ? 1e-7f : 0;
    return st;
}

Test(spoke_train, a_device_that_computes_wrongly_is_found_out) {
    struct kern_ops ops = kern_cpu_ops;
    float a[3];
    set_up(1);
    ops.probe = two_devices;
    ops.open = note_open;
    ops.sgd_step = wrong_step;
    kern_registry_set_cuda(&ops);
    cr_expect(eq(int, train_on("cuda:0,1", sgd, a, NULL), TIER_EDEVICE));
    cr_expect(strstr(err.text, "replica 1") != NULL, "%s", err.text);
}

Test(spoke_train, replicas_say_what_one_device_would) {
    struct spoke_recipe r = sgd;
    float a[3];
    set_up(1);
    r.lr = 3e38f;
    r.epochs = 50;
    cr_expect(eq(int, train_on("cpu*4", r, a, NULL), TIER_EPLAN));
    cr_expect(strstr(err.text, "diverged") != NULL, "%s", err.text);
    cr_expect(
        eq(int, spoke_train_replicas(&net, 2, NULL, data, &sgd, 1, NULL, &err), TIER_EINTERNAL));
}

Test(spoke_train, devices_that_are_not_here_are_refused_with_the_reason) {
    struct spoke_team team;
    set_up(1);
    cr_expect(eq(int, spoke_team_open("cuda:98,99", 1, true, &team, &err), TIER_EDEVICE));
    cr_expect(strstr(err.text, "device 'cuda:98,99'") != NULL, "%s", err.text);
}

Test(spoke_train, an_untrained_model_scores_as_arithmetic_says) {
    static struct spoke_sums sums;
    struct tier_metrics *m = tier_metrics_new();
    size_t bins = 0;
    set_up(1);
    cr_assert(eq(int, spoke_evaluate(net, data, SPOKE_TRAIN, &sums, &err), TIER_OK));
    cr_expect(eq(i64, sums.count, 75));
    /* Every logit is 0: loss log 2, score 1/2, predicted negative. */
    cr_expect(eq(i64, sums.loss, 75 * tier_score_loss_fixed(log(2.0))));
    int64_t pos = sums.hist_pos[TIER_SCORE_BINS / 2], neg = sums.hist_neg[TIER_SCORE_BINS / 2];
    cr_expect(eq(i64, pos + neg, 75));
    cr_expect(eq(i64, sums.correct, neg));
    cr_assert(eq(int, spoke_sums_add(&sums, m, &err), TIER_OK), "%s", err.text);
    cr_assert(eq(int, spoke_sums_add(&sums, m, &err), TIER_OK), "%s", err.text);
    cr_expect(eq(i64, tier_metrics_scalar(m, TIER_SCORE_COUNT), 150));
    const int64_t *hist = tier_metrics_get(m, TIER_SCORE_HIST_POS, &bins);
    cr_expect(eq(sz, bins, TIER_SCORE_BINS));
    cr_expect(eq(i64, hist[TIER_SCORE_BINS / 2], 2 * pos));
    tier_metrics_free(m);
}

Test(spoke_train, evaluation_in_small_batches_gives_the_same_sums) {
    static struct spoke_sums a, b;
    struct spoke_net *narrow = NULL;
    float values[3];
    set_up(1);
    train(sgd);
    spoke_net_get(net, values, &err);
    cr_assert(eq(int, spoke_net_new(dev, graph, SPOKE_LOSS_BCE, 3, &narrow, &err), TIER_OK));
    spoke_net_set(narrow, values, &err);
    cr_assert(eq(int, spoke_evaluate(net, data, SPOKE_TRAIN, &a, &err), TIER_OK));
    cr_assert(eq(int, spoke_evaluate(narrow, data, SPOKE_TRAIN, &b, &err), TIER_OK));
    cr_expect(a.count == b.count && a.correct == b.correct && llabs(a.loss - b.loss) <= 75);
    spoke_net_free(narrow);
}

Test(spoke_train, a_training_that_diverges_is_stopped_with_the_reason) {
    struct spoke_recipe r = sgd;
    struct spoke_train_stats stats;
    set_up(1);
    r.lr = 3e38f;
    r.epochs = 50;
    cr_expect(eq(int, spoke_train(net, data, &r, 1, &stats, &err), TIER_EPLAN));
    cr_expect(strstr(err.text, "diverged") != NULL, "%s", err.text);
}

static void wrong(struct spoke_recipe r, const char *piece) {
    cr_expect(eq(int, spoke_recipe_check(&r, &err), TIER_EPLAN));
    cr_expect(strstr(err.text, piece) != NULL, "'%s' is not in: %s", piece, err.text);
}

Test(spoke_recipe, values_outside_their_range_are_refused_by_name) {
    struct spoke_recipe adam = {.optimiser = SPOKE_OPT_ADAM,
                                .lr = 0.1f,
                                .beta1 = 0.9f,
                                .beta2 = 0.999f,
                                .eps = 1e-8f,
                                .batch = 8,
                                .steps = 1};
    cr_expect(eq(int, spoke_recipe_check(&sgd, &err), TIER_OK));
    cr_expect(eq(int, spoke_recipe_check(&adam, &err), TIER_OK));
#define WRONG(base, field, value, piece)                                                           \
    do {                                                                                           \
        struct spoke_recipe r = base;                                                              \
        r.field = value;                                                                           \
        wrong(r, piece);                                                                           \
    } while (0)
    WRONG(sgd, lr, 0, "lr");
    WRONG(sgd, lr, NAN, "lr");
    WRONG(sgd, lr, INFINITY, "lr");
    WRONG(sgd, momentum, 1, "momentum");
    WRONG(sgd, nesterov, true, "nesterov");
    WRONG(sgd, weight_decay, -1, "weight_decay");
    WRONG(sgd, prox_mu, -1, "prox_mu");
    WRONG(sgd, prox_mu, INFINITY, "prox_mu");
    WRONG(sgd, stiffness, &sgd.lr, "stiffness");
    WRONG(sgd, centre, &sgd.lr, "stiffness");
    for (int i = 0; i < 3; i++) {
        struct spoke_recipe r = sgd;
        r.stiffness = r.centre = &sgd.lr;
        r.lambda = (float[]){-1, NAN, INFINITY}[i];
        wrong(r, "lambda");
    }
    WRONG(sgd, batch, 0, "batch");
    WRONG(sgd, epochs, 0, "steps or epochs");
    WRONG(sgd, steps, 3, "steps or epochs");
    WRONG(sgd, epochs, SPOKE_EPOCHS_MAX + 1, "epochs");
    WRONG(adam, beta2, 1, "beta");
    WRONG(adam, eps, 0, "eps");
}

Test(spoke_train, a_table_that_does_not_fit_the_model_is_refused) {
    struct spoke_train_stats stats;
    struct spoke_net *other = NULL;
    struct spoke_recipe wide = sgd;
    set_up(1);
    wide.batch = 17;
    cr_expect(eq(int, spoke_train(net, data, &wide, 1, &stats, &err), TIER_EPLAN));
    struct spoke_data *three = data;
    struct spoke_net *binary = net;
    struct tier_graph *first = graph;
    struct kern_device *cpu = dev;
    set_up(3);
    other = net;
    cr_expect(eq(int, spoke_train(other, three, &sgd, 1, &stats, &err), TIER_EDATA));
    cr_expect(strstr(err.text, "classes") != NULL, "%s", err.text);
    spoke_data_free(three);
    spoke_net_free(binary);
    tier_graph_free(first);
    kern_device_close(cpu);
}

/* w - lr * (g + 2 lambda a (w - c)), with g read off a step without. */
Test(spoke_train, the_pull_of_others_is_as_stiff_as_their_curvature) {
    static const float stiffness[] = {0.5f, 0, 2}, centre[] = {1, 9, -0.25f};
    struct spoke_recipe plain = sgd, pulled = sgd, long_pull = sgd;
    float before[] = {0.25f, -0.5f, 0.125f}, one[3], two[3];
    set_up(1);
    plain.epochs = pulled.epochs = 0;
    plain.steps = pulled.steps = 1;
    pulled.stiffness = stiffness;
    pulled.centre = centre;
    pulled.lambda = 0.75f;
    cr_assert(eq(int, spoke_net_set(net, before, &err), TIER_OK));
    train(plain);
    cr_assert(eq(int, spoke_net_get(net, one, &err), TIER_OK));
    cr_assert(eq(int, spoke_net_set(net, before, &err), TIER_OK));
    train(pulled);
    cr_assert(eq(int, spoke_net_get(net, two, &err), TIER_OK));
    for (int i = 0; i < 3; i++) {
        float want = one[i] - sgd.lr * 2 * pulled.lambda * stiffness[i] * (before[i] - centre[i]);
        cr_expect(lt(dbl, fabs((double)(two[i] - want)), 1e-6));
    }
    cr_expect(two[1] == one[1], "nobody holds this one");

    /* Nothing in it is plain training, and in the end the stiffest is where it is held. */
    pulled.lambda = 0;
    cr_assert(eq(int, spoke_net_set(net, before, &err), TIER_OK));
    train(pulled);
    cr_assert(eq(int, spoke_net_get(net, two, &err), TIER_OK));
    cr_expect(memcmp(one, two, sizeof one) == 0);
    long_pull.epochs = 20;
    long_pull.stiffness = stiffness;
    long_pull.centre = centre;
    long_pull.lambda = 2;
    train(long_pull);
    cr_assert(eq(int, spoke_net_get(net, two, &err), TIER_OK));
    cr_expect(lt(dbl, fabs((double)(two[2] - centre[2])), 0.1));
}

/* w - lr * (g - own + control), with g read off a step without controls. */
Test(spoke_train, control_variates_are_added_to_the_gradient) {
    static const float control[] = {0.5f, -0.25f, 1}, own[] = {0.125f, 0.5f, -1};
    struct spoke_recipe plain = sgd, corrected = sgd;
    float before[3], one[3], two[3];
    set_up(1);
    plain.epochs = corrected.epochs = 0;
    plain.steps = corrected.steps = 1;
    corrected.control = control;
    corrected.own_control = own;
    cr_assert(eq(int, spoke_net_get(net, before, &err), TIER_OK));
    cr_assert(eq(int, spoke_train(net, data, &plain, 1, NULL, &err), TIER_OK));
    cr_assert(eq(int, spoke_net_get(net, one, &err), TIER_OK));
    cr_assert(eq(int, spoke_net_set(net, before, &err), TIER_OK));
    cr_assert(eq(int, spoke_train(net, data, &corrected, 1, NULL, &err), TIER_OK));
    cr_assert(eq(int, spoke_net_get(net, two, &err), TIER_OK));
    for (int i = 0; i < 3; i++)
        cr_expect(epsilon_eq(flt, two[i], one[i] - 0.1f * (control[i] - own[i]), 1e-6f));
    corrected.own_control = NULL;
    cr_expect(eq(int, spoke_train(net, data, &corrected, 1, NULL, &err), TIER_EPLAN));
    cr_expect(strstr(err.text, "control") != NULL, "%s", err.text);
}

Test(spoke_train, the_seed_depends_on_run_round_and_node) {
    set_up(1);
    uint64_t s = spoke_train_seed("run", 1, "node");
    cr_expect(s == spoke_train_seed("run", 1, "node"));
    cr_expect(s != spoke_train_seed("run", 2, "node"));
    cr_expect(s != spoke_train_seed("run2", 1, "node"));
    cr_expect(s != spoke_train_seed("run", 1, "other"));
}

/* ---- rows that are read when they are wanted ------------------------------------------------ */

#define IMAGES 40
#define PIXELS 36

static struct spoke_data *images(bool on_demand) {
    static uint8_t file[1 << 14], x[IMAGES * PIXELS], labels[IMAGES];
    static const char schema[] = "kind: npz\n"
                                 "image: {size: [6, 6], max: 255, standardise: true}\n"
                                 "columns:\n"
                                 "  - {name: x, type: image}\n"
                                 "  - {name: t, type: target, categories: [dark, bright]}\n"
                                 "split: {by: hash, key: secret-key, fraction: 0.3}\n";
    struct spoke_data_options o = {.on_demand = on_demand};
    struct spoke_data *d = NULL;

    for (int i = 0; i < IMAGES * PIXELS; i++)
        x[i] = (uint8_t)((i * 37 + i / PIXELS * 11) % 200 + i / PIXELS % 2 * 50);
    for (int i = 0; i < IMAGES; i++)
        labels[i] = i % 2;
    size_t n = npy_make("|u1", "(40, 6, 6)", x, sizeof x, file, sizeof file);
    temp_file_n("x.npy", (char *)file, n);
    n = npy_make("|u1", "(40,)", labels, sizeof labels, file, sizeof file);
    temp_file_n("t.npy", (char *)file, n);
    cr_assert(
        eq(int, spoke_data_open(temp_file("s.yaml", schema), temp.folder, &o, &d, &err), TIER_OK),
        "%s", err.text);
    return d;
}

/* x[N, 36] -> Gemm -> Sigmoid, from zeros. */
static void set_up_images(bool on_demand) {
    static struct onnx_msg g, m;
    static const float zeros[PIXELS];

    g.n = 0;
    onnx_add_value(&g, 11, "x", 0, PIXELS);
    onnx_add_value(&g, 12, "y", 0, 1);
    onnx_add_tensor(&g, "w", PIXELS, 1, zeros);
    onnx_add_tensor(&g, "b", 1, 0, zeros);
    onnx_add_node(&g, "Gemm", "x w b", "z");
    onnx_add_node(&g, "Sigmoid", "z", "y");
    onnx_model(&m, &g, 13);
    kern_init(NULL);
    cr_assert(eq(int, kern_device_open("cpu", 1, &dev), KERN_OK));
    cr_assert(eq(int, tier_graph_parse(m.b, m.n, &graph, &err), TIER_OK), "%s", err.text);
    cr_assert(eq(int, spoke_net_new(dev, graph, SPOKE_LOSS_BCE, 16, &net, &err), TIER_OK));
    data = images(on_demand);
}

Test(spoke_train, rows_that_are_read_when_wanted_train_and_score_as_those_that_are_held) {
    float values[2][PIXELS + 1];
    struct spoke_sums *sums[2] = {calloc(1, sizeof **sums), calloc(1, sizeof **sums)};
    struct spoke_recipe r = sgd;

    r.epochs = 3;
    for (int on_demand = 0; on_demand < 2; on_demand++) {
        set_up_images(on_demand);
        cr_expect(eq(int, spoke_data_x(data, SPOKE_TRAIN) == NULL, on_demand));
        train(r);
        cr_assert(eq(int, spoke_net_get(net, values[on_demand], &err), TIER_OK));
        cr_assert(eq(int, spoke_evaluate(net, data, SPOKE_TEST, sums[on_demand], &err), TIER_OK),
                  "%s", err.text);
        if (!on_demand) { /* the suite's end releases the second */
            tear_down();
        }
    }
    cr_expect(memcmp(values[0], values[1], sizeof values[0]) == 0);
    cr_expect(memcmp(sums[0], sums[1], sizeof *sums[0]) == 0);
    cr_expect(gt(i64, sums[0]->count, 0));
    cr_expect(values[0][0] != 0.0f);
    free(sums[0]);
    free(sums[1]);
}

/* One step on all rows, so that their order counts in the rounding alone. */
static void one_step(const struct spoke_augment *augment, bool on_demand, uint64_t seed,
                     float values[PIXELS + 1]) {
    struct spoke_recipe r = sgd;

    set_up_images(on_demand);
    spoke_net_free(net);
    cr_assert(eq(int, spoke_net_new(dev, graph, SPOKE_LOSS_BCE, IMAGES, &net, &err), TIER_OK));
    r.batch = IMAGES;
    r.epochs = 2;
    r.augment = *augment;
    cr_assert(eq(int, spoke_train(net, data, &r, seed, NULL, &err), TIER_OK), "%s", err.text);
    cr_assert(eq(int, spoke_net_get(net, values, &err), TIER_OK));
    tear_down();
}

static double apart(const float a[PIXELS + 1], const float b[PIXELS + 1]) {
    double most = 0.0;
    for (int i = 0; i < PIXELS + 1; i++)
        most = fmax(most, fabs((double)a[i] - (double)b[i]));
    return most;
}

Test(spoke_train, augmented_rows_change_what_is_learnt_by_the_seed_alone) {
    static const struct spoke_augment none = {0};
    static const struct spoke_augment each[] = {
        {.flip = {true}}, {.flip = {false, true}}, {.rotate_deg = 30}, {.scale = 0.5},
        {.gain = 0.5},    {.offset = 0.5},         {.noise = 0.5}};
    float plain[2][PIXELS + 1], one[PIXELS + 1], again[PIXELS + 1], held[PIXELS + 1],
        other[PIXELS + 1];

    one_step(&none, false, 1, plain[0]);
    one_step(&none, false, 2, plain[1]);
    cr_expect(apart(plain[0], plain[1]) < 1e-5, "the order alone: %g", apart(plain[0], plain[1]));
    for (size_t i = 0; i < sizeof each / sizeof each[0]; i++) {
        one_step(&each[i], true, 1, one);
        one_step(&each[i], true, 1, again);
        one_step(&each[i], false, 1, held);
        one_step(&each[i], true, 2, other);
        cr_expect(memcmp(one, again, sizeof one) == 0, "%zu: a round trained again", i);
        cr_expect(memcmp(one, held, sizeof one) == 0, "%zu: rows held or read", i);
        cr_expect(apart(one, plain[0]) > 1e-4, "%zu: %g", i, apart(one, plain[0]));
        cr_expect(apart(one, other) > 1e-4, "%zu: %g", i, apart(one, other));
    }
}

Test(spoke_train, a_table_may_have_noise_and_nothing_else) {
    struct spoke_recipe r = sgd;

    set_up(1);
    r.augment.noise = 0.1;
    cr_expect(eq(int, spoke_train(net, data, &r, 1, NULL, &err), TIER_OK), "%s", err.text);
    r.augment.gain = 0.1;
    cr_expect(eq(int, spoke_train(net, data, &r, 1, NULL, &err), TIER_EARG));
    cr_expect(strstr(err.text, "rows of a table can have noise alone") != NULL, "%s", err.text);
}
