/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A rank's thread hands bytes to the loop and goes on; it waits only while more than OUT_BYTES of
 * this process's are not on the network yet. The loop takes whatever comes and never waits, so a
 * rank that sends is never held up by one that does not receive.
 */
#include "spoke/span.h"

#include "tier/bytes.h"
#include "tier/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OUT_BYTES (8u << 20)
#define OUT_PARTS 256 /* far from what a stream's queue holds */
/* In bytes of one float32 array of the model: in a ring one array may be on its way to a rank, and
 * a rank may be one call ahead of the next, at both ends of a call. */
#define ARRAYS_IN 4
#define BUILD_PIECE ((size_t)1 << 20)

struct came {
    struct came *next;
    uint32_t from;
    size_t n;
    uint8_t *bytes;
};

struct spoke_span {
    struct tier_loop *loop;
    uint64_t group;
    size_t first, count;
    spoke_span_send send;
    void *owner; /* the loop's */
    struct kern_group_link link;

    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t moved;
    size_t refs;
    bool broken;
    size_t out_bytes, out_parts, in_bytes, in_max;
    struct came *in[KERN_GROUP_RANKS_MAX]; /* for each rank here, in the order of coming */
    struct came **in_end[KERN_GROUP_RANKS_MAX];
};

struct part {
    struct spoke_span *span;
    uint32_t from, to;
    size_t n;
    uint8_t bytes[];
};

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

void spoke_span_unref(struct spoke_span *span) {
    if (!span)
        return;
    pthread_mutex_lock(&span->lock);
    bool last = --span->refs == 0;
    pthread_mutex_unlock(&span->lock);
    if (!last)
        return;
    for (size_t i = 0; i < span->count; i++)
        for (struct came *c = span->in[i], *next; c; c = next) {
            next = c->next;
            free(c->bytes);
            free(c);
        }
    pthread_mutex_destroy(&span->lock);
    pthread_cond_destroy(&span->moved);
    free(span);
}

static void part_done(void *arg) {
    struct part *part = arg;
    struct spoke_span *span = part->span;

    pthread_mutex_lock(&span->lock);
    span->out_bytes -= part->n;
    span->out_parts--;
    pthread_cond_broadcast(&span->moved);
    pthread_mutex_unlock(&span->lock);
    free(part);
    spoke_span_unref(span);
}

static void part_goes(void *arg) {
    struct part *part = arg;
    struct spoke_span *span = part->span;
    uint8_t prefix[TIER_TEAM_PART_PREFIX];

    pthread_mutex_lock(&span->lock);
    bool ok = !span->broken;
    pthread_mutex_unlock(&span->lock);
    if (!ok) {
        part_done(part);
        return;
    }
    size_t n = tier_team_part_prefix(span->group, part->from, part->to, part->n, prefix);
    pthread_mutex_lock(&span->lock);
    span->refs++; /* `part` may be done with before the call returns */
    pthread_mutex_unlock(&span->lock);
    if (!span->send(span->owner, part->to, prefix, n, part->bytes, part->n, part_done, part))
        spoke_span_break(span);
    spoke_span_unref(span);
}

static bool span_send(void *arg, size_t from, size_t to, const void *bytes, size_t n) {
    struct spoke_span *span = arg;
    struct part *part = malloc(sizeof *part + n);

    if (!part)
        return false;
    part->span = span;
    part->from = (uint32_t)from;
    part->to = (uint32_t)to;
    part->n = n;
    memcpy(part->bytes, bytes, n);
    pthread_mutex_lock(&span->lock);
    while ((span->out_bytes > OUT_BYTES || span->out_parts >= OUT_PARTS) && !span->broken)
        pthread_cond_wait(&span->moved, &span->lock);
    bool ok = !span->broken;
    if (ok) {
        span->out_bytes += n;
        span->out_parts++;
        span->refs++;
        /* Under the lock: two parts of one rank keep their order whichever thread sends them. */
        tier_loop_post(span->loop, part_goes, part);
    }
    pthread_mutex_unlock(&span->lock);
    if (!ok)
        free(part);
    return ok;
}

static struct came *take_from(struct spoke_span *span, size_t to, size_t from) {
    for (struct came **at = &span->in[to]; *at; at = &(*at)->next) {
        struct came *c = *at;
        if (c->from != from)
            continue;
        *at = c->next;
        if (span->in_end[to] == &c->next)
            span->in_end[to] = at;
        return c;
    }
    return NULL;
}

