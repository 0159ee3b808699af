/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shows a peer what the training engine computes: reads an ONNX file and one batch, and writes the
 * evaluation's logits, the loss and its gradients, and the parameters after some steps of SGD, with
 * the loss before each of them.
 *
 *     net_probe MODEL bce|ce|dice_ce ROWS FOLDER [--steps N] [--lr LR] [--momentum M] [--batches B]
 *               [--threads T] [--time N] [--samples CLIP]
 *
 * FOLDER holds x.bin (float32) and target.bin (float32 or int32, as the loss takes it), B batches
 * of ROWS (one, if nothing is said) that the steps take in turn, and gets logits.bin, grads.bin
 * (both of the first batch) and params.bin (float32). Standard output is one JSON object. With
 * --samples N steps of the time are each taken three times in turn: plainly, with gradients sample
 * by sample that are clipped to CLIP, and with these row by row.
 */
#include "spoke/net.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

struct probe {
    struct kern_device *dev;
    struct tier_graph *graph;
    struct spoke_net *net;
    struct kern_buf *x, *target, *loss, *moved; /* moved: of momentum, or NULL */
    size_t rows, batches, batch;
    const char *folder;
    struct kern_buf *norms; /* of samples, or NULL */
    float lr, momentum, clip;
    struct tier_err err;
};

static void die(const char *what, const char *why) {
    fprintf(stderr, "net_probe: %s: %s\n", what, why);
    exit(1);
}

static void must(struct probe *p, enum tier_status st, const char *what) {
    if (st != TIER_OK)
        die(what, p->err.text);
}

static void kern(struct probe *p, enum kern_status st, const char *what) {
    if (st != KERN_OK)
        die(what, kern_device_error(p->dev));
}

static FILE *file(struct probe *p, const char *name, const char *mode) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", p->folder, name);
    FILE *f = fopen(path, mode);
    if (!f)
        die(path, "cannot be opened");
    return f;
}

static void read_to(struct probe *p, const char *name, size_t count, struct kern_buf **out) {
    FILE *f = file(p, name, "rb");
    void *data = malloc(count * 4);
    if (!data || fread(data, 4, count, f) != count)
        die(name, "is too short");
    fclose(f);
    kern(p, kern_buf_new(p->dev, count * 4, out), name);
    kern(p, kern_upload(*out, 0, data, count * 4), name);
    free(data);
}

static void write_from(struct probe *p, const char *name, struct kern_vec v, size_t count) {
    FILE *f = file(p, name, "wb");
    float *data = malloc(count * sizeof *data);
    if (!data)
        die(name, "no memory");
    kern(p, kern_download(data, v.buf, v.at * sizeof *data, count * sizeof *data), name);
    if (fwrite(data, sizeof *data, count, f) != count || fclose(f) != 0)
        die(name, "cannot be written");
    free(data);
}

static float backward(struct probe *p) {
    struct kern_vec loss = {p->loss, 0};
    float value;
    kern(p, kern_zero(p->loss, 0, sizeof value), "the loss");
    size_t at = p->batch++ % p->batches * p->rows;
    struct kern_vec x = {p->x, at * spoke_net_features(p->net)};
    struct kern_vec target = {p->target, at * spoke_net_spots(p->net)};
    if (p->norms)
        must(p,
             spoke_net_backward_samples(p->net, x, target, p->rows, p->clip,
                                        (struct kern_vec){p->norms, 0}, loss, &p->err),
             "samples");
    else
        must(p, spoke_net_backward(p->net, x, target, p->rows, loss, &p->err), "backward");
    kern(p, kern_download(&value, p->loss, 0, sizeof value), "the loss");
    return value;
}

