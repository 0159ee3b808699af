/* SPDX-License-Identifier: Apache-2.0 */
/* annotators: soft: several readers' votes as shares of classes, in training and in evaluation. */
#include "spoke/annotators.h"
#include "spoke/check.h"
#include "spoke/eval.h"
#include "spoke/train.h"
#include "tests/support/onnx_writer.h"
#include "tests/support/picture_writer.h"
#include "tests/support/temp_file.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>

static struct tier_err err;
static struct kern_device *dev;
static struct tier_graph *graph;
static struct spoke_net *net;
static struct spoke_data *data;

static void release(void) {
    spoke_net_free(net);
    tier_graph_free(graph);
    kern_device_close(dev);
    spoke_data_free(data);
    temp_release();
}

TestSuite(spoke_soft, .fini = release);

Test(spoke_soft, votes_are_one_number_that_says_all_of_them) {
    for (int i = 0; i < 64; i++) {
        const int32_t votes[3] = {i % 4 - 1, i / 4 % 4 - 1, i / 16 - 1};
        int32_t packed = spoke_votes_pack(votes, 3, 1, 3);
        float shares[3];
        int said = 0;
        cr_expect(eq(int, spoke_votes_majority(packed, 3), spoke_majority(votes, 3, 1)), "%d", i);
        for (int k = 0; k < 3; k++)
            said += votes[k] >= 0;
        spoke_votes_shares(packed, 3, shares);
        for (int32_t c = 0; c < 3; c++) {
            int count = (votes[0] == c) + (votes[1] == c) + (votes[2] == c);
            cr_expect(eq(flt, shares[c], said ? (float)count / (float)said : 0), "%d, %d", i, c);
        }
    }
    cr_expect(spoke_votes_fit(15, 2) && spoke_votes_fit(12, 3) && spoke_votes_fit(2, 1024));
    cr_expect(eq(int, spoke_votes_fit(16, 2) || spoke_votes_fit(32, 1024), 0));
}

/* ---- rows ---------------------------------------------------------------------------------- */

static const char three[] = "annotators: soft\n"
                            "columns:\n"
                            "  - {name: x, type: number}\n"
                            "  - {name: anna, type: target, categories: [well, ill, dead]}\n"
                            "  - {name: bert, type: target, categories: [well, ill, dead]}\n"
                            "  - {name: carl, type: target, categories: [well, ill, dead]}\n"
                            "  - {name: part, type: split}\n"
                            "split: {by: column}\n"
                            "missing_rows: drop\n";
static const char rows[] = "x,anna,bert,carl,part\n"
                           "1,well,ill,ill,train\n"
                           "2,dead,ill,well,train\n"
                           "3,,well,well,train\n"
                           "4,,,,train\n"
                           "1,well,ill,ill,test\n"
                           "-2,dead,,ill,test\n";
/* Of the rows for training, and then for testing. */
static const double x_of[] = {1, 2, 3, 1, -2};
static const double y_of[][3] = {{1 / 3.0, 2 / 3.0, 0},
                                 {1 / 3.0, 1 / 3.0, 1 / 3.0},
                                 {1, 0, 0},
                                 {1 / 3.0, 2 / 3.0, 0},
                                 {0, 0.5, 0.5}};
static const float w0[3] = {0.5f, -0.25f, 1};

static void open_rows(const char *schema, const char *table, int64_t outputs,
                      const struct spoke_objective *o) {
    static struct onnx_msg g, model;
    g.n = 0;
    onnx_add_value(&g, 11, "x", 0, 1);
    onnx_add_value(&g, 12, "y", 0, outputs);
    onnx_add_tensor(&g, "w", 1, outputs, w0);
    onnx_add_node(&g, "MatMul", "x w", "y");
    onnx_model(&model, &g, 13);
    cr_assert(eq(int, tier_graph_parse(model.b, model.n, &graph, &err), TIER_OK), "%s", err.text);
    kern_init(NULL);
    cr_assert(eq(int, kern_device_open("cpu", 1, &dev), KERN_OK));
    cr_assert(eq(int, spoke_net_new_for(dev, graph, o, 8, &net, &err), TIER_OK), "%s", err.text);
    cr_assert(eq(int,
                 spoke_data_open(temp_file("s.yaml", schema), temp_file("t.csv", table), NULL,
                                 &data, &err),
                 TIER_OK),
              "%s", err.text);
}

