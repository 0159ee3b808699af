/* SPDX-License-Identifier: Apache-2.0 */
/* Getting content from the parent: a call of its own for each file, which resumes by offset. */
#include "tier/link_private.h"
#include "tier/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

void link_fetch_release(struct fetch *f, enum tier_status st, const char *text) {
    struct tier_link *link = f->link;

    tier_content_rx_close(f->rx);
    tier_timer_free(f->again);
    while (f->waiters) {
        struct waiter *w = f->waiters;
        f->waiters = w->next;
        if (!link->closing)
            w->done(w->arg, st, text);
        free(w);
    }
    free(f);
}

static void fetch_finish(struct fetch *f, enum tier_status st, const char *text) {
    for (struct fetch **at = &f->link->fetches; *at; at = &(*at)->next) {
        if (*at == f) {
            *at = f->next;
            break;
        }
    }
    link_fetch_release(f, st, text);
}

static void fetch_message(struct tier_rpc_call *call, struct tier_rpc_message *m) {
    struct fetch *f = tier_rpc_user(call);
    tier_strand_take(f->strand, m);
}

/* On the intake's thread. */
static enum tier_status fetch_absorb(void *owner, struct tier_piece_reader *r, uint8_t *scratch,
                                     struct tier_err *err) {
    struct fetch *f = owner;
    const uint8_t *data;
    size_t n;
    struct iovec whole = {scratch, 0};

    uint64_t at = tier_content_rx_offset(f->rx);
    if (r->piece.offset != at)
        return tier_fail(err, TIER_EPROTO,
                         "a piece at offset %" PRIu64 ", which nobody asked for: %" PRIu64
                         " is next",
                         r->piece.offset, at);
    if (r->piece.total > f->bytes_max || r->piece.data_bytes > f->bytes_max - at)
        return tier_fail(err, TIER_EPROTO,
                         "content of %" PRIu64 " bytes or more, at most %" PRIu64 " are right",
                         r->piece.total > f->bytes_max ? r->piece.total : at + r->piece.data_bytes,
                         f->bytes_max);
    if (f->pieces++ && r->piece.data_bytes == 0)
        return tier_fail(err, TIER_EPROTO, "a piece without data");
    while (tier_piece_next(r, &data, &n)) { /* at most TIER_CHUNK_BYTES */
        memcpy(scratch + whole.iov_len, data, n);
        whole.iov_len += n;
    }
    return tier_content_rx_writev(f->rx, &whole, whole.iov_len > 0, err);
}

static void fetch_absorbed(void *owner, enum tier_status st, const struct tier_err *err,
                           size_t bytes) {
    struct fetch *f = owner;
    f->link->traffic.fetched_bytes += bytes;
    if (st == TIER_OK)
        return;
    f->failure = *err;
    if (f->call)
        tier_rpc_cancel(f->call);
}

static void fetch_closed(struct tier_rpc_call *call, enum tier_status status, const char *text) {
    struct fetch *f = tier_rpc_user(call);
    f->call = NULL;
    f->ended = status;
    snprintf(f->ended_text, sizeof f->ended_text, "%s", text);
    tier_strand_end(f->strand);
}

static void fetch_drained(void *owner) {
    struct fetch *f = owner;
    tier_strand_close(f->strand);
}

static void fetch_start(void *arg);

/* Nobody waits for it: what has come goes. Neither a call nor the intake is at work on it. */
static void fetch_give_up(struct fetch *f) {
    char *part = tier_content_path(f->link->models_dir, &f->sha256, ".part");
    unlink(part);
    free(part);
    fetch_finish(f, TIER_ECANCELLED, "not wanted any more");
}

/* The call is over and all that came is absorbed. */
static void fetch_released(void *owner) {
    struct fetch *f = owner;
    enum tier_status status = f->ended;
    struct tier_err err = f->failure;
    const char *text = f->ended_text;

    f->strand = NULL;
    if (f->link->closing) {
        fetch_finish(f, TIER_ECANCELLED, "the node stops");
        return;
    }
    if (f->unwanted) {
        fetch_give_up(f);
        return;
    }
    if (status == TIER_OK && err.status == TIER_OK) {
        status = tier_content_rx_finish(f->rx, &err);
        f->rx = NULL;
        if (status == TIER_OK) {
            fetch_finish(f, TIER_OK, "");
            return;
        }
        text = err.text;
    } else if (err.status != TIER_OK) {
        text = err.text;
    }
    if (status == TIER_ENOTFOUND || err.status == TIER_EFULL) {
        fetch_finish(f, err.status == TIER_EFULL ? TIER_EFULL : status, text);
        return;
    }
    bool lied = err.status == TIER_EPROTO || err.status == TIER_ECORRUPT;
    char hex[TIER_HASH_HEX];
    if (lied)
        tier_log_warn("parent %s: content %.12s, asked for again: %s", f->link->parent_name,
                      tier_hash_hex(&f->sha256, hex), text);
    else
        tier_log_info("fetch interrupted, will go on: %s", text);
    /* An offset that the parent does not take lies behind the end of what it has. */
    if (lied || status == TIER_EARG)
        tier_content_rx_discard(f->rx);
    else
        tier_content_rx_close(f->rx);
    f->rx = NULL;
    f->retry_ms = f->retry_ms ? f->retry_ms * 2 : LINK_RETRY_MS_MIN;
    if (f->retry_ms > LINK_RETRY_MS_MAX)
        f->retry_ms = LINK_RETRY_MS_MAX;
    tier_timer_set(f->again, f->retry_ms);
}