static bool span_receive(void *arg, size_t from, size_t to, void *bytes, size_t n) {
    struct spoke_span *span = arg;
    struct came *c = NULL;

    pthread_mutex_lock(&span->lock);
    while (!span->broken && !(c = take_from(span, to - span->first, from)))
        pthread_cond_wait(&span->moved, &span->lock);
    if (c)
        span->in_bytes -= c->n;
    pthread_mutex_unlock(&span->lock);
    if (!c)
        return false;
    bool ok = c->n == n;
    if (ok)
        memcpy(bytes, c->bytes, n);
    free(c->bytes);
    free(c);
    return ok;
}

static void span_shut(void *arg) {
    spoke_span_break(arg);
}

struct spoke_span *spoke_span_new(struct tier_loop *loop, uint64_t group, size_t first,
                                  size_t count, spoke_span_send send, void *owner) {
    struct spoke_span *span = need(calloc(1, sizeof *span));

    *span = (struct spoke_span){.loop = loop,
                                .group = group,
                                .first = first,
                                .count = count,
                                .send = send,
                                .owner = owner,
                                .link = {span, span_send, span_receive, span_shut},
                                .refs = 1};
    for (size_t i = 0; i < KERN_GROUP_RANKS_MAX; i++)
        span->in_end[i] = &span->in[i];
    pthread_mutex_init(&span->lock, NULL);
    pthread_cond_init(&span->moved, NULL);
    return span;
}

const struct kern_group_link *spoke_span_link(struct spoke_span *span) {
    return &span->link;
}

uint64_t spoke_span_group(const struct spoke_span *span) {
    return span->group;
}

void spoke_span_limit(struct spoke_span *span, uint64_t elements) {
    pthread_mutex_lock(&span->lock);
    /* A message has a head, and small arrays come in many small messages. */
    span->in_max = (elements * sizeof(float) * ARRAYS_IN + (1u << 20)) * span->count;
    pthread_mutex_unlock(&span->lock);
}

bool spoke_span_came(struct spoke_span *span, struct tier_team_message *m) {
    size_t to = m->to - span->first;

    if (m->group != span->group)
        return true;
    pthread_mutex_lock(&span->lock);
    bool ok = m->to >= span->first && to < span->count && !span->broken &&
              m->data_bytes <= span->in_max - span->in_bytes;
    if (ok) {
        struct came *c = need(calloc(1, sizeof *c));
        *c = (struct came){.from = m->from, .n = m->data_bytes, .bytes = m->data};
        m->data = NULL;
        span->in_bytes += c->n;
        *span->in_end[to] = c;
        span->in_end[to] = &c->next;
        pthread_cond_broadcast(&span->moved);
    }
    bool broken = span->broken;
    pthread_mutex_unlock(&span->lock);
    if (!ok && !broken)
        spoke_span_break(span);
    return ok || broken;
}

void spoke_span_break(struct spoke_span *span) {
    if (!span)
        return;
    pthread_mutex_lock(&span->lock);
    span->broken = true;
    pthread_cond_broadcast(&span->moved);
    pthread_mutex_unlock(&span->lock);
}

/* ---- a group and its span ---- */

void spoke_bond_init(struct spoke_bond *bond) {
    *bond = (struct spoke_bond){.span = NULL};
    pthread_mutex_init(&bond->lock, NULL);
}

void spoke_bond_release(struct spoke_bond *bond) {
    spoke_bond_drop(bond);
    pthread_mutex_destroy(&bond->lock);
}

bool spoke_bond_holds(struct spoke_bond *bond, uint64_t group) {
    pthread_mutex_lock(&bond->lock);
    bool holds = bond->span && !bond->broken && spoke_span_group(bond->span) == group;
    pthread_mutex_unlock(&bond->lock);
    return holds;
}

void spoke_bond_new(struct spoke_bond *bond, struct spoke_span *span) {
    spoke_bond_drop(bond);
    pthread_mutex_lock(&bond->lock);
    bond->span = span;
    bond->broken = false;
    pthread_mutex_unlock(&bond->lock);
}

