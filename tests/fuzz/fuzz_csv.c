/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hospital's table, in a file that lies in memory: read to its end or its first error by each
 * delimiter, and what was read, written again cell by cell, is read back as the same.
 */
#include "fuzz/fuzz.h"
#include "spoke/csv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define CELLS_MAX 64
#define SEEDS 4

static enum tier_status open_fd(int fd, char delimiter, struct spoke_csv **out) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return spoke_csv_open(path, delimiter, CELLS_MAX, out, NULL);
}

static void same_again(char *const *cells, size_t count) {
    int fd = memfd_create("again", MFD_CLOEXEC);
    FILE *to = fdopen(dup(fd), "w");
    struct spoke_csv *csv = NULL;
    char *const *back;
    size_t n = 0;

    FUZZ_CHECK(to != NULL);
    fputs("x\n", to); /* a first line, so that a cell that begins with a byte order mark keeps it */
    for (size_t i = 0; i < count; i++) {
        if (i > 0)
            putc(',', to);
        spoke_csv_put(to, cells[i], ',');
    }
    putc('\n', to);
    fclose(to);
    FUZZ_CHECK(open_fd(fd, ',', &csv) == TIER_OK);
    FUZZ_CHECK(spoke_csv_next(csv, &back, &n, NULL) == TIER_OK && n == 1);
    FUZZ_CHECK(spoke_csv_next(csv, &back, &n, NULL) == TIER_OK);
    bool blank = count == 1 && !cells[0][0]; /* a blank line is none */
    FUZZ_CHECK(n == (blank ? 0 : count));
    for (size_t i = 0; i < n; i++)
        FUZZ_CHECK(strcmp(cells[i], back[i]) == 0);
    spoke_csv_close(csv);
    close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char delimiters[] = {',', '\t'};
    int fd = memfd_create("csv", MFD_CLOEXEC);

    FUZZ_CHECK(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    for (size_t i = 0; i < sizeof delimiters; i++) {
        struct spoke_csv *csv = NULL;
        char *const *cells;
        size_t count = 1;
        if (open_fd(fd, delimiters[i], &csv) != TIER_OK)
            continue;
        while (count > 0 && spoke_csv_next(csv, &cells, &count, NULL) == TIER_OK) {
            FUZZ_CHECK(count <= CELLS_MAX && spoke_csv_line(csv) >= 1);
            if (count > 0)
                same_again(cells, count);
        }
        spoke_csv_close(csv);
    }
    close(fd);
    return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t room) {
    static const char *const texts[SEEDS] = {
        "age,sex,\"a \"\"b\"\"\"\n61,f,\" x, y \"\r\n\n,,\n",
        "participant_id\tage\nsub-01\tn/a\nsub-02\t44\n",
        ("\xef\xbb\xbf"
         "a;b\n1;\"2\n3\"\n"),
        "a\n\"\"\n \n\"x\" \n",
    };
    if (i >= SEEDS)
        return 0;
    size_t n = strlen(texts[i]);
    memcpy(out, texts[i], n < room ? n : room);
    return n < room ? n : room;
}
