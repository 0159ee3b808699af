/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernels/loss.h against its definitions in double: the loss, and the gradient both by its formula
 * and, on small inputs, by central differences of the loss in double.
 */
#include "kernels/loss.h"
#include "tests/parity/bench.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#define TOL 2e-5
#define F32 sizeof(float)
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static const struct kern_vec none = {NULL, 0};

/* One call: what it is given, on the host. */
struct given {
    struct kern_loss_spec spec;
    size_t n, labels;
    float *z, *t, *weight; /* t: what is no label; weight may be NULL */
    int32_t *label;
};

static double share_of(const struct given *g, size_t i, size_t c) {
    return g->spec.soft ? (double)g->t[i * g->spec.classes + c] : (size_t)g->label[i] == c;
}

static bool counts(const struct given *g, size_t i) {
    if (g->spec.soft) {
        double all = 0;
        for (size_t c = 0; c < g->spec.classes; c++) {
            all += share_of(g, i, c);
        }
        return all > 0;
    }
    int32_t label = g->label[i];
    return label >= 0 && (size_t)label < g->spec.classes && label != g->spec.ignore;
}

/* ---- the definitions ------------------------------------------------------------------------- */

static double want_elements(const struct given *g, const double *z) {
    double sum = 0, w = (double)g->spec.pos_weight;
    for (size_t i = 0; i < g->n; i++) {
        double t = (double)g->t[i], d = z[i] - t, s = 1 / (1 + exp(-z[i]));
        switch (g->spec.kind) {
        case KERN_LOSS_BCE:
            sum -= w * t * log(s) + (1 - t) * log(1 - s);
            break;
        case KERN_LOSS_MSE:
            sum += d * d;
            break;
        default:
            sum += fabs(d);
        }
    }
    return sum / (double)g->n;
}

static double want_cox(const struct given *g, const double *z) {
    double sum = 0, events = 0;
    for (size_t i = 0; i < g->n; i++) {
        double risk = 0;
        for (size_t j = 0; j < g->n; j++) {
            risk += g->t[2 * j] >= g->t[2 * i] ? exp(z[j]) : 0;
        }
        sum += g->t[2 * i + 1] > 0 ? log(risk) - z[i] : 0;
        events += g->t[2 * i + 1] > 0;
    }
    return events > 0 ? sum / events : 0;
}

static double p_of(const struct given *g, const double *z, size_t i, size_t c) {
    double sum = 0, top = -INFINITY;
    for (size_t k = 0; k < g->spec.classes; k++) {
        top = fmax(top, z[i * g->spec.classes + k]);
    }
    for (size_t k = 0; k < g->spec.classes; k++) {
        sum += exp(z[i * g->spec.classes + k] - top);
    }
    return sum > 0 ? exp(z[i * g->spec.classes + c] - top) / sum : NAN;
}

static double want_dice(const struct given *g, const double *z) {
    const struct kern_loss_spec *s = &g->spec;
    size_t first = s->background ? 0 : 1, sets = s->batch ? 1 : s->rows;
    assert(sets > 0);
    size_t spots = g->labels / sets;
    double loss = 0;
    for (size_t at = 0; at < sets * s->classes; at++) {
        size_t set = at / s->classes, c = at % s->classes;
        double both = 0, p = 0, t = 0;
        for (size_t i = set * spots; i < (set + 1) * spots; i++) {
            if (counts(g, i)) {
                double here = p_of(g, z, i, c);
                p += here;
                both += share_of(g, i, c) * here;
                t += share_of(g, i, c);
            }
        }
        if (c >= first) {
            loss += 1 - (2 * both + (double)s->smooth_nr) / (p + t + (double)s->smooth_dr);
        }
    }
    return loss / (double)(sets * (s->classes - first));
}