enum tier_status spoke_bond_join(struct spoke_bond *bond, const struct kern_group_id *id,
                                 size_t ranks, size_t first, struct kern_device *const *dev,
                                 size_t count, struct tier_err *err) {
    struct kern_group *group = NULL;

    if (bond->group)
        return TIER_OK;
    pthread_mutex_lock(&bond->lock);
    bond->joins++;
    bond->joining = strcmp(spoke_team_backend(dev[0]), "cuda") == 0 ? bond->joins : 0;
    pthread_mutex_unlock(&bond->lock);
    enum kern_status st =
        kern_group_span(id, spoke_span_link(bond->span), ranks, first, dev, count, &group);
    pthread_mutex_lock(&bond->lock);
    bond->joining = 0;
    pthread_mutex_unlock(&bond->lock);
    if (st != KERN_OK)
        return tier_fail(err, TIER_EDEVICE, "no group of %zu devices on several servers: %s: %s",
                         ranks, kern_status_text(st), kern_device_error(dev[0]));
    pthread_mutex_lock(&bond->lock);
    bond->group = group;
    if (bond->broken)
        kern_group_abort(group);
    pthread_mutex_unlock(&bond->lock);
    return TIER_OK;
}

bool spoke_bond_came(struct spoke_bond *bond, struct tier_team_message *m, uint64_t elements) {
    pthread_mutex_lock(&bond->lock);
    bool ok = true;
    if (bond->span && elements)
        spoke_span_limit(bond->span, elements);
    if (bond->span && m)
        ok = spoke_span_came(bond->span, m);
    pthread_mutex_unlock(&bond->lock);
    return ok;
}

void spoke_bond_break(struct spoke_bond *bond) {
    pthread_mutex_lock(&bond->lock);
    bond->broken = true;
    spoke_span_break(bond->span);
    kern_group_abort(bond->group);
    pthread_mutex_unlock(&bond->lock);
}

uint64_t spoke_bond_joining(struct spoke_bond *bond) {
    pthread_mutex_lock(&bond->lock);
    uint64_t joining = bond->joining;
    pthread_mutex_unlock(&bond->lock);
    return joining;
}

void spoke_bond_stuck(void) {
    tier_log_error("NCCL waits for a server that is lost and cannot be called off: ending this "
                   "process, which loses nothing; start it again");
    _exit(1);
}

void spoke_bond_drop(struct spoke_bond *bond) {
    pthread_mutex_lock(&bond->lock);
    struct kern_group *group = bond->group;
    struct spoke_span *span = bond->span;
    bond->group = NULL;
    bond->span = NULL;
    spoke_span_break(span);
    pthread_mutex_unlock(&bond->lock);
    kern_group_close(group);
    spoke_span_unref(span);
}

/* ---- what both ends say of themselves ---- */

enum tier_status spoke_team_build(struct tier_hash *out, struct tier_err *err) {
    FILE *f = fopen("/proc/self/exe", "rb");
    uint8_t *bytes = malloc(BUILD_PIECE);
    size_t n;

    if (!f || !bytes) {
        if (f)
            fclose(f);
        free(bytes);
        return tier_fail(err, TIER_EIO, "cannot read this program's own file in /proc");
    }
    struct tier_hasher *h = tier_hasher_new();
    while ((n = fread(bytes, 1, BUILD_PIECE, f)) > 0)
        tier_hasher_add(h, bytes, n);
    tier_hasher_finish(h, out);
    tier_hasher_free(h);
    fclose(f);
    free(bytes);
    return TIER_OK;
}

/* The rows as training sees them, one after another where they are not held. */
static void hash_rows(const struct spoke_data *data, size_t rows, struct tier_hasher *h) {
    size_t features = spoke_data_features(data), target = spoke_data_target_size(data);
    float *x = malloc(features * sizeof *x);
    int32_t *labels = malloc((target ? target : 1) * sizeof *labels);
    bool read = x && labels;

    for (int32_t row = 0; read && (size_t)row < rows; row++) {
        read = spoke_data_read(data, SPOKE_TRAIN, &row, 1, x, labels, NULL) == TIER_OK;
        if (!read)
            break;
        tier_hasher_add(h, x, features * sizeof *x);
        tier_hasher_add(h, labels, target * sizeof *labels);
    }
    /* What cannot be read here equals no other server's rows, which then says who it is. */
    if (!read)
        tier_hasher_add(h, "unread", 6);
    free(labels);
    free(x);
}

