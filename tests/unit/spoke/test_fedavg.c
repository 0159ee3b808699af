/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The training engine against a published benchmark, before any network: FedAvg over the four
 * hospitals of Fed-Heart-Disease, with the benchmark's split, model, start (uniform in
 * +-1/sqrt(13), as a linear layer starts there) and recipe, averaged here in double by the number
 * of training rows. Hospitals train on rows standardised by their own statistics; the benchmark's
 * "pooled test" is all test rows standardised by those of all training rows together.
 */
#include "spoke/eval.h"
#include "spoke/train.h"
#include "tests/support/data_path.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>

#define SITES 4
#define SEEDS 5
#define FEATURES 13
#define VALUES 14

static const char *const site_names[SITES] = {"cleveland", "hungarian", "switzerland", "va"};
static const size_t train_rows[SITES] = {199, 172, 30, 85}, test_rows[SITES] = {104, 89, 16, 45};

struct federation {
    struct kern_device *dev;
    struct tier_graph *graph;
    struct spoke_net *net;
    struct spoke_data *data[SITES];   /* by the hospital's own statistics */
    struct spoke_data *pooled[SITES]; /* by the pooled ones */
    struct tier_err err;
};

/* Writes the tables with the example's own script. */
static bool prepare(char *folder) {
    char originals[2048], script[2048], command[8192];

    if (!data_path("uci-heart-disease/original", originals, sizeof originals))
        return false;
    source_path("deploy/examples/heart-disease/prepare.py", script, sizeof script);
    cr_assert(mkdtemp(folder) != NULL);
    snprintf(command, sizeof command, "python3 '%s' '%s' '%s' > /dev/null", script, originals,
             folder);
    cr_assert(eq(int, system(command), 0));
    return true;
}

static void remove_tables(const char *folder) {
    char path[2048];
    for (int s = 0; s < SITES; s++) {
        snprintf(path, sizeof path, "%s/%s.csv", folder, site_names[s]);
        unlink(path);
    }
    rmdir(folder);
}

static void open_site(struct federation *f, const char *folder, int site,
                      const struct spoke_data_options *options, struct spoke_data **data) {
    char schema[2048], path[2048];

    source_path("deploy/examples/heart-disease/schema.yaml", schema, sizeof schema);
    snprintf(path, sizeof path, "%s/%s.csv", folder, site_names[site]);
    cr_assert(eq(int, spoke_data_open(schema, path, options, data, &f->err), TIER_OK), "%s",
              f->err.text);
    cr_assert(eq(sz, spoke_data_rows(*data, SPOKE_TRAIN), train_rows[site]));
    cr_assert(eq(sz, spoke_data_rows(*data, SPOKE_TEST), test_rows[site]));
}

/* Mean and deviation of all training rows; `raw` holds them as they were measured. */
static void pool_statistics(struct spoke_data *const *raw, double *mean, double *std) {
    for (int k = 0; k < FEATURES; k++) {
        double sum = 0, squares = 0, n = 0;
        for (int s = 0; s < SITES; s++)
            for (size_t r = 0; r < train_rows[s]; r++, n++)
                sum += (double)spoke_data_x(raw[s], SPOKE_TRAIN)[r * FEATURES + k];
        mean[k] = sum / n;
        for (int s = 0; s < SITES; s++)
            for (size_t r = 0; r < train_rows[s]; r++)
                squares +=
                    pow((double)spoke_data_x(raw[s], SPOKE_TRAIN)[r * FEATURES + k] - mean[k], 2);
        std[k] = sqrt(squares / (n - 1));
    }
}

static void open_tables(struct federation *f, const char *folder) {
    double mean[FEATURES] = {0}, std[FEATURES];
    struct spoke_data_options given = {.stats_count = FEATURES, .mean = mean, .std = std};
    struct spoke_data *raw[SITES];

    for (int k = 0; k < FEATURES; k++)
        std[k] = 1;
    for (int s = 0; s < SITES; s++) {
        open_site(f, folder, s, NULL, &f->data[s]);
        open_site(f, folder, s, &given, &raw[s]);
    }
    pool_statistics(raw, mean, std);
    for (int s = 0; s < SITES; s++) {
        spoke_data_free(raw[s]);
        open_site(f, folder, s, &given, &f->pooled[s]);
    }
}

static bool open_federation(struct federation *f) {
    char folder[] = "/tmp/consilium-heart-XXXXXX", model[2048];

    if (!prepare(folder))
        return false;
    kern_init(NULL);
    cr_assert(eq(int, kern_device_open("cpu", 1, &f->dev), KERN_OK));
    source_path("deploy/examples/heart-disease/model.onnx", model, sizeof model);
    cr_assert(eq(int, tier_graph_open(model, &f->graph, &f->err), TIER_OK), "%s", f->err.text);
    cr_assert(
        eq(int, spoke_net_new(f->dev, f->graph, SPOKE_LOSS_BCE, 64, &f->net, &f->err), TIER_OK),
        "%s", f->err.text);
    open_tables(f, folder);
    remove_tables(folder);
    return true;
}

static void close_federation(struct federation *f) {
    for (int s = 0; s < SITES; s++) {
        spoke_data_free(f->data[s]);
        spoke_data_free(f->pooled[s]);
    }
    spoke_net_free(f->net);
    tier_graph_free(f->graph);
    kern_device_close(f->dev);
}

