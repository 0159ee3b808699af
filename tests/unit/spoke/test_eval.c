/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Masks, values and survival: what evaluation adds up, beside sums worked out here; what training
 * does with them; and what does not go together. The models' logits are their input times a weight
 * of 1 to each channel or feature, so that the rows' numbers are the logits.
 */
#include "spoke/eval_score.h"
#include "spoke/fisher.h"
#include "spoke/train.h"
#include "tests/support/npy_writer.h"
#include "tests/support/onnx_writer.h"
#include "tests/support/temp_file.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>

#define ONE (1 << TIER_SCORE_LOSS_BITS)

static struct tier_err err;
static struct kern_device *dev;
static struct tier_graph *graph;
static struct spoke_net *net;
static struct spoke_data *data;

static void tear_down(void) {
    spoke_data_free(data);
    spoke_net_free(net);
    tier_graph_free(graph);
    kern_device_close(dev);
    temp_release();
}

TestSuite(spoke_eval, .fini = tear_down);

static void open_model(struct onnx_msg *g) {
    static struct onnx_msg m;
    onnx_model(&m, g, 13);
    kern_init(NULL);
    cr_assert(eq(int, kern_device_open("cpu", 2, &dev), KERN_OK));
    cr_assert(eq(int, tier_graph_parse(m.b, m.n, &graph, &err), TIER_OK), "%s", err.text);
}

static enum tier_status make_net(const struct spoke_objective *o) {
    spoke_net_free(net);
    net = NULL;
    return spoke_net_new_for(dev, graph, o, 4, &net, &err);
}

static double pseudo(int i) {
    return sin(i * 12.9898) * 2 + cos(i * 78.233);
}

/* ---- masks ----------------------------------------------------------------------------------- */

enum { ROWS = 11, CLASSES = 3, SPOTS = 6 };
static const size_t test_rows = 5;
static float pictures[ROWS * CLASSES * SPOTS]; /* as stored: a row, a channel, a spot */
static uint8_t masks[ROWS * SPOTS];

static const char mask_schema[] =
    "kind: npz\nimage: {channels: 3, size: [2, 3]}\ncolumns:\n"
    "  - {name: scan, type: image}\n"
    "  - {name: organ, type: mask, categories: [none, liver, spleen]}\n"
    "split: {by: part}\n";

static void set_up_masks(const char *schema) {
    static struct onnx_msg g;
    static const float ones[CLASSES] = {1, 1, 1};
    const int64_t dims[] = {CLASSES, 2, 3}, channel[] = {CLASSES, 1, 1};
    size_t train = ROWS - test_rows;
    char path[200];

    for (int i = 0; i < ROWS * CLASSES * SPOTS; i++)
        pictures[i] = (float)pseudo(i);
    for (int i = 0; i < ROWS * SPOTS; i++)
        masks[i] = (uint8_t)((i * 7 + i / 5) % CLASSES);
    memset(masks + train * SPOTS, 0, SPOTS); /* the first test row has no organ */
    snprintf(path, sizeof path, "%s", temp_file("a.npz", ""));
    zip_t *zip = npz_begin(path);
    npz_add(zip, false, "train_scan", "<f4", "(6, 3, 2, 3)", pictures,
            train * CLASSES * SPOTS * sizeof *pictures);
    npz_add(zip, false, "train_organ", "|u1", "(6, 2, 3)", masks, train * SPOTS);
    npz_add(zip, false, "test_scan", "<f4", "(5, 3, 2, 3)", pictures + train * CLASSES * SPOTS,
            test_rows * CLASSES * SPOTS * sizeof *pictures);
    npz_add(zip, false, "test_organ", "|u1", "(5, 2, 3)", masks + train * SPOTS, test_rows * SPOTS);
    npz_end(zip);
    g.n = 0;
    onnx_add_rows(&g, 11, "x", 3, dims, 1);
    onnx_add_rows(&g, 12, "y", 3, dims, 1);
    onnx_add_dims(&g, "w", 3, channel, 1, ones);
    onnx_add_node(&g, "Mul", "x w", "y");
    open_model(&g);
    cr_assert(
        eq(int, spoke_data_open(temp_file("s.yaml", schema), path, NULL, &data, &err), TIER_OK),
        "%s", err.text);
}

