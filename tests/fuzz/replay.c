/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs a fuzz target without libFuzzer, with any compiler and sanitizer: over each file named, and
 * over 20,000 mutations of it from a fixed seed, so that a failure repeats.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INPUT_BYTES_MAX (64u << 10)
#define MUTATIONS 20000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static uint64_t state = 0x9e3779b97f4a7c15u;

/* splitmix64 (Steele, Lea & Flood 2014). */
static uint64_t next_random(void) {
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* One to four edits: set, flip, delete, duplicate or move some bytes. Returns the new length. */
static size_t mutate(uint8_t *data, size_t bytes) {
    static const char likely[] = "{}[]:,\"'&*!-0123456789.e\n \\";

    for (uint64_t edits = next_random() % 4 + 1; edits > 0 && bytes > 1; edits--) {
        size_t at = next_random() % bytes, run = next_random() % 16 + 1;
        size_t from = next_random() % bytes;
        if (run > bytes - at)
            run = bytes - at;
        switch (next_random() % 4) {
        case 0:
            data[at] = (uint8_t)likely[next_random() % (sizeof likely - 1)];
            break;
        case 1:
            data[at] ^= (uint8_t)(1u << (next_random() % 8));
            break;
        case 2:
            memmove(data + at, data + at + run, bytes - at - run);
            bytes -= run;
            break;
        default:
            if (bytes + run <= INPUT_BYTES_MAX && from + run <= bytes) {
                memmove(data + at + run, data + at, bytes - at);
                memmove(data + at, data + from, run);
                bytes += run;
            }
            break;
        }
    }
    return bytes;
}

int main(int argc, char **argv) {
    static uint8_t seed[INPUT_BYTES_MAX];

    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        if (!file) {
            perror(argv[i]);
            return 1;
        }
        size_t bytes = fread(seed, 1, sizeof seed, file);
        fclose(file);
        LLVMFuzzerTestOneInput(seed, bytes);
        for (int n = 0; n < MUTATIONS; n++) {
            /* An exact allocation, so that AddressSanitizer sees a read one past the end. */
            uint8_t *work = malloc(INPUT_BYTES_MAX);
            if (!work)
                return 1;
            memcpy(work, seed, bytes);
            size_t length = mutate(work, bytes);
            uint8_t *exact = malloc(length ? length : 1);
            if (!exact)
                return 1;
            memcpy(exact, work, length);
            LLVMFuzzerTestOneInput(exact, length);
            free(exact);
            free(work);
        }
    }
    printf("%d inputs, %d mutations each: nothing found\n", argc - 1, MUTATIONS);
    return 0;
}
