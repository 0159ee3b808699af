/* SPDX-License-Identifier: Apache-2.0 */
/* Gradients sample by sample, against PyTorch's of each row alone (make_sample_golden.py). */
#include "spoke/net.h"
#include "support/onnx_writer.h"
#include "tests/support/net_golden.h"

#include <dirent.h>

#define TOLERANCE 1e-5
#define HIPPOCAMPUS CONSILIUM_SOURCE_DIR "/deploy/examples/hippocampus/model.onnx"

static struct tier_err err;
static struct kern_device *dev;

static void set_up(void) {
    kern_init(NULL);
    cr_assert(eq(int, kern_device_open("cpu", 2, &dev), KERN_OK));
}

static void tear_down(void) {
    kern_device_close(dev);
}

TestSuite(spoke_samples, .init = set_up, .fini = tear_down);

/* A model of tests/golden/net with its batch on the device. */
struct model {
    struct golden g;
    struct tier_graph *graph;
    struct spoke_net *net;
    struct kern_vec x, target, norms, loss;
    size_t rows, elements;
};

static struct model open_model(const char *name) {
    struct model m = {0};
    static const float zero;
    char path[512];
    open_golden(name, &m.g);
    snprintf(path, sizeof path, "%s/%s.onnx", NET_GOLDEN, name);
    m.rows = (size_t)m.g.rows;
    cr_assert(tier_graph_open(path, &m.graph, &err) == TIER_OK, "%s", err.text);
    cr_assert(spoke_net_new(dev, m.graph, m.g.loss == 0 ? SPOKE_LOSS_BCE : SPOKE_LOSS_CE, m.rows,
                            &m.net, &err) == TIER_OK);
    m.elements = spoke_net_elements(m.net);
    m.x = put(dev, m.g.x, (size_t)m.g.x_count * 4);
    m.target = put(dev, m.g.target, (size_t)m.g.targets * 4);
    m.loss = put(dev, &zero, sizeof zero);
    float *norms = calloc(m.rows, sizeof *norms);
    m.norms = put(dev, norms, m.rows * sizeof *norms);
    free(norms);
    return m;
}

static void close_model(struct model *m) {
    kern_buf_free(m->x.buf);
    kern_buf_free(m->target.buf);
    kern_buf_free(m->norms.buf);
    kern_buf_free(m->loss.buf);
    spoke_net_free(m->net);
    tier_graph_free(m->graph);
    close_golden(&m->g);
}

static enum tier_status samples(struct model *m, float clip) {
    kern_zero(m->loss.buf, 0, sizeof(float));
    return spoke_net_backward_samples(m->net, m->x, m->target, m->rows, clip, m->norms, m->loss,
                                      &err);
}

static float *fetch(struct kern_vec v, size_t n) {
    float *out = malloc(n * sizeof *out);
    cr_assert(kern_download(out, v.buf, v.at * sizeof *out, n * sizeof *out) == KERN_OK);
    return out;
}

