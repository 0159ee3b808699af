/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine against PyTorch, frozen: tests/golden/net holds models as PyTorch exports them and
 * what PyTorch makes of one batch in float64 (tests/support/make_net_golden.py). The error of an
 * array is the norm of the difference over the norm of PyTorch's.
 */
#include "spoke/net.h"
#include "tests/support/net_golden.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <dirent.h>
#include <math.h>

#define TOLERANCE 1e-5

static struct tier_err err;

/* A gradient that is zero but for rounding (a bias before a normalisation) is held against
 * `largest`. */
static void near(const char *model, const char *what, const float *ours, const float *theirs,
                 size_t n, double largest) {
    double size = norm(theirs, NULL, n);
    size = size < 1e-8 * largest ? largest : size;
    cr_expect(norm(ours, theirs, n) <= TOLERANCE * size, "%s: %s is off by %.1e", model, what,
              norm(ours, theirs, n) / size);
}

static void check_gradients(const char *model, struct golden *g, const struct tier_graph *graph,
                            const float *grads) {
    double largest = 0;
    for (size_t i = 0; i < tier_graph_param_count(graph); i++) {
        const struct tier_graph_param *p = tier_graph_param(graph, i);
        largest = fmax(largest, norm(grads + p->at, NULL, p->elements));
    }
    for (int32_t i = 0, len, n; i < g->params; i++) {
        char name[256] = "";
        take(g->file, &len, sizeof len);
        cr_assert(len > 0 && len < 256);
        take(g->file, name, (size_t)len);
        take(g->file, &n, sizeof n);
        float *theirs = malloc((size_t)n * sizeof *theirs);
        take(g->file, theirs, (size_t)n * sizeof *theirs);
        const struct tier_graph_param *p = find(graph, name);
        cr_assert(p != NULL, "%s: there is no parameter '%s'", model, name);
        cr_expect(p->trained && p->elements == (uint64_t)n, "%s: '%s'", model, name);
        near(model, name, grads + p->at, theirs, p->elements, largest);
        free(theirs);
    }
}

static void check(struct kern_device *dev, const char *model) {
    struct golden g = {0};
    char path[512];
    struct tier_graph *graph = NULL;
    struct spoke_net *net = NULL;
    struct kern_vec z;
    float zero = 0, loss;

    open_golden(model, &g);
    snprintf(path, sizeof path, "%s/%s.onnx", NET_GOLDEN, model);
    cr_assert(tier_graph_open(path, &graph, &err) == TIER_OK, "%s", err.text);
    enum spoke_loss kind = g.loss == 0 ? SPOKE_LOSS_BCE : SPOKE_LOSS_CE;
    size_t rows = (size_t)g.rows;
    cr_assert(spoke_net_new(dev, graph, kind, rows, &net, &err) == TIER_OK, "%s: %s", model,
              err.text);
    struct kern_vec x = put(dev, g.x, (size_t)g.x_count * 4);
    struct kern_vec target = put(dev, g.target, (size_t)g.targets * 4);
    struct kern_vec sum = put(dev, &zero, sizeof zero);
    float *logits = malloc((size_t)g.logits_count * sizeof *logits);
    float *grads = malloc(spoke_net_elements(net) * sizeof *grads);

    cr_assert(spoke_net_forward(net, x, rows, &z, &err) == TIER_OK, "%s: %s", model, err.text);
    kern_download(logits, z.buf, z.at * sizeof *logits, (size_t)g.logits_count * sizeof *logits);
    near(model, "the logits", logits, g.logits, (size_t)g.logits_count, 0);
    /* Twice: the second must not remember the first, but for the running statistics. */
    for (int i = 0; i < 2; i++) {
        kern_zero(sum.buf, 0, sizeof zero);
        cr_assert(spoke_net_backward(net, x, target, rows, sum, &err) == TIER_OK, "%s: %s", model,
                  err.text);
    }
    kern_download(&loss, sum.buf, 0, sizeof loss);
    cr_expect(fabs((double)loss - g.loss_value) <= TOLERANCE * fabs(g.loss_value), "%s: the loss",
              model);
    struct kern_vec gv = spoke_net_grads(net);
    kern_download(grads, gv.buf, gv.at * sizeof *grads, spoke_net_elements(net) * sizeof *grads);
    check_gradients(model, &g, graph, grads);

    free(logits);
    free(grads);
    kern_buf_free(x.buf);
    kern_buf_free(target.buf);
    kern_buf_free(sum.buf);
    spoke_net_free(net);
    tier_graph_free(graph);
    close_golden(&g);
}

