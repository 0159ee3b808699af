/* SPDX-License-Identifier: Apache-2.0 */
/* Windows of images: where they lie, what is cut, and what a model slid over an image says of it.
 */
#include "spoke/eval.h"
#include "spoke/feed.h"
#include "spoke/patch.h"
#include "spoke/slide.h"
#include "spoke/train.h"
#include "tests/support/npy_writer.h"
#include "tests/support/onnx_writer.h"
#include "tests/support/temp_file.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>

#define ROWS 40
#define HIGH 7
#define WIDE 9
#define N (HIGH * WIDE)

static struct tier_err err;

TestSuite(spoke_patch, .fini = temp_release);

static const struct spoke_shape volume = {.channels = 2, .axes = 3, .side = {32, 48, 33}};

/* ---- places -------------------------------------------------------------------------------- */

Test(spoke_patch, windows_cover_an_image_and_overlap_by_what_was_asked_for) {
    static int32_t times[32 * 48 * 33];
    static const double overlaps[] = {0.0, 0.25, 0.5, 0.9};
    static const size_t counts[] = {2 * 3 * 3, 3 * 4 * 3, 3 * 5 * 4, 17 * 33 * 18};
    for (size_t o = 0; o < 4; o++) {
        const struct spoke_patch p = {.axes = 3, .side = {16, 16, 16}, .overlap = overlaps[o]};
        size_t n = spoke_patch_windows(&p, &volume), at[3];
        cr_expect(eq(sz, n, counts[o]), "%g", overlaps[o]);
        memset(times, 0, sizeof times);
        for (size_t i = 0; i < n; i++) {
            spoke_patch_window(&p, &volume, i, at);
            cr_assert(at[0] <= 16 && at[1] <= 32 && at[2] <= 17);
            for (size_t z = 0; z < 16; z++)
                for (size_t y = 0; y < 16; y++)
                    for (size_t x = 0; x < 16; x++)
                        times[((at[0] + z) * 48 + at[1] + y) * 33 + at[2] + x]++;
        }
        for (size_t i = 0; i < 32 * 48 * 33; i++)
            cr_assert(times[i] > 0, "%g: %zu", overlaps[o], i);
    }
    const struct spoke_patch whole = {.axes = 3, .side = {32, 48, 33}, .overlap = 0.5};
    cr_expect(eq(sz, spoke_patch_windows(&whole, &volume), 1));
}

Test(spoke_patch, a_share_of_windows_lies_around_what_is_to_be_found) {
    static int32_t mask[32 * 48 * 33];
    struct spoke_patch p = {.axes = 3, .side = {8, 8, 8}, .positive = 0.75, .ignore = 2};
    size_t at[3], again[3], around = 0, corner = 0;
    const size_t spot[3] = {20, 4, 30}; /* half a window from no edge, from one, and beyond one */
    mask[(20 * 48 + 4) * 33 + 30] = 1;
    for (size_t i = 0; i < 32 * 48 * 8; i++) /* and a great many to be ignored */
        mask[i] = mask[i] ? mask[i] : 2;
    for (uint64_t seed = 0; seed < 4000; seed++) {
        spoke_patch_draw(&p, &volume, seed * 77, mask, at);
        spoke_patch_draw(&p, &volume, seed * 77, mask, again);
        cr_assert(memcmp(at, again, sizeof at) == 0);
        cr_assert(at[0] <= 24 && at[1] <= 40 && at[2] <= 25);
        bool inside = true;
        for (int k = 0; k < 3; k++)
            inside = inside && at[k] <= spot[k] && spot[k] < at[k] + 8;
        around += inside && at[0] == 16 && at[1] == 0 && at[2] == 25;
        corner += at[0] < 12;
    }
    cr_expect(around > 2900 && around < 3100, "%zu", around);
    cr_expect(corner > 400 && corner < 560, "%zu of the others", corner);
    p.positive = 1.0;
    p.ignore = 1; /* then there are only those of class 2 */
    for (uint64_t seed = 0; seed < 200; seed++) {
        spoke_patch_draw(&p, &volume, seed, mask, at);
        cr_expect(at[0] < 8, "%zu", at[0]);
    }
    memset(mask, 0, sizeof mask); /* nothing to be found: anywhere */
    corner = 0;
    for (uint64_t seed = 0; seed < 200; seed++) {
        spoke_patch_draw(&p, &volume, seed, mask, at);
        corner += at[0] < 12;
    }
    cr_expect(corner > 60 && corner < 140, "%zu", corner);
}

