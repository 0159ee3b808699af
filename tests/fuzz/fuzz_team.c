/* SPDX-License-Identifier: Apache-2.0 */
/* What servers of one spoke say to each other: what is accepted is within its bounds, and encodes
 * to bytes that mean the same. */
#include "fuzz/fuzz.h"
#include "tier/team_wire.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct tier_team_message m, again;

    if (tier_team_message(data, size, &m, NULL) != TIER_OK)
        return 0;
    FUZZ_CHECK(m.data_bytes <= size && (m.data_bytes == 0) == (m.data == NULL));
    FUZZ_CHECK(m.from < KERN_GROUP_RANKS_MAX && m.to < KERN_GROUP_RANKS_MAX);
    FUZZ_CHECK(m.type != TIER_TEAM_JOB || m.first < m.ranks);
    struct tier_bytes b = tier_team_bytes(&m);
    FUZZ_CHECK(tier_team_message(b.data, b.n, &again, NULL) == TIER_OK);
    struct tier_bytes c = tier_team_bytes(&again);
    FUZZ_CHECK(b.n == c.n && memcmp(b.data, c.data, b.n) == 0);
    free(b.data);
    free(c.data);
    tier_team_release(&m);
    tier_team_release(&again);
    return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t room) {
    static uint8_t text[] = "plan, graph or sum";
    struct tier_team_message m = {.type = (enum tier_team_type)(i + 1),
                                  .protocol = TIER_TEAM_PROTOCOL,
                                  .devices = 2,
                                  .software = "consilium",
                                  .backend = "cpu",
                                  .hash = {{1}},
                                  .job = 3,
                                  .round = 4,
                                  .seed = 9,
                                  .ranks = 4,
                                  .first = 2,
                                  .elements = 31,
                                  .reason = "why",
                                  .at = 7,
                                  .group = 2,
                                  .from = 1,
                                  .to = 3,
                                  .data = text,
                                  .data_bytes = sizeof text};

    FUZZ_CHECK(room >= 1024);
    if (i >= TIER_TEAM_PART)
        return 0;
    struct tier_bytes b = tier_team_bytes(&m);
    FUZZ_CHECK(b.n <= room);
    memcpy(out, b.data, b.n);
    size_t n = b.n;
    free(b.data);
    return n;
}
