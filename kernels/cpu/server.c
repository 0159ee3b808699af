/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The root's optimisers (Hsu, Qi and Brown 2019; Reddi et al. 2021, algorithm 2): elements do not
 * meet, so the order of operations within one is the whole definition, and it is the one written
 * here. Only + - * / and sqrt of IEEE double are used, which every machine rounds alike; this file
 * is compiled without contraction. The vector variants are the same text under wider targets.
 */
#include "kernels/cpu/server.h"

#include <float.h>
#include <math.h>

_Static_assert(FLT_EVAL_METHOD == 0, "a double is computed as a double, not wider");

#define BODY static inline __attribute__((always_inline))

BODY void momentum_body(float *restrict y, const float *restrict x, const double *restrict delta,
                        double *restrict m, size_t n, const struct kern_server *opt) {
    const double lr = opt->lr, keep = opt->momentum;
    for (size_t i = 0; i < n; i++) {
        m[i] = keep * m[i] + delta[i];
        y[i] = (float)((double)x[i] + lr * m[i]);
    }
}

BODY void adagrad_body(float *restrict y, const float *restrict x, const double *restrict delta,
                       double *restrict m, double *restrict v, size_t n,
                       const struct kern_server *opt) {
    const double lr = opt->lr, b1 = opt->beta1, c1 = 1.0 - b1, tau = opt->tau;
    for (size_t i = 0; i < n; i++) {
        m[i] = b1 * m[i] + c1 * delta[i];
        v[i] = v[i] + delta[i] * delta[i];
        y[i] = (float)((double)x[i] + lr * m[i] / (sqrt(v[i]) + tau));
    }
}

BODY void adam_body(float *restrict y, const float *restrict x, const double *restrict delta,
                    double *restrict m, double *restrict v, size_t n,
                    const struct kern_server *opt) {
    const double lr = opt->lr, b1 = opt->beta1, c1 = 1.0 - b1, tau = opt->tau;
    const double b2 = opt->beta2, c2 = 1.0 - b2;
    for (size_t i = 0; i < n; i++) {
        m[i] = b1 * m[i] + c1 * delta[i];
        v[i] = b2 * v[i] + c2 * (delta[i] * delta[i]);
        y[i] = (float)((double)x[i] + lr * m[i] / (sqrt(v[i]) + tau));
    }
}

BODY void yogi_body(float *restrict y, const float *restrict x, const double *restrict delta,
                    double *restrict m, double *restrict v, size_t n,
                    const struct kern_server *opt) {
    const double lr = opt->lr, b1 = opt->beta1, c1 = 1.0 - b1, tau = opt->tau;
    const double c2 = 1.0 - opt->beta2;
    for (size_t i = 0; i < n; i++) {
        double square = delta[i] * delta[i];
        double sign = v[i] > square ? 1.0 : v[i] < square ? -1.0 : 0.0;
        m[i] = b1 * m[i] + c1 * delta[i];
        v[i] = v[i] - c2 * square * sign;
        y[i] = (float)((double)x[i] + lr * m[i] / (sqrt(v[i]) + tau));
    }
}

BODY void step_body(float *y, const float *x, const double *delta, double *m, double *v, size_t n,
                    const struct kern_server *opt) {
    switch (opt->kind) {
    case KERN_SERVER_MOMENTUM:
        momentum_body(y, x, delta, m, n, opt);
        break;
    case KERN_SERVER_ADAGRAD:
        adagrad_body(y, x, delta, m, v, n, opt);
        break;
    case KERN_SERVER_ADAM:
        adam_body(y, x, delta, m, v, n, opt);
        break;
    case KERN_SERVER_YOGI:
        yogi_body(y, x, delta, m, v, n, opt);
        break;
    }
}

static void scalar_step(float *y, const float *x, const double *delta, double *m, double *v,
                        size_t n, const struct kern_server *opt) {
    step_body(y, x, delta, m, v, n, opt);
}

static const struct kern_server_ops scalar_ops = {scalar_step};

#if defined(__x86_64__)

__attribute__((target("avx2"))) static void avx2_step(float *y, const float *x, const double *delta,
                                                      double *m, double *v, size_t n,
                                                      const struct kern_server *opt) {
    step_body(y, x, delta, m, v, n, opt);
}

__attribute__((target("avx512f,avx512dq,avx512vl"))) static void
avx512_step(float *y, const float *x, const double *delta, double *m, double *v, size_t n,
            const struct kern_server *opt) {
    step_body(y, x, delta, m, v, n, opt);
}

static const struct kern_server_ops avx2_ops = {avx2_step}, avx512_ops = {avx512_step};

#endif

const struct kern_server_ops *kern_server_ops_for(enum kern_isa isa) {
    switch (isa) {
    case KERN_ISA_SCALAR:
        return &scalar_ops;
#if defined(__x86_64__)
    case KERN_ISA_AVX2:
        return __builtin_cpu_supports("avx2") ? &avx2_ops : NULL;
    case KERN_ISA_AVX512:
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                       __builtin_cpu_supports("avx512vl")
                   ? &avx512_ops
                   : NULL;
#endif
    default:
        return NULL;
    }
}

bool kern_server_has_v(enum kern_server_kind kind) {
    return kind != KERN_SERVER_MOMENTUM;
}

void kern_server_begin(double *m, double *v, size_t n, const struct kern_server *opt) {
    double least = opt->tau * opt->tau;
    for (size_t i = 0; i < n; i++) {
        m[i] = 0;
    }
    for (size_t i = 0; kern_server_has_v(opt->kind) && i < n; i++) {
        v[i] = least;
    }
}

void kern_server_step(float *y, const float *x, const double *delta, double *m, double *v, size_t n,
                      const struct kern_server *opt) {
    const struct kern_server_ops *ops = kern_server_ops_for(KERN_ISA_AVX512);
    if (ops == NULL) {
        ops = kern_server_ops_for(KERN_ISA_AVX2);
    }
    (ops != NULL ? ops : &scalar_ops)->step(y, x, delta, m, v, n, opt);
}

void kern_mean(double *delta, const int64_t *hi, const int64_t *lo, size_t n, int frac_bits,
               uint64_t weight) {
    double scale = ldexp(1, lo == NULL ? -frac_bits : -(frac_bits + 30)), w = (double)weight;
    if (lo == NULL) {
        for (size_t i = 0; i < n; i++) {
            delta[i] = (double)hi[i] / w * scale;
        }
        return;
    }
    for (size_t i = 0; i < n; i++) {
        __int128 s = (__int128)hi[i] * KERN_Q_MAX + lo[i];
        delta[i] = (double)s / w * scale;
    }
}