static void step(struct probe *p) {
    struct kern_sgd opt = {.lr = p->lr, .momentum = p->momentum};
    kern(p,
         kern_sgd_step(spoke_net_params(p->net), spoke_net_grads(p->net),
                       (struct kern_vec){p->moved, 0}, spoke_net_trained(p->net), &opt),
         "a step");
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void say_params(const struct probe *p) {
    printf("\"params\": [");
    for (size_t i = 0; i < tier_graph_param_count(p->graph); i++) {
        const struct tier_graph_param *q = tier_graph_param(p->graph, i);
        printf("%s{\"name\": \"%s\", \"at\": %llu, \"elements\": %llu, \"trained\": %s}",
               i ? ", " : "", q->name, (unsigned long long)q->at, (unsigned long long)q->elements,
               q->trained ? "true" : "false");
    }
    printf("]");
}

static double timed(struct probe *p) {
    double begin = now();
    backward(p);
    step(p);
    return now() - begin;
}

/* Median seconds of forward, backward and step. */
static void measure(struct probe *p, size_t count) {
    double *t = malloc(3 * count * sizeof *t);
    struct kern_buf *norms = p->norms;
    struct rusage use;
    if (!t)
        die("times", "no memory");
    for (size_t i = 0; i < count; i++) {
        p->norms = NULL;
        t[i] = timed(p);
        for (size_t way = 1; norms && way < 3; way++) {
            p->norms = norms;
            spoke_net_samples_force(p->net, way == 1);
            t[way * count + i] = timed(p);
            if (way == 1 && i == 0)
                printf(", \"samples_at_once\": %zu", spoke_net_samples_at_once(p->net));
        }
    }
    p->norms = norms;
    for (size_t way = 0; way < (norms ? 3 : 1); way++) {
        static const char *const names[] = {"", "samples_", "by_row_"};
        double *of = t + way * count;
        qsort(of, count, sizeof *of, by_size);
        printf(", \"%smedian_s\": %.6f, \"%sleast_s\": %.6f", names[way], of[count / 2], names[way],
               of[0]);
    }
    getrusage(RUSAGE_SELF, &use);
    printf(", \"max_rss_bytes\": %ld", use.ru_maxrss * 1024);
    free(t);
}

int main(int argc, char **argv) {
    struct probe p = {.lr = 0.01f, .batches = 1};
    size_t steps = 0, times = 0;
    int threads = 2;

    if (argc < 5)
        die("usage",
            "net_probe MODEL bce|ce|dice_ce ROWS FOLDER [--steps N] [--lr LR] [--momentum M] "
            "[--batches B] [--threads T] [--time N] [--samples CLIP]");
    for (int i = 5; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--steps") == 0)
            steps = strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--lr") == 0)
            p.lr = strtof(argv[i + 1], NULL);
        else if (strcmp(argv[i], "--momentum") == 0)
            p.momentum = strtof(argv[i + 1], NULL);
        else if (strcmp(argv[i], "--batches") == 0)
            p.batches = strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--threads") == 0)
            threads = (int)strtol(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--time") == 0)
            times = strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--samples") == 0)
            p.clip = strtof(argv[i + 1], NULL);
        else
            die(argv[i], "is no option");
    }
    enum spoke_loss loss = strcmp(argv[2], "bce") == 0       ? SPOKE_LOSS_BCE
                           : strcmp(argv[2], "dice_ce") == 0 ? SPOKE_LOSS_DICE_CE
                                                             : SPOKE_LOSS_CE;
    p.rows = strtoul(argv[3], NULL, 10);
    p.folder = argv[4];
    kern_init(NULL);
    if (kern_device_open("cpu", threads, &p.dev) != KERN_OK)
        die("cpu", kern_device_error(NULL));
    must(&p, tier_graph_open(argv[1], &p.graph, &p.err), argv[1]);
    must(&p, spoke_net_new(p.dev, p.graph, loss, p.rows, &p.net, &p.err), argv[1]);
    size_t spots = spoke_net_spots(p.net), outputs = spoke_net_outputs(p.net);
    if (p.batches == 0)
        die("--batches", "must be at least 1");
    read_to(&p, "x.bin", p.batches * p.rows * spoke_net_features(p.net), &p.x);
    read_to(&p, "target.bin", p.batches * p.rows * spots, &p.target);
    if (p.momentum != 0) {
        size_t bytes = spoke_net_trained(p.net) * sizeof(float);
        kern(&p, kern_buf_new(p.dev, bytes, &p.moved), "momentum");
        kern(&p, kern_zero(p.moved, 0, bytes), "momentum");
    }
    kern(&p, kern_buf_new(p.dev, sizeof(float), &p.loss), "the loss");
    if (p.clip > 0)
        kern(&p, kern_buf_new(p.dev, p.rows * sizeof(float), &p.norms), "norms");

    struct kern_vec logits;
    must(&p, spoke_net_forward(p.net, (struct kern_vec){p.x, 0}, p.rows, &logits, &p.err),
         "forward");
    write_from(&p, "logits.bin", logits, p.rows * spots * outputs);
    printf("{");
    say_params(&p);
    printf(", \"spots\": %zu, \"outputs\": %zu, \"losses\": [%.9g", spots, outputs,
           (double)backward(&p));
    write_from(&p, "grads.bin", spoke_net_grads(p.net), spoke_net_elements(p.net));
    for (size_t i = 0; i < steps; i++) {
        step(&p);
        printf(", %.9g", (double)backward(&p));
    }
    printf("]");
    write_from(&p, "params.bin", spoke_net_params(p.net), spoke_net_elements(p.net));
    if (times)
        measure(&p, times);
    printf("}\n");
    spoke_net_free(p.net);
    tier_graph_free(p.graph);
    kern_device_close(p.dev);
    return 0;
}