/* p of row r, and its weighted cross-entropy over the sum of its weights. */
static double by_hand(size_t r, const double *weight, double p[3]) {
    double sum = 0, loss = 0, weights = 0;
    for (int c = 0; c < 3; c++)
        sum += p[c] = exp(x_of[r] * (double)w0[c]);
    for (int c = 0; c < 3; c++) {
        p[c] /= sum;
        loss -= weight[c] * y_of[r][c] * log(p[c]);
        weights += weight[c] * y_of[r][c];
    }
    return loss / weights;
}

Test(spoke_soft, a_step_follows_the_shares_of_the_readers) {
    struct spoke_objective o = spoke_objective_plain(SPOKE_LOSS_CE);
    const struct spoke_recipe r = {.optimiser = SPOKE_OPT_SGD, .lr = 0.5f, .batch = 8, .epochs = 1};
    const double weight[3] = {1, 2, 0.5};
    double slope[3] = {0}, weights = 0, p[3];
    float w[3];
    o.soft = 3;
    o.weights_count = 3;
    for (int c = 0; c < 3; c++)
        o.class_weight[c] = (float)weight[c];
    open_rows(three, rows, 3, &o);
    cr_assert(eq(sz, spoke_data_rows(data, SPOKE_TRAIN), 3));
    cr_assert(eq(int, spoke_train(net, data, &r, 1, NULL, &err), TIER_OK), "%s", err.text);
    cr_assert(eq(int, spoke_net_get(net, w, &err), TIER_OK));
    for (size_t row = 0; row < 3; row++) {
        double mine = 0;
        (void)by_hand(row, weight, p);
        for (int c = 0; c < 3; c++)
            mine += weight[c] * y_of[row][c];
        weights += mine;
        for (int c = 0; c < 3; c++)
            slope[c] += x_of[row] * (mine * p[c] - weight[c] * y_of[row][c]);
    }
    for (int c = 0; c < 3; c++)
        cr_expect(fabs((double)w[c] - ((double)w0[c] - 0.5 * slope[c] / weights)) < 1e-6, "%d: %g",
                  c, (double)w[c]);
}

Test(spoke_soft, a_private_step_cuts_each_rows_gradient_towards_its_shares) {
    struct spoke_objective o = spoke_objective_plain(SPOKE_LOSS_CE);
    struct tier_noise_key key = {0};
    const struct spoke_recipe r = {.optimiser = SPOKE_OPT_SGD,
                                   .lr = 0.5f,
                                   .batch = 8, /* of 3 rows: each is in every sample */
                                   .steps = 1,
                                   .sample_clip = 0.9f,
                                   .noise_key = &key};
    const double ones[3] = {1, 1, 1};
    double sum[3] = {0}, p[3];
    size_t cut_rows = 0;
    float w[3];
    o.soft = 3;
    open_rows(three, rows, 3, &o);
    cr_assert(eq(int, spoke_train(net, data, &r, 1, NULL, &err), TIER_OK), "%s", err.text);
    cr_assert(eq(int, spoke_net_get(net, w, &err), TIER_OK));
    for (size_t row = 0; row < 3; row++) {
        double g[3], norm = 0;
        (void)by_hand(row, ones, p);
        for (int c = 0; c < 3; c++) {
            g[c] = x_of[row] * (p[c] - y_of[row][c]);
            norm += g[c] * g[c];
        }
        double cut = fmin(1, 0.9 * 0.999 / sqrt(norm));
        cut_rows += cut < 1;
        for (int c = 0; c < 3; c++)
            sum[c] += cut * g[c];
    }
    cr_expect(cut_rows > 0 && cut_rows < 3, "%zu rows are cut", cut_rows);
    for (int c = 0; c < 3; c++)
        cr_expect(fabs((double)w[c] - ((double)w0[c] - 0.5 * sum[c] / 3)) < 1e-6, "%d: %g", c,
                  (double)w[c]);
}