/* The logit of a stored row, with w = 1. */
static double logit(size_t row, size_t c, size_t spot) {
    return (double)pictures[(row * CLASSES + c) * SPOTS + spot];
}

static size_t said(size_t row, size_t spot) {
    size_t best = 0;
    for (size_t c = 1; c < CLASSES; c++)
        best = logit(row, c, spot) > logit(row, best, spot) ? c : best;
    return best;
}

static double ce_of(size_t row, size_t spot) {
    double sum = 0;
    for (size_t c = 0; c < CLASSES; c++)
        sum += exp(logit(row, c, spot));
    return log(sum) - logit(row, masks[row * SPOTS + spot], spot);
}

static void masks_are_summed(const struct spoke_objective *o, int ignore) {
    struct spoke_sums *sums = malloc(sizeof *sums), want = {0};
    double loss = 0;

    for (size_t row = ROWS - test_rows; row < ROWS; row++) {
        int64_t both[CLASSES] = {0}, sizes[CLASSES] = {0};
        double row_loss = 0, counted = 0;
        for (size_t i = 0; i < SPOTS; i++) {
            size_t is = masks[row * SPOTS + i], y = said(row, i);
            if ((int)is == ignore)
                continue;
            both[is] += is == y;
            sizes[is]++;
            sizes[y]++;
            want.correct += is == y;
            want.spots++;
            row_loss += ce_of(row, i);
            counted++;
        }
        loss += counted > 0 ? row_loss / counted : 0;
        for (size_t c = 0; c < CLASSES; c++) {
            want.overlap[c] += both[c];
            want.sizes[c] += sizes[c];
            want.cases[c] += sizes[c] > 0;
            want.case_dice[c] +=
                sizes[c] > 0 ? llrint(2.0 * (double)both[c] / (double)sizes[c] * ONE) : 0;
        }
    }
    cr_assert(eq(int, spoke_evaluate(net, data, SPOKE_TEST, sums, &err), TIER_OK), "%s", err.text);
    cr_expect(eq(i64, sums->count, (int64_t)test_rows));
    cr_expect(eq(i64, sums->spots, want.spots));
    cr_expect(eq(i64, sums->correct, want.correct));
    for (size_t c = 0; c < CLASSES; c++) {
        cr_expect(eq(i64, sums->overlap[c], want.overlap[c]));
        cr_expect(eq(i64, sums->sizes[c], want.sizes[c]));
        cr_expect(eq(i64, sums->cases[c], want.cases[c]));
        cr_expect(eq(i64, sums->case_dice[c], want.case_dice[c]));
    }
    if (o->loss == SPOKE_LOSS_CE)
        cr_expect(epsilon_eq(dbl, (double)sums->loss / ONE, loss, 1e-5));
    free(sums);
}

Test(spoke_eval, spots_of_masks_are_counted_by_class_and_by_case) {
    set_up_masks(mask_schema);
    for (int loss = SPOKE_LOSS_CE; loss <= SPOKE_LOSS_DICE_CE; loss++) {
        struct spoke_objective o = spoke_objective_plain((enum spoke_loss)loss);
        cr_assert(eq(int, make_net(&o), TIER_OK), "%s", err.text);
        masks_are_summed(&o, -1);
        o.has_ignore = true;
        o.ignore = 1;
        cr_assert(eq(int, make_net(&o), TIER_OK), "%s", err.text);
        masks_are_summed(&o, 1);
    }
}

