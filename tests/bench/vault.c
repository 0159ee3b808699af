/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What encrypting a node's files costs (storage.encrypt): an update taken into the spool as it
 * comes from the network, hashed and sealed, and sealed updates folded into one, with and without,
 * in turns in one run.
 */
#include "tests/bench/bench.h"
#include "tests/bench/resident.h"
#include "tier/fold.h"
#include "tier/key_file.h"
#include "tier/vault.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RUNS 5
#define UPDATES 8
#define FRAC_BITS 30
#define PIECE (1u << 20) /* as messages of the edge carry them */

/* A node's directory: its spool, and the updates sealed there. */
struct node {
    char dir[600];
    struct tier_vault *vault;
    struct tier_spool *spool;
    struct tier_hash ids[UPDATES];
    double ingest[RUNS], fold[RUNS];
};

static enum tier_status open_node(struct node *n, const struct bench_options *o, const char *name,
                                  bool encrypt, struct tier_err *err) {
    char path[700];

    snprintf(n->dir, sizeof n->dir, "%.500s/%s", o->work, name);
    if (mkdir(n->dir, 0700) != 0)
        return tier_fail_errno(err, TIER_EIO, "cannot make %s", n->dir);
    TIER_TRY(tier_vault_open(n->dir, encrypt, &n->vault, err));
    snprintf(path, sizeof path, "%s/spool", n->dir);
    return tier_spool_open(path, false, &n->spool, err);
}

static enum tier_status passphrase(const struct bench_options *o, struct tier_err *err) {
    char path[700];

    snprintf(path, sizeof path, "%.500s/passphrase", o->work);
    FILE *f = fopen(path, "w");
    bool good = f && fputs("only for measuring\n", f) >= 0 && fclose(f) == 0;
    if (!good || chmod(path, 0600) != 0)
        return tier_fail_errno(err, TIER_EIO, "cannot write %s", path);
    tier_key_file_passphrase(path);
    return TIER_OK;
}

/* One update, from memory into the spool, which deletes it again: the next writes over it. */
static enum tier_status ingest(struct node *n, const struct tier_update_header *h,
                               const uint8_t *payload, double *gb_s, struct tier_err *err) {
    struct tier_spool_rx *rx = NULL;
    struct tier_hash id;
    uint8_t *header = NULL;
    size_t len = 0;
    enum tier_status st;
    double start;

    TIER_TRY_OUT(tier_update_header_encode(h, &header, &len, err));
    start = bench_now_s();
    TIER_TRY_OUT(tier_spool_receive(n->spool, header, len, &rx, err));
    for (uint64_t at = 0; at < h->payload_bytes;) {
        uint64_t left = h->payload_bytes - at;
        size_t m = left < PIECE ? (size_t)left : PIECE;
        TIER_TRY_OUT(tier_spool_rx_write(rx, at, payload + at, m, err));
        at += m;
    }
    TIER_TRY_OUT(tier_spool_rx_seal(rx, &id, err));
    *gb_s = (double)h->payload_bytes / 1e9 / (bench_now_s() - start);
    st = tier_spool_delete(n->spool, &id, err);
out:
    tier_spool_rx_close(rx);
    free(header);
    return st;
}

static enum tier_status fold(struct node *n, const struct tier_manifest *m, double *gb_s,
                             struct tier_hash *sum, struct tier_err *err) {
    const struct tier_fold job = {.spool = n->spool,
                                  .manifest = m,
                                  .inputs = n->ids,
                                  .count = UPDATES,
                                  .threads = 1,
                                  .memory_bytes = 2 * tier_fold_memory_min(m, UPDATES)};
    double start = bench_now_s();

    TIER_TRY(tier_fold_run(&job, sum, err));
    *gb_s = UPDATES * (double)m->elements * sizeof(float) / 1e9 / (bench_now_s() - start);
    return tier_spool_delete(n->spool, sum, err);
}