static double want_ce(const struct given *g, const double *z) {
    double sum = 0, weights = 0;
    for (size_t i = 0; i < g->labels; i++) {
        for (size_t c = 0; counts(g, i) && c < g->spec.classes; c++) {
            double w = (g->weight != NULL ? (double)g->weight[c] : 1) * share_of(g, i, c);
            sum -= w > 0 ? w * log(p_of(g, z, i, c)) : 0;
            weights += w;
        }
    }
    return weights > 0 ? sum / weights : 0;
}

static double want_loss(const struct given *g, const double *z) {
    switch (g->spec.kind) {
    case KERN_LOSS_COX:
        return want_cox(g, z);
    case KERN_LOSS_CLASSES:
        return (double)g->spec.ce * want_ce(g, z) +
               (g->spec.dice > 0 ? (double)g->spec.dice * want_dice(g, z) : 0);
    default:
        return want_elements(g, z);
    }
}

/* ---- the check ------------------------------------------------------------------------------- */

/* Central differences of the loss at element i; smooth there, or nearly so. */
static double slope(const struct given *g, double *z, size_t i) {
    double step = 1e-5, z0 = z[i];
    z[i] = z0 + step;
    double up = want_loss(g, z);
    z[i] = z0 - step;
    double down = want_loss(g, z);
    z[i] = z0;
    return (up - down) / (2 * step);
}

/* Gradients of a few elements, all where there are few, times n: they are of the size of 1 / n. */
static void check(struct bench *b, const struct given *g) {
    float start = 0.5f;
    struct kern_vec vl = bench_put(b, &start, 1, F32), vz = bench_put(b, g->z, g->n, F32);
    struct kern_vec vd = bench_put(b, g->z, g->n, F32);
    struct kern_vec vt = g->label != NULL
                             ? bench_put(b, g->label, g->labels, 4)
                             : bench_put(b, g->t, g->spec.soft ? g->n : g->labels, F32);
    struct kern_vec vw = g->weight != NULL ? bench_put(b, g->weight, g->spec.classes, F32) : none;
    double *z = bench_host(b, g->n, sizeof *z), *want = bench_host(b, g->n, sizeof *want);
    float *got = bench_host(b, g->n, sizeof *got);

    for (size_t i = 0; i < g->n; i++) {
        z[i] = (double)g->z[i];
    }
    double loss = 0.5 + want_loss(g, z);
    BENCH_OK(b, kern_loss(vl, vd, vz, vt, vw, &g->spec));
    bench_near(b, "the loss", bench_get(b, vl, 1, F32), &loss, 1, TOL);
    const float *dz = bench_get(b, vd, g->n, F32);
    size_t stride = g->n / 64 + 1, count = 0;
    for (size_t i = 0; i < g->n; i += stride, count++) {
        want[count] = slope(g, z, i) * (double)g->n;
        got[count] = dz[i] * (float)g->n;
    }
    bench_near(b, "its gradient", got, want, count, 5e-4);
    double sum = loss + (loss - 0.5);
    BENCH_OK(b, kern_loss(vl, vd, vz, vt, vw, &g->spec));
    bench_near(b, "the loss, again", bench_get(b, vl, 1, F32), &sum, 1, TOL);
    float *again = bench_get(b, vd, g->n, F32);
    if (again != NULL && dz != NULL && memcmp(again, dz, g->n * F32) != 0) {
        bench_fail(b, "the same loss gave another gradient the second time");
    }
}

static struct given given_of(struct bench *b, enum kern_loss_kind kind, size_t rows) {
    struct given g = {.spec = {.kind = kind, .rows = rows, .pos_weight = 1}, .n = rows};
    g.labels = rows;
    g.z = bench_random(b, rows, -3, 3);
    g.t = bench_random(b, rows, -3, 3);
    return g;
}

static const size_t sizes[] = {1, 7, 300, 70000};