Test(spoke_eval, sums_of_masks_carry_the_names_that_a_hub_knows) {
    struct spoke_objective o = spoke_objective_plain(SPOKE_LOSS_DICE_CE);
    struct spoke_sums *sums = malloc(sizeof *sums);
    struct tier_metrics *m = tier_metrics_new();
    size_t bins = 0;
    set_up_masks(mask_schema);
    cr_assert(eq(int, make_net(&o), TIER_OK), "%s", err.text);
    cr_assert(eq(int, spoke_evaluate(net, data, SPOKE_TEST, sums, &err), TIER_OK));
    cr_assert(eq(int, spoke_sums_add(sums, m, &err), TIER_OK));
    cr_expect(eq(i64, tier_metrics_scalar(m, TIER_SCORE_SPOTS), SPOTS * (int64_t)test_rows));
    cr_expect(tier_metrics_get(m, TIER_SCORE_OVERLAP, &bins) != NULL && bins == CLASSES);
    cr_expect(tier_metrics_get(m, TIER_SCORE_SQUARED, NULL) == NULL);
    cr_expect(tier_metrics_get(m, TIER_SCORE_COMPARABLE, NULL) == NULL);
    tier_metrics_free(m);
    free(sums);
}

/* Dice and CE of the first `rows` training rows as one batch, by the weights. */
static double batch_loss(const struct spoke_objective *o, const float *w, size_t rows) {
    float z[ROWS * SPOTS * CLASSES];
    double sum = 0;
    int32_t label[ROWS * SPOTS];
    for (size_t row = 0; row < rows; row++)
        for (size_t i = 0; i < SPOTS; i++) {
            label[row * SPOTS + i] = masks[row * SPOTS + i];
            for (size_t c = 0; c < CLASSES; c++)
                z[(row * SPOTS + i) * CLASSES + c] = (float)logit(row, c, i) * w[c];
        }
    for (size_t row = 0; row < rows; row++)
        sum +=
            spoke_objective_row(o, z + row * SPOTS * CLASSES, label + row * SPOTS, SPOTS, CLASSES);
    return sum / (double)rows;
}

Test(spoke_eval, gradients_of_masks_flow_through_the_net) {
    struct spoke_objective o = spoke_objective_plain(SPOKE_LOSS_DICE_CE);
    struct kern_buf *x = NULL, *target = NULL, *loss = NULL;
    float w[CLASSES] = {0.8f, 1.1f, -0.4f}, got[CLASSES], value = 0;
    const int32_t which[] = {0, 1, 2};
    int32_t words[3 * SPOTS];
    set_up_masks(mask_schema);
    cr_assert(eq(int, make_net(&o), TIER_OK), "%s", err.text);
    cr_assert(eq(sz, spoke_objective_words(&o, SPOTS), SPOTS));
    cr_assert(eq(int, spoke_net_set(net, w, &err), TIER_OK));
    spoke_objective_targets(&o, data, SPOKE_TRAIN, which, 3, NULL, words);
    kern_buf_new(dev, sizeof pictures, &x);
    kern_buf_new(dev, sizeof words, &target);
    kern_buf_new(dev, 4, &loss);
    kern_upload(x, 0, pictures, 3 * CLASSES * SPOTS * sizeof *pictures);
    kern_upload(target, 0, words, sizeof words);
    cr_assert(eq(int,
                 spoke_net_backward(net, (struct kern_vec){x, 0}, (struct kern_vec){target, 0}, 3,
                                    (struct kern_vec){loss, 0}, &err),
                 TIER_OK));
    kern_download(&value, loss, 0, 4);
    kern_download(got, spoke_net_grads(net).buf, 0, sizeof got);
    cr_expect(epsilon_eq(dbl, (double)value, batch_loss(&o, w, 3), 1e-5));
    for (size_t c = 0; c < CLASSES; c++) {
        float up[CLASSES], down[CLASSES];
        memcpy(up, w, sizeof w);
        memcpy(down, w, sizeof w);
        up[c] += 1e-2f;
        down[c] -= 1e-2f;
        double slope =
            (batch_loss(&o, up, 3) - batch_loss(&o, down, 3)) / ((double)up[c] - (double)down[c]);
        cr_expect(epsilon_eq(dbl, (double)got[c], slope, 2e-4), "class %zu", c);
    }
    kern_buf_free(x);
    kern_buf_free(target);
    kern_buf_free(loss);
}

