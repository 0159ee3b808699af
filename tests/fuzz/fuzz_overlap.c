/* SPDX-License-Identifier: Apache-2.0 */
/* A site's file of blinded patients: what is accepted is written again as the same bytes, and
 * blinded once more has as many. */
#include "fuzz/fuzz.h"
#include "tier/overlap.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct tier_overlap o;
    char *text = NULL;
    size_t bytes = 0;

    if (size == 0)
        return 0;
    FILE *in = fmemopen((void *)(uintptr_t)data, size, "r");
    FUZZ_CHECK(in != NULL);
    enum tier_status st = tier_overlap_read(in, "fuzz", &o, NULL);
    fclose(in);
    if (st != TIER_OK)
        return 0;
    for (size_t p = 0; p < TIER_OVERLAP_PARTS; p++)
        FUZZ_CHECK(tier_overlap_common(&o, p, &o, p) == o.count[p]);
    FILE *out = open_memstream(&text, &bytes);
    FUZZ_CHECK(out && tier_overlap_write(&o, out, NULL) == TIER_OK);
    fclose(out);
    FUZZ_CHECK(bytes == size && memcmp(text, data, size) == 0);
    free(text);
    const struct tier_psi_secret secret = {{[31] = 3}};
    size_t count = o.count[0];
    st = tier_overlap_blind(&o, &secret, NULL);
    FUZZ_CHECK(st == TIER_ELIMIT || (st == TIER_OK && o.count[0] == count));
    tier_overlap_release(&o);
    return 0;
}
