/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *text;
    int grpc;
} status_table[TIER_STATUS_COUNT] = {
#define X(name, text, grpc) [TIER_##name] = {text, grpc},
    TIER_STATUS_LIST(X)
#undef X
};

static bool status_known(enum tier_status status) {
    return (unsigned)status < TIER_STATUS_COUNT;
}

const char *tier_status_text(enum tier_status status) {
    return status_known(status) ? status_table[status].text : "unknown status";
}

int tier_status_grpc(enum tier_status status) {
    return status_known(status) ? status_table[status].grpc : 2;
}

enum tier_status tier_status_from_grpc(int code) {
    if (code == 0)
        return TIER_OK;
    for (int i = 1; i < TIER_STATUS_COUNT; i++)
        if (status_table[i].grpc == code)
            return (enum tier_status)i;
    return TIER_EUNAVAILABLE;
}

static void fill(struct tier_err *err, enum tier_status status, const char *fmt, va_list args) {
    err->status = status;
    vsnprintf(err->text, sizeof err->text, fmt, args);
}

enum tier_status(tier_fail)(struct tier_err *err, enum tier_status status, const char *fmt, ...) {
    if (err) {
        va_list args;
        va_start(args, fmt);
        fill(err, status, fmt, args);
        va_end(args);
    }
    return status;
}

enum tier_status(tier_fail_errno)(struct tier_err *err, enum tier_status status, const char *fmt,
                                  ...) {
    int saved = errno;

    if (saved == ENOSPC || saved == EDQUOT)
        status = TIER_EFULL;
    else if (saved == ENOMEM)
        status = TIER_ENOMEM;
    if (err) {
        va_list args;
        char reason[128];
        va_start(args, fmt);
        fill(err, status, fmt, args);
        va_end(args);
        size_t used = strlen(err->text);
        /* GNU strerror_r: thread-safe, and may return a constant instead of the buffer. */
        snprintf(err->text + used, sizeof err->text - used, ": %s",
                 strerror_r(saved, reason, sizeof reason));
    }
    return status;
}

enum tier_status tier_err_prefix(struct tier_err *err, const char *fmt, ...) {
    if (!err)
        return TIER_EINTERNAL;
    char old[sizeof err->text];
    memcpy(old, err->text, sizeof old);
    va_list args;
    va_start(args, fmt);
    fill(err, err->status, fmt, args);
    va_end(args);
    size_t used = strlen(err->text);
    snprintf(err->text + used, sizeof err->text - used, ": %s", old);
    return err->status;
}