static void start(float *model, uint64_t seed) {
    int32_t deal[4096];

    /* The house's own generator, as a source of uniform numbers. */
    for (int i = 0; i < VALUES; i++) {
        spoke_train_shuffle(seed, (uint64_t)i, deal, 4096);
        model[i] = ((float)deal[0] / 2048.0f - 1.0f) / sqrtf(13.0f);
    }
}

/* One run; accuracy on the pooled test rows, and the pooled sums. */
static double run(struct federation *f, float lr, int rounds, uint64_t seed,
                  struct spoke_sums *pooled) {
    struct spoke_recipe recipe = {.optimiser = SPOKE_OPT_SGD, .lr = lr, .batch = 4, .steps = 100};
    static struct spoke_sums sums;
    float model[VALUES], trained[VALUES];

    start(model, seed);
    for (int round = 0; round < rounds; round++) {
        double mean[VALUES] = {0};
        for (int s = 0; s < SITES; s++) {
            uint64_t stream =
                spoke_train_seed("fedavg", seed * 1000 + (uint64_t)round, site_names[s]);
            spoke_net_set(f->net, model, &f->err);
            cr_assert(
                eq(int, spoke_train(f->net, f->data[s], &recipe, stream, NULL, &f->err), TIER_OK),
                "%s", f->err.text);
            spoke_net_get(f->net, trained, &f->err);
            for (int i = 0; i < VALUES; i++)
                mean[i] += (double)train_rows[s] / 486.0 * (double)trained[i];
        }
        for (int i = 0; i < VALUES; i++)
            model[i] = (float)mean[i];
    }
    *pooled = (struct spoke_sums){0};
    spoke_net_set(f->net, model, &f->err);
    for (int s = 0; s < SITES; s++) {
        cr_assert(
            eq(int, spoke_evaluate(f->net, f->pooled[s], SPOKE_TEST, &sums, &f->err), TIER_OK));
        pooled->count += sums.count;
        pooled->correct += sums.correct;
        pooled->loss += sums.loss;
        for (int b = 0; b < TIER_SCORE_BINS; b++) {
            pooled->hist_pos[b] += sums.hist_pos[b];
            pooled->hist_neg[b] += sums.hist_neg[b];
        }
    }
    return tier_score_accuracy(pooled->correct, pooled->count);
}

static double mean_of_seeds(struct federation *f, float lr, int rounds) {
    static struct spoke_sums pooled;
    double sum = 0, auc = 0, loss = 0;

    for (uint64_t seed = 42; seed < 42 + SEEDS; seed++) {
        sum += run(f, lr, rounds, seed, &pooled);
        cr_assert(eq(i64, pooled.count, 254));
        auc += tier_score_auc(pooled.hist_pos, pooled.hist_neg, TIER_SCORE_BINS);
        loss += tier_score_loss(pooled.loss, pooled.count);
    }
    printf("FedAvg, lr %g, %d rounds: pooled accuracy %.4f, AUC %.4f, loss %.4f (%d seeds)\n",
           (double)lr, rounds, sum / SEEDS, auc / SEEDS, loss / SEEDS, SEEDS);
    return sum / SEEDS;
}

Test(spoke_fedavg, the_published_recipe_reaches_the_published_accuracy) {
    struct federation f = {0};
    if (!open_federation(&f))
        cr_skip("no data");
    double accuracy = mean_of_seeds(&f, .001f, 15);
    cr_expect(ge(dbl, accuracy, .748));
    close_federation(&f);
}

Test(spoke_fedavg, training_to_convergence_reaches_more) {
    struct federation f = {0};
    if (!open_federation(&f))
        cr_skip("no data");
    double accuracy = mean_of_seeds(&f, .01f, 60);
    cr_expect(ge(dbl, accuracy, .775));
    close_federation(&f);
}

Test(spoke_fedavg, the_same_seed_gives_the_same_bits_and_another_seed_others) {
    struct federation f = {0};
    struct spoke_recipe recipe = {.optimiser = SPOKE_OPT_ADAM,
                                  .lr = .01f,
                                  .beta1 = .9f,
                                  .beta2 = .999f,
                                  .eps = 1e-8f,
                                  .batch = 4,
                                  .epochs = 2};
    float start_values[VALUES], a[VALUES], b[VALUES], c[VALUES];

    if (!open_federation(&f))
        cr_skip("no data");
    spoke_net_get(f.net, start_values, &f.err);
    cr_assert(eq(int, spoke_train(f.net, f.data[0], &recipe, 7, NULL, &f.err), TIER_OK));
    spoke_net_get(f.net, a, &f.err);
    spoke_net_set(f.net, start_values, &f.err);
    cr_assert(eq(int, spoke_train(f.net, f.data[0], &recipe, 7, NULL, &f.err), TIER_OK));
    spoke_net_get(f.net, b, &f.err);
    spoke_net_set(f.net, start_values, &f.err);
    cr_assert(eq(int, spoke_train(f.net, f.data[0], &recipe, 8, NULL, &f.err), TIER_OK));
    spoke_net_get(f.net, c, &f.err);
    cr_expect(memcmp(a, b, sizeof a) == 0);
    cr_expect(memcmp(a, c, sizeof a) != 0);
    close_federation(&f);
}
