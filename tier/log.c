/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static char log_node[64] = "-";
static enum tier_log_level log_level = TIER_LOG_INFO;

void tier_log_init(const char *node, enum tier_log_level level) {
    snprintf(log_node, sizeof log_node, "%s", node);
    log_level = level;
}

void tier_log(enum tier_log_level level, const char *fmt, ...) {
    static const char *const names[] = {"debug", "info", "warn", "error"};
    char line[1400];
    struct timespec now;
    struct tm utc;
    va_list args;

    if (level < log_level)
        return;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t used = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%S", &utc);
    used += (size_t)snprintf(line + used, sizeof line - used, ".%03ldZ %s %s ",
                             now.tv_nsec / 1000000, names[level], log_node);
    va_start(args, fmt);
    int n = vsnprintf(line + used, sizeof line - used - 1, fmt, args);
    va_end(args);
    used += n < 0 ? 0 : (size_t)n;
    if (used > sizeof line - 2)
        used = sizeof line - 2;
    for (size_t i = 0; i < used; i++) /* a peer's text must not forge a second line */
        if ((unsigned char)line[i] < 0x20)
            line[i] = ' ';
    line[used++] = '\n';
    (void)!write(STDERR_FILENO, line, used);
}
