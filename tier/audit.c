/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A line is checked by parsing it and writing it again: only a line that is canonical byte for byte
 * passes, so no two readers can see different records under one hash.
 *
 * An append is one write(2). After kill -9 a line is whole or without its line feed; the latter is
 * nobody's promise yet and is cut off. Where a failed write cannot be taken back, or fdatasync
 * fails (the kernel may have dropped the pages), what is on disk is unknown: the log then refuses
 * everything until it is opened, and so checked, again.
 */
#include "tier/audit.h"

#include "tier/limits.h"
#include "tier/pem_file.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define AUDIT_TAIL_BYTES (1 << 20) /* checked when opened */
#define AUDIT_DUMP_FLAGS (JSON_COMPACT | JSON_SORT_KEYS)
#define AUDIT_HASH_KEY "\"hash\":\""
#define AUDIT_DEPTH_MAX 32

struct tier_audit {
    int fd;
    enum tier_audit_sync sync;
    bool broken;
    bool dirty; /* appended, not synced */
    off_t size;
    uint64_t seq;
    uint64_t durable; /* lines that the disk has */
    struct tier_hash head;
    struct tier_tree *tree;
    char path[PATH_MAX];
};

/* ---- one line ------------------------------------------------------------------------------- */

/* SHA-256 of prev and the record without its hash. */
static bool record_hash(const struct tier_hash *prev, const char *text, size_t bytes,
                        struct tier_hash *out) {
    struct tier_hasher *hasher = tier_hasher_new();
    if (!hasher)
        return false;
    tier_hasher_add(hasher, prev->b, TIER_HASH_BYTES);
    tier_hasher_add(hasher, text, bytes);
    tier_hasher_finish(hasher, out);
    tier_hasher_free(hasher);
    return true;
}

static bool event_valid(const char *event) {
    size_t bytes = event ? strnlen(event, TIER_AUDIT_EVENT_LEN_MAX + 1) : 0;
    if (bytes == 0 || bytes > TIER_AUDIT_EVENT_LEN_MAX)
        return false;
    for (size_t i = 0; i < bytes; i++)
        if (!strchr("abcdefghijklmnopqrstuvwxyz0123456789._-", event[i]))
            return false;
    return true;
}

/* C0, DEL and C1 (which is 0xc2 and a byte below 0xa0 in UTF-8). */
static bool text_clean(const char *text) {
    for (const unsigned char *p = (const unsigned char *)text; *p; p++)
        if (*p < 0x20 || *p == 0x7f || (*p == 0xc2 && p[1] < 0xa0))
            return false;
    return true;
}

static bool value_clean(const json_t *value, int depth) {
    const char *key;
    const json_t *item;
    size_t i;

    if (depth > AUDIT_DEPTH_MAX)
        return false;
    if (json_is_string(value))
        return strlen(json_string_value(value)) == json_string_length(value) &&
               text_clean(json_string_value(value));
    if (json_is_array(value)) {
        json_array_foreach(value, i, item) if (!value_clean(item, depth + 1)) return false;
    } else if (json_is_object(value)) {
        json_object_foreach((json_t *)value, key, item) {
            if (!text_clean(key) || !value_clean(item, depth + 1))
                return false;
        }
    }
    return true;
}

static enum tier_status line_fail(struct tier_err *err, uint64_t seq, const char *what) {
    return tier_fail(err, TIER_ECORRUPT, "line %llu: %s", (unsigned long long)seq, what);
}

/* The hash of a line does not cover itself, so its digits too must have one form only. */
static bool parse_lower(const char *hex, struct tier_hash *out) {
    return !strpbrk(hex, "ABCDEF") && tier_hash_parse(hex, out);
}

