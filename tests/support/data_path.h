/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where tests find what is not in the tree: real data in CONSILIUM_TEST_DATA, or in ../shared/data
 * beside the source. A test that needs data which is absent says so and is skipped.
 */
#ifndef CONSILIUM_TESTS_DATA_PATH_H
#define CONSILIUM_TESTS_DATA_PATH_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The root of the source tree; this header is two folders below it. */
static inline const char *source_path(const char *file, char *path, size_t size) {
    const char *here = __FILE__;
    const char *tail = strstr(here, "tests/support/data_path.h");
    int root = tail ? (int)(tail - here) : 0;
    snprintf(path, size, "%.*s%s", root, here, file);
    return path;
}

/* False, and a printed reason, where the file is absent. */
static inline bool data_path(const char *file, char *path, size_t size) {
    const char *set = getenv("CONSILIUM_TEST_DATA");
    char beside[512];

    snprintf(beside, sizeof beside, "../shared/data/%s", file);
    if (set)
        snprintf(path, size, "%s/%s", set, file);
    else
        source_path(beside, path, size);
    if (access(path, R_OK) == 0)
        return true;
    fprintf(stderr, "skipped: %s is not here; set CONSILIUM_TEST_DATA to the folder of test data\n",
            path);
    return false;
}

#endif