static void elements_once(struct bench *b, size_t k) {
    static const enum kern_loss_kind kinds[] = {KERN_LOSS_BCE, KERN_LOSS_MSE, KERN_LOSS_L1};
    struct given g = given_of(b, kinds[k % 3], sizes[k / 3]);
    g.spec.pos_weight = 2.5f;
    for (size_t i = 0; i < g.n; i++) {
        g.t[i] = k % 3 > 0 ? g.t[i] : (float)(i % 4) / 3;
        if (k % 3 == 2 && fabsf(g.z[i] - g.t[i]) < 0.01f) {
            g.z[i] += 0.5f; /* away from where L1 has no slope */
        }
    }
    check(b, &g);
}
BENCH_CASE(elements_case, elements_once, 3 * COUNT(sizes))

/* Logits far out, where a plain exponential overflows. */
static void far_once(struct bench *b, size_t k) {
    float z[] = {200, -200, 200, -200}, t[] = {1, 0, 0, 1}, start = 0;
    double loss = k == 0 ? (200 + 3 * 200) / 4.0 : 300;
    struct kern_loss_spec s = {.kind = KERN_LOSS_BCE, .rows = 4, .pos_weight = 3};
    int32_t label[] = {1, 1};
    double grad[] = {0, 0, 0.25, -0.75}, of_class[] = {0.5, -0.5, 0, 0};
    if (k == 1) { /* two spots of two classes: 400 off, and right */
        s = (struct kern_loss_spec){.kind = KERN_LOSS_CLASSES,
                                    .rows = 1,
                                    .spots = 2,
                                    .classes = 2,
                                    .ignore = -1,
                                    .ce = 1,
                                    .smooth_dr = 1};
        z[2] = -200;
        z[3] = 200;
        loss = 200;
    }
    struct kern_vec vl = bench_put(b, &start, 1, F32), vz = bench_put(b, z, 4, F32);
    struct kern_vec vd = bench_put(b, z, 4, F32);
    struct kern_vec vt = k == 1 ? bench_put(b, label, 2, 4) : bench_put(b, t, 4, F32);
    BENCH_OK(b, kern_loss(vl, vd, vz, vt, none, &s));
    bench_near(b, "the loss", bench_get(b, vl, 1, F32), &loss, 1, TOL);
    bench_near(b, "its gradient", bench_get(b, vd, 4, F32), k == 1 ? of_class : grad, 4, TOL);
}
BENCH_CASE(far_case, far_once, 2)

static const struct class_test {
    size_t rows, spots, classes;
    float ce, dice;
    bool batch, background, weight;
    int32_t ignore;
} class_tests[] = {
    {5, 1, 3, 1, 0, false, false, false, -1},  {5, 1, 3, 1, 0, false, false, true, 2},
    {3, 7, 2, 0, 1, false, true, false, -1},   {3, 7, 4, 0, 1, true, false, false, 1},
    {2, 60, 3, 1, 1, false, false, true, -1},  {4, 60, 3, 0.5f, 2, true, true, true, 0},
    {1, 1, 2, 1, 1, false, true, false, -1},   {2, 900, 5, 1, 1, false, true, true, 4},
    {3, 9000, 3, 1, 1, true, false, true, -1}, {40, 2, 33, 1, 1, false, true, true, 7},
};

static struct given classes_of(struct bench *b, size_t k) {
    const struct class_test *t = &class_tests[k];
    struct given g = {.spec = {.kind = KERN_LOSS_CLASSES,
                               .rows = t->rows,
                               .spots = t->spots,
                               .classes = t->classes,
                               .ignore = t->ignore,
                               .ce = t->ce,
                               .dice = t->dice,
                               .smooth_nr = k % 2 ? 1e-5f : 1,
                               .smooth_dr = k % 2 ? 1e-5f : 1,
                               .batch = t->batch,
                               .background = t->background},
                      .labels = t->rows * t->spots};
    g.n = g.labels * t->classes;
    g.z = bench_random(b, g.n, -3, 3);
    g.label = bench_host(b, g.labels, sizeof *g.label);
    g.weight = t->weight ? bench_random(b, t->classes, 0.2f, 3) : NULL;
    for (size_t i = 0; i < g.labels; i++) {
        g.label[i] = (int32_t)(parity_next(&b->seed) % (t->classes + (i % 8 == 3))) - (i % 8 == 5);
    }
    return g;
}

