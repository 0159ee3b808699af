/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a target makes itself, for libFuzzer to begin with: before it reads its corpus, each of
 * fuzz_seed's inputs is written to the first folder of the command line, the one that libFuzzer
 * writes its own finds to.
 */
#include "fuzz/fuzz.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define ROOM (64u << 10)

int LLVMFuzzerInitialize(int *argc, char ***argv);

static void write_seed(const char *folder, unsigned i, const uint8_t *bytes, size_t n) {
    char path[4096];

    FUZZ_CHECK(snprintf(path, sizeof path, "%s/made-%u", folder, i) < (int)sizeof path);
    FILE *f = fopen(path, "wb");
    if (!f)
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
    FUZZ_CHECK(f != NULL && fwrite(bytes, 1, n, f) == n && fclose(f) == 0);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    static uint8_t seed[ROOM];
    struct stat st;

    for (int a = 1; a < *argc; a++) {
        const char *folder = (*argv)[a];
        if (folder[0] == '-')
            continue;
        if (stat(folder, &st) != 0 || !S_ISDIR(st.st_mode))
            break; /* one input, to be seen again */
        size_t n;
        for (unsigned i = 0; (n = fuzz_seed(i, seed, sizeof seed)) > 0; i++)
            write_seed(folder, i, seed, n);
        break;
    }
    return 0;
}