static const struct tier_strand_events fetch_strand = {
    .absorb = fetch_absorb,
    .absorbed = fetch_absorbed,
    .drained = fetch_drained,
    .released = fetch_released,
};

static const struct tier_rpc_handler fetch_handler = {
    .message = fetch_message,
    .closed = fetch_closed,
};

/* On the intake's thread: what is here already is hashed anew. */
static void fetch_open(void *arg) {
    struct fetch *f = arg;
    tier_content_rx_open(f->link->models_dir, &f->sha256, f->suffix, &f->rx, &f->failure);
}

static void fetch_opened(void *arg) {
    struct fetch *f = arg;
    f->opening = false;
    if (f->link->closing) {
        fetch_finish(f, TIER_ECANCELLED, "the node stops");
        return;
    }
    if (f->unwanted) {
        fetch_give_up(f);
        return;
    }
    if (f->failure.status != TIER_OK) {
        fetch_finish(f, f->failure.status, f->failure.text);
        return;
    }
    f->pieces = 0;
    struct tier_fetch_request request = {.sha256 = f->sha256,
                                         .offset = tier_content_rx_offset(f->rx)};
    struct tier_bytes b = tier_wire_fetch_request_bytes(&request);
    f->link->traffic.fetches++;
    f->call = tier_rpc_call_new(f->link->channel, TIER_PATH_FETCH, &fetch_handler, f, 0);
    f->strand = tier_strand_open(f->link->intake, f->call, &fetch_strand, f);
    tier_rpc_send(f->call, b.data, b.n);
    tier_rpc_half_close(f->call);
    tier_strand_read(f->strand);
    free(b.data);
}

static void fetch_start(void *arg) {
    struct fetch *f = arg;

    if (f->unwanted) {
        fetch_give_up(f);
        return;
    }
    f->failure = (struct tier_err){0};
    f->opening = true;
    tier_intake_submit(f->link->intake, fetch_open, fetch_opened, fetch_opened, f);
}

static void fetch_nothing_to_do(void *arg) {
    fetch_finish(arg, TIER_OK, "");
}

static struct fetch *fetch_of(struct tier_link *link, const struct tier_hash *sha256) {
    struct fetch *f = link->fetches;
    while (f && !tier_hash_equal(&f->sha256, sha256))
        f = f->next;
    return f;
}

void tier_link_unfetch(struct tier_link *link, const struct tier_hash *sha256, tier_fetched done,
                       void *arg) {
    struct fetch *f = fetch_of(link, sha256);

    for (struct waiter **at = f ? &f->waiters : NULL; at && *at; at = &(*at)->next) {
        struct waiter *w = *at;
        if (w->done != done || w->arg != arg)
            continue;
        *at = w->next;
        free(w);
        break;
    }
    if (!f || f->waiters || f->unwanted)
        return;
    f->unwanted = true;
    if (f->call)
        tier_rpc_cancel(f->call);
    else if (!f->opening && !f->strand)
        tier_timer_set(f->again, 0);
}

void tier_link_fetch(struct tier_link *link, const struct tier_hash *sha256, const char *suffix,
                     uint64_t bytes_max, tier_fetched done, void *arg) {
    struct fetch *f = fetch_of(link, sha256);

    for (const struct waiter *w = f ? f->waiters : NULL; w; w = w->next)
        if (w->done == done && w->arg == arg)
            return;
    struct waiter *w = need(calloc(1, sizeof *w));
    *w = (struct waiter){.done = done, .arg = arg, .next = f ? f->waiters : NULL};
    if (f) {
        f->waiters = w;
        f->unwanted = false;
        return;
    }
    f = need(calloc(1, sizeof *f));
    f->link = link;
    f->sha256 = *sha256;
    f->bytes_max = bytes_max;
    f->waiters = w;
    snprintf(f->suffix, sizeof f->suffix, "%s", suffix);
    f->next = link->fetches;
    link->fetches = f;
    bool has = tier_content_has(link->models_dir, sha256, suffix);
    f->again = tier_timer_new(link->loop, has ? fetch_nothing_to_do : fetch_start, f);
    tier_timer_set(f->again, 0);
}