Test(spoke_patch, windows_that_no_image_has_are_refused) {
    static const struct {
        struct spoke_patch p;
        bool masks;
        const char *why;
    } bad[] = {
        {{.axes = 3, .side = {8, 8, 8}}, false, "windows of an image are for masks"},
        {{.axes = 2, .side = {8, 8}}, true, "windows of 2 sides were asked for"},
        {{.axes = 3, .side = {33, 8, 8}}, true, "side 1 is 33: the schema's images are 32 there"},
        {{.axes = 3, .side = {8, 8, 0}}, true, "side 3 is 0"},
        {{.axes = 3, .side = {8, 8, 8}, .overlap = 1.0}, true, "overlap by a share"},
        {{.axes = 3, .side = {8, 8, 8}, .positive = 1.1}, true, "share of positives from 0 to 1"},
    };
    static const struct spoke_patch none, good = {.axes = 3, .side = {32, 8, 1}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cr_expect(eq(int, spoke_patch_check(&bad[i].p, &volume, bad[i].masks, &err), TIER_EDATA));
        cr_expect(strstr(err.text, bad[i].why) != NULL, "%s: %s", bad[i].why, err.text);
    }
    cr_expect(eq(int, spoke_patch_check(&none, &volume, false, &err), TIER_OK));
    cr_expect(eq(int, spoke_patch_check(&good, &volume, true, &err), TIER_OK));
}

/* ---- data ---------------------------------------------------------------------------------- */

static const char schema[] = "kind: npz\n"
                             "image: {size: [7, 9], scale: 0.001}\n"
                             "columns:\n"
                             "  - {name: x, type: image}\n"
                             "  - {name: m, type: mask, categories: [none, bright]}\n"
                             "split: {by: hash, key: secret-key, fraction: 0.3}\n";

/* Element i of row r is 63 r + i; bright are some spots, which spots differs from row to row. */
static struct spoke_data *opened(const struct spoke_patch *patch, bool on_demand) {
    static uint8_t file[1 << 16], mask[ROWS * N];
    static uint16_t x[ROWS * N];
    struct spoke_data_options o = {.on_demand = on_demand};
    struct spoke_data *d = NULL;

    for (int i = 0; i < ROWS * N; i++) {
        x[i] = (uint16_t)i;
        mask[i] = i % N * 31 % 7 < i / N % 4;
    }
    if (patch)
        o.patch = *patch;
    size_t n = npy_make("<u2", "(40, 7, 9)", x, sizeof x, file, sizeof file);
    temp_file_n("x.npy", (char *)file, n);
    n = npy_make("|u1", "(40, 7, 9)", mask, sizeof mask, file, sizeof file);
    temp_file_n("m.npy", (char *)file, n);
    cr_assert(
        eq(int, spoke_data_open(temp_file("s.yaml", schema), temp.folder, &o, &d, &err), TIER_OK),
        "%s", err.text);
    return d;
}

#define PATCH_HIGH 4
#define PATCH_WIDE 3
#define PATCH (PATCH_HIGH * PATCH_WIDE)
static const struct spoke_patch small = {
    .axes = 2, .side = {PATCH_HIGH, PATCH_WIDE}, .positive = 0.5, .overlap = 0.5};

/* All batches of an order; the rows there were. */
static size_t drain(struct spoke_feed *f, float *x, int32_t *masks) {
    struct spoke_batch b;
    size_t rows = 0;
    for (;;) {
        cr_assert(eq(int, spoke_feed_next(f, &b, &err), TIER_OK), "%s", err.text);
        if (b.rows == 0)
            return rows;
        memcpy(x + rows * PATCH, b.x, b.rows * PATCH * sizeof *x);
        memcpy(masks + rows * PATCH, b.labels, b.rows * PATCH * sizeof *masks);
        rows += b.rows;
    }
}

/* Whether a window is a piece of its row, and its mask the same piece of the row's. */
static void expect_piece(const struct spoke_data *d, int32_t row, const float *x,
                         const int32_t *mask, size_t at[2]) {
    float whole[N];
    int32_t labels[N];
    cr_assert(eq(int, spoke_data_read(d, SPOKE_TRAIN, &row, 1, whole, labels, &err), TIER_OK));
    size_t first = 0;
    while (first < N && whole[first] != x[0])
        first++;
    cr_assert(first < N);
    at[0] = first / WIDE;
    at[1] = first % WIDE;
    cr_assert(at[0] + PATCH_HIGH <= HIGH && at[1] + PATCH_WIDE <= WIDE);
    for (size_t i = 0; i < PATCH; i++) {
        size_t from = first + i / PATCH_WIDE * WIDE + i % PATCH_WIDE;
        cr_expect(x[i] == whole[from] && mask[i] == labels[from], "row %d, %zu", row, i);
    }
}

