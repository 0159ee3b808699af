/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Losses against PyTorch, frozen: tests/golden/loss holds logits, targets and what PyTorch makes of
 * them in float64 (tests/support/make_loss_golden.py).
 */
#include "spoke/loss.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FOLDER CONSILIUM_SOURCE_DIR "/tests/golden/loss"
#define TOLERANCE 1e-5
#define MOST 4096

struct golden {
    struct {
        int32_t loss, rows, spots, outputs, ignore, batch, background, weights;
    } is;
    struct {
        float pos_weight, smooth_nr, smooth_dr, dice, ce;
    } has;
    float z[MOST], weight[TIER_KEYS_LIST_MAX], gradient[MOST];
    int32_t target[MOST]; /* or floats */
    size_t n, words;
    double loss;
};

static void take(FILE *f, void *out, size_t bytes) {
    cr_assert(fread(out, 1, bytes, f) == bytes, "the file is too short");
}

static void read_golden(const char *name, struct golden *g) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s.bin", FOLDER, name);
    FILE *f = fopen(path, "rb");
    cr_assert(f != NULL, "%s", path);
    take(f, &g->is, sizeof g->is);
    take(f, &g->has, sizeof g->has);
    g->n = (size_t)g->is.rows * (size_t)g->is.spots * (size_t)g->is.outputs;
    g->words = (size_t)g->is.rows * (g->is.loss == SPOKE_LOSS_COX ? 2 : (size_t)g->is.spots);
    cr_assert(g->n <= MOST && g->words <= MOST && g->is.weights <= TIER_KEYS_LIST_MAX);
    take(f, g->z, g->n * 4);
    take(f, g->target, g->words * 4);
    take(f, g->weight, (size_t)g->is.weights * 4);
    take(f, &g->loss, sizeof g->loss);
    take(f, g->gradient, g->n * 4);
    cr_assert(fgetc(f) == EOF, "the file is too long");
    fclose(f);
}

static struct spoke_objective objective_of(const struct golden *g) {
    struct spoke_objective o = spoke_objective_plain((enum spoke_loss)g->is.loss);
    o.has_ignore = g->is.ignore >= 0;
    o.ignore = g->is.ignore;
    o.batch = g->is.batch;
    o.background = g->is.background;
    o.weights_count = (size_t)g->is.weights;
    memcpy(o.class_weight, g->weight, o.weights_count * 4);
    o.pos_weight = g->has.pos_weight;
    o.smooth_nr = g->has.smooth_nr;
    o.smooth_dr = g->has.smooth_dr;
    o.dice = g->has.dice;
    o.ce = g->has.ce;
    return o;
}

static struct kern_vec put(struct kern_device *dev, const void *data, size_t n) {
    struct kern_vec v = {NULL, 0};
    cr_assert(kern_buf_new(dev, (n ? n : 1) * 4, &v.buf) == KERN_OK);
    if (n > 0)
        cr_assert(kern_upload(v.buf, 0, data, n * 4) == KERN_OK);
    return v;
}

static void check(const char *name, const struct golden *g, const struct spoke_objective *o) {
    struct kern_device *dev = NULL;
    float loss = 0, got[MOST];
    double off = 0, size = 0;
    kern_init(NULL);
    cr_assert(kern_device_open("cpu", 2, &dev) == KERN_OK);
    struct kern_loss_spec spec =
        spoke_objective_spec(o, (size_t)g->is.rows, (size_t)g->is.spots, (size_t)g->is.outputs);
    struct kern_vec vl = put(dev, &loss, 1), vz = put(dev, g->z, g->n), vd = put(dev, g->z, g->n);
    struct kern_vec vt = put(dev, g->target, g->words), vw = put(dev, g->weight, o->weights_count);
    if (o->weights_count == 0)
        vw = (struct kern_vec){NULL, 0};
    cr_assert(kern_loss(vl, vd, vz, vt, vw, &spec) == KERN_OK, "%s: %s", name,
              kern_device_error(dev));
    cr_assert(kern_download(&loss, vl.buf, 0, 4) == KERN_OK);
    cr_assert(kern_download(got, vd.buf, 0, g->n * 4) == KERN_OK);
    for (size_t i = 0; i < g->n; i++) {
        double d = (double)got[i] - (double)g->gradient[i];
        off += d * d;
        size += (double)g->gradient[i] * (double)g->gradient[i];
    }
    cr_expect(fabs((double)loss - g->loss) <= TOLERANCE * fabs(g->loss), "%s: %g, PyTorch's is %g",
              name, (double)loss, g->loss);
    cr_expect(sqrt(off) <= TOLERANCE * sqrt(size), "%s: the gradient is off by %.1e", name,
              sqrt(off / size));
    kern_device_close(dev);
}