/* The gradients of one batch, with what frozen says left out. */
static void gradients_of(struct kern_device *dev, const struct golden *g,
                         const struct tier_graph *graph, const bool *frozen, float *out) {
    struct spoke_net *net = NULL;
    float zero = 0;
    size_t rows = (size_t)g->rows;
    cr_assert(spoke_net_new(dev, graph, g->loss == 0 ? SPOKE_LOSS_BCE : SPOKE_LOSS_CE, rows, &net,
                            &err) == TIER_OK);
    struct kern_vec x = put(dev, g->x, (size_t)g->x_count * 4);
    struct kern_vec target = put(dev, g->target, (size_t)g->targets * 4);
    struct kern_vec sum = put(dev, &zero, sizeof zero);
    if (frozen)
        cr_assert(spoke_net_freeze(net, frozen, &err) == TIER_OK, "%s", err.text);
    cr_assert(spoke_net_backward(net, x, target, rows, sum, &err) == TIER_OK, "%s", err.text);
    struct kern_vec grads = spoke_net_grads(net);
    kern_download(out, grads.buf, grads.at * sizeof *out, spoke_net_elements(net) * sizeof *out);
    kern_buf_free(x.buf);
    kern_buf_free(target.buf);
    kern_buf_free(sum.buf);
    spoke_net_free(net);
}

/* Some trained parameters of every model are frozen, in several ways: what is left has the
 * gradients it had. */
static void check_frozen(struct kern_device *dev, const char *model) {
    struct golden g = {0};
    char path[512];
    struct tier_graph *graph = NULL;

    open_golden(model, &g);
    snprintf(path, sizeof path, "%s/%s.onnx", NET_GOLDEN, model);
    cr_assert(tier_graph_open(path, &graph, &err) == TIER_OK, "%s", err.text);
    size_t params = tier_graph_param_count(graph), elements = tier_graph_elements(graph);
    float *all = calloc(elements, sizeof *all), *some = calloc(elements, sizeof *some);
    bool *frozen = calloc(params, sizeof *frozen);
    gradients_of(dev, &g, graph, NULL, all);
    double largest = norm(all, NULL, tier_graph_trained(graph));
    for (int way = 0; way < 4; way++) {
        size_t left = 0;
        for (size_t i = 0; i < params; i++) { /* the first half, every other, the others, a third */
            frozen[i] = way == 0   ? i < params / 2
                        : way == 1 ? i % 2 == 0
                        : way == 2 ? i % 2 == 1
                                   : i * 2654435761u % 97 < 32;
            left += !frozen[i] && tier_graph_param(graph, i)->trained;
        }
        if (left == 0)
            continue;
        gradients_of(dev, &g, graph, frozen, some);
        for (size_t i = 0; i < params; i++) {
            const struct tier_graph_param *p = tier_graph_param(graph, i);
            /* A normalisation's two gradients are worked out together. */
            if (p->trained && frozen[i] && p->dims_count > 1 && !strstr(model, "layer-norm"))
                cr_expect(norm(some + p->at, NULL, p->elements) == 0, "%s, way %d: '%s' has one",
                          model, way, p->name);
            if (p->trained && !frozen[i])
                cr_expect(norm(all + p->at, some + p->at, p->elements) <=
                              1e-6 * norm(all + p->at, NULL, p->elements) + 1e-7 * largest,
                          "%s, way %d: '%s'", model, way, p->name);
        }
    }
    free(all);
    free(some);
    free(frozen);
    tier_graph_free(graph);
    close_golden(&g);
}

static void check_all(int threads, void (*check_one)(struct kern_device *dev, const char *model)) {
    struct kern_device *dev;
    DIR *d = opendir(NET_GOLDEN);
    size_t models = 0;

    cr_assert(d != NULL, "%s", NET_GOLDEN);
    kern_init(NULL);
    cr_assert(eq(int, kern_device_open("cpu", threads, &dev), KERN_OK));
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        char *dot = strrchr(e->d_name, '.');
        if (!dot || strcmp(dot, ".bin") != 0)
            continue;
        *dot = '\0';
        check_one(dev, e->d_name);
        models++;
    }
    cr_expect(gt(sz, models, 40));
    kern_device_close(dev);
    closedir(d);
}

Test(spoke_golden, losses_and_gradients_of_exported_models_are_pytorchs) {
    check_all(2, check);
}

Test(spoke_golden, losses_and_gradients_of_exported_models_are_pytorchs_on_one_thread) {
    check_all(1, check);
}

Test(spoke_golden, what_is_frozen_changes_nothing_in_the_gradients_of_the_rest) {
    check_all(2, check_frozen);
}