Test(spoke_soft, the_loss_is_of_shares_and_what_is_right_is_what_most_say) {
    struct spoke_objective o = spoke_objective_plain(SPOKE_LOSS_CE);
    struct spoke_sums *sums = calloc(1, sizeof *sums);
    const double ones[3] = {1, 1, 1};
    double p[3];
    o.soft = 3;
    open_rows(three, rows, 3, &o);
    cr_assert(eq(int, spoke_evaluate(net, data, SPOKE_TEST, sums, &err), TIER_OK), "%s", err.text);
    cr_expect(eq(i64, sums->count, 2));
    /* Said is dead of the first, which most call ill; ill of the second, of equals called dead
     * first. */
    cr_expect(eq(i64, sums->correct, 0));
    cr_expect(eq(i64, sums->spots, 2));
    double want = by_hand(3, ones, p) + by_hand(4, ones, p);
    cr_expect(fabs(ldexp((double)sums->loss, -TIER_SCORE_LOSS_BITS) - want) < 1e-5, "%g, not %g",
              ldexp((double)sums->loss, -TIER_SCORE_LOSS_BITS), want);
    free(sums);
}

Test(spoke_soft, two_classes_are_a_share_of_the_second) {
    static const char two[] = "annotators: soft\n"
                              "columns:\n"
                              "  - {name: x, type: number}\n"
                              "  - {name: a, type: target, categories: [well, ill]}\n"
                              "  - {name: b, type: target, categories: [well, ill]}\n"
                              "  - {name: c, type: target, categories: [well, ill]}\n"
                              "  - {name: part, type: split}\n"
                              "split: {by: column}\n";
    struct spoke_objective o = spoke_objective_plain(SPOKE_LOSS_BCE);
    struct spoke_sums *sums = calloc(1, sizeof *sums);
    const struct spoke_recipe r = {.optimiser = SPOKE_OPT_SGD, .lr = 1, .batch = 8, .epochs = 1};
    float w;
    o.soft = 2;
    open_rows(two, "x,a,b,c,part\n2,ill,ill,well,train\n2,ill,ill,well,test\n", 1, &o);
    cr_assert(eq(int, spoke_evaluate(net, data, SPOKE_TEST, sums, &err), TIER_OK), "%s", err.text);
    double z = 1, t = 2 / 3.0, want = -t * log(1 / (1 + exp(-z))) - (1 - t) * log(1 / (1 + exp(z)));
    cr_expect(fabs(ldexp((double)sums->loss, -TIER_SCORE_LOSS_BITS) - want) < 1e-5);
    cr_expect(sums->correct == 1 && sums->hist_pos[tier_score_bin(1 / (1 + exp(-z)))] == 1);
    cr_assert(eq(int, spoke_train(net, data, &r, 1, NULL, &err), TIER_OK), "%s", err.text);
    cr_assert(eq(int, spoke_net_get(net, &w, &err), TIER_OK));
    cr_expect(fabs((double)w - (0.5 - 2 * (1 / (1 + exp(-z)) - t))) < 1e-6, "%g", (double)w);
    free(sums);
}

Test(spoke_soft, what_no_share_can_be_taken_of_is_refused) {
    struct spoke_objective o = spoke_objective_plain(SPOKE_LOSS_CE);
    struct spoke_schema *s = NULL;
    o.soft = 3;
    o.has_ignore = true;
    o.ignore = 1;
    open_rows(three, rows, 3, &o);
    cr_expect(eq(int, spoke_eval_fits(net, data, &err), TIER_EDATA));
    cr_expect(strstr(err.text, "local.ignore_class excludes annotators: soft") != NULL, "%s",
              err.text);
    cr_expect(eq(int,
                 spoke_schema_open(temp_file("s.yaml", "annotators: soft\ncolumns:\n"
                                                       "  - {name: x, type: number}\n"
                                                       "  - {name: a, type: target, value: true}\n"
                                                       "  - {name: b, type: target, value: true}\n"
                                                       "split: {by: column}\n"),
                                   &s, &err),
                 TIER_ECONFIG));
    cr_expect(strstr(err.text, "all annotators have the same categories") != NULL, "%s", err.text);
    char many[4096] = "annotators: soft\ncolumns:\n  - {name: x, type: number}\n";
    for (int i = 0; i < 16; i++)
        snprintf(many + strlen(many), sizeof many - strlen(many),
                 "  - {name: r%d, type: target, categories: [well, ill]}\n", i);
    snprintf(many + strlen(many), sizeof many - strlen(many), "split: {by: column}\n");
    cr_expect(eq(int, spoke_schema_open(temp_file("s.yaml", many), &s, &err), TIER_ECONFIG));
    cr_expect(strstr(err.text, "the votes of 16 annotators on 2 classes") != NULL, "%s", err.text);
}

