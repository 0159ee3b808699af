/* SPDX-License-Identifier: Apache-2.0 */
/* A line of the audit log: none but the one that was written passes in its place. */
#include "fuzz/fuzz.h"
#include "tier/audit.h"

#include <string.h>

/* The first line of a log, made with the format's own rules by an independent SHA-256. */
static const char line[] =
    "{\"data\":{\"node\":\"hub-1\"},\"event\":\"audit.created\",\"hash\":"
    "\"9b5bd10d8aa67be46997c05c9a37a31f1d1e58d772eb86bef5355504f455e212\","
    "\"prev\":\"0000000000000000000000000000000000000000000000000000000000000000\",\"seq\":1,"
    "\"time_ms\":1700000000000}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct tier_hash zero = {{0}}, hash;

    if (tier_audit_check_line((const char *)data, size, 1, &zero, &hash, NULL) == TIER_OK)
        FUZZ_CHECK(size == sizeof line - 1 && memcmp(data, line, size) == 0);
    return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t room) {
    struct tier_hash zero = {{0}}, hash;

    if (i > 0)
        return 0;
    FUZZ_CHECK(tier_audit_check_line(line, sizeof line - 1, 1, &zero, &hash, NULL) == TIER_OK);
    FUZZ_CHECK(sizeof line - 1 <= room);
    memcpy(out, line, sizeof line - 1);
    return sizeof line - 1;
}
