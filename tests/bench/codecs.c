/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a codec costs and what it saves. Speed: one core encodes deltas that lie in memory, and
 * decodes a sealed update block by block out of the page cache, beside plain copies of the same
 * float32. Bytes and accuracy: nine spokes train the breast-cancer example for real, over several
 * of its fixed splits, once for each codec, the same seeds and patients each time.
 */
#include "kernels/kern.h"
#include "tests/bench/bench.h"
#include "tests/support/tree.h"
#include "tier/decode.h"
#include "tier/spool.h"
#include "tier/zip.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXAMPLE CONSILIUM_SOURCE_DIR "/deploy/examples/breast-cancer"
#define SITES 9
#define FOLDS 5
#define ROUNDS 20
#define RUNS 5
#define FRAC_BITS 30
#define TIMEOUT_MS 60000
#define BYTES_DEFAULT (64u << 20)

static const char *const sites[SITES] = {"north-1",  "north-2", "north-3", "centre-1", "centre-2",
                                         "centre-3", "south-1", "south-2", "south-3"};

struct codec {
    const char *name;
    struct tier_plan_codec plan;
    int without;                     /* zstd: the place of the same codec without it */
    double encode_gb_s, decode_gb_s; /* of float32 */
    double bytes_ratio, accuracy, auc, loss;
    double first_loss; /* of the first split alone */
};

static bool is_zipped(const struct codec *c) {
    return c->plan.entropy == TIER_PLAN_ENTROPY_ZSTD;
}

/* ---- speed ----------------------------------------------------------------------------------- */

struct speed {
    size_t elements;
    float *x, *y;
    uint8_t *out;
    struct tier_manifest *manifest;
    struct tier_spool *spool;
    struct tier_zip *zip;
    struct tier_unzip unzip;
};

/* n elements from `at` on, into out; of the largest from a copy, which the encoder spoils. Returns
 * the bytes. */
static size_t encode_segment(struct speed *s, const struct tier_seal_as *as, size_t at, size_t n,
                             uint8_t *out) {
    const float *x = s->x + at;

    switch (as->encoding) {
    case TIER_ENC_F16:
        kern_f16_encode((uint16_t *)(void *)out, x, n, FRAC_BITS - 15);
        break;
    case TIER_ENC_BF16:
        kern_bf16_encode((uint16_t *)(void *)out, x, n);
        break;
    case TIER_ENC_Q8:
        kern_quant_encode(out, x, n, 8, 1, at / TIER_BLOCK_ELEMENTS);
        break;
    case TIER_ENC_Q4:
        kern_quant_encode(out, x, n, 4, 1, at / TIER_BLOCK_ELEMENTS);
        break;
    case TIER_ENC_ONEBIT:
        kern_onebit_encode(out, x, n, at / TIER_BLOCK_ELEMENTS);
        break;
    case TIER_ENC_TOPK:
        memcpy(s->y, x, n * sizeof *s->y);
        return tier_topk_encode(s->y, n, tier_topk_count(as->share, n), out);
    default:
        memcpy(out, x, n * sizeof *x);
        break;
    }
    return (size_t)tier_encoding_bytes(as->encoding, n);
}

/* All of x. */
static void encode(struct speed *s, const struct tier_seal_as *as) {
    for (size_t at = 0, n; at < s->elements; at += n) {
        n = s->elements - at < TIER_SEGMENT_ELEMENTS ? s->elements - at : TIER_SEGMENT_ELEMENTS;
        uint8_t *out = s->out + (as->encoding == TIER_ENC_TOPK ? 0 : at * sizeof(float));
        size_t bytes = encode_segment(s, as, at, n, out);
        const uint8_t *frame;
        if (as->zip)
            tier_zip_pack(s->zip, as->encoding, out, bytes, &frame);
    }
}

static enum tier_status decode(struct speed *s, const struct tier_update *u, struct tier_err *err) {
    struct tier_segment_cursor cursor;

    TIER_TRY(tier_segment_cursor_init(&cursor, u, s->manifest, err));
    for (uint64_t i = 0; i < tier_manifest_segments(s->manifest); i++) {
        struct tier_decoder d;
        struct tier_extent extent;
        size_t n = tier_manifest_segment(s->manifest, i, NULL);
        TIER_TRY(tier_segment_cursor_next(&cursor, &extent, err));
        TIER_TRY(tier_decoder_begin(&d, u, s->manifest, i, extent, &s->unzip, err));
        for (size_t at = 0, m; at < n; at += m) {
            m = n - at < TIER_FOLD_BLOCK ? n - at : TIER_FOLD_BLOCK;
            TIER_TRY(tier_decoder_next(&d, s->y, m, err));
        }
    }
    return TIER_OK;
}

