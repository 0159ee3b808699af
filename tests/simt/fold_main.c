/* SPDX-License-Identifier: Apache-2.0 */
/*
 * simt_fold SEED [no-nccl]: a hub's fold over 1, 2, 4 and 8 emulated GPUs gives the CPU's sum and
 * the CPU's refusals; GPUs that fail in the middle cost nothing but their speed.
 */
#include "kernels/backend.h"
#include "tests/simt/engine/control.h"
#include "tests/support/device_fold.h"
#include "tier/log.h"

const struct kern_ops *kern_plugin_ops_v1(uint32_t abi);

static int bad;

static void expect(bool ok, const char *what) {
    if (!ok) {
        fprintf(stderr, "simt_fold: FAILED %s\n", what);
        bad++;
    }
}

static struct tier_fold_devices *open_list(const char *list) {
    struct tier_fold_devices *d = NULL;
    struct tier_err err = {0};
    if (tier_fold_devices_open(list, 1, &d, &err) != TIER_OK || !d) {
        fprintf(stderr, "simt_fold: FAILED %s: %s\n", list, err.text);
        exit(1);
    }
    return d;
}

static void run_failures(void) {
    static const char *const calls[] = {"launch", "cudaMemcpyAsync", "cudaStreamSynchronize",
                                        "cudaMallocHost", "ncclReduce"};
    char why[600] = "";
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        struct tier_fold_devices *d = open_list("cuda:0,1");
        simt_fail_at(calls[i], 1);
        /* The sums agree; what does not is that the devices added every segment. */
        bool all = device_fold_agrees(d, 31 + i, 2000, why, sizeof why);
        expect(!all && strstr(why, "not every segment") != NULL, calls[i]);
        tier_fold_devices_close(d);
    }
}

int main(int argc, char **argv) {
    static const char *const lists[] = {"cuda:0", "cuda:2,5", "cuda:0,1,2,3", "cuda"};
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    bool nccl = argc < 3;
    char why[600] = "";
    tier_log_init("simt", (enum tier_log_level)(TIER_LOG_ERROR + 1));
    simt_begin(seed, 8, false);
    if (!nccl)
        simt_without_nccl();
    kern_registry_set_cuda(kern_plugin_ops_v1(KERN_BACKEND_ABI));
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        struct tier_fold_devices *d = open_list(lists[i]);
        if (!device_fold_agrees(d, seed * 10 + i, i == 1 ? 530000 : 4000, why, sizeof why)) {
            fprintf(stderr, "simt_fold: FAILED on %s: %s\n", lists[i], why);
            bad++;
        }
        tier_fold_devices_close(d);
    }
    expect(simt_findings() == 0, "no finding before failures are injected");
    expect((simt_nccl_calls() > 0) == nccl, "the way sums go");
    if (nccl)
        run_failures();
    expect(simt_live_bytes() == 0, "all device memory is freed");
    expect(simt_kernels_run() > 20, "kernels ran");
    printf("simt_fold: seed %llu, %llu kernels, %zu findings, %d failed\n",
           (unsigned long long)seed, (unsigned long long)simt_kernels_run(), simt_findings(), bad);
    return bad == 0 ? 0 : 1;
}
