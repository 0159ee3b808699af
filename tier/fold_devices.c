/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host reads and decodes, because it does so in one way for every encoding, and adds what few
 * wide elements and children's sums there are; a device gets float32 and adds the rest. While one
 * device is sent its chunk, the next one's is decoded; a staging buffer is used again only after
 * its device is done with it.
 */
#include "tier/fold_devices.h"

#include "kernels/group.h"
#include "tier/decode.h"
#include "tier/log.h"
#include "tier/spool.h"

#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct lane {
    struct kern_device *dev;
    float *staging;                     /* [elements_max], host */
    struct kern_buf *x, *acc, *refused; /* float[], int64[], uint64[1] */
};

struct tier_fold_devices {
    pthread_mutex_t taken;
    bool failed;
    atomic_uint_fast64_t added;
    struct kern_group *group;
    size_t count;
    struct lane lane[KERN_GROUP_RANKS_MAX];
    int64_t *sum; /* [elements_max], host */
    char text[512];
};

/* How adding on devices went. */
enum outcome { ADDED, DOUBTED, BROKEN };

/* ---- life cycle ---------------------------------------------------------------------------- */

static const char *list_of(const char *list) {
    if (strcmp(list, "auto") == 0)
        return kern_cuda_device_count() > 0 ? "cuda:all" : "cpu";
    return strcmp(list, "cuda") == 0 ? "cuda:all" : list;
}

static void describe(struct tier_fold_devices *d) {
    size_t used = (size_t)snprintf(d->text, sizeof d->text, "%zu device%s", d->count,
                                   d->count > 1 ? "s" : "");
    for (size_t i = 0; i < d->count && used < sizeof d->text; i++)
        used += (size_t)snprintf(d->text + used, sizeof d->text - used, "%s %s", i ? "," : ":",
                                 kern_device_name(d->lane[i].dev));
}

enum tier_status tier_fold_devices_open(const char *list, unsigned threads,
                                        struct tier_fold_devices **out, struct tier_err *err) {
    struct kern_device *devs[KERN_GROUP_RANKS_MAX];
    size_t count = 0;

    *out = NULL;
    if (!*list || strcmp(list, "cpu") == 0)
        return TIER_OK; /* and no driver is looked for */
    kern_init(NULL);
    list = list_of(list);
    if (strcmp(list, "cpu") == 0)
        return TIER_OK;
    if (kern_devices_open(list, (int)threads, devs, KERN_GROUP_RANKS_MAX, &count) != KERN_OK)
        return tier_fail(err, TIER_EDEVICE, "fold_devices: %s", kern_device_error(NULL));
    struct tier_fold_devices *d = calloc(1, sizeof *d);
    enum kern_status st = d ? kern_group_open(devs, count, &d->group) : KERN_ENOMEM;
    if (st != KERN_OK) {
        tier_fail(err, TIER_EDEVICE, "fold_devices: no group of %zu devices: %s%s%s", count,
                  kern_status_text(st), *kern_device_error(devs[0]) ? ": " : "",
                  kern_device_error(devs[0]));
        for (size_t i = 0; i < count; i++)
            kern_device_close(devs[i]);
        free(d);
        return TIER_EDEVICE;
    }
    pthread_mutex_init(&d->taken, NULL);
    d->count = count;
    for (size_t i = 0; i < count; i++)
        d->lane[i].dev = devs[i];
    describe(d);
    *out = d;
    return TIER_OK;
}

void tier_fold_devices_close(struct tier_fold_devices *d) {
    if (!d)
        return;
    kern_group_close(d->group);
    for (size_t i = 0; i < d->count; i++)
        kern_device_close(d->lane[i].dev);
    pthread_mutex_destroy(&d->taken);
    free(d);
}

const char *tier_fold_devices_text(const struct tier_fold_devices *d) {
    return d->text;
}

uint64_t tier_fold_devices_added(const struct tier_fold_devices *d) {
    return atomic_load(&d->added);
}

size_t tier_fold_devices_bytes(const struct tier_fold_devices *d,
                               const struct tier_manifest *manifest) {
    return tier_segment_elements_max(manifest) * (d->count * sizeof(float) + sizeof(int64_t));
}