Test(spoke_eval, masks_that_are_held_and_that_are_read_train_alike) {
    static const struct spoke_recipe sgd = {
        .optimiser = SPOKE_OPT_SGD, .lr = 0.1f, .batch = 4, .epochs = 5};
    const struct spoke_data_options demand = {.on_demand = true};
    struct spoke_objective o = spoke_objective_plain(SPOKE_LOSS_DICE_CE);
    float w[2][CLASSES], start[CLASSES] = {0.1f, 0.1f, 0.1f};
    struct spoke_train_stats stats;
    set_up_masks(mask_schema);
    o.weights_count = CLASSES;
    for (size_t c = 0; c < CLASSES; c++)
        o.class_weight[c] = (float)c + 0.5f;
    for (int read = 0; read < 2; read++) {
        cr_assert(eq(int, make_net(&o), TIER_OK), "%s", err.text);
        cr_assert(eq(int, spoke_net_set(net, start, &err), TIER_OK));
        cr_assert(eq(int, spoke_train(net, data, &sgd, 7, &stats, &err), TIER_OK), "%s", err.text);
        cr_assert(eq(int, spoke_net_get(net, w[read], &err), TIER_OK));
        spoke_data_free(data);
        char path[200];
        snprintf(path, sizeof path, "%s/a.npz", temp.folder);
        cr_assert(eq(int,
                     spoke_data_open(temp_file("s.yaml", mask_schema), path, &demand, &data, &err),
                     TIER_OK));
        cr_assert(spoke_data_x(data, SPOKE_TRAIN) == NULL);
    }
    cr_expect(memcmp(w[0], w[1], sizeof w[0]) == 0);
    cr_expect(fabs((double)w[0][0] - 0.1) > 1e-3, "it learns");
}

static void misfit(const struct spoke_objective *o, const char *why) {
    cr_assert(eq(int, make_net(o), TIER_OK), "%s", err.text);
    cr_expect(eq(int, spoke_eval_fits(net, data, &err), TIER_EDATA));
    cr_expect(strstr(err.text, why) != NULL, "'%s' for '%s'", err.text, why);
}

Test(spoke_eval, a_loss_says_what_it_needs_of_masks) {
    struct spoke_objective o = spoke_objective_plain(SPOKE_LOSS_DICE);
    set_up_masks(mask_schema);
    o.has_ignore = true;
    o.ignore = 3;
    misfit(&o, "local.ignore_class is 3: the schema's classes are 0 to 2");
    o.ignore = 2;
    cr_assert(eq(int, make_net(&o), TIER_OK));
    cr_expect(eq(int, spoke_eval_fits(net, data, &err), TIER_OK), "%s", err.text);
    o.weights_count = 2;
    o.class_weight[0] = o.class_weight[1] = 1;
    cr_expect(eq(int, make_net(&o), TIER_EMODEL));
    cr_expect(strstr(err.text, "local.class_weights has 2 numbers: the model has 3") != NULL);
    o = spoke_objective_plain(SPOKE_LOSS_MSE);
    cr_expect(eq(int, make_net(&o), TIER_EMODEL));
    cr_expect(strstr(err.text, "the model has 18 outputs: mse takes one") != NULL, "%s", err.text);
}

Test(spoke_eval, the_last_class_may_be_ignored_without_an_output) {
    static char schema[600];
    struct spoke_objective o = spoke_objective_plain(SPOKE_LOSS_CE);
    const char *at = strstr(mask_schema, "spleen");
    snprintf(schema, sizeof schema, "%.*sspleen, unknown%s", (int)(at - mask_schema), mask_schema,
             at + strlen("spleen"));
    set_up_masks(schema);
    misfit(&o, "the schema's target has 4 classes: the model takes 3");
    o.has_ignore = true;
    o.ignore = 3;
    cr_assert(eq(int, make_net(&o), TIER_OK), "%s", err.text);
    cr_expect(eq(int, spoke_eval_fits(net, data, &err), TIER_OK), "%s", err.text);
}

/* ---- values and survival --------------------------------------------------------------------- */

