/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where ranks meet. A call begins when the last rank has come, and the last one compares what they
 * ask for; it ends when the last one is done, because until then some rank may still read another's
 * array. That holds for a call that breaks off as well: whoever had come leaves only with all the
 * others, so no array is given back while it is read. Nobody spins: one lock, one condition.
 *
 * A meeting of several callers is found by its id in a list of the process. It stays there until
 * all its ranks have joined and left, so that a rank that joins late finds it broken, not empty.
 *
 * Over a link, the meeting is of this process's ranks alone. Those of other processes are not
 * waited for as such: each message says what call it belongs to, and the first that belongs to
 * another ends the group. A rank's array is its own once its call returns, because what others need
 * was sent.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/group.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct kern_meeting {
    struct kern_meeting *next; /* in the list; NULL for a group of one caller */
    struct kern_group_id id;
    bool listed, taken[KERN_GROUP_RANKS_MAX];
    size_t ranks, joined, callers;      /* of the list's lock */
    const struct kern_group_link *link; /* NULL: all ranks are in this process */
    size_t first, here;                 /* the ranks that are: first to first + here - 1 */
    unsigned char *messages;            /* room for one for each of them */

    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t moved;
    bool broken, failed; /* for good; in this call */
    uint64_t calls;
    size_t arrived, finished;
    enum kern_status verdict;
    struct kern_group_call call[KERN_GROUP_RANKS_MAX];
    void *part[KERN_GROUP_RANKS_MAX];
    size_t told[2][KERN_GROUP_RANKS_MAX];
};

struct member {
    struct kern_meeting *meeting;
    size_t first, count;
    struct kern_ctx *ctx;   /* of the first rank: errors */
    struct kern_pool *pool; /* a thread for each rank; NULL for one rank, which is the caller */
};

static struct {
    pthread_mutex_t lock;
    struct kern_meeting *first;
    uint64_t made;
} list = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* ---- within a call -------------------------------------------------------------------------- */

void kern_rank_tell(const struct kern_rank *r, enum kern_track track, size_t done) {
    pthread_mutex_lock(&r->meeting->lock);
    r->meeting->told[track][r->rank] = done;
    pthread_cond_broadcast(&r->meeting->moved);
    pthread_mutex_unlock(&r->meeting->lock);
}

bool kern_rank_wait(const struct kern_rank *r, enum kern_track track, size_t other, size_t done) {
    struct kern_meeting *m = r->meeting;
    pthread_mutex_lock(&m->lock);
    while (m->told[track][other] < done && !m->broken) {
        pthread_cond_wait(&m->moved, &m->lock);
    }
    bool ok = !m->broken;
    pthread_mutex_unlock(&m->lock);
    return ok;
}

/* ---- over a link ---------------------------------------------------------------------------- */

/* Ranks that wait for each other, here or for one elsewhere, are let go. */
static void break_off(struct kern_meeting *m) {
    pthread_mutex_lock(&m->lock);
    m->broken = true;
    pthread_cond_broadcast(&m->moved);
    pthread_mutex_unlock(&m->lock);
    if (m->link != NULL) {
        m->link->shut(m->link->arg);
    }
}

/* Stands before the bytes of every message. Processes of one group run the same program on machines
 * of one kind: numbers travel as they lie. */
struct head {
    uint64_t number, n, root, bytes;
    uint32_t op, type, way, zero;
};
_Static_assert(sizeof(struct head) == 48, "a message is its head and at most 256 KiB");

static struct head head_of(const struct kern_rank *r, size_t bytes) {
    const struct kern_group_call *c = &r->call;
    return (struct head){r->number,        c->n, c->root, bytes, (uint32_t)c->op, (uint32_t)c->type,
                         (uint32_t)c->way, 0};
}

bool kern_rank_here(const struct kern_rank *r, size_t other) {
    return other >= r->meeting->first && other - r->meeting->first < r->meeting->here;
}

bool kern_rank_send(const struct kern_rank *r, size_t to, const void *bytes, size_t n) {
    const struct kern_group_link *link = r->meeting->link;
    struct head head = head_of(r, n);
    memcpy(r->message, &head, sizeof head);
    memcpy(r->message + sizeof head, bytes, n);
    if (!link->send(link->arg, r->rank, to, r->message, sizeof head + n)) {
        break_off(r->meeting);
        return false;
    }
    return true;
}

const void *kern_rank_receive(const struct kern_rank *r, size_t from, size_t n) {
    const struct kern_group_link *link = r->meeting->link;
    struct head want = head_of(r, n);
    if (!link->receive(link->arg, from, r->rank, r->message, sizeof want + n) ||
        memcmp(r->message, &want, sizeof want) != 0) {
        break_off(r->meeting);
        return NULL;
    }
    return r->message + sizeof want;
}