static void release(struct tier_fold_devices *d) {
    for (size_t i = 0; i < d->count; i++) {
        struct lane *l = &d->lane[i];
        kern_host_free(l->dev, l->staging);
        kern_buf_free(l->x);
        kern_buf_free(l->acc);
        kern_buf_free(l->refused);
        *l = (struct lane){.dev = l->dev};
    }
    kern_host_free(d->lane[0].dev, d->sum);
    d->sum = NULL;
}

static bool make_lane(struct lane *l, size_t n) {
    void *staging = NULL;

    if (kern_host_new(l->dev, n * sizeof(float), &staging) != KERN_OK)
        return false;
    l->staging = staging;
    return kern_buf_new(l->dev, n * sizeof(float), &l->x) == KERN_OK &&
           kern_buf_new(l->dev, n * sizeof(int64_t), &l->acc) == KERN_OK &&
           kern_buf_new(l->dev, sizeof(uint64_t), &l->refused) == KERN_OK;
}

bool tier_fold_devices_take(struct tier_fold_devices *d, const struct tier_manifest *manifest) {
    size_t n = tier_segment_elements_max(manifest);
    void *sum = NULL;

    if (pthread_mutex_trylock(&d->taken) != 0)
        return false;
    bool ok = !d->failed && kern_host_new(d->lane[0].dev, n * sizeof(int64_t), &sum) == KERN_OK;
    d->sum = sum;
    for (size_t i = 0; ok && i < d->count; i++)
        ok = make_lane(&d->lane[i], n);
    if (!ok) {
        if (!d->failed)
            tier_log_warn("folding on the CPU: no memory on %s", d->text);
        tier_fold_devices_give_back(d);
    }
    return ok;
}

void tier_fold_devices_give_back(struct tier_fold_devices *d) {
    release(d);
    pthread_mutex_unlock(&d->taken);
}

/* ---- one segment ---------------------------------------------------------------------------- */

static enum outcome outcome_of(enum kern_status st) {
    return st == KERN_OK ? ADDED : st == KERN_EARG ? DOUBTED : BROKEN;
}

/* The whole segment as float32. */
static bool decode(const struct tier_fold_part *p, size_t i, float *x) {
    struct tier_decoder decoder;

    if (tier_decoder_begin(&decoder, p->updates[i], p->manifest, p->segment, p->extents[i],
                           p->unzip, NULL) != TIER_OK)
        return false;
    for (size_t at = 0; at < p->n; at += TIER_FOLD_BLOCK) {
        size_t m = p->n - at < TIER_FOLD_BLOCK ? p->n - at : TIER_FOLD_BLOCK;
        if (tier_decoder_next(&decoder, x + at, m, NULL) != TIER_OK)
            return false;
    }
    return true;
}

/* Adds x[at, at + n) of one scale on the device. */
static enum outcome add_run(const struct lane *l, size_t at, size_t n, int frac_bits,
                            uint32_t weight) {
    if (n == 0)
        return ADDED;
    return outcome_of(kern_fold_f32_dev((struct kern_vec){l->acc, at}, (struct kern_vec){l->x, at},
                                        (struct kern_vec){l->refused, 0}, n, frac_bits, weight));
}

/* Narrow tensors on the device, neighbours of one scale at once; wide ones here. */
static enum outcome add_update(const struct lane *l, const struct tier_fold_part *p, size_t i) {
    uint32_t weight =
        (uint32_t)(tier_spool_update_header(p->updates[i])->weight * p->multipliers[i]);
    size_t begin = 0, n = 0;
    int bits = 0;
    struct tier_spans it;
    struct tier_span s;

    if (!decode(p, i, l->staging))
        return DOUBTED;
    enum outcome o = outcome_of(kern_upload_start(l->x, 0, l->staging, p->n * sizeof(float)));
    tier_spans_begin(&it, p->manifest, p->segment * TIER_SEGMENT_ELEMENTS, p->n);
    while (o == ADDED && tier_spans_next(&it, &s)) {
        if (n > 0 && (s.tensor->wide || s.tensor->frac_bits != bits)) {
            o = add_run(l, begin, n, bits, weight);
            n = 0;
        }
        if (s.tensor->wide) {
            if (kern_fold_f32_wide(p->hi + s.at, p->lo + s.wide_at, l->staging + s.at, s.n,
                                   s.tensor->frac_bits, weight, NULL) > 0)
                return DOUBTED;
            continue;
        }
        begin = n == 0 ? s.at : begin;
        n += s.n;
        bits = s.tensor->frac_bits;
    }
    return o == ADDED ? add_run(l, begin, n, bits, weight) : o;
}

