/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the programs of this folder share: a check that stops the program, and a folder of its own.
 * Threads: NEED may be used by any; the folder is the main thread's.
 */
#ifndef CONSILIUM_TESTS_TSAN_H
#define CONSILIUM_TESTS_TSAN_H

#include "tier/err.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* _Exit, because other threads are still at work. */
#define NEED(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition);          \
            fflush(NULL);                                                                          \
            _Exit(1);                                                                              \
        }                                                                                          \
    } while (0)
/* A call that names its error argument `err` must succeed. */
#define MUST(call)                                                                                 \
    do {                                                                                           \
        struct tier_err must_err_ = {0}, *err = &must_err_;                                        \
        if ((call) != TIER_OK) {                                                                   \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, must_err_.text);         \
            fflush(NULL);                                                                          \
            _Exit(1);                                                                              \
        }                                                                                          \
    } while (0)

static char work_dir[64];

static inline void work_begin(void) {
    snprintf(work_dir, sizeof work_dir, "/tmp/consilium-tsan-XXXXXX");
    NEED(mkdtemp(work_dir) != NULL);
}

static int work_remove(const char *path, const struct stat *info, int kind, struct FTW *ftw) {
    (void)info, (void)kind, (void)ftw;
    return remove(path);
}

static inline void work_end(void) {
    nftw(work_dir, work_remove, 16, FTW_DEPTH | FTW_PHYS);
}

#endif