static void check(const char *name) {
    struct model m = open_model(name);
    char path[512];
    int32_t counts[2];
    double clip;
    snprintf(path, sizeof path, "%s/%s.samples", NET_GOLDEN, name);
    FILE *f = fopen(path, "rb");
    cr_assert(f != NULL, "%s", path);
    take(f, counts, sizeof counts);
    take(f, &clip, sizeof clip);
    cr_assert(eq(int, counts[0], m.g.rows));
    double *want = malloc(m.rows * sizeof *want);
    take(f, want, m.rows * sizeof *want);
    for (int again = 0; again < 2; again++)
        cr_assert(samples(&m, (float)clip) == TIER_OK, "%s: %s", name, err.text);
    float *norms = fetch(m.norms, m.rows), *grads = fetch(spoke_net_grads(m.net), m.elements);
    float *loss = fetch(m.loss, 1);
    for (size_t i = 0; i < m.rows; i++)
        cr_expect(fabs((double)norms[i] - want[i]) <= TOLERANCE * want[i],
                  "%s, row %zu: %g, not %g", name, i, (double)norms[i], want[i]);
    cr_expect(fabs((double)*loss - m.g.loss_value) <= TOLERANCE * fabs(m.g.loss_value), "%s", name);
    double largest = norm(grads, NULL, spoke_net_trained(m.net));
    for (int32_t i = 0, len, n; i < counts[1]; i++) {
        char param[256] = "";
        take(f, &len, sizeof len);
        cr_assert(len > 0 && len < 256);
        take(f, param, (size_t)len);
        take(f, &n, sizeof n);
        float *theirs = malloc((size_t)n * sizeof *theirs);
        take(f, theirs, (size_t)n * sizeof *theirs);
        const struct tier_graph_param *p = find(m.graph, param);
        cr_assert(p != NULL && p->elements == (uint64_t)n, "%s: '%s'", name, param);
        cr_expect(norm(grads + p->at, theirs, (size_t)n) <=
                      TOLERANCE * norm(theirs, NULL, (size_t)n) + 1e-6 * largest,
                  "%s: '%s'", name, param);
        free(theirs);
    }
    fclose(f);
    free(want);
    free(norms);
    free(grads);
    free(loss);
    close_model(&m);
}

Test(spoke_samples, norms_and_clipped_sums_are_pytorchs) {
    size_t models = 0;
    DIR *d = opendir(NET_GOLDEN);
    cr_assert(d != NULL, "%s", NET_GOLDEN);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        char *dot = strrchr(e->d_name, '.');
        if (!dot || strcmp(dot, ".samples") != 0)
            continue;
        *dot = '\0';
        check(e->d_name);
        models++;
    }
    closedir(d);
    cr_expect(eq(sz, models, 10));
}

/* How far both ways are apart: of norms, each, and of the sum, relative to its own. */
static void both_ways(struct model *m, const char *name, float clip, size_t expected) {
    spoke_net_seed(m->net, 7);
    spoke_net_samples_force(m->net, true);
    cr_assert(samples(m, clip) == TIER_OK, "%s: %s", name, err.text);
    cr_expect(eq(sz, spoke_net_samples_at_once(m->net), expected), "%s", name);
    float *norms = fetch(m->norms, m->rows), *sum = fetch(spoke_net_grads(m->net), m->elements);
    float *loss = fetch(m->loss, 1);
    spoke_net_seed(m->net, 7);
    spoke_net_samples_force(m->net, false);
    cr_assert(samples(m, clip) == TIER_OK, "%s: %s", name, err.text);
    cr_expect(eq(sz, spoke_net_samples_at_once(m->net), 1));
    float *norms_1 = fetch(m->norms, m->rows), *sum_1 = fetch(spoke_net_grads(m->net), m->elements);
    float *loss_1 = fetch(m->loss, 1);
    for (size_t i = 0; i < m->rows; i++)
        cr_expect(fabs((double)norms[i] - (double)norms_1[i]) <= 1e-6 * (double)norms_1[i],
                  "%s, row %zu: %.9g and %.9g", name, i, (double)norms[i], (double)norms_1[i]);
    size_t trained = spoke_net_trained(m->net);
    cr_expect(norm(sum, sum_1, trained) <= 1e-6 * norm(sum_1, NULL, trained), "%s: %.1e", name,
              norm(sum, sum_1, trained) / norm(sum_1, NULL, trained));
    cr_expect(fabs((double)*loss - (double)*loss_1) <= 1e-6 * (double)*loss_1, "%s", name);
    free(norms);
    free(norms_1);
    free(sum);
    free(sum_1);
    free(loss);
    free(loss_1);
}

