/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Operational log of a process: one line an event, to stderr, `time level node message`. This is
 * for the operator and may be lost; what must never be lost goes to the audit log (tier/audit.h).
 * Threads: any; a line is written with one write(2), so lines do not interleave.
 */
#ifndef CONSILIUM_TIER_LOG_H
#define CONSILIUM_TIER_LOG_H

enum tier_log_level { TIER_LOG_DEBUG, TIER_LOG_INFO, TIER_LOG_WARN, TIER_LOG_ERROR };

/* Call once at start, before threads: the node's name stands in every line (copied, cut at 63
 * bytes). */
void tier_log_init(const char *node, enum tier_log_level level);
void tier_log(enum tier_log_level level, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

#define tier_log_debug(...) tier_log(TIER_LOG_DEBUG, __VA_ARGS__)
#define tier_log_info(...) tier_log(TIER_LOG_INFO, __VA_ARGS__)
#define tier_log_warn(...) tier_log(TIER_LOG_WARN, __VA_ARGS__)
#define tier_log_error(...) tier_log(TIER_LOG_ERROR, __VA_ARGS__)

#endif
