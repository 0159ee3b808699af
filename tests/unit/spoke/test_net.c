/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Gradients against central differences of a second implementation: the same graph walked here in
 * double, one row at a time. A float gradient then differs by rounding only, so 1e-4 of its size
 * (and 1e-6 around zero) is generous for these widths, and far below any wrong term.
 */
#include "spoke/net.h"
#include "tests/support/onnx_writer.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>

#define ROWS 5
#define COLS_MAX 8

static struct onnx_msg graph, model, node;
static struct tier_err err;
static struct kern_device *dev;

static void open_cpu(void) {
    kern_init(NULL);
    cr_assert(eq(int, kern_device_open("cpu", 1, &dev), KERN_OK));
}

static void close_cpu(void) {
    kern_device_close(dev);
}

TestSuite(spoke_net, .init = open_cpu, .fini = close_cpu);

static struct tier_graph *parse(void) {
    struct tier_graph *g = NULL;
    onnx_model(&model, &graph, 13);
    cr_assert(eq(int, tier_graph_parse(model.b, model.n, &g, &err), TIER_OK), "%s", err.text);
    return g;
}

/* Small, different everywhere, and away from the kink of Relu. */
static float wave(int i) {
    return 0.6f * sinf(1.7f * (float)i + 0.3f);
}

static void tensor(const char *name, int rows, int cols) {
    float v[64];
    static int phase;
    for (int i = 0; i < rows * (cols ? cols : 1); i++)
        v[i] = wave(++phase);
    onnx_add_tensor(&graph, name, rows, cols, v);
}

/* Every operator, both ways to multiply, a scaled Gemm, an Identity, a residual and a tied weight.
 */
static void begin_everything(int outputs) {
    graph.n = 0;
    onnx_add_value(&graph, 11, "x", 0, 3);
    onnx_add_value(&graph, 12, "y", 0, outputs);
    tensor("w1", 4, 3);
    tensor("b1", 4, 0);
    tensor("w2", 4, 4);
    tensor("b2", 1, 4);
    tensor("w3", 4, outputs);
    tensor("b3", outputs, 0);
    onnx_node(&node, "Gemm", "x w1 b1", "h");
    onnx_attr_int(&node, "transB", 1);
    onnx_attr_float(&node, "alpha", 0.7f);
    onnx_attr_float(&node, "beta", 1.3f);
    onnx_sub(&graph, 1, &node);
    onnx_add_node(&graph, "Relu", "h", "r");
    onnx_add_node(&graph, "Identity", "r", "i");
    onnx_add_node(&graph, "MatMul", "i w2", "m");
    onnx_add_node(&graph, "Add", "m b2", "a");
    onnx_add_node(&graph, "Sigmoid", "a", "s");
    onnx_add_node(&graph, "Softmax", "r", "p");
    onnx_add_node(&graph, "MatMul", "s w2", "t");
    onnx_add_node(&graph, "Add", "t p", "u");
    onnx_add_node(&graph, "Add", "u r", "v");
    onnx_add_node(&graph, "Add", "v v", "vv");
    onnx_add_node(&graph, "Gemm", "vv w3 b3", "z");
}

/* ---- the second implementation ------------------------------------------------------------- */

/* What one row of a value holds at column c: a parameter of one row is the same for all. */
static double at(double v[][COLS_MAX], const struct tier_graph *g, int32_t value, const double *w,
                 size_t c) {
    const struct tier_graph_value *d = tier_graph_value(g, (size_t)value);
    return d->kind == TIER_VALUE_PARAM ? w[tier_graph_param(g, d->index)->at + c] : v[value][c];
}

static size_t cols_of(const struct tier_shapes *s, int32_t value) {
    const struct tier_shape *shape = tier_shapes_of(s, (size_t)value);
    return shape->dims[shape->rank - 1];
}

