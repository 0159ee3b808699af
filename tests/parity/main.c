/* SPDX-License-Identifier: Apache-2.0 */
/*
 * parity DEVICE [THREADS]: the case list on one device. Exit 0, 1 (a case failed), 2 (usage), or 77
 * (there is no such device here), which ctest counts as skipped.
 */
#include "tests/parity/parity.h"

#include <stdlib.h>
#include <string.h>

static int group(const char *spec, int threads) {
    struct kern_device *dev[PARITY_GROUP_MAX] = {NULL};
    size_t count = 0;
    bool cuda = strncmp(spec, "cuda", 4) == 0;
    size_t limit = cuda ? (size_t)kern_cuda_device_count() : PARITY_GROUP_MAX;
    int failed = 0;
    char name[32], why[512] = "";
    for (; count < PARITY_GROUP_MAX && count < limit; count++) {
        snprintf(name, sizeof name, cuda ? "cuda:%zu" : "cpu", count);
        if (kern_device_open(name, threads, &dev[count]) != KERN_OK) {
            fprintf(stderr, "parity: %s\n", kern_device_error(NULL));
            failed = 1;
            break;
        }
    }
    for (size_t n = 1; n <= count && failed == 0; n *= 2) {
        if (!parity_group(dev, n, why, sizeof why)) {
            printf("parity: FAILED group of %zu devices: %s\n", n, why);
            failed = 1;
        }
    }
    for (size_t i = 0; i < count; i++) {
        kern_device_close(dev[i]);
    }
    printf("parity: groups of up to %zu devices, %d failed\n", count, failed);
    return failed;
}

int main(int argc, char **argv) {
    long threads = argc == 3 ? strtol(argv[2], NULL, 10) : 1;
    if (argc < 2 || argc > 3 || threads < 0 || threads > 64) {
        fprintf(stderr, "usage: parity cpu|cuda:N [THREADS]\n");
        return 2;
    }
    kern_init(NULL);
    struct kern_device *dev = NULL;
    enum kern_status st = kern_device_open(argv[1], (int)threads, &dev);
    if (st == KERN_ENODEV) {
        printf("parity: skipped, %s\n", kern_device_error(NULL));
        return 77;
    }
    if (st != KERN_OK) {
        fprintf(stderr, "parity: %s\n", kern_device_error(NULL));
        return 1;
    }
    int failed = parity_run(dev, stdout);
    kern_device_close(dev);
    failed += group(argv[1], (int)threads);
    return failed == 0 ? 0 : 1;
}
