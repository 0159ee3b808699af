/* SPDX-License-Identifier: Apache-2.0 */
/*
 * parity DEVICE [THREADS [base]]: the case list on one device; the same bits a second time, and on
 * the CPU with 1, 2 and 3 threads and with the code that every machine can run, which "base" takes
 * from the start. Exit 0, 1 (a case failed), 2 (usage), or 77 (there is no such device here), which
 * ctest counts as skipped.
 */
#include "kernels/cpu/nn.h"
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

static struct parity_bits ours, others;

static int bits_once(const char *spec, int threads, const struct parity_bits *with, bool differ,
                     const char *what) {
    struct kern_device *dev = NULL;
    if (kern_device_open(spec, threads, &dev) != KERN_OK) {
        fprintf(stderr, "parity: %s\n", kern_device_error(NULL));
        return 1;
    }
    parity_bits_of(dev, with == NULL ? &ours : &others);
    kern_device_close(dev);
    return with == NULL ? 0 : parity_bits_compare(with, &others, differ, what, stdout);
}

static int bits(const char *spec, int threads) {
    char what[64];
    int failed = bits_once(spec, threads, NULL, false, "") +
                 bits_once(spec, threads, &ours, false, "a second run");
    if (strcmp(spec, "cpu") != 0) {
        return failed;
    }
    for (int t = 1; t <= 3; t++) {
        snprintf(what, sizeof what, "%d threads beside %d", t, threads);
        failed += t == threads ? 0 : bits_once(spec, t, &ours, true, what);
    }
    snprintf(what, sizeof what, "base beside %s", kern_cpu_nn_isa());
    kern_cpu_nn_use_base();
    return failed + bits_once(spec, threads, &ours, false, what);
}

int main(int argc, char **argv) {
    long threads = argc >= 3 ? strtol(argv[2], NULL, 10) : 1;
    if (argc < 2 || argc > 4 || threads < 0 || threads > 64 ||
        (argc == 4 && strcmp(argv[3], "base") != 0)) {
        fprintf(stderr, "usage: parity cpu|cuda:N [THREADS [base]]\n");
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
    if (argc == 4) {
        kern_cpu_nn_use_base();
    }
    int failed = parity_run(dev, stdout) + bits(argv[1], (int)threads);
    kern_device_close(dev);
    failed += group(argv[1], (int)threads);
    return failed == 0 ? 0 : 1;
}
