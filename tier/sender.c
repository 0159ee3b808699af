/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chunk buffers are recycled through one small pool for the whole process, so that the data path
 * does not allocate: the pool keeps as many as the receive credit has chunks, a surplus is freed.
 *
 * What several children fetch at about the same time is read once: the last few chunks of content
 * stay in their buffers, which may be on the way to many.
 */
#include "tier/sender.h"
#include "tier/log.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define PIECES_AHEAD 2

#define RECENT_CHUNKS 8

struct chunk {
    struct chunk *next; /* in the pool */
    unsigned refs;      /* messages under way, the reader, and the list of recent ones */
    struct tier_hash content;
    uint64_t offset;
    size_t bytes;
    _Alignas(64) uint8_t data[TIER_CHUNK_BYTES];
};

static pthread_mutex_t pool_lock = PTHREAD_MUTEX_INITIALIZER; /* guards all below, and refs */
static struct chunk *pool_free;
static unsigned pool_count;
static struct chunk *recent[RECENT_CHUNKS]; /* a ring: the oldest goes next */
static unsigned recent_next;

static struct chunk *chunk_get(void) {
    pthread_mutex_lock(&pool_lock);
    struct chunk *c = pool_free;
    if (c) {
        pool_free = c->next;
        pool_count--;
    } else {
        c = aligned_alloc(64, sizeof *c);
    }
    if (c)
        c->refs = 1;
    pthread_mutex_unlock(&pool_lock);
    if (!c)
        abort();
    return c;
}

/* With the lock held; returns what is to be freed without it. */
static struct chunk *unref(struct chunk *c) {
    if (--c->refs > 0)
        return NULL;
    if (pool_count >= TIER_CREDIT_CHUNKS)
        return c;
    c->next = pool_free;
    pool_free = c;
    pool_count++;
    return NULL;
}

static void chunk_put(void *arg) {
    pthread_mutex_lock(&pool_lock);
    struct chunk *surplus = unref(arg);
    pthread_mutex_unlock(&pool_lock);
    free(surplus);
}

/* A chunk of that content that was read a moment ago, or NULL. */
static struct chunk *chunk_find(const struct tier_hash *content, uint64_t offset, size_t bytes) {
    struct chunk *found = NULL;
    pthread_mutex_lock(&pool_lock);
    for (unsigned i = 0; i < RECENT_CHUNKS && !found; i++)
        if (recent[i] && recent[i]->offset == offset && recent[i]->bytes == bytes &&
            tier_hash_equal(&recent[i]->content, content))
            found = recent[i];
    if (found)
        found->refs++;
    pthread_mutex_unlock(&pool_lock);
    return found;
}

static void chunk_remember(struct chunk *c, const struct tier_hash *content, uint64_t offset,
                           size_t bytes) {
    struct chunk *surplus = NULL;
    pthread_mutex_lock(&pool_lock);
    c->content = *content;
    c->offset = offset;
    c->bytes = bytes;
    c->refs++;
    if (recent[recent_next])
        surplus = unref(recent[recent_next]);
    recent[recent_next] = c;
    recent_next = (recent_next + 1) % RECENT_CHUNKS;
    pthread_mutex_unlock(&pool_lock);
    free(surplus);
}

struct tier_sender {
    struct tier_rpc_call *call;
    struct tier_hash id;
    tier_sender_read *read;
    void *source;
    struct tier_hash content; /* zero: what is sent is nobody else's */
    uint64_t total, offset;
    bool begun, done;
};

struct tier_sender *tier_sender_new(struct tier_rpc_call *call, const struct tier_hash *id,
                                    const struct tier_hash *content, tier_sender_read *read,
                                    void *source, uint64_t total, uint64_t offset) {
    struct tier_sender *s = calloc(1, sizeof *s);
    if (!s)
        abort();
    *s = (struct tier_sender){
        .call = call, .read = read, .source = source, .total = total, .offset = offset};
    if (id)
        s->id = *id;
    if (content)
        s->content = *content;
    return s;
}

void tier_sender_free(struct tier_sender *s) {
    free(s);
}

/* The bytes at s->offset in a chunk of their own or of several senders; NULL: they cannot be read.
 */
static struct chunk *chunk_of(struct tier_sender *s, size_t bytes, struct tier_err *err) {
    bool shared = !tier_hash_is_zero(&s->content) && bytes > 0;
    struct chunk *c = shared ? chunk_find(&s->content, s->offset, bytes) : NULL;

    if (c)
        return c;
    c = chunk_get();
    if (bytes && s->read(s->source, s->offset, c->data, bytes, err) != TIER_OK) {
        chunk_put(c);
        return NULL;
    }
    if (shared)
        chunk_remember(c, &s->content, s->offset, bytes);
    return c;
}

static bool send_piece(struct tier_sender *s, struct tier_err *err) {
    uint64_t left = s->total - s->offset;
    struct tier_piece piece = {.offset = s->offset,
                               .data_bytes = left < TIER_CHUNK_BYTES ? left : TIER_CHUNK_BYTES};
    uint8_t prefix[TIER_PIECE_PREFIX_MAX];
    struct chunk *c = chunk_of(s, piece.data_bytes, err);

    if (!c)
        return false;
    if (!s->begun) {
        piece.id = s->id;
        piece.total = s->total;
    }
    size_t prefix_bytes = tier_wire_piece_prefix(&piece, prefix);
    s->begun = true;
    s->offset += piece.data_bytes;
    /* A refused piece gives its chunk back too; the call is over then and needs nothing more. */
    tier_rpc_send_payload(s->call, prefix, prefix_bytes, c->data, piece.data_bytes, chunk_put, c);
    return true;
}

void tier_sender_fill(struct tier_sender *s) {
    struct tier_err err = {0};

    while (!s->done && tier_rpc_waiting(s->call) < PIECES_AHEAD) {
        if (s->begun && s->offset == s->total) {
            s->done = true;
            tier_rpc_end(s->call, TIER_OK, "");
        } else if (!send_piece(s, &err)) {
            tier_log_error("cannot send: %s", err.text);
            s->done = true;
            tier_rpc_end(s->call, err.status, err.text);
        }
    }
}