/* The members, in the order in which a sorted line has them. */
static const char *check_members(const json_t *record, uint64_t seq, const struct tier_hash *prev,
                                 struct tier_hash *hash) {
    const json_t *seq_value = json_object_get(record, "seq");
    const char *prev_text = json_string_value(json_object_get(record, "prev"));
    const char *hash_text = json_string_value(json_object_get(record, "hash"));
    struct tier_hash said;

    if (json_object_size(record) != 6 || !json_is_object(json_object_get(record, "data")) ||
        !json_is_integer(json_object_get(record, "time_ms")) || !json_is_integer(seq_value) ||
        !event_valid(json_string_value(json_object_get(record, "event"))) || !prev_text ||
        !hash_text || !parse_lower(prev_text, &said) || !parse_lower(hash_text, hash))
        return "not a record of data, event, hash, prev, seq and time_ms";
    if (json_integer_value(seq_value) < 0 || (uint64_t)json_integer_value(seq_value) != seq)
        return "its number does not follow the line before";
    if (!tier_hash_equal(&said, prev))
        return "it does not follow the line before it (prev differs)";
    if (!value_clean(json_object_get(record, "data"), 0))
        return "control characters in its data";
    return NULL;
}

enum tier_status tier_audit_check_line(const char *line, size_t bytes, uint64_t seq,
                                       const struct tier_hash *prev, struct tier_hash *hash_out,
                                       struct tier_err *err) {
    struct tier_hash said, made;
    char *text = NULL;
    enum tier_status st = TIER_OK;

    if (bytes == 0 || bytes >= TIER_AUDIT_LINE_BYTES_MAX)
        return line_fail(err, seq, bytes ? "too long" : "empty");
    json_t *record = json_loadb(line, bytes, JSON_REJECT_DUPLICATES, NULL);
    if (!record)
        return line_fail(err, seq, "not JSON");
    const char *wrong = check_members(record, seq, prev, &said);
    if (wrong) {
        st = line_fail(err, seq, wrong);
        goto out;
    }
    text = json_dumps(record, AUDIT_DUMP_FLAGS);
    if (!text || strlen(text) != bytes || memcmp(text, line, bytes) != 0) {
        st = line_fail(err, seq, "not in canonical form");
        goto out;
    }
    free(text);
    json_object_del(record, "hash");
    text = json_dumps(record, AUDIT_DUMP_FLAGS);
    if (!text || !record_hash(prev, text, strlen(text), &made)) {
        st = tier_fail(err, TIER_ENOMEM, "no memory to check an audit line");
        goto out;
    }
    if (!tier_hash_equal(&said, &made)) {
        st = line_fail(err, seq, "its hash is not that of its content: it was altered");
        goto out;
    }
    *hash_out = made;
out:
    free(text);
    json_decref(record);
    return st;
}

/* ---- reading -------------------------------------------------------------------------------- */

/* A line that is not whole is looked at again so often, with that pause, before it is torn. */
#define TORN_LOOKS 10
#define TORN_WAIT_MS 20

/* Lines of a file from an offset on, through one buffer. */
struct reader {
    int fd;
    off_t at; /* of the next byte to read into the buffer */
    size_t begin, end;
    bool eof;
    char buf[2 * TIER_AUDIT_LINE_BYTES_MAX];
};

enum read_result { READ_LINE, READ_END, READ_TORN, READ_LONG, READ_FAILED };

static enum read_result read_line(struct reader *r, const char **line, size_t *bytes) {
    for (;;) {
        char *feed = memchr(r->buf + r->begin, '\n', r->end - r->begin);
        if (feed) {
            *line = r->buf + r->begin;
            *bytes = (size_t)(feed - *line);
            r->begin += *bytes + 1;
            return *bytes < TIER_AUDIT_LINE_BYTES_MAX ? READ_LINE : READ_LONG;
        }
        *bytes = r->end - r->begin;
        if (r->eof)
            return *bytes ? READ_TORN : READ_END;
        if (*bytes >= TIER_AUDIT_LINE_BYTES_MAX)
            return READ_LONG;
        memmove(r->buf, r->buf + r->begin, *bytes);
        r->begin = 0;
        r->end = *bytes;
        ssize_t n = pread(r->fd, r->buf + r->end, sizeof r->buf - r->end, r->at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return READ_FAILED;
        r->eof = n == 0;
        r->at += n;
        r->end += (size_t)n;
    }
}

static struct reader *reader_new(int fd, off_t at, struct tier_err *err) {
    struct reader *r = malloc(sizeof *r);
    if (!r) {
        tier_fail(err, TIER_ENOMEM, "no memory to read an audit log");
        return NULL;
    }
    r->fd = fd;
    r->at = at;
    r->begin = r->end = 0;
    r->eof = false;
    return r;
}

struct chain {
    uint64_t count;
    struct tier_hash head;
    size_t torn;           /* bytes behind the last line feed */
    tier_audit_line_fn fn; /* NULL: nobody wants to see the lines */
    void *arg;
    struct tier_tree_edge edge; /* kept for fn alone */
};

static enum tier_status show_line(struct chain *chain, const char *line, size_t bytes,
                                  struct tier_err *err) {
    struct tier_hash leaf;