Test(spoke_patch, training_sees_a_piece_of_each_row_with_the_same_bits_from_any_number_of_threads) {
    static float first[2][ROWS * PATCH], x[ROWS * PATCH];
    static int32_t first_masks[ROWS * PATCH], masks[ROWS * PATCH];
    int32_t order[ROWS];
    for (int on_demand = 0; on_demand < 2; on_demand++) {
        struct spoke_data *d = opened(&small, on_demand);
        size_t n = spoke_data_rows(d, SPOKE_TRAIN), differ = 0;
        cr_expect(eq(sz, spoke_data_seen_features(d), PATCH));
        for (size_t i = 0; i < n; i++)
            order[i] = (int32_t)(i * 5 % n);
        for (size_t threads = 1; threads <= 8; threads *= 2) {
            struct spoke_feed_options o = {.batch = 3, .threads = threads, .seed = 5};
            struct spoke_feed *f = NULL;
            cr_assert(eq(int, spoke_feed_open(d, &o, &f, &err), TIER_OK), "%s", err.text);
            for (uint64_t epoch = 0; epoch < 2; epoch++) {
                cr_assert(eq(int, spoke_feed_begin(f, order, n, epoch, &err), TIER_OK));
                cr_assert(eq(sz, drain(f, x, masks), n));
                if (on_demand == 0 && threads == 1)
                    memcpy(first[epoch], x, sizeof x);
                cr_expect(memcmp(first[epoch], x, n * PATCH * sizeof *x) == 0, "%zu", threads);
            }
            if (on_demand == 0 && threads == 1)
                memcpy(first_masks, masks, sizeof masks);
            cr_expect(memcmp(first_masks, masks, n * PATCH * sizeof *masks) == 0);
            spoke_feed_close(f);
        }
        for (size_t i = 0; i < n; i++) {
            size_t at[2];
            expect_piece(d, order[i], x + i * PATCH, masks + i * PATCH, at);
            differ += first[0][i * PATCH] != first[1][i * PATCH];
        }
        cr_expect(differ > n / 2, "another epoch, other windows: %zu of %zu", differ, n);
        spoke_data_free(d);
    }
}

Test(spoke_patch, what_is_cut_is_augmented_where_it_lies) {
    static float plain[ROWS * PATCH], x[ROWS * PATCH];
    static int32_t masks[ROWS * PATCH];
    struct spoke_data *d = opened(&small, true);
    size_t n = spoke_data_rows(d, SPOKE_TRAIN), flipped = 0;
    int32_t order[ROWS];
    for (size_t i = 0; i < n; i++)
        order[i] = (int32_t)i;
    for (int flips = 0; flips < 2; flips++) {
        struct spoke_feed_options o = {.batch = 7, .seed = 9};
        struct spoke_feed *f = NULL;
        o.augment.flip[0] = flips;
        cr_assert(eq(int, spoke_feed_open(d, &o, &f, &err), TIER_OK), "%s", err.text);
        cr_assert(eq(int, spoke_feed_begin(f, order, n, 0, &err), TIER_OK));
        cr_assert(eq(sz, drain(f, flips ? x : plain, masks), n));
        spoke_feed_close(f);
    }
    for (size_t i = 0; i < n; i++) {
        const float *a = plain + i * PATCH, *b = x + i * PATCH;
        bool turned = b[0] != a[0];
        flipped += turned;
        for (size_t k = 0; k < PATCH; k++)
            cr_expect(b[k] == a[turned ? k / 3 * 3 + 2 - k % 3 : k]);
    }
    cr_expect(flipped > n / 4 && flipped < 3 * n / 4, "%zu of %zu", flipped, n);
    spoke_data_free(d);
}

/* ---- models -------------------------------------------------------------------------------- */

