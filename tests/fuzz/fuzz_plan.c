/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The first byte chooses the reader: a plan from the wire, or YAML as a person may write it. What
 * the wire reader takes must come out again as the same bytes. For libFuzzer (clang) or, linked
 * with replay.c, over files named on the command line.
 */
#include "tier/plan.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void read_wire(const uint8_t *data, size_t bytes) {
    static struct tier_plan plan;
    struct tier_err err;
    size_t again_bytes;
    char *again;

    if (tier_plan_parse(data, bytes, &plan, &err) != TIER_OK)
        return;
    if (tier_plan_canonical(&plan, &again, &again_bytes, NULL, &err) != TIER_OK ||
        again_bytes != bytes || memcmp(again, data, bytes) != 0)
        abort();
    free(again);
}

static void read_yaml(const uint8_t *data, size_t bytes) {
    static struct tier_plan plan;
    static struct tier_problems problems;
    int lines[TIER_KEYS_MAX] = {0};
    struct tier_yaml *doc = NULL;
    struct tier_err err;
    size_t count;
    const struct tier_keys_item *keys = tier_plan_keys(&count);

    if (tier_yaml_parse("fuzz", data, bytes, &doc, &err) != TIER_OK)
        return;
    memset(&problems, 0, sizeof problems);
    tier_keys_defaults(keys, count, &plan);
    tier_keys_read(keys, count, doc, &plan, lines, &problems);
    tier_problems_sort(&problems);
    tier_yaml_free(doc);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    if (bytes > 0 && data[0] % 2)
        read_yaml(data + 1, bytes - 1);
    else if (bytes > 0)
        read_wire(data + 1, bytes - 1);
    return 0;
}
