/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stands in for libFuzzer where there is none: no coverage feedback, but mutations that know where
 * binary formats break (bit flips, extreme bytes, cuts, repeats, splices), from a fixed seed, so a
 * failure repeats. Usage: fuzz_X [ITERATIONS [SEED [FILE...]]], the files as seeds beside those
 * that the target makes; or fuzz_X --file PATH for one input.
 */
#include "fuzz/fuzz.h"

#include <string.h>
#include <unistd.h>

#define ROOM (64u << 10)

static uint64_t state;

static uint64_t next(void) {
    uint64_t z = (state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static size_t mutate(uint8_t *p, size_t n) {
    static const uint8_t extremes[] = {0x00, 0x01, 0x7f, 0x80, 0xff, 0x40, '0', '9', '"', '\n'};
    size_t at = n > 0 ? next() % n : 0, k = 1 + next() % 8;

    if (n == 0)
        return 0;
    k = k < n - at ? k : n - at;
    switch (next() % 6) {
    case 0:
        p[at] ^= (uint8_t)(1u << next() % 8);
        return n;
    case 1:
        p[at] = extremes[next() % sizeof extremes];
        return n;
    case 2: /* cut the end off */
        return at;
    case 3: /* take bytes out */
        memmove(p + at, p + at + k, n - at - k);
        return n - k;
    case 4: /* repeat bytes */
        if (n + k > ROOM)
            return n;
        memmove(p + at + k, p + at, n - at);
        return n + k;
    default: /* copy bytes over others */
        memmove(p + at, p + next() % (n - k + 1), k);
        return n;
    }
}

/* A copy of the exact size, so that the sanitizer sees the first byte read past the end. */
static void run(const uint8_t *p, size_t n) {
    uint8_t *exact = malloc(n > 0 ? n : 1);

    FUZZ_CHECK(exact != NULL);
    memcpy(exact, p, n);
    LLVMFuzzerTestOneInput(exact, n);
    free(exact);
}

/* Of a file as much as there is room for; 0 for one that cannot be read. */
static size_t read_file(const char *path, uint8_t *out, size_t room) {
    FILE *f = fopen(path, "rb");

    if (!f) {
        perror(path);
        return 0;
    }
    size_t n = fread(out, 1, room, f);
    fclose(f);
    return n;
}

static int run_file(const char *path) {
    static uint8_t buffer[1u << 20];

    if (access(path, R_OK) != 0) {
        perror(path);
        return 1;
    }
    run(buffer, read_file(path, buffer, sizeof buffer));
    return 0;
}

/* The i-th seed: the target's own, then the files. */
static size_t seed_at(unsigned i, unsigned made, char **files, uint8_t *out) {
    return i < made ? fuzz_seed(i, out, ROOM) : read_file(files[i - made], out, ROOM);
}

int main(int argc, char **argv) {
    static uint8_t input[ROOM];
    char **files = argv + 3;
    unsigned made = 0, seeds = argc > 3 ? (unsigned)argc - 3 : 0;

    if (argc == 3 && strcmp(argv[1], "--file") == 0)
        return run_file(argv[2]);
    unsigned long iterations = argc > 1 ? strtoul(argv[1], NULL, 10) : 20000;
    state = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    while (fuzz_seed(made, input, ROOM) > 0)
        made++;
    FUZZ_CHECK(made > 0);
    seeds += made;
    for (unsigned i = 0; i < seeds; i++) {
        size_t n = seed_at(i, made, files, input);
        FUZZ_CHECK(n > 0);
        run(input, n);
    }
    for (unsigned long i = 0; i < iterations; i++) {
        size_t n = seed_at((unsigned)(next() % seeds), made, files, input);
        for (uint64_t k = 1 + next() % 4; k > 0; k--)
            n = mutate(input, n);
        run(input, n);
    }
    printf("%lu mutations of %u seeds\n", iterations, seeds);
    return 0;
}
