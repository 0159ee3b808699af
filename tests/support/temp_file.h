/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Small files for tests, in a folder of the test's own that is removed with them.
 * Threads: one test, one process. Files are removed in reverse by temp_release().
 */
#ifndef CONSILIUM_TESTS_TEMP_FILE_H
#define CONSILIUM_TESTS_TEMP_FILE_H

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TEMP_FILES_MAX 16

static struct {
    char folder[64];
    char paths[TEMP_FILES_MAX][128];
    int count;
} temp;

/* The path of a new file with that text; an older one of the same name is replaced. */
static inline const char *temp_file_n(const char *name, const char *text, size_t n) {
    if (!temp.folder[0]) {
        snprintf(temp.folder, sizeof temp.folder, "/tmp/consilium-test-XXXXXX");
        char *made = mkdtemp(temp.folder);
        assert(made);
    }
    char path[128];
    int i = 0;
    snprintf(path, sizeof path, "%.60s/%.60s", temp.folder, name);
    while (i < temp.count && strcmp(temp.paths[i], path) != 0)
        i++;
    assert(i < TEMP_FILES_MAX);
    if (i == temp.count)
        snprintf(temp.paths[temp.count++], sizeof path, "%s", path);
    FILE *f = fopen(path, "wb");
    assert(f);
    size_t written = fwrite(text, 1, n, f);
    assert(written == n);
    fclose(f);
    return temp.paths[i];
}

static inline const char *temp_file(const char *name, const char *text) {
    return temp_file_n(name, text, strlen(text));
}

static inline void temp_release(void) {
    while (temp.count > 0)
        unlink(temp.paths[--temp.count]);
    if (temp.folder[0])
        rmdir(temp.folder);
    temp.folder[0] = '\0'; /* a test may begin anew */
}

#endif