static bool alike(const struct kern_meeting *m) {
    const struct kern_group_call *a = &m->call[m->first];
    for (size_t i = m->first + 1; i < m->first + m->here; i++) {
        const struct kern_group_call *b = &m->call[i];
        if (a->op != b->op || a->type != b->type || a->way != b->way || a->n != b->n ||
            a->root != b->root) {
            return false;
        }
    }
    return true;
}

/* Waits for all ranks; KERN_OK where all have come and ask for the same. */
static enum kern_status arrive(struct kern_meeting *m, size_t rank,
                               const struct kern_group_call *call, void *part) {
    pthread_mutex_lock(&m->lock);
    uint64_t this_call = m->calls;
    m->call[rank] = *call;
    m->part[rank] = part;
    if (!m->broken && ++m->arrived == m->here) {
        m->verdict = alike(m) ? KERN_OK : KERN_EARG;
        m->arrived = m->finished = 0;
        m->failed = false;
        memset(m->told, 0, sizeof m->told);
        m->calls++;
        pthread_cond_broadcast(&m->moved);
    }
    while (m->calls == this_call && !m->broken) {
        pthread_cond_wait(&m->moved, &m->lock);
    }
    enum kern_status st = m->calls == this_call ? KERN_EGROUP : m->verdict;
    pthread_mutex_unlock(&m->lock);
    return st;
}

/* Waits until no rank works any more. */
static enum kern_status finish(struct kern_meeting *m, bool ok) {
    pthread_mutex_lock(&m->lock);
    m->failed = m->failed || !ok;
    if (++m->finished == m->here) {
        pthread_cond_broadcast(&m->moved);
    }
    while (m->finished < m->here) {
        pthread_cond_wait(&m->moved, &m->lock);
    }
    enum kern_status st = m->failed ? KERN_EGROUP : KERN_OK;
    pthread_mutex_unlock(&m->lock);
    return st;
}

struct job {
    const struct member *member;
    const struct kern_group_call *call;
    void *const *parts;
    enum kern_status *status;
};

static void run_rank(const void *arg, size_t i) {
    const struct job *job = arg;
    struct kern_meeting *m = job->member->meeting;
    struct kern_rank r = {m, *job->call, job->member->first + i, m->ranks, m->part, 0, NULL};
    if (m->messages != NULL) {
        r.message = m->messages + i * KERN_GROUP_MESSAGE_BYTES;
    }
    enum kern_status st = arrive(m, r.rank, job->call, job->parts[i]);
    if (st == KERN_OK) {
        r.number = m->calls; /* stays what it is until this rank is done */
        st = finish(m, kern_rank_work(&r));
    }
    job->status[i] = st;
}

enum kern_status kern_cpu_group_run(void *state, const struct kern_group_call *call,
                                    void *const *parts) {
    struct member *member = state;
    enum kern_status status[KERN_GROUP_RANKS_MAX];
    const struct job job = {member, call, parts, status};
    if (member->pool != NULL) {
        kern_pool_run(member->pool, run_rank, &job, member->count);
    } else {
        run_rank(&job, 0);
    }
    if (status[0] != KERN_OK) {
        snprintf(member->ctx->error, sizeof member->ctx->error, "%s",
                 status[0] == KERN_EARG ? "the ranks of the group did not call for the same thing"
                                        : "a rank of the group aborted or left");
    }
    return status[0];
}

struct each {
    void (*fn)(void *arg, size_t i);
    void *arg;
};

static void each_one(const void *arg, size_t i) {
    const struct each *each = arg;
    each->fn(each->arg, i);
}

void kern_cpu_group_each(void *state, void (*fn)(void *arg, size_t i), void *arg) {
    struct member *member = state;
    const struct each each = {fn, arg};
    if (member->pool != NULL) {
        kern_pool_run(member->pool, each_one, &each, member->count);
    } else {
        fn(arg, 0);
    }
}

/* ---- life cycle ---------------------------------------------------------------------------- */

static struct kern_meeting *meeting_new(size_t ranks, size_t first, size_t here) {
    struct kern_meeting *m = calloc(1, sizeof *m);
    if (m != NULL) {
        m->ranks = ranks;
        m->first = first;
        m->here = here;
        pthread_mutex_init(&m->lock, NULL);
        pthread_cond_init(&m->moved, NULL);
    }
    return m;
}

/* Drops one caller; frees with the last. */
static void meeting_leave(struct kern_meeting *m) {
    break_off(m);
    pthread_mutex_lock(&list.lock);
    bool last = --m->callers == 0 && (!m->listed || m->joined == m->ranks);
    for (struct kern_meeting **at = &list.first; last && *at != NULL; at = &(*at)->next) {
        if (*at == m) {
            *at = m->next;
            break;
        }
    }
    pthread_mutex_unlock(&list.lock);
    if (last) {
        pthread_cond_destroy(&m->moved);
        pthread_mutex_destroy(&m->lock);
        free(m->messages);
        free(m);
    }
}