static enum tier_status measure(struct node *nodes, const struct tier_manifest *m,
                                struct tier_err *err) {
    struct tier_update_header h = {.weight = 1, .encoding = TIER_ENC_F32};
    float *deltas = bench_alloc(m->elements, sizeof *deltas);
    struct tier_hash sums[2];
    enum tier_status st = TIER_OK;

    for (int k = 0; k < 2; k++)
        for (size_t i = 0; i < UPDATES; i++) {
            bench_deltas(deltas, m->elements, 1e-3, i + 1);
            h.weight = 100 + i;
            TIER_TRY_OUT(
                tier_update_seal_f32(nodes[k].spool, &h, m, deltas, false, &nodes[k].ids[i], err));
        }
    h.manifest = m->hash;
    h.payload_bytes = m->elements * sizeof *deltas;
    struct tier_merkle *merkle = tier_merkle_new();
    if (!merkle) {
        st = tier_fail(err, TIER_ENOMEM, "no memory to hash");
        goto out;
    }
    tier_merkle_add(merkle, deltas, h.payload_bytes);
    tier_merkle_finish(merkle, &h.root);
    tier_merkle_free(merkle);
    h.weight = 7;                   /* none of those that are there */
    for (int i = -1; i < RUNS; i++) /* the first of each warms up */
        for (int k = 0; k < 2; k++) {
            int at = i < 0 ? 0 : i;
            TIER_TRY_OUT(ingest(&nodes[k], &h, (const uint8_t *)deltas, &nodes[k].ingest[at], err));
            TIER_TRY_OUT(fold(&nodes[k], m, &nodes[k].fold[at], &sums[k], err));
        }
    if (!tier_hash_equal(&sums[0], &sums[1]))
        st = tier_fail(err, TIER_EINTERNAL, "the sums differ");
out:
    free(deltas);
    return st;
}

enum tier_status bench_vault(const struct bench_options *o, struct bench_result *r,
                             struct tier_err *err) {
    struct tier_tensor tensor = {.name = "w",
                                 .ndim = 1,
                                 .dims = {(o->bytes ? o->bytes : 50000000) / sizeof(float)},
                                 .frac_bits = FRAC_BITS};
    struct node *nodes = bench_alloc(2, sizeof *nodes);
    struct tier_manifest *m = NULL;
    enum tier_status st;

    TIER_TRY_OUT(tier_manifest_new(&tensor, 1, &m, err));
    TIER_TRY_OUT(passphrase(o, err));
    TIER_TRY_OUT(open_node(&nodes[0], o, "plain", false, err));
    TIER_TRY_OUT(open_node(&nodes[1], o, "encrypted", true, err));
    TIER_TRY_OUT(measure(nodes, m, err));
    r->value = bench_median(nodes[1].ingest, RUNS);
    r->ratio = r->value / bench_median(nodes[0].ingest, RUNS);
    r->unit = "GB/s";
    r->against = "the same update into a spool that is not encrypted";
    json_object_set_new(
        r->detail, "fold_ratio",
        json_real(bench_median(nodes[1].fold, RUNS) / bench_median(nodes[0].fold, RUNS)));
    for (int k = 0; k < 2; k++) {
        json_object_set_new(r->detail, k ? "encrypted_ingest_gb_s" : "plain_ingest_gb_s",
                            bench_spread(nodes[k].ingest, RUNS));
        json_object_set_new(r->detail, k ? "encrypted_fold_gb_s" : "plain_fold_gb_s",
                            bench_spread(nodes[k].fold, RUNS));
    }
    json_object_set_new(r->detail, "bytes",
                        json_integer((json_int_t)(m->elements * sizeof(float))));
out:
    for (int k = 0; k < 2; k++) {
        tier_spool_close(nodes[k].spool);
        tier_vault_close(nodes[k].vault);
    }
    tier_manifest_free(m);
    free(nodes);
    return st;
}
