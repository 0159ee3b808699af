/* SPDX-License-Identifier: Apache-2.0 */
/* Whose updates a masked sum is of: what is accepted is written again as the same bytes. */
#include "fuzz/fuzz.h"
#include "tier/members.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct tier_members m, twice = {0};
    size_t n;

    if (tier_members_read(data, size, &m, NULL) != TIER_OK)
        return 0;
    uint8_t *bytes = tier_members_bytes(&m, &n);
    FUZZ_CHECK(n == size && memcmp(bytes, data, n) == 0);
    FUZZ_CHECK(tier_members_join(&twice, &m, NULL) == TIER_OK && twice.count == m.count);
    FUZZ_CHECK(m.count == 0 || tier_members_join(&twice, &m, NULL) == TIER_ECONFLICT);
    for (size_t i = 0; i < m.count; i++)
        FUZZ_CHECK(tier_members_has(&twice, m.name[i]));
    free(bytes);
    tier_members_release(&m);
    tier_members_release(&twice);
    return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t room) {
    static const char *const names[] = {"a", "p-0123456789abcdef", "st-mary", "z9"};
    struct tier_members m = {0};
    size_t n;

    if (i > 4)
        return 0;
    for (unsigned k = 0; k < i; k++)
        FUZZ_CHECK(tier_members_add(&m, names[k], NULL) == TIER_OK);
    uint8_t *bytes = tier_members_bytes(&m, &n);
    FUZZ_CHECK(n <= room);
    memcpy(out, bytes, n);
    free(bytes);
    tier_members_release(&m);
    return n;
}