/* The meeting of this id, made by the first that asks; ranks are taken. Under the list's lock. */
static enum kern_status find(const struct kern_group_id *id, size_t ranks, size_t first,
                             size_t count, struct kern_meeting **out, struct kern_ctx *ctx) {
    struct kern_meeting *m = list.first;
    while (m != NULL && memcmp(&m->id, id, sizeof *id) != 0) {
        m = m->next;
    }
    if (m == NULL) {
        m = meeting_new(ranks, 0, ranks);
        if (m == NULL) {
            return KERN_ENOMEM;
        }
        m->id = *id;
        m->listed = true;
        m->next = list.first;
        list.first = m;
    }
    bool fits = m->ranks == ranks;
    for (size_t i = first; fits && i < first + count; i++) {
        fits = !m->taken[i];
    }
    if (!fits) {
        snprintf(ctx->error, sizeof ctx->error,
                 "ranks %zu to %zu of %zu: taken, or the group has %zu", first, first + count - 1,
                 ranks, m->ranks);
        return KERN_EARG;
    }
    memset(m->taken + first, 1, count);
    m->joined += count;
    m->callers++;
    *out = m;
    return KERN_OK;
}

static enum kern_status take_meeting(const struct kern_group_id *id, size_t ranks, size_t first,
                                     size_t count, struct kern_meeting **out,
                                     struct kern_ctx *ctx) {
    if (id == NULL) {
        struct kern_meeting *m = meeting_new(ranks, 0, ranks);
        if (m == NULL) {
            return KERN_ENOMEM;
        }
        m->callers = 1;
        *out = m;
        return KERN_OK;
    }
    pthread_mutex_lock(&list.lock);
    enum kern_status st = find(id, ranks, first, count, out, ctx);
    pthread_mutex_unlock(&list.lock);
    return st;
}

static enum kern_status span_meeting(const struct kern_group_link *link, size_t ranks, size_t first,
                                     size_t count, struct kern_meeting **out) {
    struct kern_meeting *m = meeting_new(ranks, first, count);
    unsigned char *messages = calloc(count, KERN_GROUP_MESSAGE_BYTES);
    if (m == NULL || messages == NULL) {
        free(messages);
        free(m);
        return KERN_ENOMEM;
    }
    m->messages = messages;
    m->link = link;
    m->callers = 1;
    *out = m;
    return KERN_OK;
}

enum kern_status kern_cpu_group_id(struct kern_ctx *ctx, struct kern_group_id *out) {
    (void)ctx;
    memset(out, 0, sizeof *out);
    pthread_mutex_lock(&list.lock);
    uint64_t number = ++list.made;
    pthread_mutex_unlock(&list.lock);
    snprintf((char *)out->bytes, sizeof out->bytes, "threads of one process, %llu",
             (unsigned long long)number);
    return KERN_OK;
}

static enum kern_status join(const struct kern_group_id *id, const struct kern_group_link *link,
                             size_t ranks, size_t first, struct kern_ctx *const *ctx, size_t count,
                             void **out) {
    struct member *member = calloc(1, sizeof *member);
    struct kern_pool *pool = count > 1 ? kern_pool_new((int)count) : NULL;
    enum kern_status st = KERN_ENOMEM;
    /* Ranks wait for each other: each needs its thread, not a turn on another's. */
    if (member != NULL && (count == 1 || (pool != NULL && kern_pool_start(pool)))) {
        st = link != NULL ? span_meeting(link, ranks, first, count, &member->meeting)
                          : take_meeting(id, ranks, first, count, &member->meeting, ctx[0]);
    } else {
        snprintf(ctx[0]->error, sizeof ctx[0]->error, "no threads for %zu ranks", count);
    }
    if (st != KERN_OK) {
        kern_pool_free(pool);
        free(member);
        return st;
    }
    member->first = first;
    member->count = count;
    member->ctx = ctx[0];
    member->pool = pool;
    *out = member;
    return KERN_OK;
}

enum kern_status kern_cpu_group_join(const struct kern_group_id *id, size_t ranks, size_t first,
                                     struct kern_ctx *const *ctx, size_t count, void **out) {
    return join(id, NULL, ranks, first, ctx, count, out);
}

enum kern_status kern_cpu_group_span(const struct kern_group_link *link, size_t ranks, size_t first,
                                     struct kern_ctx *const *ctx, size_t count, void **out) {
    return join(NULL, link, ranks, first, ctx, count, out);
}

void kern_cpu_group_leave(void *state) {
    struct member *member = state;
    meeting_leave(member->meeting);
    kern_pool_free(member->pool);
    free(member);
}

void kern_cpu_group_abort(void *state) {
    break_off(((struct member *)state)->meeting);
}
