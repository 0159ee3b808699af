/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A fuzz target is one file with these two functions. With clang it is linked with libFuzzer, and
 * with corpus.c, which gives it the seeds; with any other compiler with driver.c, which mutates
 * them for a bounded number of rounds from a fixed random seed, so that `tests/run` exercises every
 * parser on every machine. A target aborts (through FUZZ_CHECK, or a sanitizer) where a parser
 * misbehaves.
 */
#ifndef CONSILIUM_TESTS_FUZZ_H
#define CONSILIUM_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
/* The i-th well-formed input into out[room]; its size, 0 past the last one. */
size_t fuzz_seed(unsigned i, uint8_t *out, size_t room);

#define FUZZ_CHECK(condition)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition);          \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#endif