static double one(double v[][COLS_MAX], const struct tier_graph *g, const struct tier_shapes *s,
                  size_t i, const double *w, size_t c) {
    const struct tier_graph_node *n = tier_graph_node(g, i);
    const struct tier_call *call = tier_shapes_call(s, i);
    size_t in = cols_of(s, n->in[0]), out = cols_of(s, n->out[0]);
    double x = at(v, g, n->in[0], w, c < in ? c : 0), sum = 0;
    bool gemm = n->op == TIER_OP_GEMM;

    switch (n->op) {
    case TIER_OP_GEMM:
    case TIER_OP_MATMUL:
        for (size_t k = 0; k < in; k++)
            sum += at(v, g, n->in[0], w, k) *
                   at(v, g, n->in[1], w, gemm && call->trans_b ? c * in + k : k * out + c);
        if (!gemm)
            return sum;
        return (double)call->alpha * sum + (double)call->beta * at(v, g, n->in[2], w, c);
    case TIER_OP_ADD:
        return x + at(v, g, n->in[1], w, c);
    case TIER_OP_RELU:
        return x > 0 ? x : 0;
    case TIER_OP_SIGMOID:
        return 1 / (1 + exp(-x));
    case TIER_OP_SOFTMAX:
        for (size_t k = 0; k < in; k++)
            sum += exp(at(v, g, n->in[0], w, k));
        return exp(x) / sum;
    default:
        return x;
    }
}

/* Mean over the rows of -log of the probability that the graph gives the right class. */
static double loss_of(const struct tier_graph *g, enum spoke_loss kind, const double *w,
                      const float *x, const int32_t *label) {
    double v[48][COLS_MAX], total = 0;
    size_t last = tier_graph_output(g);
    struct tier_shapes *s;

    cr_assert(tier_graph_infer(g, 1, &s, &err) == TIER_OK);
    for (int r = 0; r < ROWS; r++) {
        for (size_t k = 0; k < tier_graph_features(g); k++)
            v[tier_graph_input(g)][k] = (double)x[r * tier_graph_features(g) + k];
        for (size_t i = 0; i < tier_graph_node_count(g); i++) {
            int32_t to = tier_graph_node(g, i)->out[0];
            for (size_t c = 0; c < cols_of(s, to); c++)
                v[to][c] = one(v, g, s, i, w, c);
        }
        if (kind == SPOKE_LOSS_BCE)
            total -= log(label[r] ? v[last][0] : 1 - v[last][0]);
        else
            total -= log(v[last][label[r]]);
    }
    tier_shapes_free(s);
    return total / ROWS;
}

#define PROX_MU 0.75

/* ---- the comparison ------------------------------------------------------------------------ */

/* The loss with FedProx's term, towards parameters that lie elsewhere. */
static double prox_loss(const struct tier_graph *g, enum spoke_loss kind, const double *w,
                        const float *w0, const float *x, const int32_t *label) {
    double total = loss_of(g, kind, w, x, label), squares = 0;
    for (size_t i = 0; i < tier_graph_elements(g); i++)
        squares += (w[i] - (double)w0[i]) * (w[i] - (double)w0[i]);
    return total + PROX_MU / 2 * squares;
}

/* Called after a backward: its gradients with the proximal term added are the slope of prox_loss.
 */
static void check_prox(struct spoke_net *net, const struct tier_graph *g, enum spoke_loss kind,
                       const float *x, const int32_t *label, double *w) {
    const double h = 1e-5;
    struct kern_buf *start;
    float w0[128], grads[128];
    size_t n = tier_graph_elements(g);
    struct kern_vec gv = spoke_net_grads(net);

    for (size_t i = 0; i < n; i++)
        w0[i] = wave(500 + (int)i);
    cr_assert(eq(int, kern_buf_new(dev, sizeof w0, &start), KERN_OK));
    kern_upload(start, 0, w0, sizeof w0);
    cr_assert(eq(
        int,
        kern_prox_grad(gv, spoke_net_params(net), (struct kern_vec){start, 0}, n, (float)PROX_MU),
        KERN_OK));
    kern_download(grads, gv.buf, gv.at * sizeof(float), n * sizeof(float));
    for (size_t i = 0; i < n; i++) {
        double at = w[i];
        w[i] = at + h;
        double up = prox_loss(g, kind, w, w0, x, label);
        w[i] = at - h;
        double slope = (up - prox_loss(g, kind, w, w0, x, label)) / (2 * h);
        w[i] = at;
        cr_expect(fabs(slope - (double)grads[i]) <= 1e-6 + 1e-4 * fabs(slope),
                  "parameter %zu with the proximal term: gradient %.9g, difference quotient %.9g",
                  i, (double)grads[i], slope);
    }
    kern_buf_free(start);
}

