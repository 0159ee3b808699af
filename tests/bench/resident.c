/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/resident.h"
#include "tests/bench/bench.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WEIGHT 100
#define SIGMA 1e-3

enum tier_status bench_resident_seal(struct tier_spool *spool, const char *dir,
                                     const struct tier_manifest *manifest, uint64_t seed,
                                     struct bench_resident *out, struct tier_err *err) {
    struct tier_update_header h = {.weight = WEIGHT};
    struct tier_update *u = NULL;
    float *deltas = bench_alloc(manifest->elements, sizeof *deltas);

    bench_deltas(deltas, manifest->elements, SIGMA, seed);
    enum tier_status st = tier_update_seal_f32(spool, &h, manifest, deltas, false, &out->id, err);
    free(deltas);
    TIER_TRY(st);
    TIER_TRY(tier_spool_update_open(spool, &out->id, &u, err));
    out->header = *tier_spool_update_header(u);
    out->header.metrics = NULL;
    tier_spool_update_close(u);
    out->dir = strdup(dir);
    return out->dir ? TIER_OK : tier_fail(err, TIER_ENOMEM, "no memory for a path");
}

static char *path_of(const struct bench_resident *r, const struct tier_hash *id) {
    char hex[TIER_HASH_HEX], *path;
    if (asprintf(&path, "%s/%s.upd", r->dir, tier_hash_hex(id, hex)) < 0)
        abort();
    return path;
}

/* Encoded headers without metrics are all of one length, so the payload stays where it is. */
enum tier_status bench_resident_rename(struct bench_resident *r, struct tier_err *err) {
    char *from = path_of(r, &r->id), *to = NULL;
    uint8_t *bytes = NULL;
    size_t n = 0;
    struct tier_hash id;
    enum tier_status st;
    int fd = open(from, O_WRONLY | O_CLOEXEC);

    TIER_TRY_OUT(tier_update_header_encode(&r->header, &bytes, &n, err));
    tier_hash_data(bytes, n, &id);
    to = path_of(r, &id);
    if (fd < 0 || pwrite(fd, bytes, n, 0) != (ssize_t)n || rename(from, to) != 0) {
        st = tier_fail_errno(err, TIER_EIO, "cannot rewrite %s", from);
        goto out;
    }
    r->id = id;
out:
    if (fd >= 0)
        close(fd);
    free(bytes);
    free(from);
    free(to);
    return st;
}

void bench_resident_release(struct bench_resident *r) {
    free(r->dir);
    r->dir = NULL;
}