/* Of 3 rows 2 go together, and then 1 with one that has been; of 8, all. */
Test(spoke_samples, rows_together_give_what_each_gives_alone) {
    /* These read a parameter twice, which norms of single steps say nothing of. */
    static const char *const alone[] = {"div", "expand"};
    size_t models = 0;
    DIR *d = opendir(NET_GOLDEN);
    cr_assert(d != NULL, "%s", NET_GOLDEN);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        char *dot = strrchr(e->d_name, '.');
        if (!dot || strcmp(dot, ".onnx") != 0 || strncmp(e->d_name, "batch-norm", 10) == 0)
            continue;
        *dot = '\0';
        struct model m = open_model(e->d_name);
        size_t expected = m.rows == 8 ? 8 : 2;
        for (size_t i = 0; i < sizeof alone / sizeof alone[0]; i++)
            expected = strcmp(e->d_name, alone[i]) == 0 ? 1 : expected;
        both_ways(&m, e->d_name, 0.5f, expected);
        close_model(&m);
        models++;
    }
    closedir(d);
    cr_expect(models > 40, "%zu models", models);
}

/* x[N,2] -> nodes of "operator inputs > outputs; ..." with w[2,2] and b[2] -> y[N,2], three rows.
 */
static struct model drawn_model(const char *nodes) {
    static const float values[] = {1, -2, 3, 0.5f, 5, -6}, zeros[3];
    static const float x[] = {0.3f, -1, 2, 0.7f, -0.4f, 0.9f};
    static const int32_t target[] = {1, 0, 1};
    static struct onnx_msg graph, file;
    struct model m = {.rows = 3};
    char text[512];
    graph.n = 0;
    onnx_add_value(&graph, 11, "x", 0, 2);
    onnx_add_value(&graph, 12, "y", 0, 2);
    onnx_add_tensor(&graph, "w", 2, 2, values);
    onnx_add_tensor(&graph, "b", 2, 0, values + 4);
    snprintf(text, sizeof text, "%s", nodes);
    char *kept = NULL;
    for (char *node = strtok_r(text, ";", &kept); node; node = strtok_r(NULL, ";", &kept)) {
        char *gives = strchr(node, '>'), *takes = strchr(node, ' ');
        *gives = *takes = '\0';
        onnx_add_node(&graph, node, takes + 1, gives + 1);
    }
    onnx_model(&file, &graph, 13);
    cr_assert(tier_graph_parse(file.b, file.n, &m.graph, &err) == TIER_OK, "%s", err.text);
    cr_assert(spoke_net_new(dev, m.graph, SPOKE_LOSS_CE, m.rows, &m.net, &err) == TIER_OK, "%s",
              err.text);
    m.elements = spoke_net_elements(m.net);
    m.x = put(dev, x, sizeof x);
    m.target = put(dev, target, sizeof target);
    m.norms = put(dev, zeros, sizeof zeros);
    m.loss = put(dev, zeros, sizeof *zeros);
    return m;
}

static void close_drawn(struct model *m) {
    kern_buf_free(m->x.buf);
    kern_buf_free(m->target.buf);
    kern_buf_free(m->norms.buf);
    kern_buf_free(m->loss.buf);
    spoke_net_free(m->net);
    tier_graph_free(m->graph);
}

static void drawn_both_ways(const char *nodes, size_t expected) {
    struct model m = drawn_model(nodes);
    both_ways(&m, nodes, 2.0f, expected);
    close_drawn(&m);
}

Test(spoke_samples, rows_go_together_where_that_is_less_work) {
    struct model m = open_model("mlp");
    cr_assert(samples(&m, 1) == TIER_OK, "%s", err.text);
    cr_expect(eq(sz, spoke_net_samples_at_once(m.net), 8));
    close_model(&m);
    /* A U-Net: few weights, many places. */
    m = (struct model){.rows = 2};
    cr_assert(tier_graph_open(HIPPOCAMPUS, &m.graph, &err) == TIER_OK, "%s", err.text);
    cr_assert(spoke_net_new(dev, m.graph, SPOKE_LOSS_CE, m.rows, &m.net, &err) == TIER_OK, "%s",
              err.text);
    size_t words = m.rows * spoke_net_features(m.net);
    float *zeros = calloc(words, sizeof *zeros);
    m.x = put(dev, zeros, words * sizeof *zeros);
    m.target = put(dev, zeros, words * sizeof *zeros);
    m.norms = put(dev, zeros, m.rows * sizeof *zeros);
    m.loss = put(dev, zeros, sizeof *zeros);
    free(zeros);
    cr_assert(samples(&m, 1) == TIER_OK, "%s", err.text);
    cr_expect(eq(sz, spoke_net_samples_at_once(m.net), 1));
    close_drawn(&m);
}