/* One feature and a weight, or a weight and a bias; rows "x,v,died,set". */
static void set_up_table(const char *target, const char *csv, bool bias) {
    static struct onnx_msg g;
    float *start = calloc(2, sizeof *start);
    char schema[512];
    start[0] = 1;
    g.n = 0;
    onnx_add_value(&g, 11, "x", 0, 1);
    onnx_add_value(&g, 12, "y", 0, 1);
    onnx_add_tensor(&g, "w", 1, 1, start);
    if (bias)
        onnx_add_tensor(&g, "b", 1, 0, start + 1);
    free(start);
    onnx_add_node(&g, "Gemm", bias ? "x w b" : "x w", "y");
    open_model(&g);
    snprintf(schema, sizeof schema,
             "columns:\n  - {name: x, type: number}\n%s  - {name: set, type: split}\n"
             "split: {by: column}\n",
             target);
    cr_assert(
        eq(int,
           spoke_data_open(temp_file("s.yaml", schema), temp_file("t.csv", csv), NULL, &data, &err),
           TIER_OK),
        "%s", err.text);
}

#define VALUE "  - {name: v, type: target, value: true}\n"
#define IGNORED "  - {name: died, type: ignore}\n"
#define EVENT "  - {name: died, type: event, categories: [alive, dead]}\n"

Test(spoke_eval, errors_of_values_are_summed_and_lessened) {
    static const struct spoke_recipe sgd = {
        .optimiser = SPOKE_OPT_SGD, .lr = 0.2f, .batch = 64, .steps = 400};
    struct spoke_objective o = spoke_objective_plain(SPOKE_LOSS_MSE);
    struct spoke_sums *sums = malloc(sizeof *sums);
    struct spoke_train_stats stats;
    char csv[8192];
    double squared = 0, absolute = 0, sx = 0, sy = 0, sxx = 0, sxy = 0, n = 0;
    float w[2];
    size_t at = (size_t)snprintf(csv, sizeof csv, "x,v,died,set\n");
    for (int i = 0; i < 80; i++) {
        float x = (float)pseudo(i), v = 2 * x - 3 + (float)pseudo(i + 500) / 4;
        at += (size_t)snprintf(csv + at, sizeof csv - at, "%.9g,%.9g,alive,%s\n", (double)x,
                               (double)v, i % 5 ? "train" : "test");
        double d = (double)x - (double)v; /* the model begins as the identity */
        squared += i % 5 ? 0 : d * d;
        absolute += i % 5 ? 0 : fabs(d);
        if (i % 5) {
            n++;
            sx += (double)x;
            sy += (double)v;
            sxx += (double)x * (double)x;
            sxy += (double)x * (double)v;
        }
    }
    set_up_table(VALUE IGNORED, csv, true);
    for (int loss = SPOKE_LOSS_L1; loss >= SPOKE_LOSS_MSE; loss--) {
        o.loss = (enum spoke_loss)loss;
        cr_assert(eq(int, spoke_net_new_for(dev, graph, &o, 64, &net, &err), TIER_OK));
        cr_assert(eq(int, spoke_evaluate(net, data, SPOKE_TEST, sums, &err), TIER_OK));
        cr_expect(eq(i64, sums->count, 16));
        cr_expect(epsilon_eq(dbl, (double)sums->squared / ONE, squared, 1e-4));
        cr_expect(epsilon_eq(dbl, (double)sums->absolute / ONE, absolute, 1e-4));
        cr_expect(epsilon_eq(dbl, (double)sums->loss / ONE,
                             loss == SPOKE_LOSS_MSE ? squared : absolute, 1e-4));
        if (loss == SPOKE_LOSS_L1) {
            spoke_net_free(net);
            net = NULL;
        }
    }
    cr_assert(eq(int, spoke_train(net, data, &sgd, 3, &stats, &err), TIER_OK), "%s", err.text);
    cr_assert(eq(int, spoke_net_get(net, w, &err), TIER_OK));
    double slope = (n * sxy - sx * sy) / (n * sxx - sx * sx);
    cr_expect(epsilon_eq(dbl, (double)w[0], slope, 1e-4), "least squares");
    cr_expect(epsilon_eq(dbl, (double)w[1], (sy - slope * sx) / n, 1e-4));
    free(sums);
}