static void classes_once(struct bench *b, size_t k) {
    struct given g = classes_of(b, k);
    check(b, &g);
}
BENCH_CASE(classes_case, classes_once, COUNT(class_tests))

/* Shares of several readers, at some spots of one, at some of none. */
static void shares_once(struct bench *b, size_t k) {
    struct given g = classes_of(b, k);
    size_t classes = g.spec.classes;
    g.spec.soft = true;
    g.label = NULL;
    g.t = bench_host(b, g.n, F32);
    for (size_t i = 0; i < g.labels; i++) {
        float *y = g.t + i * classes;
        size_t readers = i % 8 == 5 ? 0 : 1 + i % 4;
        for (size_t r = 0; r < readers; r++) {
            y[parity_next(&b->seed) % classes] += 1.0f / (float)readers;
        }
    }
    check(b, &g);
}
BENCH_CASE(shares_case, shares_once, COUNT(class_tests))

/* A share of 1 is a label: the same loss and gradient, within rounding. */
static void whole_shares_once(struct bench *b, size_t k) {
    struct given g = classes_of(b, k);
    size_t classes = g.spec.classes;
    double *want = bench_host(b, g.n, sizeof *want), loss[2];
    for (int soft = 0; soft < 2; soft++) {
        float zero = 0;
        g.t = bench_host(b, g.n, F32);
        for (size_t i = 0; i < g.labels; i++) {
            if (counts(&g, i)) {
                g.t[i * classes + (size_t)g.label[i]] = 1;
            }
        }
        struct kern_loss_spec spec = g.spec;
        spec.soft = soft;
        struct kern_vec vl = bench_put(b, &zero, 1, F32), vz = bench_put(b, g.z, g.n, F32);
        struct kern_vec vd = bench_put(b, g.z, g.n, F32);
        struct kern_vec vt =
            soft ? bench_put(b, g.t, g.n, F32) : bench_put(b, g.label, g.labels, 4);
        struct kern_vec vw = g.weight != NULL ? bench_put(b, g.weight, classes, F32) : none;
        BENCH_OK(b, kern_loss(vl, vd, vz, vt, vw, &spec));
        const float *dz = bench_get(b, vd, g.n, F32);
        for (size_t i = 0; dz != NULL && soft == 0 && i < g.n; i++) {
            want[i] = (double)dz[i];
        }
        const float *sum = bench_get(b, vl, 1, F32);
        loss[soft] = sum != NULL ? (double)sum[0] : NAN;
        if (soft) {
            bench_near(b, "the gradient", dz, want, g.n, TOL);
            bench_near(b, "the loss", sum, loss, 1, TOL);
        }
    }
}
BENCH_CASE(whole_shares_case, whole_shares_once, COUNT(class_tests))