static enum tier_status measure(struct speed *s, struct codec *c, struct tier_err *err) {
    const struct tier_plan plan = {.codec = c->plan};
    const struct tier_seal_as as = {
        .encoding = tier_task_encoding(&plan), .share = c->plan.share, .zip = is_zipped(c)};
    const struct tier_update_header h = {.round = 1, .weight = 1};
    double gb = (double)s->elements * sizeof *s->x * 1e-9, encoding[RUNS], decoding[RUNS];
    struct tier_update *u = NULL;
    struct tier_hash id;
    enum tier_status st = TIER_OK;

    TIER_TRY(tier_update_seal(s->spool, &h, s->manifest, s->x, false, &as, &id, err));
    TIER_TRY(tier_spool_update_open(s->spool, &id, &u, err));
    for (int run = 0; run < RUNS; run++) {
        double start = bench_now_s();
        encode(s, &as);
        double middle = bench_now_s();
        TIER_TRY_OUT(decode(s, u, err));
        encoding[run] = gb / (middle - start);
        decoding[run] = gb / (bench_now_s() - middle);
    }
    c->encode_gb_s = bench_median(encoding, RUNS);
    c->decode_gb_s = bench_median(decoding, RUNS);
out:
    tier_spool_update_close(u);
    tier_spool_delete(s->spool, &id, NULL);
    return st;
}

static double copy_gb_s(struct speed *s) {
    double gb_s[RUNS];

    for (int run = 0; run < RUNS; run++) {
        double start = bench_now_s();
        memcpy(s->out, s->x, s->elements * sizeof *s->x);
        gb_s[run] = (double)s->elements * sizeof *s->x * 1e-9 / (bench_now_s() - start);
    }
    return bench_median(gb_s, RUNS);
}

static enum tier_status speeds(const struct bench_options *o, struct codec *codecs, size_t count,
                               double *copy_out, struct tier_err *err) {
    struct speed s = {.elements = (o->bytes ? o->bytes : BYTES_DEFAULT) / sizeof(float)};
    struct tier_tensor tensor = {
        .name = "w", .ndim = 1, .dims = {s.elements}, .frac_bits = FRAC_BITS};
    char path[600];
    enum tier_status st;

    s.x = bench_alloc(s.elements, sizeof *s.x);
    s.y = bench_alloc(TIER_SEGMENT_ELEMENTS, sizeof *s.y);
    s.out = bench_alloc(s.elements > TIER_SEGMENT_ELEMENTS ? s.elements : TIER_SEGMENT_ELEMENTS, 5);
    bench_deltas(s.x, s.elements, 1e-3, 1);
    snprintf(path, sizeof path, "%s/spool", o->work);
    TIER_TRY_OUT(tier_manifest_new(&tensor, 1, &s.manifest, err));
    TIER_TRY_OUT(tier_spool_open(path, false, &s.spool, err));
    TIER_TRY_OUT(tier_zip_new(tier_segment_plain_max(s.manifest), &s.zip, err));
    copy_gb_s(&s); /* so that all pages are there */
    for (size_t i = 0; i < count; i++)
        TIER_TRY_OUT(measure(&s, &codecs[i], err));
    *copy_out = copy_gb_s(&s);
out:
    tier_zip_free(s.zip);
    tier_unzip_release(&s.unzip);
    tier_spool_close(s.spool);
    tier_manifest_free(s.manifest);
    free(s.x);
    free(s.y);
    free(s.out);
    return st;
}

/* ---- bytes and accuracy ---------------------------------------------------------------------- */

/* The example's plan (deploy/examples/breast-cancer/plan.yaml). */
static struct tier_plan plan_of(const struct codec *c, uint64_t fold) {
    struct tier_plan p = {.version = TIER_PLAN_VERSION,
                          .name = "breast-cancer",
                          .purpose = "measuring",
                          .contract = "breast-cancer",
                          .fold = fold,
                          .loss = TIER_PLAN_BCE,
                          .batch = 8,
                          .epochs = 1,
                          .seed = 1,
                          .clip = 1,
                          .frac_bits = FRAC_BITS,
                          .weight_total_max = TIER_WEIGHT_TOTAL_MAX,
                          .rounds = ROUNDS,
                          .evaluate_every = 1,
                          .codec = c->plan};
    p.optimiser.lr = 0.05;
    p.optimiser.beta1 = p.optimiser.beta2 = p.optimiser.eps = NAN;
    p.schedule.gamma = p.schedule.lr_min = NAN;
    p.accumulate = 1;
    p.stop.target = NAN;
    p.server = TIER_PLAN_SERVER_OFF;
    p.loss_options = TIER_PLAN_LOSS_PLAIN;
    return p;
}