Test(spoke_eval, a_target_in_units_too_large_to_be_summed_is_refused) {
    struct spoke_objective o = spoke_objective_plain(SPOKE_LOSS_MSE);
    struct spoke_sums *sums = malloc(sizeof *sums);
    static char csv[200000];
    size_t at = (size_t)snprintf(csv, sizeof csv, "x,v,died,set\n");
    for (int i = 0; i < 4000; i++)
        at += (size_t)snprintf(csv + at, sizeof csv - at, "0,%d,alive,test\n", 5000 + i);
    set_up_table(VALUE IGNORED, csv, true);
    cr_assert(eq(int, make_net(&o), TIER_OK), "%s", err.text);
    cr_expect(eq(int, spoke_evaluate(net, data, SPOKE_TEST, sums, &err), TIER_EDATA));
    cr_expect(strstr(err.text, "the errors are too large to be summed") != NULL, "%s", err.text);
    free(sums);
}

enum { PATIENTS = 60 };

static struct { double hazard, time, event; } patient[PATIENTS];

static void set_up_survival(void) {
    static char csv[8192];
    size_t at = (size_t)snprintf(csv, sizeof csv, "x,v,died,set\n");
    for (int i = 0; i < PATIENTS; i++) { /* hazards and times with ties, half censored */
        patient[i].hazard = floor(pseudo(i) * 4) / 4;
        patient[i].time = floor(6 - patient[i].hazard + pseudo(i + 900));
        patient[i].event = i % 2;
        for (int part = 0; part < 2; part++)
            at += (size_t)snprintf(csv + at, sizeof csv - at, "%g,%g,%s,%s\n", patient[i].hazard,
                                   patient[i].time, i % 2 ? "dead" : "alive",
                                   part ? "train" : "test");
    }
    set_up_table(VALUE EVENT, csv, false);
}

/* Minus log partial likelihood, a mean over events, of hazards times w. */
static double cox_of(double w) {
    double sum = 0, events = 0;
    for (int i = 0; i < PATIENTS; i++) {
        double risk = 0;
        for (int j = 0; j < PATIENTS; j++)
            risk += patient[j].time >= patient[i].time ? exp(w * patient[j].hazard) : 0;
        sum += patient[i].event * (log(risk) - w * patient[i].hazard);
        events += patient[i].event;
    }
    return sum / events;
}

Test(spoke_eval, pairs_of_patients_are_compared_as_harrell_has_it) {
    struct spoke_objective o = spoke_objective_plain(SPOKE_LOSS_COX);
    struct spoke_sums *sums = malloc(sizeof *sums);
    int64_t pairs = 0, halves = 0, events = 0;
    set_up_survival();
    for (int i = 0; i < PATIENTS; i++) {
        events += patient[i].event > 0;
        for (int j = 0; j < PATIENTS; j++) {
            bool later = patient[j].time > patient[i].time ||
                         (patient[j].time == patient[i].time && patient[j].event == 0);
            if (patient[i].event == 0 || !later)
                continue;
            pairs++;
            halves += patient[i].hazard > patient[j].hazard    ? 2
                      : patient[i].hazard == patient[j].hazard ? 1
                                                               : 0;
        }
    }
    cr_assert(eq(int, make_net(&o), TIER_OK), "%s", err.text);
    cr_assert(eq(int, spoke_evaluate(net, data, SPOKE_TEST, sums, &err), TIER_OK), "%s", err.text);
    cr_expect(eq(i64, sums->count, PATIENTS));
    cr_expect(eq(i64, sums->events, events));
    cr_expect(eq(i64, sums->comparable, pairs));
    cr_expect(eq(i64, sums->concordant, halves));
    cr_expect(halves > pairs, "the hazards mean something");
    cr_expect(epsilon_eq(dbl, (double)sums->loss / ONE, cox_of(1) * (double)events, 1e-3));
    free(sums);
}