Test(spoke_loss, losses_and_their_gradients_are_pytorchs) {
    static const char *const names[] = {"bce", "ce-weights", "ce-ignore",   "dice", "dice-batch",
                                        "mse", "l1",         "dice-ignore", "cox",  "dice-ce"};
    static struct golden g;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        read_golden(names[i], &g);
        struct spoke_objective o = objective_of(&g);
        check(names[i], &g, &o);
    }
}

/* The mean of rows by themselves is that of the batch, where a loss is a mean over rows. */
Test(spoke_loss, rows_by_themselves_add_up_to_the_batch) {
    static const char *const names[] = {"bce", "dice", "mse", "l1", "dice-ignore"};
    static struct golden g;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        read_golden(names[i], &g);
        struct spoke_objective o = objective_of(&g);
        size_t rows = (size_t)g.is.rows, spots = (size_t)g.is.spots;
        double sum = 0;
        for (size_t r = 0; r < rows; r++)
            sum += spoke_objective_row(&o, g.z + r * spots * (size_t)g.is.outputs,
                                       g.target + r * spots, spots, (size_t)g.is.outputs);
        cr_expect(epsilon_eq(dbl, sum / (double)rows, g.loss, 1e-6), "%s", names[i]);
    }
}

Test(spoke_loss, a_batch_that_is_one_row_has_that_rows_loss) {
    static const char *const names[] = {"ce-weights", "ce-ignore", "dice-batch", "dice-ce"};
    static struct golden g;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        read_golden(names[i], &g);
        struct spoke_objective o = objective_of(&g);
        /* All rows' spots as the spots of one row: Dice must then be over the batch. */
        if (o.loss == SPOKE_LOSS_DICE_CE)
            continue;
        double row = spoke_objective_row(&o, g.z, g.target, g.words, (size_t)g.is.outputs);
        cr_expect(epsilon_eq(dbl, row, g.loss, 1e-6), "%s", names[i]);
    }
}

Test(spoke_loss, a_plan_becomes_an_objective) {
    struct tier_plan plan = {.loss = TIER_PLAN_DICE_CE, .loss_options = TIER_PLAN_LOSS_PLAIN};
    struct spoke_objective o = spoke_objective_of(&plan);
    cr_expect(eq(int, (int)o.loss, (int)SPOKE_LOSS_DICE_CE));
    cr_expect(o.weights_count == 0 && o.background);
    cr_expect(not(o.has_ignore || o.batch));
    cr_expect(o.pos_weight == 1 && o.smooth_nr == 1e-5f && o.dice == 1 && o.ce == 1);
    plan.loss_options.ignore_class = 0;
    tier_keys_list_add(&plan.loss_options.class_weights, "0.5", 3);
    tier_keys_list_add(&plan.loss_options.class_weights, "2e1", 3);
    o = spoke_objective_of(&plan);
    cr_expect(o.has_ignore && o.ignore == 0 && o.weights_count == 2);
    cr_expect(o.class_weight[0] == 0.5f && o.class_weight[1] == 20);
    plan.loss = TIER_PLAN_CROSS_ENTROPY;
    o = spoke_objective_of(&plan);
    cr_expect(not(spoke_objective_is_plain(&o)));
    plan.loss_options = TIER_PLAN_LOSS_PLAIN;
    o = spoke_objective_of(&plan);
    cr_expect(spoke_objective_is_plain(&o));
    plan.loss = TIER_PLAN_BCE;
    plan.loss_options.pos_weight = 2;
    o = spoke_objective_of(&plan);
    cr_expect(not(spoke_objective_is_plain(&o)));
}
