/* SPDX-License-Identifier: Apache-2.0 */
#include "support/tier_fixture.h"

#include <errno.h>

Test(tier_err, every_status_has_a_text_and_a_grpc_code) {
    for (int i = 0; i < TIER_STATUS_COUNT; i++) {
        CHECK(strlen(tier_status_text((enum tier_status)i)) > 0);
        CHECK((tier_status_grpc((enum tier_status)i) == 0) == (i == TIER_OK));
    }
    cr_assert(eq(str, (char *)tier_status_text((enum tier_status)999), "unknown status"));
}

Test(tier_err, no_grpc_error_comes_back_as_ok) {
    CHECK(tier_status_from_grpc(0) == TIER_OK);
    for (int code = 1; code < 20; code++)
        CHECK(tier_status_from_grpc(code) != TIER_OK);
}

Test(tier_err, a_full_disk_is_full_whatever_failed) {
    struct tier_err err;
    errno = ENOSPC;
    CHECK(tier_fail_errno(&err, TIER_EIO, "cannot write %s", "x") == TIER_EFULL);
    CHECK(strncmp(err.text, "cannot write x: ", 16) == 0);
    errno = EACCES;
    CHECK(tier_fail_errno(NULL, TIER_EIO, "cannot write %s", "x") == TIER_EIO);
}

Test(tier_err, a_prefix_keeps_the_status_and_a_long_text_is_cut) {
    struct tier_err err;
    char text[600];
    memset(text, 'a', sizeof text);
    text[sizeof text - 1] = '\0';
    tier_fail(&err, TIER_EDATA, "%s", text);
    CHECK(strlen(err.text) == sizeof err.text - 1);
    CHECK(tier_err_prefix(&err, "row %d", 3) == TIER_EDATA);
    CHECK(strncmp(err.text, "row 3: aaa", 10) == 0);
}