Test(spoke_eval, coxs_model_is_trained_to_its_optimum) {
    static const struct spoke_recipe sgd = {
        .optimiser = SPOKE_OPT_SGD, .lr = 0.5f, .batch = PATIENTS, .steps = 300};
    struct spoke_objective o = spoke_objective_plain(SPOKE_LOSS_COX);
    struct spoke_train_stats stats;
    float w = 0, fisher;
    set_up_survival();
    cr_assert(eq(int, spoke_net_new_for(dev, graph, &o, PATIENTS, &net, &err), TIER_OK));
    cr_assert(eq(int, spoke_net_set(net, &w, &err), TIER_OK));
    cr_assert(eq(int, spoke_train(net, data, &sgd, 3, &stats, &err), TIER_OK), "%s", err.text);
    cr_assert(eq(int, spoke_net_get(net, &w, &err), TIER_OK));
    cr_expect(w > 0.1f);
    double slope = (cox_of((double)w + 1e-4) - cox_of((double)w - 1e-4)) / 2e-4;
    cr_expect(fabs(slope) < 1e-4, "the slope at %g is %g", (double)w, slope);
    cr_expect(eq(int, spoke_fisher(net, data, 0, 1, &fisher, &err), TIER_EPLAN));
}

Test(spoke_eval, a_loss_says_what_it_needs_of_a_table) {
    static const struct {
        enum spoke_loss loss;
        const char *columns, *why; /* NULL: it fits */
    } cases[] = {
        {SPOKE_LOSS_MSE, VALUE IGNORED, NULL},
        {SPOKE_LOSS_COX, VALUE EVENT, NULL},
        {SPOKE_LOSS_MSE, VALUE EVENT, "mse, which needs a value"},
        {SPOKE_LOSS_COX, VALUE IGNORED, "cox, which needs a time and an event"},
        {SPOKE_LOSS_BCE, VALUE IGNORED, "bce, which needs a class of each row"},
        {SPOKE_LOSS_BCE, "  - {name: v, type: target, positive_above: 0}\n" IGNORED, NULL},
        {SPOKE_LOSS_L1, "  - {name: v, type: target, positive_above: 0}\n" IGNORED,
         "l1, which needs a value"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct spoke_objective o = spoke_objective_plain(cases[i].loss);
        set_up_table(cases[i].columns, "x,v,died,set\n1,2,dead,train\n2,1,alive,test\n", false);
        if (cases[i].why) {
            misfit(&o, cases[i].why);
        } else {
            cr_assert(eq(int, make_net(&o), TIER_OK), "%s", err.text);
            cr_expect(eq(int, spoke_eval_fits(net, data, &err), TIER_OK), "%s", err.text);
        }
        tear_down();
        data = NULL;
        net = NULL;
        graph = NULL;
        dev = NULL;
    }
}

/* The same rows and sums as spoke/python/tests/test_metrics.py has. */
Test(spoke_eval, rows_of_the_ignored_class_count_nothing) {
    static const float z[5][2] = {{2, 0}, {0, 1}, {3, 1}, {0, 2}, {1, 0}};
    static const int32_t label[5] = {0, 2, 1, 1, 2};
    struct spoke_objective o = spoke_objective_plain(SPOKE_LOSS_CE);
    struct spoke_sums *sums = calloc(2, sizeof *sums);
    o.has_ignore = true;
    o.ignore = 2;
    for (size_t i = 0; i < 5; i++)
        spoke_score_row(&sums[0], &o, z[i], &label[i], NULL, 1, 2);
    cr_expect(sums[0].count == 3 && sums[0].spots == 3 && sums[0].correct == 2);
    cr_expect(eq(i64, sums[0].loss,
                 2 * tier_score_loss_fixed(log1p(exp(-2))) + tier_score_loss_fixed(log1p(exp(2)))));
    /* Of a mask a row counts as long as one of its spots does. */
    spoke_score_row(&sums[1], &o, z[0], (const int32_t[]){2, 1}, NULL, 2, 2);
    spoke_score_row(&sums[1], &o, z[0], (const int32_t[]){2, 2}, NULL, 2, 2);
    cr_expect(sums[1].count == 1 && sums[1].spots == 1 && sums[1].correct == 1);
    free(sums);
}
