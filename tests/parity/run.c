/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/nn.h"
#include "tests/parity/parity.h"

static const struct {
    const struct parity_case *cases;
    const size_t *count;
    bool nn; /* of kernels/nn.h */
} lists[] = {
    {parity_nn_cases, &parity_nn_count, false},
    {parity_step_cases, &parity_step_count, false},
    {parity_exact_cases, &parity_exact_count, false},
    {parity_loss_cases, &parity_loss_count, false},
    {parity_conv_cases, &parity_conv_count, true},
    {parity_norm_cases, &parity_norm_count, true},
    {parity_deep_cases, &parity_deep_count, true},
    {parity_refused_cases, &parity_refused_count, true},
    {parity_queue_cases, &parity_queue_count, true},
};
#define LISTS (sizeof lists / sizeof lists[0])

static bool run_case(struct kern_device *dev, FILE *to, const struct parity_case *c) {
    char why[512] = "";
    bool ok = c->run(dev, why, sizeof why);
    if (!ok) {
        fprintf(to, "parity: %s: FAILED %s: %s\n", kern_device_name(dev), c->name, why);
    }
    return ok;
}

int parity_run(struct kern_device *dev, FILE *to) {
    int failed = 0;
    size_t ran = 0, skipped = 0;
    for (size_t l = 0; l < LISTS; l++) {
        bool has = !lists[l].nn || kern_has_nn(dev);
        *(has ? &ran : &skipped) += *lists[l].count;
        for (size_t i = 0; has && i < *lists[l].count; i++) {
            failed += !run_case(dev, to, &lists[l].cases[i]);
        }
    }
    if (skipped > 0) {
        fprintf(to,
                "parity: %s: skipped %zu cases, this device's backend has no operations of "
                "kernels/nn.h\n",
                kern_device_name(dev), skipped);
    }
    fprintf(to, "parity: %s: %zu cases, %d failed\n", kern_device_name(dev), ran, failed);
    return failed;
}

void parity_bits_of(struct kern_device *dev, struct parity_bits *out) {
    char why[512];
    out->count = 0;
    (void)parity_digest_take();
    for (size_t l = 0; l < LISTS; l++) {
        bool has = !lists[l].nn || kern_has_nn(dev);
        for (size_t i = 0; has && i < *lists[l].count && out->count < PARITY_CASES_MAX; i++) {
            (void)lists[l].cases[i].run(dev, why, sizeof why);
            out->of[out->count] = &lists[l].cases[i];
            out->digest[out->count++] = parity_digest_take();
        }
    }
}

int parity_bits_compare(const struct parity_bits *a, const struct parity_bits *b,
                        bool threads_differ, const char *what, FILE *to) {
    int differ = a->count != b->count;
    size_t compared = 0;
    for (size_t i = 0; i < a->count && i < b->count; i++) {
        if (threads_differ && a->of[i]->threads_show) {
            continue;
        }
        compared++;
        if (a->digest[i] != b->digest[i]) {
            fprintf(to, "parity: %s: FAILED %s: other bits\n", what, a->of[i]->name);
            differ++;
        }
    }
    fprintf(to, "parity: %s: the bits of %zu cases, %d differ\n", what, compared, differ);
    return differ;
}
