/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The error law. Every fallible function of tier, hub and spoke returns `enum tier_status` and
 * takes a `struct tier_err *` as its last argument; the function that first decides an error fills
 * it through tier_fail() with a sentence for a person: what was wrong, where, what would be right.
 * Propagators stay silent. Whoever acts on the error (retries, drops the child, stops) logs it
 * once.
 *
 * Threads: a struct tier_err belongs to one thread at a time. A NULL one is allowed everywhere.
 */
#ifndef CONSILIUM_TIER_ERR_H
#define CONSILIUM_TIER_ERR_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

/* X(name, text, gRPC status code) */
#define TIER_STATUS_LIST(X)                                                                        \
    X(OK, "ok", 0)                                                                                 \
    X(EARG, "bad argument", 3)                                                                     \
    X(ECONFIG, "bad configuration", 2)                                                             \
    X(EPLAN, "bad plan", 3)                                                                        \
    X(EDATA, "bad data", 3)                                                                        \
    X(EMODEL, "bad model", 3)                                                                      \
    X(EUPDATE, "bad update", 3)                                                                    \
    X(EPROTO, "protocol violation", 3)                                                             \
    X(EIDENTITY, "identity refused", 16)                                                           \
    X(EPOLICY, "refused by policy", 7)                                                             \
    X(ELATE, "too late", 9)                                                                        \
    X(ECONFLICT, "conflicts with what was said before", 6)                                         \
    X(ENOTFOUND, "not found", 5)                                                                   \
    X(ELIMIT, "over a limit", 8)                                                                   \
    X(EUNAVAILABLE, "peer unavailable", 14)                                                        \
    X(ETIMEOUT, "timed out", 4)                                                                    \
    X(ECANCELLED, "cancelled", 1)                                                                  \
    X(EUNIMPLEMENTED, "not implemented by the peer", 12)                                           \
    X(EDEVICE, "device failed", 13)                                                                \
    X(EIO, "input/output failed", 13)                                                              \
    X(EFULL, "disk full", 8)                                                                       \
    X(ECORRUPT, "stored data is damaged", 15)                                                      \
    X(ENOMEM, "out of memory", 8)                                                                  \
    X(EINTERNAL, "our own bug", 13)

enum tier_status {
#define X(name, text, grpc) TIER_##name,
    TIER_STATUS_LIST(X)
#undef X
        TIER_STATUS_COUNT
};

struct tier_err {
    enum tier_status status;
    char text[512]; /* one line for a person; always terminated */
};

/* "bad update"; "unknown status" outside the list. */
const char *tier_status_text(enum tier_status status);
/* The gRPC status code a refusal of this kind travels as, and back (best effort, never OK for an
 * error). */
int tier_status_grpc(enum tier_status status);
enum tier_status tier_status_from_grpc(int code);

/* Fills err (if not NULL) and returns status, so that `return tier_fail(...)` reads well. */
enum tier_status tier_fail(struct tier_err *err, enum tier_status status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* As tier_fail, with ": " and the text of errno appended. ENOSPC and EDQUOT become TIER_EFULL,
 * ENOMEM TIER_ENOMEM. */
enum tier_status tier_fail_errno(struct tier_err *err, enum tier_status status, const char *fmt,
                                 ...) __attribute__((format(printf, 3, 4)));
/* Puts "where: " in front of a message already there; returns err->status. */
enum tier_status tier_err_prefix(struct tier_err *err, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

#ifdef __clang_analyzer__
/* The analyser sees one file at a time: it must be told that what was asked for is returned. */
#define tier_fail(err, status, ...) ((void)tier_fail(err, status, __VA_ARGS__), (status))
#define tier_fail_errno(err, status, ...)                                                          \
    ((void)tier_fail_errno(err, status, __VA_ARGS__), (status))
#endif

/* Propagate: returns from the enclosing function, or jumps to its `out:` label with `st` set. */
#define TIER_TRY(call)                                                                             \
    do {                                                                                           \
        enum tier_status tier_try_ = (call);                                                       \
        if (tier_try_ != TIER_OK)                                                                  \
            return tier_try_;                                                                      \
    } while (0)
#define TIER_TRY_OUT(call)                                                                         \
    do {                                                                                           \
        st = (call);                                                                               \
        if (st != TIER_OK)                                                                         \
            goto out;                                                                              \
    } while (0)

#endif
