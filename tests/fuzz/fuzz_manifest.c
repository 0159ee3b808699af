/* SPDX-License-Identifier: Apache-2.0 */
/* Manifests: what is accepted is the canonical text of what was read. */
#include "fuzz/fuzz.h"
#include "tier/manifest.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct tier_manifest *m = NULL;
    char *text = NULL;
    size_t n = 0;

    if (tier_manifest_parse((const char *)data, size, &m, NULL) != TIER_OK)
        return 0;
    FUZZ_CHECK(m->elements > 0 && m->elements <= TIER_ELEMENTS_MAX);
    FUZZ_CHECK(tier_manifest_text(m, &text, &n, NULL) == TIER_OK);
    FUZZ_CHECK(n == size && memcmp(text, data, n) == 0);
    free(text);
    tier_manifest_free(m);
    return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t room) {
    static const char *const seeds[] = {
        "consilium manifest 1\nf=30 narrow 64x3x7x7 conv1.weight\nf=20 wide 64 bn1.mean\n",
        "consilium manifest 1\nf=-100 narrow scalar t\nf=100 wide 1x2x3x4x5x6x7x8 u\n",
        "consilium manifest 1\nf=30 narrow 68719476736 big\n",
    };
    if (i >= sizeof seeds / sizeof *seeds)
        return 0;
    size_t n = strlen(seeds[i]);
    FUZZ_CHECK(n <= room);
    memcpy(out, seeds[i], n);
    return n;
}