void spoke_team_data(const struct spoke_data *data, struct tier_hash *out) {
    size_t rows = spoke_data_rows(data, SPOKE_TRAIN), features = spoke_data_features(data);
    struct tier_hasher *h = tier_hasher_new();
    uint8_t shape[16];

    tier_put_u64(shape, rows);
    tier_put_u64(shape + 8, features);
    tier_hasher_add(h, shape, sizeof shape);
    if (rows && spoke_data_x(data, SPOKE_TRAIN) && spoke_data_labels(data, SPOKE_TRAIN)) {
        tier_hasher_add(h, spoke_data_x(data, SPOKE_TRAIN), rows * features * sizeof(float));
        tier_hasher_add(h, spoke_data_labels(data, SPOKE_TRAIN),
                        rows * spoke_data_target_size(data) * sizeof(int32_t));
    } else {
        hash_rows(data, rows, h);
        if (spoke_data_values(data, SPOKE_TRAIN))
            tier_hasher_add(h, spoke_data_values(data, SPOKE_TRAIN), rows * sizeof(float));
        if (spoke_data_events(data, SPOKE_TRAIN))
            tier_hasher_add(h, spoke_data_events(data, SPOKE_TRAIN), rows * sizeof(float));
    }
    tier_hasher_finish(h, out);
    tier_hasher_free(h);
}

const char *spoke_team_backend(const struct kern_device *dev) {
    return strncmp(kern_device_name(dev), "cuda", 4) == 0 ? "cuda" : "cpu";
}

enum tier_status spoke_team_model(const struct spoke_net *net, struct tier_hash *out,
                                  struct tier_err *err) {
    size_t bytes = spoke_net_elements(net) * sizeof(float);
    float *values = malloc(bytes);

    if (!values)
        return tier_fail(err, TIER_ENOMEM, "no memory to compare replicas");
    enum tier_status st = spoke_net_get(net, values, err);
    if (st == TIER_OK)
        tier_hash_data(values, bytes, out);
    free(values);
    return st;
}

/* values[n] of rank 0, which reads them, to all others, which write them. */
static enum kern_status share(struct kern_group *group, struct kern_device *const *dev,
                              const float *given, float *taken, size_t n) {
    struct kern_vec part[KERN_GROUP_RANKS_MAX] = {{NULL, 0}};
    size_t count = kern_group_count(group), bytes = n * sizeof(float);
    enum kern_status st = KERN_OK;

    for (size_t i = 0; i < count && st == KERN_OK; i++)
        st = kern_buf_new(dev[i], bytes, &part[i].buf);
    if (st == KERN_OK && given)
        st = kern_upload(part[0].buf, 0, given, bytes);
    if (st == KERN_OK)
        st = kern_group_broadcast(group, part, n, KERN_F32, 0);
    if (st == KERN_OK && taken)
        st = kern_download(taken, part[0].buf, 0, bytes);
    for (size_t i = 0; i < count; i++)
        kern_buf_free(part[i].buf);
    return st;
}

enum tier_status spoke_team_share(struct kern_group *group, struct kern_device *const *dev,
                                  struct spoke_recipe *recipe, size_t n, float **owned_out,
                                  struct tier_err *err) {
    /* All that a recipe borrows; which of them it has does not follow from the plan alone. */
    const float **array[] = {&recipe->control, &recipe->own_control, &recipe->stiffness,
                             &recipe->centre};
    enum { ARRAYS = sizeof array / sizeof array[0] };
    bool leads = kern_group_first(group) == 0;
    float has[ARRAYS + 1]; /* and the factor that goes with them */

    for (size_t i = 0; i < ARRAYS; i++)
        has[i] = *array[i] ? 1 : 0;
    has[ARRAYS] = recipe->lambda;
    enum kern_status st = share(group, dev, leads ? has : NULL, leads ? NULL : has, ARRAYS + 1);
    recipe->lambda = has[ARRAYS];
    float *owned = st == KERN_OK && !leads ? calloc(ARRAYS * n, sizeof *owned) : NULL;
    *owned_out = owned;
    if (st == KERN_OK && !leads && !owned)
        return tier_fail(err, TIER_ENOMEM, "no memory for what training starts from");
    for (size_t i = 0; i < ARRAYS && st == KERN_OK; i++) {
        if (has[i] == 0)
            continue;
        st = share(group, dev, *array[i], leads ? NULL : owned + i * n, n);
        if (!leads)
            *array[i] = owned + i * n;
    }
    if (st != KERN_OK)
        return tier_fail(err, TIER_EDEVICE, "sharing what training starts from: %s: %s",
                         kern_status_text(st), kern_device_error(dev[0]));
    return TIER_OK;
}