/* ---- masks --------------------------------------------------------------------------------- */

static const char contract[] = "kind: nifti\nannotators: soft\nimage: {size: [1, 1, 4]}\n"
                               "columns:\n"
                               "  - {name: scan, type: image}\n"
                               "  - {name: a, type: mask, categories: [none, organ]}\n"
                               "  - {name: b, type: mask, categories: [none, organ]}\n"
                               "  - {name: c, type: mask, categories: [none, organ]}\n"
                               "  - {name: part, type: split}\n"
                               "split: {by: column}\n";
static const double organ[4] = {2 / 3.0, 2 / 3.0, 1, 0}; /* the share of those who see it there */

static void volume(const char *name, const uint8_t voxels[4]) {
    static uint8_t file[1 << 12];
    struct nifti_maker m = {.side = {4, 1, 1}, .type = 2, .bits = 8, .spacing = {1, 1, 1}};
    temp_file_n(name, (char *)file, nifti_make(&m, voxels, 4, file, sizeof file));
}

static const char *volumes(void) {
    volume("i.nii", (const uint8_t[]){1, 2, 3, 0});
    volume("a.nii", (const uint8_t[]){1, 1, 1, 0});
    volume("b.nii", (const uint8_t[]){1, 0, 1, 0});
    volume("c.nii", (const uint8_t[]){0, 1, 1, 0});
    return temp_file("t.csv", "scan,a,b,c,part\ni.nii,a.nii,b.nii,c.nii,train\n"
                              "i.nii,a.nii,b.nii,c.nii,test\n");
}

/* x[N,1,1,1,wide]: the logits of a voxel are 0 and x - 1.5. */
static void open_voxels(int64_t wide, size_t batch) {
    static struct onnx_msg g, model;
    static const float w[2] = {0, 1}, b[2] = {0, -1.5f};
    static const int64_t filter[5] = {2, 1, 1, 1, 1}, two = 2;
    const int64_t x[4] = {1, 1, 1, wide}, y[4] = {2, 1, 1, wide};
    struct spoke_objective o = spoke_objective_plain(SPOKE_LOSS_DICE_CE);
    o.soft = 2;
    g.n = 0;
    onnx_add_rows(&g, 11, "x", 4, x, 1);
    onnx_add_rows(&g, 12, "y", 4, y, 1);
    onnx_add_dims(&g, "w", 5, filter, 1, w);
    onnx_add_dims(&g, "b", 1, &two, 1, b);
    onnx_add_node(&g, "Conv", "x w b", "y");
    onnx_model(&model, &g, 13);
    cr_assert(eq(int, tier_graph_parse(model.b, model.n, &graph, &err), TIER_OK), "%s", err.text);
    kern_init(NULL);
    cr_assert(eq(int, kern_device_open("cpu", 1, &dev), KERN_OK));
    cr_assert(eq(int, spoke_net_new_for(dev, graph, &o, batch, &net, &err), TIER_OK), "%s",
              err.text);
}

static double voxels_by_hand(void) {
    static const double x[4] = {1, 2, 3, 0};
    double ce = 0, both[2] = {0}, sizes[2] = {0};
    for (int i = 0; i < 4; i++) {
        double p[2], y[2] = {1 - organ[i], organ[i]};
        p[1] = 1 / (1 + exp(1.5 - x[i]));
        p[0] = 1 - p[1];
        for (int c = 0; c < 2; c++) {
            ce -= y[c] > 0 ? y[c] * log(p[c]) / 4 : 0;
            both[c] += y[c] * p[c];
            sizes[c] += y[c] + p[c];
        }
    }
    return ce + 1 -
           ((2 * both[0] + 1e-5) / (sizes[0] + 1e-5) + (2 * both[1] + 1e-5) / (sizes[1] + 1e-5)) /
               2;
}

