/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/kern.h"
#include "support/device_fold.h"
#include "support/tier_fixture.h"
#include "tier/log.h"

static struct tier_fold_devices *devices_of(const char *list) {
    struct tier_fold_devices *d = NULL;
    MUST(tier_fold_devices_open(list, 1, &d, err));
    return d;
}

Test(tier_fold_devices, sums_and_refusals_are_those_of_the_cpu) {
    static const char *const lists[] = {"cpu*1", "cpu*2", "cpu*4", "cpu*8"};
    char why[600] = "";
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        struct tier_fold_devices *d = devices_of(lists[i]);
        for (uint64_t seed = 1; seed <= 4; seed++)
            CHECK(device_fold_agrees(d, seed * 77 + i, seed == 4 ? 600000 : 3000, why, sizeof why),
                  "%s, seed %u: %s", lists[i], (unsigned)seed, why);
        tier_fold_devices_close(d);
    }
}

Test(tier_fold_devices, the_cpu_alone_and_auto_without_a_gpu_are_no_devices) {
    cr_expect(devices_of("cpu") == NULL);
    if (kern_cuda_device_count() == 0)
        cr_expect(devices_of("auto") == NULL);
    tier_fold_devices_close(NULL);
}

Test(tier_fold_devices, devices_that_are_not_here_are_refused_with_the_reason) {
    struct tier_fold_devices *d = NULL;
    REFUSED(TIER_EDEVICE, "fold_devices: device \"cuda:999\"",
            tier_fold_devices_open("cuda:999", 1, &d, err));
    REFUSED(TIER_EDEVICE, "fold_devices", tier_fold_devices_open("cpu*65", 1, &d, err));
    cr_expect_null(d);
}

Test(tier_fold_devices, a_budget_without_room_for_their_buffers_folds_on_the_cpu,
     .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_small();
    struct tier_fold_devices *d = devices_of("cpu*3");
    uint64_t seed = 5;
    struct tier_hash ids[2] = {sealed_random(spool, m, 3, &seed),
                               sealed_random(spool, m, 4, &seed)},
                     least, more;
    struct tier_update_header h = header_for(m, 1);
    struct tier_fold f = {.spool = spool,
                          .manifest = m,
                          .run = h.run,
                          .round = h.round,
                          .base_model = h.base_model,
                          .inputs = ids,
                          .count = 2,
                          .threads = 2,
                          .memory_bytes = tier_fold_memory_min(m, 2),
                          .devices = d};
    tier_log_init("test", TIER_LOG_ERROR);
    MUST(tier_fold_run(&f, &least, err));
    cr_expect(eq(u64, tier_fold_devices_added(d), 0));
    f.memory_bytes += tier_fold_devices_bytes(d, m);
    MUST(tier_fold_run(&f, &more, err));
    cr_expect(eq(u64, tier_fold_devices_added(d), 1));
    CHECK(tier_hash_equal(&least, &more));
    CHECK(tier_fold_devices_take(d, m));
    CHECK(!tier_fold_devices_take(d, m), "one fold has them");
    MUST(tier_fold_run(&f, &more, err));
    cr_expect(eq(u64, tier_fold_devices_added(d), 1), "another goes on without");
    CHECK(tier_hash_equal(&least, &more));
    tier_fold_devices_give_back(d);
    tier_fold_devices_close(d);
    tier_manifest_free(m);
    tier_spool_close(spool);
}