Test(spoke_samples, a_row_draws_the_same_alone_and_with_others) {
    drawn_both_ways("Dropout x>d;Gemm d w b>y", 2);
}

Test(spoke_samples, a_weight_that_is_turned_first_has_the_norm_that_it_has) {
    drawn_both_ways("Transpose w>t;MatMul x t>p;Add p b>y", 2);
}

Test(spoke_samples, rows_that_a_graph_mixes_go_alone) {
    drawn_both_ways("ReduceMean x>m;Sub x m>c;Gemm c w b>y", 1);
    drawn_both_ways("Transpose x>t;MatMul x t>s;MatMul s x>g;Gemm g w b>y", 1);
}

Test(spoke_samples, a_parameter_that_is_read_twice_makes_rows_go_alone) {
    drawn_both_ways("Gemm x w b>h;Gemm h w>y", 1);
    drawn_both_ways("Gemm x w b>h;Add h b>y", 1);
}

Test(spoke_samples, what_nothing_cuts_is_the_batchs_gradient_times_its_rows) {
    struct model m = open_model("mlp");
    cr_assert(samples(&m, 1e6f) == TIER_OK, "%s", err.text);
    float *sum = fetch(spoke_net_grads(m.net), m.elements);
    cr_assert(spoke_net_backward(m.net, m.x, m.target, m.rows, m.loss, &err) == TIER_OK);
    float *mean = fetch(spoke_net_grads(m.net), m.elements);
    for (size_t i = 0; i < m.elements; i++)
        mean[i] *= (float)m.rows;
    cr_expect(norm(sum, mean, m.elements) <= TOLERANCE * norm(mean, NULL, m.elements));
    free(sum);
    free(mean);
    close_model(&m);
}

Test(spoke_samples, no_sum_is_longer_than_rows_times_the_clipping_norm) {
    struct model m = open_model("mlp");
    cr_assert(samples(&m, 1e-3f) == TIER_OK, "%s", err.text);
    float *sum = fetch(spoke_net_grads(m.net), m.elements);
    double got = norm(sum, NULL, m.elements);
    cr_expect(got > 0 && got <= 1.0001e-3 * (double)m.rows, "%g", got);
    free(sum);
    close_model(&m);
}

/* x[N,2,8] -> a = x w; of all its numbers one logit, whose gradient at the second place is that at
 * the first times -(1 + apart): the places' parts of w's gradient cancel. */
static struct model places_model(float scale, float apart, bool turned) {
    static const int64_t row[] = {2, 8}, flat[] = {0, 16}, one[] = {1};
    static const float zeros[4], target[] = {0.5f, 0.5f, 0.5f, 0.5f};
    static struct onnx_msg graph, file;
    struct model m = {.rows = 4};
    float w[64], v[16], x[64];
    graph.n = 0;
    onnx_add_rows(&graph, 11, "x", 2, row, 1);
    onnx_add_rows(&graph, 12, "y", 1, one, 1);
    for (int i = 0; i < 64; i++) {
        w[i] = sinf((float)(3 * i + 1)) / scale;
        x[i] = scale * sinf((float)(3 * (i / 16) + i % 8 + 1)); /* both places alike */
    }
    for (int i = 0; i < 8; i++) {
        v[i] = scale * cosf((float)(2 * i));
        v[8 + i] = -v[i] * (1 + apart);
    }
    onnx_add_tensor(&graph, "w", 8, 8, w);
    onnx_add_tensor(&graph, "v", 16, 1, v);
    onnx_add_tensor(&graph, "c", 1, 0, zeros);
    onnx_add_ints(&graph, "flat", 2, flat);
    if (turned)
        onnx_add_node(&graph, "Transpose", "w", "t");
    onnx_add_node(&graph, "MatMul", turned ? "x t" : "x w", "a");
    onnx_add_node(&graph, "Reshape", "a flat", "f");
    onnx_add_node(&graph, "Gemm", "f v c", "y");
    onnx_model(&file, &graph, 13);
    cr_assert(tier_graph_parse(file.b, file.n, &m.graph, &err) == TIER_OK, "%s", err.text);
    cr_assert(spoke_net_new(dev, m.graph, SPOKE_LOSS_BCE, m.rows, &m.net, &err) == TIER_OK, "%s",
              err.text);
    m.elements = spoke_net_elements(m.net);
    m.x = put(dev, x, sizeof x);
    m.target = put(dev, target, sizeof target);
    m.norms = put(dev, zeros, sizeof zeros);
    m.loss = put(dev, zeros, sizeof *zeros);
    return m;
}