Test(spoke_soft, a_voxel_has_shares_whole_and_in_windows_held_or_read) {
    const char *table = volumes(), *schema = temp_file("s.yaml", contract);
    struct spoke_sums *sums = calloc(1, sizeof *sums);
    const struct spoke_recipe r = {.optimiser = SPOKE_OPT_SGD, .lr = 1, .batch = 1, .epochs = 1};
    float w[2][4];
    for (int way = 0; way < 4; way++) { /* held or read, whole or a window that is the whole */
        struct spoke_data_options o = {.on_demand = way % 2};
        struct spoke_train_stats stats;
        if (way / 2)
            o.patch = (struct spoke_patch){.axes = 3, .side = {1, 1, 4}, .positive = 1};
        open_voxels(4, 1);
        cr_assert(eq(int, spoke_data_open(schema, table, &o, &data, &err), TIER_OK), "%s",
                  err.text);
        cr_assert(eq(int, spoke_evaluate(net, data, SPOKE_TEST, sums, &err), TIER_OK), "%s",
                  err.text);
        double loss = ldexp((double)sums->loss, -TIER_SCORE_LOSS_BITS);
        cr_expect(fabs(loss - voxels_by_hand()) < 1e-5, "%d: %g, not %g", way, loss,
                  voxels_by_hand());
        /* Most see the organ at three voxels, the model at two of them. */
        cr_expect(sums->correct == 3 && sums->overlap[1] == 2 && sums->sizes[1] == 5);
        cr_assert(eq(int, spoke_train(net, data, &r, 1, &stats, &err), TIER_OK), "%s", err.text);
        cr_expect(fabs(stats.loss_mean - voxels_by_hand()) < 1e-5);
        cr_assert(eq(int, spoke_net_get(net, w[way > 0], &err), TIER_OK));
        cr_expect(memcmp(w[0], w[way > 0], sizeof w[0]) == 0, "%d", way);
        spoke_net_free(net);
        spoke_data_free(data);
        tier_graph_free(graph);
        kern_device_close(dev);
        net = NULL;
        data = NULL;
        graph = NULL;
        dev = NULL;
    }
    free(sums);
}

Test(spoke_soft, windows_lie_around_what_most_readers_see) {
    const char *table = volumes(), *schema = temp_file("s.yaml", contract);
    struct spoke_data_options o = {.patch = {.axes = 3, .side = {1, 1, 1}, .positive = 1}};
    const struct spoke_recipe r = {
        .optimiser = SPOKE_OPT_SGD, .lr = 1e-6f, .batch = 1, .epochs = 1};
    struct spoke_train_stats stats;
    open_voxels(1, 1);
    cr_assert(eq(int, spoke_data_open(schema, table, &o, &data, &err), TIER_OK), "%s", err.text);
    for (uint64_t seed = 0; seed < 40; seed++) { /* the last voxel, where nobody does, has 0.47 */
        cr_assert(eq(int, spoke_train(net, data, &r, seed, &stats, &err), TIER_OK), "%s", err.text);
        cr_expect(stats.loss_mean < 0.4 || stats.loss_mean > 0.6, "%g", stats.loss_mean);
    }
}

Test(spoke_soft, check_data_counts_what_most_say_and_how_far_they_agree) {
    const char *table = volumes(), *schema = temp_file("s.yaml", contract);
    struct spoke_check *c = calloc(1, sizeof *c);
    cr_assert(eq(int, spoke_check_data(schema, table, c, &err), TIER_OK), "%s", err.text);
    cr_expect(eq(u64, c->classes[1 * SPOKE_PARTS + SPOKE_TRAIN], 3));
    cr_expect(eq(u64, c->classes[0 * SPOKE_PARTS + SPOKE_TRAIN], 1));
    cr_expect(eq(u64, c->agreement.dice_pairs[1], 6));
    /* 4 of 5 with a in both pairs, 2 of 4 between b and c. */
    cr_expect(
        epsilon_eq(dbl, spoke_agreement_dice(&c->agreement, 1), (0.8 + 0.8 + 0.5) / 3, 1e-12));
    spoke_check_release(c);
    free(c);
}
