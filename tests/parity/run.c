/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/parity/parity.h"

static int run_list(struct kern_device *dev, FILE *to, const struct parity_case *list,
                    size_t count) {
    int failed = 0;
    for (size_t i = 0; i < count; i++) {
        char why[512] = "";
        if (!list[i].run(dev, why, sizeof why)) {
            fprintf(to, "parity: %s: FAILED %s: %s\n", kern_device_name(dev), list[i].name, why);
            failed++;
        }
    }
    return failed;
}

int parity_run(struct kern_device *dev, FILE *to) {
    int failed = run_list(dev, to, parity_nn_cases, parity_nn_count) +
                 run_list(dev, to, parity_exact_cases, parity_exact_count);
    fprintf(to, "parity: %s: %zu cases, %d failed\n", kern_device_name(dev),
            parity_nn_count + parity_exact_count, failed);
    return failed;
}