/* The devices' sums come together on the first, and from there on top of hi. */
static enum outcome collect(struct tier_fold_devices *d, const struct tier_fold_part *p) {
    struct kern_vec acc[KERN_GROUP_RANKS_MAX], refused[KERN_GROUP_RANKS_MAX];
    uint64_t count = 0;

    for (size_t i = 0; i < d->count; i++) {
        acc[i] = (struct kern_vec){d->lane[i].acc, 0};
        refused[i] = (struct kern_vec){d->lane[i].refused, 0};
    }
    enum kern_status st = kern_group_reduce(d->group, refused, 1, KERN_I64, 0);
    if (st == KERN_OK)
        st = kern_group_reduce(d->group, acc, p->n, KERN_I64, 0);
    if (st == KERN_OK)
        st = kern_download(&count, d->lane[0].refused, 0, sizeof count);
    if (st == KERN_OK)
        st = kern_download(d->sum, d->lane[0].acc, 0, p->n * sizeof *d->sum);
    if (st != KERN_OK)
        return BROKEN;
    for (size_t i = 0; i < p->n && count == 0; i++)
        p->hi[i] = (int64_t)((uint64_t)p->hi[i] + (uint64_t)d->sum[i]);
    return count == 0 ? ADDED : DOUBTED;
}

static enum outcome add_all(struct tier_fold_devices *d, const struct tier_fold_part *p) {
    size_t turn = 0;

    assert(d->count > 0);
    memset(p->hi, 0, p->n * sizeof *p->hi);
    memset(p->lo, 0, p->wide * sizeof *p->lo);
    for (size_t i = 0; i < d->count; i++)
        if (kern_zero(d->lane[i].acc, 0, p->n * sizeof(int64_t)) != KERN_OK ||
            kern_zero(d->lane[i].refused, 0, sizeof(uint64_t)) != KERN_OK)
            return BROKEN;
    for (size_t i = 0; i < p->count; i++) {
        if (tier_spool_update_header(p->updates[i])->encoding == TIER_ENC_SUM) {
            if (tier_segment_add(p->updates[i], p->multipliers[i], p->manifest, p->segment,
                                 p->extents[i], p->unzip, p->scratch, p->hi, p->lo,
                                 NULL) != TIER_OK)
                return DOUBTED;
            continue;
        }
        const struct lane *l = &d->lane[turn++ % d->count];
        if (kern_sync(l->dev) != KERN_OK) /* it may still read its staging buffer */
            return BROKEN;
        enum outcome o = add_update(l, p, i);
        if (o != ADDED)
            return o;
    }
    return collect(d, p);
}

static void say_failed(struct tier_fold_devices *d) {
    const char *words = "";

    for (size_t i = 0; i < d->count && !*words; i++)
        words = kern_device_error(d->lane[i].dev);
    tier_log_error("folding on the CPU from now on: %s failed: %s", d->text, words);
    d->failed = true;
}

enum tier_status tier_fold_add_devices(void *adder, const struct tier_fold_part *part,
                                       struct tier_err *err) {
    struct tier_fold_devices *d = adder;
    enum outcome o = d->failed ? BROKEN : add_all(d, part);

    if (o == ADDED) {
        atomic_fetch_add(&d->added, 1);
        return TIER_OK;
    }
    if (o == BROKEN && !d->failed)
        say_failed(d);
    for (size_t i = 0; i < d->count; i++)
        (void)kern_sync(d->lane[i].dev); /* what was started may still read */
    enum tier_status st = tier_fold_add_cpu(NULL, part, err);
    if (o == DOUBTED && st == TIER_OK)
        tier_log_warn("%s refused in segment %" PRIu64
                      " what the CPU accepts; the CPU's sums count",
                      d->text, part->segment);
    return st;
}