static void check_gradients(struct tier_graph *g, enum spoke_loss kind, const int32_t *label) {
    struct spoke_net *net;
    struct kern_buf *x_buf, *t_buf, *loss_buf;
    float x[ROWS * 3], target[ROWS], values[128], grads[128], loss;
    double w[128] = {0};
    size_t n = tier_graph_elements(g);

    cr_assert(eq(int, spoke_net_new(dev, g, kind, ROWS + 2, &net, &err), TIER_OK), "%s", err.text);
    for (int i = 0; i < ROWS * 3; i++)
        x[i] = 2 * wave(1000 + i);
    for (int i = 0; i < ROWS; i++)
        target[i] = (float)label[i];
    cr_assert(eq(int, kern_buf_new(dev, sizeof x, &x_buf), KERN_OK));
    cr_assert(eq(int, kern_buf_new(dev, sizeof target, &t_buf), KERN_OK));
    cr_assert(eq(int, kern_buf_new(dev, sizeof loss, &loss_buf), KERN_OK));
    kern_upload(x_buf, 0, x, sizeof x);
    kern_upload(t_buf, 0, kind == SPOKE_LOSS_BCE ? (void *)target : (void *)label, sizeof target);
    /* Twice: the second must not remember the first. */
    for (int i = 0; i < 2; i++) {
        kern_zero(loss_buf, 0, sizeof loss);
        cr_assert(
            eq(int,
               spoke_net_backward(net, (struct kern_vec){x_buf, 0}, (struct kern_vec){t_buf, 0},
                                  ROWS, (struct kern_vec){loss_buf, 0}, &err),
               TIER_OK),
            "%s", err.text);
    }
    kern_download(&loss, loss_buf, 0, sizeof loss);
    struct kern_vec gv = spoke_net_grads(net);
    kern_download(grads, gv.buf, gv.at * sizeof(float), n * sizeof(float));
    cr_assert(eq(int, spoke_net_get(net, values, &err), TIER_OK));
    for (size_t i = 0; i < n; i++)
        w[i] = (double)values[i];
    cr_expect(epsilon_eq(dbl, (double)loss, loss_of(g, kind, w, x, label), 1e-5));
    for (size_t i = 0; i < n; i++) {
        const double h = 1e-5;
        w[i] += h;
        double up = loss_of(g, kind, w, x, label);
        w[i] -= 2 * h;
        double down = loss_of(g, kind, w, x, label);
        w[i] += h;
        double slope = (up - down) / (2 * h);
        cr_expect(fabs(slope - (double)grads[i]) <= 1e-6 + 1e-4 * fabs(slope),
                  "parameter %zu: gradient %.9g, difference quotient %.9g", i, (double)grads[i],
                  slope);
    }
    check_prox(net, g, kind, x, label, w);
    kern_buf_free(x_buf);
    kern_buf_free(t_buf);
    kern_buf_free(loss_buf);
    spoke_net_free(net);
    tier_graph_free(g);
}

Test(spoke_net, gradients_of_these_operators_match_differences_under_binary_cross_entropy) {
    static const int32_t label[ROWS] = {1, 0, 0, 1, 1};
    begin_everything(1);
    onnx_add_node(&graph, "Sigmoid", "z", "y");
    check_gradients(parse(), SPOKE_LOSS_BCE, label);
}

Test(spoke_net, gradients_of_these_operators_match_differences_under_cross_entropy) {
    static const int32_t label[ROWS] = {2, 0, 1, 1, 2};
    begin_everything(3);
    onnx_add_node(&graph, "Softmax", "z", "q");
    onnx_add_node(&graph, "Identity", "q", "y");
    check_gradients(parse(), SPOKE_LOSS_CE, label);
}