Test(spoke_samples, rows_of_several_places_together_give_what_each_gives_alone) {
    for (int turned = 0; turned < 2; turned++) {
        static const float target[] = {-1, -1, -1, -1}; /* so that no logit's gradient cancels */
        struct model m = places_model(1, 1, turned == 1);
        cr_assert(kern_upload(m.target.buf, 0, target, sizeof target) == KERN_OK);
        both_ways(&m, turned ? "turned" : "as it is", 0.5f, 4);
        close_drawn(&m);
    }
}

/* Four rows that are one and the same move the sum by four times what each may. */
Test(spoke_samples, no_row_adds_more_than_the_clipping_norm_where_its_places_cancel) {
    static const float apart[] = {1e-2f, 1e-4f, 1e-6f, 1e-7f, 0};
    for (size_t i = 0; i < 2 * sizeof apart / sizeof apart[0]; i++) {
        struct model m = places_model(1000, apart[i / 2], false);
        float *x = fetch(m.x, 64);
        for (int r = 0; r < 4; r++)
            for (int k = 0; k < 16; k++)
                x[16 * r + k] = x[k];
        cr_assert(kern_upload(m.x.buf, 0, x, 64 * sizeof *x) == KERN_OK);
        spoke_net_samples_force(m.net, i % 2 == 0);
        cr_assert(samples(&m, 1) == TIER_OK, "%s", err.text);
        cr_expect(eq(sz, spoke_net_samples_at_once(m.net), i % 2 == 0 ? 4 : 1));
        float *sum = fetch(spoke_net_grads(m.net), m.elements);
        double got = norm(sum, NULL, m.elements);
        cr_expect(got <= 4 * 1.001 && (got > 0 || apart[i / 2] < 1e-5f), "%g apart: %g",
                  (double)apart[i / 2], got);
        free(sum);
        free(x);
        close_drawn(&m);
    }
}

/* Inputs whose squares are 0 in float32, and gradients that are as large as those are small. */
Test(spoke_samples, a_norm_whose_squares_are_lost_still_cuts) {
    static const float x[] = {1e-23f, -1e-23f, 1e-23f, 1e-23f, -1e-23f, 1e-23f};
    static const float w[] = {1, -2, 3, 0.5f, 1e19f, -1e19f};
    struct model m = drawn_model("MatMul x w>h;Mul h b>y");
    cr_assert(spoke_net_set(m.net, w, &err) == TIER_OK, "%s", err.text);
    cr_assert(kern_upload(m.x.buf, 0, x, sizeof x) == KERN_OK);
    for (int together = 0; together < 2; together++) {
        spoke_net_samples_force(m.net, together == 1);
        cr_assert(samples(&m, 1e-5f) == TIER_OK, "%s", err.text);
        cr_expect(eq(sz, spoke_net_samples_at_once(m.net), together ? 2 : 1));
        float *sum = fetch(spoke_net_grads(m.net), m.elements);
        double got = norm(sum, NULL, m.elements);
        cr_expect(got > 0 && got <= 3 * 1.001e-5, "%g", got);
        free(sum);
    }
    close_drawn(&m);
}

