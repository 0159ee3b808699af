/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the tests of the data path share: seeded random numbers, a directory that goes with the
 * test, and small manifests, models and updates. Header only; every test program is one file.
 * Threads: one test at a time.
 */
#ifndef CONSILIUM_TESTS_TIER_FIXTURE_H
#define CONSILIUM_TESTS_TIER_FIXTURE_H

#include "tier/fold.h"
#include "tier/manifest.h"
#include "tier/model.h"
#include "tier/spool.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Any condition; cr_assert itself takes none that begins with a parenthesis or a "!". */
static inline bool holds(bool condition) {
    return condition;
}
#define CHECK(condition, ...) cr_assert(holds(condition), ##__VA_ARGS__)

/* Fails the test with the error's own sentence. */
#define MUST(call)                                                                                 \
    do {                                                                                           \
        struct tier_err must_err_ = {0};                                                           \
        struct tier_err *err = &must_err_;                                                         \
        enum tier_status must_st_ = (call);                                                        \
        CHECK(must_st_ == TIER_OK, "%s: %s", #call, must_err_.text);                               \
    } while (0)
/* The call must be refused with that status, and with a sentence that holds `word`. */
#define REFUSED(want, word, call)                                                                  \
    do {                                                                                           \
        struct tier_err must_err_ = {0};                                                           \
        struct tier_err *err = &must_err_;                                                         \
        enum tier_status must_st_ = (call);                                                        \
        CHECK(must_st_ == (want) && must_err_.status == (want), "%s gave %s: %s", #call,           \
              tier_status_text(must_st_), must_err_.text);                                         \
        CHECK(strstr(must_err_.text, (word)) != NULL, "\"%s\" is not in: %s", (word),              \
              must_err_.text);                                                                     \
    } while (0)

/* splitmix64 (Steele, Lea, Flood 2014). */
static inline uint64_t rng_next(uint64_t *state) {
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}
static inline uint64_t rng_below(uint64_t *state, uint64_t n) {
    return rng_next(state) % n;
}
static inline double rng_unit(uint64_t *state) {
    return (double)(rng_next(state) >> 11) * 0x1p-53;
}
/* Sum of 12 uniforms: near enough to a Gaussian of variance 1. */
static inline double rng_normal(uint64_t *state) {
    double sum = -6;
    for (int i = 0; i < 12; i++)
        sum += rng_unit(state);
    return sum;
}

static char fixture_dir[64];

static int fixture_remove(const char *path, const struct stat *info, int kind, struct FTW *ftw) {
    (void)info, (void)kind, (void)ftw;
    return remove(path);
}
static inline void fixture_down(void) {
    if (fixture_dir[0] != '\0')
        nftw(fixture_dir, fixture_remove, 16, FTW_DEPTH | FTW_PHYS);
    fixture_dir[0] = '\0';
}
static inline void fixture_up(void) {
    snprintf(fixture_dir, sizeof fixture_dir, "/tmp/consilium-test-XXXXXX");
    CHECK(mkdtemp(fixture_dir) != NULL);
}
/* "<fixture_dir>/<name>" in one of a few static buffers. */
static inline const char *fixture_path(const char *name) {
    static char paths[8][256];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", fixture_dir, name);
    return path;
}

static inline struct tier_tensor tensor_of(const char *name, uint64_t rows, uint64_t cols, int bits,
                                           bool wide) {
    struct tier_tensor t = {.frac_bits = bits, .wide = wide};
    snprintf(t.name, sizeof t.name, "%s", name);
    if (rows > 0)
        t.dims[t.ndim++] = rows;
    if (cols > 0)
        t.dims[t.ndim++] = cols;
    return t;
}

static inline struct tier_manifest *manifest_of(const struct tier_tensor *tensors, size_t n) {
    struct tier_manifest *m = NULL;
    MUST(tier_manifest_new(tensors, n, &m, err));
    return m;
}

/* A narrow matrix, a wide vector and a scalar: 12 + 5 + 1 elements, clip 1 and 1024. */
static inline struct tier_manifest *manifest_small(void) {
    struct tier_tensor t[] = {tensor_of("body.weight", 3, 4, 30, false),
                              tensor_of("bn.running_mean", 5, 0, 20, true),
                              tensor_of("temperature", 0, 0, 30, false)};
    t[1].state = true;
    return manifest_of(t, 3);
}

static inline struct tier_spool *spool_up(bool strict) {
    struct tier_spool *spool = NULL;
    fixture_up();
    MUST(tier_spool_open(fixture_path("spool"), strict, &spool, err));
    return spool;
}

static inline struct tier_update_header header_for(const struct tier_manifest *m, uint64_t weight) {
    struct tier_update_header h = {
        .round = 7, .manifest = m->hash, .weight = weight, .encoding = TIER_ENC_F32};
    tier_hash_data("run", 3, &h.run);
    tier_hash_data("base", 4, &h.base_model);
    return h;
}

static inline float *deltas_random(const struct tier_manifest *m, double sigma, uint64_t *seed) {
    float *x = malloc(m->elements * sizeof *x);
    for (size_t t = 0; t < m->count; t++)
        for (uint64_t i = 0; i < m->tensors[t].count; i++) {
            double clip = ldexp(1, 30 - m->tensors[t].frac_bits);
            double v = rng_normal(seed) * sigma * clip;
            x[m->tensors[t].at + i] = (float)fmax(-clip, fmin(clip, v));
        }
    return x;
}

static inline struct tier_hash sealed_random(struct tier_spool *spool,
                                             const struct tier_manifest *m, uint64_t weight,
                                             uint64_t *seed) {
    struct tier_update_header h = header_for(m, weight);
    struct tier_hash id;
    float *x = deltas_random(m, 0.1, seed);
    MUST(tier_update_seal_f32(spool, &h, m, x, false, &id, err));
    free(x);
    return id;
}

/* A sealed update as its bytes on the wire: the header and the payload, to be freed. */
struct wire_bytes {
    uint8_t *header, *payload;
    size_t header_len, payload_len;
};
static inline struct wire_bytes wire_of(struct tier_spool *spool, const struct tier_hash *id) {
    struct wire_bytes w = {0};
    struct tier_update *u = NULL;
    MUST(tier_spool_update_open(spool, id, &u, err));
    const uint8_t *bytes = tier_spool_update_header_bytes(u, &w.header_len);
    w.header = malloc(w.header_len);
    memcpy(w.header, bytes, w.header_len);
    w.payload_len = tier_spool_update_header(u)->payload_bytes;
    w.payload = malloc(w.payload_len + 1);
    MUST(tier_spool_update_read(u, 0, w.payload, w.payload_len, err));
    tier_spool_update_close(u);
    return w;
}
static inline void wire_free(struct wire_bytes *w) {
    free(w->header);
    free(w->payload);
}

/* Seals any payload under a header that fits it: how a hostile child makes its update. */
static inline struct tier_hash sealed_raw(struct tier_spool *spool,
                                          const struct tier_update_header *h, const void *payload,
                                          size_t n) {
    struct tier_spool_writer *w = NULL;
    struct tier_hash id;
    MUST(tier_spool_writer_begin(spool, h, &w, err));
    MUST(tier_spool_writer_append(w, payload, n, err));
    MUST(tier_spool_writer_seal(w, 0, &id, err));
    return id;
}

static inline struct tier_update *update_open(struct tier_spool *spool,
                                              const struct tier_hash *id) {
    struct tier_update *u = NULL;
    MUST(tier_spool_update_open(spool, id, &u, err));
    return u;
}

static inline size_t files_in(const char *dir) {
    size_t n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d)) != NULL;)
        n += e->d_name[0] != '.';
    if (d)
        closedir(d);
    return n;
}

#endif
