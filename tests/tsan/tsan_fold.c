/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compute on many threads: updates are received into one spool by four threads at once, checked,
 * folded by two folds of four workers each, of which one has devices besides, and by one of one
 * worker, and published. Every way must
 * give the same bits. Then a device of four threads does what a spoke's does.
 */
#include "tsan/tsan.h"
#include "kernels/kern.h"
#include "tier/fold.h"
#include "tier/log.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

#define CHILDREN 8
#define ELEMENTS (3u * TIER_SEGMENT_ELEMENTS + 1000u)

static struct tier_spool *spool;
static struct tier_manifest *manifest;
static struct tier_hash base, updates[CHILDREN];
static char models[80];

static void make_base(void) {
    struct tier_model_writer *w = NULL;
    float *x = calloc(ELEMENTS, sizeof *x);

    NEED(x != NULL);
    MUST(tier_model_writer_begin(models, manifest, NULL, 0, &w, err));
    MUST(tier_model_writer_append(w, x, ELEMENTS, err));
    MUST(tier_model_writer_finish(w, &base, err));
    free(x);
}

static void *seal_two(void *arg) {
    unsigned child = (unsigned)(uintptr_t)arg;
    float *x = malloc(ELEMENTS * sizeof *x);

    NEED(x != NULL);
    for (unsigned k = child; k < child + 2; k++) {
        struct tier_update_header h = {
            .round = 1, .manifest = manifest->hash, .base_model = base, .weight = k + 1};
        struct tier_update *u = NULL;
        for (unsigned i = 0; i < ELEMENTS; i++)
            x[i] = sinf((float)(i * (k + 3)) * 1e-3f);
        h.encoding = TIER_ENC_F32;
        MUST(tier_update_seal_f32(spool, &h, manifest, x, false, &updates[k], err));
        MUST(tier_spool_update_open(spool, &updates[k], &u, err));
        MUST(tier_spool_update_check(u, err));
        MUST(tier_update_verify(u, manifest, err));
        tier_spool_update_close(u);
    }
    free(x);
    return NULL;
}

struct folding {
    unsigned threads;
    struct tier_fold_devices *devices;
    struct tier_hash sum, model;
};

static void *fold_and_publish(void *arg) {
    struct folding *f = arg;
    struct tier_update *u = NULL;
    struct tier_model *m = NULL;
    struct tier_fold fold = {.spool = spool,
                             .manifest = manifest,
                             .round = 1,
                             .base_model = base,
                             .inputs = updates,
                             .count = CHILDREN,
                             .threads = f->threads,
                             .memory_bytes = 64u << 20,
                             .devices = f->devices};
    char *path = tier_model_path(models, &base);

    MUST(tier_fold_run(&fold, &f->sum, err));
    MUST(tier_spool_update_open(spool, &f->sum, &u, err));
    MUST(tier_update_verify(u, manifest, err));
    MUST(tier_model_open(path, &m, err));
    MUST(tier_fold_publish(u, manifest, m, models, NULL, 0, &f->model, err));
    tier_model_close(m);
    tier_spool_update_close(u);
    free(path);
    return NULL;
}

static void sums_are_the_same_on_any_threads(void) {
    pthread_t threads[4];
    struct tier_fold_devices *devices = NULL;
    MUST(tier_fold_devices_open("cpu*3", 1, &devices, err));
    struct folding f[3] = {{.threads = 4, .devices = devices}, {.threads = 4}, {.threads = 1}};

    for (uintptr_t i = 0; i < 4; i++)
        NEED(pthread_create(&threads[i], NULL, seal_two, (void *)(2 * i)) == 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < 3; i++)
        NEED(pthread_create(&threads[i], NULL, fold_and_publish, &f[i]) == 0);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    for (int i = 1; i < 3; i++) {
        NEED(tier_hash_equal(&f[0].sum, &f[i].sum));
        NEED(tier_hash_equal(&f[0].model, &f[i].model));
    }
    /* Of several workers the one with the devices may have come too late for any segment. */
    struct folding alone = {.threads = 1, .devices = devices};
    fold_and_publish(&alone);
    NEED(tier_hash_equal(&f[0].sum, &alone.sum));
    NEED(tier_fold_devices_added(devices) > 0);
    tier_fold_devices_close(devices);
}

/* ---- a device ---- */

#define SIDE 160u

static struct kern_vec vec(struct kern_device *dev) {
    struct kern_vec v = {.at = 0};
    NEED(kern_buf_new(dev, SIDE * SIDE * sizeof(float), &v.buf) == KERN_OK);
    return v;
}

static void compute(int threads, float *out) {
    struct kern_device *dev = NULL;
    static float x[SIDE * SIDE];

    NEED(kern_device_open("cpu", threads, &dev) == KERN_OK);
    struct kern_vec a = vec(dev), b = vec(dev), y = vec(dev);
    for (unsigned i = 0; i < SIDE * SIDE; i++)
        x[i] = cosf((float)i);
    NEED(kern_upload(a.buf, 0, x, sizeof x) == KERN_OK);
    NEED(kern_upload(b.buf, 0, x, sizeof x) == KERN_OK);
    for (int i = 0; i < 5; i++) {
        NEED(kern_gemm(y, a, b, SIDE, SIDE, SIDE, false, true, 0.01f, 0.0f) == KERN_OK);
        NEED(kern_bias_add(y, b, SIDE, SIDE) == KERN_OK);
        NEED(kern_relu(y, y, SIDE * SIDE) == KERN_OK);
        NEED(kern_softmax(a, y, SIDE, SIDE) == KERN_OK);
        NEED(kern_bias_grad(b, a, SIDE, SIDE) == KERN_OK);
    }
    NEED(kern_download(out, a.buf, 0, sizeof x) == KERN_OK);
    kern_device_close(dev);
}

int main(void) {
    struct tier_tensor t[2] = {{.name = "weight", .ndim = 2, .dims = {2, TIER_SEGMENT_ELEMENTS}},
                               {.name = "running_var", .ndim = 1, .wide = true}};
    static float one[SIDE * SIDE], four[SIDE * SIDE];
    char dir[80];

    tier_log_init("tsan", TIER_LOG_ERROR);
    kern_init(NULL);
    work_begin();
    t[0].frac_bits = t[1].frac_bits = 30;
    t[1].dims[0] = ELEMENTS - 2u * TIER_SEGMENT_ELEMENTS;
    MUST(tier_manifest_new(t, 2, &manifest, err));
    snprintf(dir, sizeof dir, "%s/spool", work_dir);
    MUST(tier_spool_open(dir, false, &spool, err));
    snprintf(models, sizeof models, "%s/models", work_dir);
    NEED(mkdir(models, 0700) == 0);
    make_base();
    sums_are_the_same_on_any_threads();
    tier_spool_close(spool);
    tier_manifest_free(manifest);
    work_end();
    compute(1, one);
    compute(4, four);
    NEED(memcmp(one, four, sizeof one) == 0);
    puts("folds and devices of several threads: the same bits");
    return 0;
}