/* x[N,1,high,wide] -> Conv of side `filter`, two classes at every spot. */
static struct tier_graph *conv(int64_t high, int64_t wide, int64_t filter) {
    static struct onnx_msg graph, model, node;
    float w[2 * 9];
    const int64_t dims[4] = {2, 1, filter, filter}, two = 2, x[3] = {1, high, wide},
                  y[3] = {2, high, wide},
                  pads[4] = {filter / 2, filter / 2, filter / 2, filter / 2};
    static const float b[2] = {1.0f, -1.0f};
    struct tier_graph *g = NULL;
    for (int i = 0; i < 18; i++)
        w[i] = (float)(i * 7 % 5 - 2) / 3.0f;
    graph.n = 0;
    onnx_add_rows(&graph, 11, "x", 3, x, 1);
    onnx_add_rows(&graph, 12, "y", 3, y, 1);
    onnx_add_dims(&graph, "w", 4, dims, 1, w);
    onnx_add_dims(&graph, "b", 1, &two, 1, b);
    onnx_node(&node, "Conv", "x w b", "y");
    onnx_attr_ints(&node, "pads", 4, pads);
    onnx_sub(&graph, 1, &node);
    onnx_model(&model, &graph, 13);
    cr_assert(eq(int, tier_graph_parse(model.b, model.n, &g, &err), TIER_OK), "%s", err.text);
    return g;
}

static struct kern_device *device(void) {
    struct kern_device *dev = NULL;
    kern_init(NULL);
    cr_assert(eq(int, kern_device_open("cpu", 1, &dev), KERN_OK));
    return dev;
}

/* A model that looks at one spot alone says the same of it in every window. */
Test(spoke_patch, sums_are_those_of_whole_images) {
    struct kern_device *dev = device();
    struct spoke_sums *sums = calloc(2, sizeof *sums);
    for (int slides = 0; slides < 2; slides++) {
        struct spoke_data *d = opened(slides ? &small : NULL, slides);
        struct tier_graph *g = slides ? conv(PATCH_HIGH, PATCH_WIDE, 1) : conv(HIGH, WIDE, 1);
        struct spoke_net *net = NULL;
        cr_assert(eq(int, spoke_net_new(dev, g, SPOKE_LOSS_DICE_CE, 5, &net, &err), TIER_OK));
        cr_assert(eq(int, spoke_evaluate(net, d, SPOKE_TEST, &sums[slides], &err), TIER_OK), "%s",
                  err.text);
        spoke_net_free(net);
        tier_graph_free(g);
        spoke_data_free(d);
    }
    cr_expect(gt(i64, sums[0].count, 5));
    cr_expect(eq(i64, sums[0].spots, sums[0].count * N));
    cr_expect(eq(i64, sums[1].spots, sums[0].spots));
    cr_expect(eq(i64, sums[1].correct, sums[0].correct));
    cr_expect(gt(i64, sums[0].overlap[1], 0));
    cr_expect(memcmp(sums[0].overlap, sums[1].overlap, sizeof sums[0].overlap) == 0);
    cr_expect(memcmp(sums[0].sizes, sums[1].sizes, sizeof sums[0].sizes) == 0);
    cr_expect(memcmp(sums[0].case_dice, sums[1].case_dice, sizeof sums[0].case_dice) == 0);
    cr_expect(fabs((double)(sums[0].loss - sums[1].loss)) < 1e-5 * (double)sums[0].loss);
    free(sums);
    kern_device_close(dev);
}

/* Every window by itself, and the mean by its Gaussian, in double. */
static void blend(struct spoke_net *net, const struct spoke_shape *shape, const float *x,
                  double out[N][2]) {
    double weights[N] = {0};
    struct kern_buf *buf = NULL;
    struct kern_vec z;
    float cut[PATCH], logits[PATCH * 2];
    size_t at[3];

    cr_assert(eq(int, kern_buf_new(spoke_net_device(net), sizeof cut, &buf), KERN_OK));
    memset(out, 0, N * sizeof *out);
    for (size_t i = 0; i < spoke_patch_windows(&small, shape); i++) {
        spoke_patch_window(&small, shape, i, at);
        for (size_t k = 0; k < PATCH; k++)
            cut[k] = x[(at[1] + k / PATCH_WIDE) * WIDE + at[2] + k % PATCH_WIDE];
        cr_assert(eq(int, kern_upload(buf, 0, cut, sizeof cut), KERN_OK));
        cr_assert(eq(int, spoke_net_forward(net, (struct kern_vec){buf, 0}, 1, &z, &err), TIER_OK));
        cr_assert(eq(int, kern_download(logits, z.buf, z.at * 4, sizeof logits), KERN_OK));
        for (size_t k = 0; k < PATCH; k++) {
            size_t to = (at[1] + k / PATCH_WIDE) * WIDE + at[2] + k % PATCH_WIDE;
            double dy = ((double)(k / PATCH_WIDE) - 1.5) / 0.5;
            double dx = ((double)(k % PATCH_WIDE) - 1.0) / 0.375;
            double w = exp(-dy * dy / 2) * exp(-dx * dx / 2);
            weights[to] += w;
            for (size_t c = 0; c < 2; c++)
                out[to][c] += w * (double)logits[k * 2 + c];
        }
    }
    for (size_t i = 0; i < N; i++)
        for (size_t c = 0; c < 2; c++)
            out[i][c] /= weights[i];
    kern_buf_free(buf);
}