/* Of rows that have no finite gradient nothing is left: not in the sum, and not in the loss. */
Test(spoke_samples, a_row_that_is_not_finite_adds_exactly_nothing) {
    static const float bad[] = {200, INFINITY, NAN};
    for (size_t i = 0; i < 2 * sizeof bad / sizeof bad[0]; i++) {
        struct model m = drawn_model("Exp x>e;Gemm e w b>y");
        float *x = fetch(m.x, 6), *sums[2], *losses[2];
        spoke_net_samples_force(m.net, i % 2 == 0);
        x[2] = bad[i / 2]; /* of the second row */
        cr_assert(kern_upload(m.x.buf, 0, x, 6 * sizeof *x) == KERN_OK);
        for (int without = 0; without < 2; without++) {
            int32_t labels[] = {1, 0, 1};
            if (without) { /* the same rows without it, each alone */
                spoke_net_samples_force(m.net, false);
                x[2] = x[4];
                x[3] = x[5];
                labels[1] = 1;
                cr_assert(kern_upload(m.x.buf, 0, x, 6 * sizeof *x) == KERN_OK);
                cr_assert(kern_upload(m.target.buf, 0, labels, sizeof labels) == KERN_OK);
                m.rows = 2;
            }
            cr_assert(samples(&m, 1) == TIER_OK, "%s", err.text);
            sums[without] = fetch(spoke_net_grads(m.net), m.elements);
            losses[without] = fetch(m.loss, 1);
        }
        cr_expect(isfinite(*losses[1]) && *losses[0] == *losses[1], "%g, %g", (double)*losses[0],
                  (double)*losses[1]);
        cr_expect(memcmp(sums[0], sums[1], m.elements * sizeof(float)) == 0, "%g",
                  (double)bad[i / 2]);
        for (int without = 0; without < 2; without++) {
            free(sums[without]);
            free(losses[without]);
        }
        free(x);
        close_drawn(&m);
    }
}

Test(spoke_samples, what_is_frozen_counts_in_no_norm) {
    struct model m = open_model("mlp");
    size_t params = tier_graph_param_count(m.graph), last = params - 1;
    bool *frozen = calloc(params, sizeof *frozen);
    for (size_t i = 0; i < last; i++)
        frozen[i] = true;
    cr_assert(spoke_net_freeze(m.net, frozen, &err) == TIER_OK, "%s", err.text);
    const struct tier_graph_param *p = tier_graph_param(m.graph, last);
    cr_assert(samples(&m, 1e6f) == TIER_OK, "%s", err.text);
    float *norms = fetch(m.norms, m.rows);
    for (size_t i = 0; i < m.rows; i++) {
        struct kern_vec x = m.x, t = m.target;
        x.at += i * spoke_net_features(m.net);
        t.at += i;
        cr_assert(spoke_net_backward(m.net, x, t, 1, m.loss, &err) == TIER_OK);
        float *g = fetch(spoke_net_grads(m.net), m.elements);
        double want = norm(g + p->at, NULL, p->elements);
        cr_expect(fabs((double)norms[i] - want) <= 1e-6 * want, "row %zu", i);
        free(g);
    }
    free(norms);
    free(frozen);
    close_model(&m);
}

Test(spoke_samples, a_model_whose_rows_are_not_alone_is_refused_with_the_reason) {
    struct model m = open_model("batch-norm1d");
    cr_expect(eq(int, samples(&m, 1), TIER_EMODEL));
    cr_expect(strstr(err.text, "is a BatchNormalization") != NULL, "%s", err.text);
    close_model(&m);
    m = open_model("mlp-bce"); /* one output, which Cox's loss takes too */
    spoke_net_free(m.net);
    cr_assert(spoke_net_new(dev, m.graph, SPOKE_LOSS_COX, m.rows, &m.net, &err) == TIER_OK, "%s",
              err.text);
    cr_expect(eq(int, samples(&m, 1), TIER_EMODEL));
    cr_expect(strstr(err.text, "Cox") != NULL, "%s", err.text);
    close_model(&m);
    m = open_model("mlp");
    cr_expect(eq(int, samples(&m, 0), TIER_EARG));
    cr_expect(eq(int, samples(&m, INFINITY), TIER_EARG));
    m.rows++;
    cr_expect(eq(int, samples(&m, 1), TIER_EARG));
    m.rows--;
    close_model(&m);
}