struct figures {
    double accuracy, auc, loss;
    uint64_t elements;
};

static enum tier_status see_figure(void *arg, uint64_t round, const char *name, double value,
                                   struct tier_err *err) {
    struct figures *f = arg;

    (void)round, (void)err; /* ascending: the last model's stay */
    if (strcmp(name, "accuracy") == 0)
        f->accuracy = value;
    else if (strcmp(name, "auc") == 0)
        f->auc = value;
    else if (strcmp(name, "loss") == 0)
        f->loss = value;
    return TIER_OK;
}

static bool read_figures(struct hub *hub, void *arg) {
    struct figures *f = arg;

    f->elements = hub->runs->manifest->elements;
    return tier_journal_metric_each(hub->home.journal, hub->runs->hex, NULL, see_figure, f, NULL) ==
           TIER_OK;
}

/* What zstd gives back is what it was given: one split shows the bytes. */
static unsigned folds_of(const struct codec *c) {
    return is_zipped(c) ? 1 : FOLDS;
}

static enum tier_status train(const char *work, struct codec *c, uint64_t fold,
                              struct tier_err *err) {
    struct figures f = {NAN, NAN, NAN, 1};
    struct tier_hash model;
    enum hub_run_state state = HUB_RUN_OPEN;
    char path[700];

    snprintf(path, sizeof path, "%s/%s-%d", work, c->name, (int)fold);
    struct tree *tree = tree_new(path, false);
    struct tree_node *top = tree_hub(tree, "top", NULL, SITES);
    for (unsigned i = 0; i < SITES; i++) {
        snprintf(path, sizeof path, "%s/tables/%s.csv", work, sites[i]);
        tree_spoke(tree, sites[i], top, path, EXAMPLE "/schema.yaml");
    }
    struct tier_plan plan = plan_of(c, fold);
    struct tier_hash run = tree_run(top, &plan, EXAMPLE "/model.onnx");
    bool ok = tree_wait(top, &run, TIMEOUT_MS, &state, &model) && state == HUB_RUN_COMPLETED &&
              tree_until(top, read_figures, &f, TIMEOUT_MS);
    double pushed = (double)tree_serve_traffic(top).pushed_bytes;
    tree_free(tree);
    if (!ok)
        return tier_fail(err, TIER_ETIMEOUT, "the run with %s did not complete", c->name);
    c->bytes_ratio += pushed / ((double)f.elements * sizeof(float) * SITES * ROUNDS) / folds_of(c);
    c->first_loss = fold == 0 ? f.loss : c->first_loss;
    c->accuracy += f.accuracy / FOLDS;
    c->auc += f.auc / FOLDS;
    c->loss += f.loss / FOLDS;
    return TIER_OK;
}

static enum tier_status accuracies(const char *work, struct codec *codecs, size_t count,
                                   struct tier_err *err) {
    char command[2048];

    snprintf(command, sizeof command,
             "mkdir '%s/tables' && awk -v out='%s/tables' -f '" EXAMPLE "/split.awk' '" EXAMPLE
             "/breast_cancer.csv'",
             work, work);
    if (system(command) != 0) /* NOLINT(cert-env33-c): a fixed command on a folder of ours */
        return tier_fail(err, TIER_EIO, "cannot deal the example's patients to its sites");
    for (size_t i = 0; i < count; i++) {
        struct codec *c = &codecs[i], *without = &codecs[c->without];
        for (unsigned fold = 0; fold < folds_of(c); fold++)
            TIER_TRY(train(work, c, fold, err));
        if (!is_zipped(c))
            continue;
        if (c->first_loss != without->first_loss)
            return tier_fail(err, TIER_EINTERNAL, "%s gives another model than %s", c->name,
                             without->name);
        c->accuracy = without->accuracy;
        c->auc = without->auc;
        c->loss = without->loss;
    }
    return TIER_OK;
}

/* ---- the whole ------------------------------------------------------------------------------- */