    TIER_TRY(tier_tree_leaf(line, bytes, &leaf, err));
    TIER_TRY(tier_tree_edge_add(&chain->edge, &leaf, err));
    json_t *record = json_loadb(line, bytes, 0, NULL);
    if (!record)
        return tier_fail(err, TIER_ENOMEM, "no memory to read an audit line");
    enum tier_status st = chain->fn(chain->arg, chain->count, record, &chain->edge, err);
    json_decref(record);
    return st;
}

/* Follows the chain from the reader's place on, as far as whole lines go. */
static enum tier_status follow(struct reader *r, struct chain *chain, struct tier_err *err) {
    const char *line;
    size_t bytes;

    for (;;) {
        switch (read_line(r, &line, &bytes)) {
        case READ_LINE:
            TIER_TRY(tier_audit_check_line(line, bytes, chain->count + 1, &chain->head,
                                           &chain->head, err));
            chain->count++;
            if (chain->fn)
                TIER_TRY(show_line(chain, line, bytes, err));
            break;
        case READ_END:
            chain->torn = 0;
            return TIER_OK;
        case READ_TORN:
            chain->torn = bytes;
            return TIER_OK;
        case READ_LONG:
            return line_fail(err, chain->count + 1, "too long");
        case READ_FAILED:
            return tier_fail_errno(err, TIER_EIO, "cannot be read");
        }
    }
}

enum tier_status tier_audit_verify(const char *path, uint64_t *count_out,
                                   struct tier_hash *head_out, struct tier_err *err) {
    return tier_audit_walk(path, NULL, NULL, count_out, head_out, err);
}

enum tier_status tier_audit_walk(const char *path, tier_audit_line_fn fn, void *arg,
                                 uint64_t *count_out, struct tier_hash *head_out,
                                 struct tier_err *err) {
    struct chain chain = {.fn = fn, .arg = arg};
    struct reader *r = NULL;
    enum tier_status st = TIER_OK;

    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return tier_fail_errno(err, errno == ENOENT ? TIER_ENOTFOUND : TIER_EIO,
                               "audit log %s: cannot be opened", path);
    r = reader_new(fd, 0, err);
    if (!r) {
        st = TIER_ENOMEM;
        goto out;
    }
    st = follow(r, &chain, err);
    for (int i = 0; i < TORN_LOOKS && st == TIER_OK && chain.torn; i++) {
        poll(NULL, 0, TORN_WAIT_MS); /* its node may be writing that line at this moment */
        r->eof = false;
        st = follow(r, &chain, err);
    }
    if (st == TIER_OK && chain.torn)
        st = line_fail(err, chain.count + 1,
                       "torn: it has no line feed (the node cuts it off when it starts)");
    if (st == TIER_OK && chain.count == 0)
        st = line_fail(err, 1, "missing: a log begins with audit.created, and this one is empty");
    if (st != TIER_OK) {
        tier_err_prefix(err, "audit log %s", path);
        goto out;
    }
    *count_out = chain.count;
    *head_out = chain.head;
out:
    free(r);
    close(fd);
    return st;
}

/* ---- opening -------------------------------------------------------------------------------- */

static bool read_at(int fd, char *buf, size_t bytes, off_t at) {
    size_t done = 0;
    while (done < bytes) {
        ssize_t n = pread(fd, buf + done, bytes - done, at + (off_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        done += (size_t)n;
    }
    return true;
}

/* Where the first whole line at or behind `at` begins; `at` itself if it is 0. */
static off_t line_start(int fd, off_t at, off_t size) {
    char buf[4096];

    if (at == 0)
        return 0;
    at--; /* a line that begins exactly there counts */
    while (at < size) {
        size_t want = size - at < (off_t)sizeof buf ? (size_t)(size - at) : sizeof buf;
        if (!read_at(fd, buf, want, at))
            return -1;
        char *feed = memchr(buf, '\n', want);
        if (feed)
            return at + (feed - buf) + 1;
        at += (off_t)want;
    }
    return size;
}

/* Line feeds before `end`: the rare way to say which line is bad when the tail cannot tell. */
static uint64_t count_lines(int fd, off_t end) {
    char buf[16384];
    uint64_t count = 0;

    for (off_t at = 0; at < end;) {
        size_t want = end - at < (off_t)sizeof buf ? (size_t)(end - at) : sizeof buf;
        if (!read_at(fd, buf, want, at))
            break;
        for (size_t i = 0; i < want; i++)
            count += buf[i] == '\n';
        at += (off_t)want;
    }
    return count;
}

/* What the first line of the tail says of its predecessor; whether that is true shows only in the
 * whole file, but its number must be right. */
static enum tier_status believe_first(int fd, off_t at, struct chain *chain, struct tier_err *err) {
    struct reader *r = reader_new(fd, at, err);
    const char *line;
    size_t bytes;
    enum tier_status st = TIER_OK;

    if (!r)
        return TIER_ENOMEM;
    if (read_line(r, &line, &bytes) == READ_LINE) {
        json_t *record = json_loadb(line, bytes, 0, NULL);
        const char *prev = json_string_value(json_object_get(record, "prev"));
        json_int_t seq = json_integer_value(json_object_get(record, "seq"));
        if (seq > 0 && prev && tier_hash_parse(prev, &chain->head))
            chain->count = (uint64_t)seq - 1;
        else
            st = line_fail(err, count_lines(fd, at) + 1, "not a record");
        json_decref(record);
    }
    free(r);
    return st;
}

/* The first line names the node. */
static enum tier_status check_owner(int fd, const char *node, struct tier_err *err) {
    struct reader *r = reader_new(fd, 0, err);
    const char *line;
    size_t bytes;
    struct tier_hash zero = {{0}}, hash;
    enum tier_status st;

    if (!r)
        return TIER_ENOMEM;
    if (read_line(r, &line, &bytes) != READ_LINE) {
        st = line_fail(err, 1, "not a record");
        goto out;
    }
    TIER_TRY_OUT(tier_audit_check_line(line, bytes, 1, &zero, &hash, err));
    json_t *record = json_loadb(line, bytes, 0, NULL);
    const char *said = json_string_value(json_object_get(json_object_get(record, "data"), "node"));
    if (!said || strcmp(said, node) != 0)
        st = tier_fail(err, TIER_EIDENTITY, "it is the log of node %.63s, and this is %s",
                       said ? said : "(unnamed)", node);
    json_decref(record);
out:
    free(r);
    return st;
}

/* Follows the tail and cuts a torn line; gives how many bytes were cut. */
static enum tier_status check_tail(struct tier_audit *log, const char *node, size_t *cut,
                                   struct tier_err *err) {
    struct chain chain = {0};
    struct reader *r = NULL;
    enum tier_status st;

    off_t at = line_start(log->fd, log->size > AUDIT_TAIL_BYTES ? log->size - AUDIT_TAIL_BYTES : 0,
                          log->size);
    if (at < 0)
        return tier_fail_errno(err, TIER_EIO, "cannot be read");
    if (log->size > AUDIT_TAIL_BYTES && at == log->size)
        return line_fail(err, count_lines(log->fd, log->size), "too long");
    if (at > 0)
        TIER_TRY(believe_first(log->fd, at, &chain, err));
    r = reader_new(log->fd, at, err);
    if (!r)
        return TIER_ENOMEM;
    TIER_TRY_OUT(follow(r, &chain, err));
    if (chain.count > 0)
        TIER_TRY_OUT(check_owner(log->fd, node, err));
    log->size -= (off_t)chain.torn;
    if (chain.torn && ftruncate(log->fd, log->size) != 0) {
        st = tier_fail_errno(err, TIER_EIO, "a torn last line cannot be cut off");
        goto out;
    }
    log->seq = chain.count;
    log->head = chain.head;
    *cut = chain.torn;
out:
    free(r);
    return st;
}

/* Every line into the tree. What was changed before the tail shows against the heads that others
 * keep, and line by line in tier_audit_verify; here only the number of lines must be right. */
static enum tier_status make_tree(struct tier_audit *log, struct tier_err *err) {
    char dir[PATH_MAX];
    const char *line;
    size_t bytes;
    struct reader *r = NULL;
    enum tier_status st;

    snprintf(dir, sizeof dir, "%.*s", (int)(strrchr(log->path, '/') - log->path), log->path);
    TIER_TRY_OUT(tier_tree_new(dir, &log->tree, err));
    r = reader_new(log->fd, 0, err);
    if (!r)
        return TIER_ENOMEM;
    enum read_result last;
    while ((last = read_line(r, &line, &bytes)) == READ_LINE)
        TIER_TRY_OUT(tier_tree_add(log->tree, line, bytes, err));
    if (last != READ_END || tier_tree_size(log->tree) != log->seq)
        st = tier_fail(err, TIER_ECORRUPT,
                       "it has %llu lines before one that cannot be read or its end, and its last "
                       "says it is number %llu",
                       (unsigned long long)tier_tree_size(log->tree), (unsigned long long)log->seq);
out:
    free(r);
    return st;
}

static enum tier_status open_file(struct tier_audit *log, const char *data_dir,
                                  struct tier_err *err) {
    char dir[PATH_MAX];
    struct stat info;
    int n = snprintf(dir, sizeof dir, "%s/audit", data_dir);

    if (n < 0 || n + sizeof "/audit.log" > sizeof log->path)
        return tier_fail(err, TIER_EARG, "data directory %.100s...: path too long", data_dir);
    TIER_TRY(tier_pem_dir_make(dir, err));
    snprintf(log->path, sizeof log->path, "%.*s/audit.log", n, dir);
    log->fd = open(log->path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log->fd < 0)
        return tier_fail_errno(err, TIER_EIO, "audit log %s: cannot be opened", log->path);
    if (flock(log->fd, LOCK_EX | LOCK_NB) != 0)
        return tier_fail(err, TIER_ECONFLICT, "audit log %s: another process has it open",
                         log->path);
    if (fstat(log->fd, &info) != 0)
        return tier_fail_errno(err, TIER_EIO, "audit log %s: cannot be read", log->path);
    log->size = info.st_size;
    return TIER_OK;
}

enum tier_status tier_audit_open(const char *data_dir, const char *node, enum tier_audit_sync sync,
                                 int64_t now_ms, struct tier_audit **out, struct tier_err *err) {
    size_t cut = 0;
    enum tier_status st;
    struct tier_audit *log = calloc(1, sizeof *log);

    if (!log)
        return tier_fail(err, TIER_ENOMEM, "no memory for an audit log");
    log->fd = -1;
    log->sync = sync;
    TIER_TRY_OUT(open_file(log, data_dir, err));
    st = check_tail(log, node, &cut, err);
    if (st == TIER_OK)
        st = make_tree(log, err);
    if (st != TIER_OK) {
        tier_err_prefix(err, "audit log %s", log->path);
        goto out;
    }
    if (log->seq == 0)
        TIER_TRY_OUT(tier_audit_note(log, now_ms, "audit.created", err, "s:node", node, NULL));
    if (cut)
        TIER_TRY_OUT(
            tier_audit_note(log, now_ms, "audit.cut", err, "u:bytes", (uint64_t)cut, NULL));
    log->dirty = true; /* the process before may have ended without its sync */
    TIER_TRY_OUT(tier_audit_sync_now(log, err));
    *out = log;
    return TIER_OK;
out:
    tier_audit_close(log);
    return st;
}

void tier_audit_close(struct tier_audit *log) {
    if (!log)
        return;
    if (log->fd >= 0) {
        tier_audit_sync_now(log, NULL);
        close(log->fd);
    }
    tier_tree_free(log->tree);
    free(log);
}

/* ---- appending ------------------------------------------------------------------------------ */

enum tier_status tier_audit_sync_now(struct tier_audit *log, struct tier_err *err) {
    if (!log->dirty)
        return TIER_OK;
    if (fdatasync(log->fd) != 0) {
        log->broken = true;
        return tier_fail_errno(err, TIER_EIO, "audit log %s: cannot be synced", log->path);
    }
    log->dirty = false;
    log->durable = log->seq;
    return TIER_OK;
}

/* Writes one line whole or not at all. */
static enum tier_status write_line(struct tier_audit *log, const char *line, size_t bytes,
                                   struct tier_err *err) {
    size_t done = 0;

    while (done < bytes) {
        ssize_t n = write(log->fd, line + done, bytes - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            enum tier_status st =
                tier_fail_errno(err, TIER_EIO, "audit log %s: cannot be written", log->path);
            if (done && ftruncate(log->fd, log->size) != 0)
                log->broken = true;
            return st;
        }
        done += (size_t)n;
    }
    log->size += (off_t)bytes;
    log->dirty = true;
    return TIER_OK;
}

/* {"data":..,"event":..,["hash":..,]"prev":..,"seq":..,"time_ms":..} with its line feed. */
static enum tier_status make_line(const struct tier_audit *log, int64_t now_ms, const char *event,
                                  const json_t *data, char **line_out, size_t *bytes_out,
                                  struct tier_hash *hash_out, struct tier_err *err) {
    char hex[TIER_HASH_HEX];
    char *text = NULL, *line = NULL;
    struct tier_hash hash;
    enum tier_status st = TIER_OK;

    json_t *record = json_pack("{s:O,s:s,s:s,s:I,s:I}", "data", (json_t *)data, "event", event,
                               "prev", tier_hash_hex(&log->head, hex), "seq",
                               (json_int_t)log->seq + 1, "time_ms", (json_int_t)now_ms);
    text = record ? json_dumps(record, AUDIT_DUMP_FLAGS) : NULL;
    if (!text || !record_hash(&log->head, text, strlen(text), &hash)) {
        st = tier_fail(err, TIER_ENOMEM, "no memory for audit event %s", event);
        goto out;
    }
    if (json_object_set_new(record, "hash", json_string(tier_hash_hex(&hash, hex))) == 0)
        line = json_dumps(record, AUDIT_DUMP_FLAGS);
    size_t bytes = line ? strlen(line) : 0;
    if (!line || bytes + 1 > TIER_AUDIT_LINE_BYTES_MAX) {
        st = line ? tier_fail(err, TIER_EARG, "audit event %s: a line of %zu bytes; at most %u",
                              event, bytes + 1, TIER_AUDIT_LINE_BYTES_MAX)
                  : tier_fail(err, TIER_ENOMEM, "no memory for audit event %s", event);
        goto out;
    }
    line[bytes] = '\n'; /* in the terminator's place: from here on the length tells */
    *line_out = line;
    *bytes_out = bytes + 1;
    *hash_out = hash;
    line = NULL;
out:
    free(line);
    free(text);
    json_decref(record);
    return st;
}

enum tier_status tier_audit_append(struct tier_audit *log, int64_t now_ms, const char *event,
                                   const struct json_t *data, struct tier_err *err) {
    char *line = NULL;
    size_t bytes = 0;
    struct tier_hash hash;
    enum tier_status st;

    if (log->broken)
        return tier_fail(err, TIER_EIO,
                         "audit log %s: an earlier write failed; it takes no more until it is "
                         "opened and checked again",
                         log->path);
    if (!event_valid(event))
        return tier_fail(err, TIER_EARG, "audit event '%.80s': 1 to %d of a-z, 0-9, '.', '_', '-'",
                         event ? event : "", TIER_AUDIT_EVENT_LEN_MAX);
    json_t *object = data ? json_incref((json_t *)data) : json_object();
    if (!object)
        return tier_fail(err, TIER_ENOMEM, "no memory for audit event %s", event);
    if (!json_is_object(object) || !value_clean(object, 0)) {
        st = tier_fail(err, TIER_EARG,
                       "audit event %s: its data must be an object without control characters, at "
                       "most %d deep",
                       event, AUDIT_DEPTH_MAX);
        goto out;
    }
    TIER_TRY_OUT(make_line(log, now_ms, event, object, &line, &bytes, &hash, err));
    TIER_TRY_OUT(tier_tree_add(log->tree, line, bytes - 1, err));
    st = write_line(log, line, bytes, err);
    if (st != TIER_OK) {
        log->broken = log->broken || tier_tree_take_back(log->tree, NULL) != TIER_OK;
        goto out;
    }
    log->seq++;
    log->head = hash;
    if (log->sync == TIER_AUDIT_SYNC_EACH)
        st = tier_audit_sync_now(log, err);
out:
    free(line);
    json_decref(object);
    return st;
}

/* How many bytes of well-formed UTF-8 begin here (RFC 3629), 0 if none. */
static size_t utf8_length(const unsigned char *p) {
    static const struct {
        unsigned char low, high, second_low, second_high;
        size_t bytes;
    } forms[] = {
        {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3}, {0xe1, 0xec, 0x80, 0xbf, 3},
        {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3}, {0xf0, 0xf0, 0x90, 0xbf, 4},
        {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
    };

    if (*p < 0x80)
        return 1;
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        if (*p < forms[i].low || *p > forms[i].high)
            continue;
        if (p[1] < forms[i].second_low || p[1] > forms[i].second_high)
            return 0;
        for (size_t k = 2; k < forms[i].bytes; k++)
            if ((p[k] & 0xc0) != 0x80) /* stops at the terminator too */
                return 0;
        return forms[i].bytes;
    }
    return 0;
}

/* Any bytes as clean UTF-8. */
static json_t *clean_string(const char *text) {
    char out[TIER_AUDIT_TEXT_LEN_MAX + 1];
    size_t used = 0;

    if (!text)
        return json_null();
    for (const unsigned char *p = (const unsigned char *)text; *p;) {
        size_t n = utf8_length(p);
        bool bad = n == 0 || *p < 0x20 || *p == 0x7f || (*p == 0xc2 && p[1] < 0xa0);
        size_t wanted = bad ? 1 : n;
        if (used + wanted > TIER_AUDIT_TEXT_LEN_MAX)
            break;
        if (bad)
            out[used] = '?';
        else
            memcpy(out + used, p, n);
        used += wanted;
        p += n ? n : 1;
    }
    return json_stringn(out, used);
}

/* The next value of the list, by its type; NULL if it cannot be one. */
static json_t *note_value(char type, va_list *args) {
    char hex[TIER_HASH_HEX];

    switch (type) {
    case 's':
        return clean_string(va_arg(*args, const char *));
    case 'i':
        return json_integer(va_arg(*args, int64_t));
    case 'u': {
        uint64_t value = va_arg(*args, uint64_t);
        return value <= INT64_MAX ? json_integer((json_int_t)value) : NULL;
    }
    case 'd':
        return json_real(va_arg(*args, double)); /* NULL unless finite */
    case 'b':
        return json_boolean(va_arg(*args, int));
    case 'h':
        return json_string(tier_hash_hex(va_arg(*args, const struct tier_hash *), hex));
    default:
        return NULL;
    }
}

enum tier_status tier_audit_note(struct tier_audit *log, int64_t now_ms, const char *event,
                                 struct tier_err *err, ...) {
    va_list args;
    json_t *data = json_object();
    enum tier_status st = TIER_OK;

    if (!data)
        return tier_fail(err, TIER_ENOMEM, "no memory for audit event %s", event);
    va_start(args, err);
    for (const char *key; (key = va_arg(args, const char *)) != NULL;) {
        json_t *value = key[0] && key[1] == ':' && key[2] ? note_value(key[0], &args) : NULL;
        if (!value || json_object_set_new(data, key + 2, value) != 0) {
            st = tier_fail(err, TIER_EARG, "audit event %s: '%.80s' has no value that can be kept",
                           event, key);
            break; /* the rest of the list can no longer be read */
        }
    }
    va_end(args);
    if (st == TIER_OK)
        st = tier_audit_append(log, now_ms, event, data, err);
    json_decref(data);
    return st;
}

void tier_audit_head(const struct tier_audit *log, uint64_t *seq_out, struct tier_hash *hash_out) {
    *seq_out = log->seq;
    *hash_out = log->head;
}

uint64_t tier_audit_durable(const struct tier_audit *log) {
    return log->durable;
}

const struct tier_tree *tier_audit_tree(const struct tier_audit *log) {
    return log->tree;
}