Test(spoke_patch, a_spot_is_the_mean_of_its_windows_by_how_near_their_centres_it_lies) {
    struct kern_device *dev = device();
    struct tier_graph *g = conv(PATCH_HIGH, PATCH_WIDE, 3);
    struct spoke_data *d = opened(&small, false);
    const struct spoke_shape shape = spoke_data_shape(d);
    struct spoke_slide *slide = NULL;
    double want[N][2];
    float x[N], z[N * 2];
    for (int i = 0; i < N; i++)
        x[i] = (float)(i * 37 % 11 - 5);
    for (size_t batch = 1; batch <= 64; batch *= 4) { /* windows at once: no matter how many */
        struct spoke_net *net = NULL;
        cr_assert(eq(int, spoke_net_new(dev, g, SPOKE_LOSS_CE, batch, &net, &err), TIER_OK));
        blend(net, &shape, x, want);
        cr_assert(eq(int, spoke_slide_new(net, &small, &shape, &slide, &err), TIER_OK));
        cr_assert(eq(int, spoke_slide_row(slide, x, z, &err), TIER_OK), "%s", err.text);
        for (size_t i = 0; i < N * 2; i++)
            cr_expect(fabs((double)z[i] - want[i / 2][i % 2]) < 1e-5, "%zu: %g, not %g", i,
                      (double)z[i], want[i / 2][i % 2]);
        x[0] = NAN;
        cr_expect(eq(int, spoke_slide_row(slide, x, z, &err), TIER_EMODEL));
        x[0] = -5.0f;
        spoke_slide_free(slide);
        spoke_net_free(net);
    }
    tier_graph_free(g);
    spoke_data_free(d);
    kern_device_close(dev);
}

Test(spoke_patch, a_model_learns_from_windows_by_the_seed_alone) {
    struct kern_device *dev = device();
    struct tier_graph *g = conv(PATCH_HIGH, PATCH_WIDE, 3);
    static const struct spoke_recipe r = {
        .optimiser = SPOKE_OPT_SGD, .lr = 0.05f, .batch = 4, .epochs = 5};
    float values[3][20];
    for (int i = 0; i < 3; i++) {
        struct spoke_data *d = opened(&small, i == 1);
        struct spoke_net *net = NULL;
        struct spoke_train_stats stats;
        cr_assert(eq(int, spoke_net_new(dev, g, SPOKE_LOSS_CE, 4, &net, &err), TIER_OK));
        cr_assert(eq(int, spoke_train(net, d, &r, i == 2 ? 4 : 3, &stats, &err), TIER_OK), "%s",
                  err.text);
        cr_expect(eq(u64, stats.rows, 5 * spoke_data_rows(d, SPOKE_TRAIN)));
        cr_assert(eq(int, spoke_net_get(net, values[i], &err), TIER_OK));
        spoke_net_free(net);
        spoke_data_free(d);
    }
    cr_expect(memcmp(values[0], values[1], sizeof values[0]) == 0, "rows held or read");
    cr_expect(memcmp(values[0], values[2], sizeof values[0]) != 0, "another seed");
    tier_graph_free(g);
    kern_device_close(dev);
}

Test(spoke_patch, a_model_of_another_size_than_the_windows_is_refused) {
    struct kern_device *dev = device();
    struct tier_graph *g = conv(HIGH, WIDE, 1);
    struct spoke_data *d = opened(&small, true), *none = NULL;
    struct spoke_data_options o = {.patch = {.axes = 2, .side = {8, 3}}};
    struct spoke_net *net = NULL;
    cr_assert(eq(int, spoke_net_new(dev, g, SPOKE_LOSS_CE, 4, &net, &err), TIER_OK));
    cr_expect(eq(int, spoke_eval_fits(net, d, &err), TIER_EDATA));
    cr_expect(strstr(err.text, "the plan's windows have 12 features: the model takes 63") != NULL,
              "%s", err.text);
    cr_expect(eq(int, spoke_data_open(temp_file("s.yaml", schema), temp.folder, &o, &none, &err),
                 TIER_EDATA));
    cr_expect(strstr(err.text, "a window's side 1 is 8: the schema's images are 7 there") != NULL,
              "%s", err.text);
    spoke_net_free(net);
    tier_graph_free(g);
    spoke_data_free(d);
    kern_device_close(dev);
}