/* A line slower than that carries an update sooner with zstd: what it saves on the line against
 * what the child's core takes to compress, and the parent's to unpack, to verify and again to fold.
 */
static double saves_below_gbit_s(const struct codec *c, const struct codec *without) {
    double seconds = 1 / c->encode_gb_s - 1 / without->encode_gb_s +
                     2 * (1 / c->decode_gb_s - 1 / without->decode_gb_s);

    return 8 * (without->bytes_ratio - c->bytes_ratio) / seconds;
}

static json_t *codec_json(const struct codec *c, const struct codec *all, double copy) {
    json_t *o = json_pack(
        "{s:s, s:b, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "codec", c->name, "error_feedback",
        (int)c->plan.error_feedback, "bytes_ratio", c->bytes_ratio, "accuracy", c->accuracy, "auc",
        c->auc, "loss", c->loss, "encode_gb_s", c->encode_gb_s, "decode_gb_s", c->decode_gb_s,
        "encode_to_memcpy", c->encode_gb_s / copy, "decode_to_memcpy", c->decode_gb_s / copy);
    if (o && is_zipped(c))
        json_object_set_new(o, "saves_below_gbit_s",
                            json_real(saves_below_gbit_s(c, &all[c->without])));
    return o;
}

enum tier_status bench_codecs(const struct bench_options *options, struct bench_result *r,
                              struct tier_err *err) {
    struct codec codecs[] = {
        {.name = "f32"},
        {.name = "f16", .plan = {TIER_PLAN_F16, false, 0, 0, 0}},
        {.name = "bf16", .plan = {TIER_PLAN_BF16, false, 0, 0, 0}},
        {.name = "q8", .plan = {TIER_PLAN_Q8, false, 0, 0, 0}},
        {.name = "q8-feedback", .plan = {TIER_PLAN_Q8, true, 0, 0, 0}},
        {.name = "q4", .plan = {TIER_PLAN_Q4, false, 0, 0, 0}},
        {.name = "q4-feedback", .plan = {TIER_PLAN_Q4, true, 0, 0, 0}},
        {.name = "top_k-0.1", .plan = {TIER_PLAN_TOP_K, true, 0.1, 0, 0}},
        {.name = "top_k-0.01", .plan = {TIER_PLAN_TOP_K, true, 0.01, 0, 0}},
        {.name = "one_bit", .plan = {TIER_PLAN_ONE_BIT, true, 0, 0, 0}},
        {.name = "f32-zstd", .without = 0, .plan = {TIER_PLAN_F32, false, 0, 0, 1}},
        {.name = "f16-zstd", .without = 1, .plan = {TIER_PLAN_F16, false, 0, 0, 1}},
        {.name = "bf16-zstd", .without = 2, .plan = {TIER_PLAN_BF16, false, 0, 0, 1}},
        {.name = "q8-feedback-zstd", .without = 4, .plan = {TIER_PLAN_Q8, true, 0, 0, 1}},
        {.name = "q4-feedback-zstd", .without = 6, .plan = {TIER_PLAN_Q4, true, 0, 0, 1}},
        {.name = "top_k-0.1-zstd", .without = 7, .plan = {TIER_PLAN_TOP_K, true, 0.1, 0, 1}},
        {.name = "top_k-0.01-zstd", .without = 8, .plan = {TIER_PLAN_TOP_K, true, 0.01, 0, 1}},
        {.name = "top_k-0.01-lossy", .plan = {TIER_PLAN_TOP_K, false, 0.01, 0, 0}},
    };
    const size_t count = sizeof codecs / sizeof codecs[0];
    const struct codec *shown = &codecs[6];
    json_t *list = json_array();
    double copy = NAN;

    json_object_set_new(r->detail, "codecs", list);
    TIER_TRY(speeds(options, codecs, count, &copy, err));
    TIER_TRY(accuracies(options->work, codecs, count, err));
    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, codec_json(&codecs[i], codecs, copy));
    json_object_set_new(r->detail, "memcpy_gb_s", json_real(copy));
    json_object_set_new(r->detail, "rounds", json_integer(ROUNDS));
    json_object_set_new(r->detail, "folds", json_integer(FOLDS));
    json_object_set_new(r->detail, "accuracy_of_q4_feedback_less_f32",
                        json_real(shown->accuracy - codecs[0].accuracy));
    r->value = shown->bytes_ratio;
    r->unit = "f32 updates (q4 with error feedback)";
    r->against = "one f32 update";
    r->ratio = r->value;
    return TIER_OK;
}
