/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chunk buffers are recycled through one small pool for the whole process, so that the data path
 * does not allocate: the pool keeps as many as the receive credit has chunks, a surplus is freed.
 */
#include "tier/sender.h"
#include "tier/log.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define PIECES_AHEAD 2

struct chunk {
    struct chunk *next;
    _Alignas(64) uint8_t data[TIER_CHUNK_BYTES];
};

static pthread_mutex_t pool_lock = PTHREAD_MUTEX_INITIALIZER; /* guards the two below */
static struct chunk *pool_free;
static unsigned pool_count;

static struct chunk *chunk_get(void) {
    pthread_mutex_lock(&pool_lock);
    struct chunk *c = pool_free;
    if (c) {
        pool_free = c->next;
        pool_count--;
    }
    pthread_mutex_unlock(&pool_lock);
    if (!c)
        c = aligned_alloc(64, sizeof *c);
    if (!c)
        abort();
    return c;
}

static void chunk_put(void *arg) {
    struct chunk *c = arg;
    pthread_mutex_lock(&pool_lock);
    bool keep = pool_count < TIER_CREDIT_CHUNKS;
    if (keep) {
        c->next = pool_free;
        pool_free = c;
        pool_count++;
    }
    pthread_mutex_unlock(&pool_lock);
    if (!keep)
        free(c);
}

struct tier_sender {
    struct tier_rpc_call *call;
    struct tier_hash id;
    tier_sender_read *read;
    void *source;
    uint64_t total, offset;
    bool begun, done;
};

struct tier_sender *tier_sender_new(struct tier_rpc_call *call, const struct tier_hash *id,
                                    tier_sender_read *read, void *source, uint64_t total,
                                    uint64_t offset) {
    struct tier_sender *s = calloc(1, sizeof *s);
    if (!s)
        abort();
    *s = (struct tier_sender){
        .call = call, .read = read, .source = source, .total = total, .offset = offset};
    if (id)
        s->id = *id;
    return s;
}

void tier_sender_free(struct tier_sender *s) {
    free(s);
}

bool tier_sender_done(const struct tier_sender *s) {
    return s->done;
}

static bool send_piece(struct tier_sender *s, struct tier_err *err) {
    uint64_t left = s->total - s->offset;
    struct tier_piece piece = {.offset = s->offset,
                               .data_bytes = left < TIER_CHUNK_BYTES ? left : TIER_CHUNK_BYTES};
    uint8_t prefix[TIER_PIECE_PREFIX_MAX];
    struct chunk *c = chunk_get();

    if (!s->begun) {
        piece.id = s->id;
        piece.total = s->total;
    }
    if (piece.data_bytes &&
        s->read(s->source, s->offset, c->data, piece.data_bytes, err) != TIER_OK) {
        chunk_put(c);
        return false;
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