/* ---- what is refused ----------------------------------------------------------------------- */

static void small(int outputs, const char *last) {
    graph.n = 0;
    onnx_add_value(&graph, 11, "x", 0, 3);
    onnx_add_value(&graph, 12, "y", 0, outputs);
    tensor("w", 3, outputs);
    onnx_add_node(&graph, "MatMul", "x w", last ? "z" : "y");
    if (last)
        onnx_add_node(&graph, last, "z", "y");
}

static void fits(int outputs, const char *last, enum spoke_loss loss, enum tier_status expected) {
    struct spoke_net *net = NULL;
    small(outputs, last);
    struct tier_graph *g = parse();
    cr_expect(eq(int, spoke_net_new(dev, g, loss, 4, &net, &err), expected), "%s", err.text);
    spoke_net_free(net);
    tier_graph_free(g);
}

Test(spoke_net, the_last_operator_must_go_with_the_loss) {
    fits(1, "Sigmoid", SPOKE_LOSS_BCE, TIER_OK);
    fits(1, NULL, SPOKE_LOSS_BCE, TIER_OK);
    fits(2, "Softmax", SPOKE_LOSS_CE, TIER_OK);
    fits(2, NULL, SPOKE_LOSS_CE, TIER_OK);
    fits(2, "Softmax", SPOKE_LOSS_BCE, TIER_EMODEL);
    fits(2, "Sigmoid", SPOKE_LOSS_CE, TIER_EMODEL);
    fits(2, "Sigmoid", SPOKE_LOSS_BCE, TIER_EMODEL);
    fits(1, "Softmax", SPOKE_LOSS_CE, TIER_EMODEL);
}

Test(spoke_net, batches_outside_the_bound_are_refused) {
    struct spoke_net *net = NULL;
    struct kern_buf *x;
    small(1, "Sigmoid");
    struct tier_graph *g = parse();
    cr_expect(eq(int, spoke_net_new(dev, g, SPOKE_LOSS_BCE, 0, &net, &err), TIER_EARG));
    cr_expect(
        eq(int, spoke_net_new(dev, g, SPOKE_LOSS_BCE, SPOKE_BATCH_MAX + 1, &net, &err), TIER_EARG));
    cr_assert(eq(int, spoke_net_new(dev, g, SPOKE_LOSS_BCE, 4, &net, &err), TIER_OK));
    cr_assert(eq(int, kern_buf_new(dev, 5 * 3 * sizeof(float), &x), KERN_OK));
    struct kern_vec view = {x, 0};
    cr_expect(eq(int, spoke_net_forward(net, view, 4, NULL, &err), TIER_OK));
    cr_expect(eq(int, spoke_net_forward(net, view, 5, NULL, &err), TIER_EARG));
    cr_expect(eq(int, spoke_net_forward(net, view, 0, NULL, &err), TIER_EARG));
    kern_buf_free(x);
    spoke_net_free(net);
    tier_graph_free(g);
}

Test(spoke_net, parameters_go_in_and_come_out_in_the_order_of_the_file) {
    struct spoke_net *net = NULL;
    float in[128], out[128];
    begin_everything(1);
    onnx_add_node(&graph, "Sigmoid", "z", "y");
    struct tier_graph *g = parse();
    cr_assert(eq(int, spoke_net_new(dev, g, SPOKE_LOSS_BCE, 4, &net, &err), TIER_OK));
    size_t n = spoke_net_elements(net);
    cr_assert(tier_graph_values(g, in, NULL) == TIER_OK);
    spoke_net_get(net, out, &err);
    cr_expect(memcmp(in, out, n * sizeof *in) == 0);
    for (size_t i = 0; i < n; i++)
        in[i] = (float)i;
    spoke_net_set(net, in, &err);
    spoke_net_get(net, out, &err);
    cr_expect(memcmp(in, out, n * sizeof *in) == 0);
    spoke_net_free(net);
    tier_graph_free(g);
}
