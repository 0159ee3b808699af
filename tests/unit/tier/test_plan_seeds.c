/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "tier/plan.h"

#include <stdio.h>

/* A seed that is no plan any more lets a fuzzer see nothing of what stands behind the first check.
 */
Test(tier_plan_seeds, the_fuzzers_seeds_are_plans) {
    static struct tier_plan plan;
    struct tier_err err;
    static const char *const seeds[] = {"wire", "wire-buffered", "wire-private", "wire-site",
                                        "wire-untrusted"};
    for (size_t i = 0; i < sizeof seeds / sizeof seeds[0]; i++) {
        static char text[8192];
        char path[512];
        snprintf(path, sizeof path, CONSILIUM_SOURCE_DIR "/tests/fuzz/seeds/plan/%s", seeds[i]);
        FILE *f = fopen(path, "r");
        cr_assert(f != NULL, "%s", path);
        size_t n = fread(text, 1, sizeof text, f);
        fclose(f);
        /* Its first byte says to the fuzzer which reader it is for. */
        cr_assert(eq(int, tier_plan_parse(text + 1, n - 1, &plan, &err), TIER_OK), "%s: %s",
                  seeds[i], err.text);
    }
}