/* Nothing to learn from: no label counts, all weights are 0, no event. Zero, and no NaN. */
static void nothing_once(struct bench *b, size_t k) {
    struct kern_loss_spec s = {.kind = KERN_LOSS_CLASSES,
                               .rows = 2,
                               .spots = 2,
                               .classes = 3,
                               .ignore = 1,
                               .ce = 1,
                               .smooth_dr = 1};
    float zero[12] = {0}, start = 0.25f, *z = bench_random(b, 12, -1, 1);
    int32_t label[] = {1, -1, 3, 1}, all_0[4] = {0};
    double want[12] = {0}, loss = 0.25;
    struct kern_vec vl = bench_put(b, &start, 1, F32), vz = bench_put(b, z, 12, F32);
    struct kern_vec vd = bench_put(b, z, 12, F32), vw = bench_put(b, zero, 3, F32);
    struct kern_vec vt = bench_put(b, k == 0 ? label : all_0, 4, 4);
    if (k == 2) {
        s = (struct kern_loss_spec){.kind = KERN_LOSS_COX, .rows = 6};
        vt = bench_put(b, zero, 12, F32);
    }
    BENCH_OK(b, kern_loss(vl, vd, vz, vt, k == 1 ? vw : none, &s));
    bench_near(b, "the loss", bench_get(b, vl, 1, F32), &loss, 1, 0);
    bench_near(b, "its gradient", bench_get(b, vd, k == 2 ? 6 : 12, F32), want, k == 2 ? 6 : 12, 0);
}
BENCH_CASE(nothing_case, nothing_once, 3)

static void cox_once(struct bench *b, size_t k) {
    static const size_t rows[] = {1, 2, 17, 400};
    size_t n = rows[k / 2];
    struct given g = given_of(b, KERN_LOSS_COX, n);
    g.labels = 2 * n;
    g.t = bench_random(b, 2 * n, 0, 10);
    for (size_t i = 0; i < n; i++) {
        g.t[2 * i] = k % 2 ? g.t[2 * i] : floorf(g.t[2 * i]); /* with ties */
        g.t[2 * i + 1] = i % 3 == 0;
    }
    check(b, &g);
}
BENCH_CASE(cox_case, cox_once, 8)

static void refused_once(struct bench *b, size_t k) {
    float *z = bench_random(b, 240, 0, 1);
    struct kern_vec vl = bench_put(b, z, 1, F32), vz = bench_put(b, z, 240, F32);
    struct kern_vec vd = bench_put(b, z, 240, F32), vt = bench_put(b, z, 240, F32), vw = none;
    struct kern_loss_spec s = {.kind = KERN_LOSS_CLASSES,
                               .rows = 4,
                               .spots = 20,
                               .classes = 3,
                               .ignore = -1,
                               .ce = 1,
                               .dice = 1,
                               .smooth_dr = 1e-5f};
    switch (k) {
    case 0:
        s.classes = 1;
        break;
    case 1:
        s.ce = NAN;
        break;
    case 2:
        s.ce = s.dice = 0;
        break;
    case 3:
        s.smooth_dr = 0;
        break;
    case 4:
        s.smooth_nr = -1;
        break;
    case 5:
        s.spots = SIZE_MAX / 2;
        break;
    case 6:
        s.rows = 5; /* more than z has */
        break;
    case 7:
        vd = vz;
        break;
    case 8:
        s.kind = KERN_LOSS_COX;
        s.rows = KERN_LOSS_COX_ROWS_MAX + 1;
        break;
    case 9:
        s.kind = KERN_LOSS_BCE; /* without pos_weight */
        break;
    case 10:
        s.kind = KERN_LOSS_MSE;
        vw = vt;
        break;
    case 11:
        s.rows = 0;
        break;
    case 12:
        s.soft = true; /* more shares than there are */
        vt = bench_put(b, z, 80, F32);
        break;
    default:
        BENCH_OK(b, kern_loss(vl, vd, vz, vt, vw, &s));
        return;
    }
    BENCH_REFUSED(b, kern_loss, vl, vd, vz, vt, vw, &s);
}
BENCH_CASE(refused_case, refused_once, 14)

const struct parity_case parity_loss_cases[] = {
    {"loss of elements", elements_case, false}, {"loss far out", far_case, false},
    {"loss of classes", classes_case, false},   {"loss of nothing", nothing_case, false},
    {"loss of shares", shares_case, false},     {"loss of whole shares", whole_shares_case, false},
    {"loss, Cox's", cox_case, false},           {"loss refused", refused_case, false},
};
const size_t parity_loss_count = COUNT(parity_loss_cases);
