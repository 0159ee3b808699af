/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libyaml does the parsing; this file turns its events into a tree. The events, and not libcyaml's
 * loader above them, because libcyaml 1.3.1 stops at the first problem, gives an unknown key the
 * line of the mapping around it, and reads 010 as eight; and because the same values also come from
 * the environment and from options, which a libcyaml schema does not cover (tier/keys.h does).
 * Events rather than libyaml's documents, so that limits hold while reading, not afterwards.
 */
#include "tier/yaml.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yaml.h>

struct tier_yaml {
    char *name;
    struct tier_yaml_node *nodes; /* nodes[0] is the root */
    size_t nodes_count;
    char *text; /* every key and value, terminated */
    size_t text_used, text_bytes;
};

struct level {
    struct tier_yaml_node *node, *last;
    bool is_map;
    const char *key; /* read, its value still to come */
    int key_line;
};

struct builder {
    struct tier_yaml *doc;
    struct level stack[TIER_YAML_DEPTH_MAX];
    size_t depth;
    bool begun; /* a document was seen */
    struct tier_err *err;
};

static int line_of(const yaml_event_t *event) {
    return (int)event->start_mark.line + 1;
}

static enum tier_status keep_text(struct builder *b, const yaml_event_t *event, const char **out) {
    struct tier_yaml *doc = b->doc;
    const char *value = (const char *)event->data.scalar.value;
    size_t length = event->data.scalar.length;

    if (memchr(value, 0, length))
        return tier_fail(b->err, TIER_EARG, "%s:%d: text must not contain a NUL character",
                         doc->name, line_of(event));
    if (length >= doc->text_bytes - doc->text_used)
        return tier_fail(b->err, TIER_ELIMIT, "%s:%d: too much text", doc->name, line_of(event));
    char *copy = doc->text + doc->text_used;
    memcpy(copy, value, length);
    copy[length] = 0;
    doc->text_used += length + 1;
    *out = copy;
    return TIER_OK;
}

static enum tier_status take_key(struct builder *b, const yaml_event_t *event) {
    struct level *top = &b->stack[b->depth - 1];
    const char *key;

    if (event->type != YAML_SCALAR_EVENT)
        return tier_fail(b->err, TIER_EARG, "%s:%d: a key must be text, not a map or a list",
                         b->doc->name, line_of(event));
    TIER_TRY(keep_text(b, event, &key));
    for (const struct tier_yaml_node *n = top->node->child; n; n = n->next)
        if (strcmp(n->key, key) == 0)
            return tier_fail(b->err, TIER_EARG,
                             "%s:%d: key '%.80s' is written twice, first in line %d; keep one",
                             b->doc->name, line_of(event), key, n->line);
    top->key = key;
    top->key_line = line_of(event);
    return TIER_OK;
}

/* Appends a node under the innermost open map or list, or makes it the root. NULL with *st set
 * where it may not. */
static struct tier_yaml_node *add_node(struct builder *b, const yaml_event_t *event,
                                       enum tier_yaml_kind kind, enum tier_status *st) {
    struct tier_yaml *doc = b->doc;

    if (doc->nodes_count == TIER_YAML_NODES_MAX) {
        *st = tier_fail(b->err, TIER_ELIMIT, "%s:%d: more than %d keys and values", doc->name,
                        line_of(event), TIER_YAML_NODES_MAX);
        return NULL;
    }
    if (b->depth == 0 && kind != TIER_YAML_MAP) {
        *st = tier_fail(b->err, TIER_EARG, "%s:%d: must be a map of keys, like 'name: value'",
                        doc->name, line_of(event));
        return NULL;
    }
    struct tier_yaml_node *node = &doc->nodes[doc->nodes_count++];
    node->kind = kind;
    node->line = line_of(event);
    node->text = "";
    if (b->depth > 0) {
        struct level *top = &b->stack[b->depth - 1];
        assert(top->node);
        if (top->is_map) {
            node->key = top->key;
            node->line = top->key_line;
            top->key = NULL;
        }
        if (top->last)
            top->last->next = node;
        else
            top->node->child = node;
        top->last = node;
    }
    return node;
}

static enum tier_status open_node(struct builder *b, const yaml_event_t *event,
                                  enum tier_yaml_kind kind) {
    enum tier_status st = TIER_OK;

    if (b->depth == TIER_YAML_DEPTH_MAX)
        return tier_fail(b->err, TIER_ELIMIT, "%s:%d: nested deeper than %d", b->doc->name,
                         line_of(event), TIER_YAML_DEPTH_MAX);
    struct tier_yaml_node *node = add_node(b, event, kind, &st);
    if (!node)
        return st;
    b->stack[b->depth++] = (struct level){.node = node, .is_map = kind == TIER_YAML_MAP};
    return TIER_OK;
}

static enum tier_status refuse_decorations(struct builder *b, const yaml_event_t *event) {
    const yaml_char_t *anchor = NULL, *tag = NULL;

    switch (event->type) {
    case YAML_SCALAR_EVENT:
        anchor = event->data.scalar.anchor;
        tag = event->data.scalar.tag;
        break;
    case YAML_SEQUENCE_START_EVENT:
        anchor = event->data.sequence_start.anchor;
        tag = event->data.sequence_start.tag;
        break;
    case YAML_MAPPING_START_EVENT:
        anchor = event->data.mapping_start.anchor;
        tag = event->data.mapping_start.tag;
        break;
    default:
        break;
    }
    if (anchor || event->type == YAML_ALIAS_EVENT)
        return tier_fail(b->err, TIER_EARG,
                         "%s:%d: anchors (&) and aliases (*) are not taken here; write the value "
                         "out, or in quotes",
                         b->doc->name, line_of(event));
    if (tag)
        return tier_fail(b->err, TIER_EARG,
                         "%s:%d: tags (!) are not taken here; write the value "
                         "without one, or in quotes",
                         b->doc->name, line_of(event));
    return TIER_OK;
}

static bool in_map_without_key(const struct builder *b) {
    const struct level *top = b->depth > 0 ? &b->stack[b->depth - 1] : NULL;

    return top && top->is_map && !top->key;
}

static enum tier_status take_event(struct builder *b, const yaml_event_t *event) {
    TIER_TRY(refuse_decorations(b, event));
    bool wants_key = in_map_without_key(b);
    switch (event->type) {
    case YAML_DOCUMENT_START_EVENT:
        if (b->begun)
            return tier_fail(b->err, TIER_EARG,
                             "%s:%d: a second document begins here; only one "
                             "is taken",
                             b->doc->name, line_of(event));
        b->begun = true;
        return TIER_OK;
    case YAML_MAPPING_END_EVENT:
    case YAML_SEQUENCE_END_EVENT:
        b->depth--;
        return TIER_OK;
    case YAML_SCALAR_EVENT:
        if (wants_key)
            return take_key(b, event);
        /* "---" or a file of comments has one empty value for a document */
        if (b->depth == 0 && event->data.scalar.length == 0)
            return TIER_OK;
        enum tier_status st = TIER_OK;
        struct tier_yaml_node *node = add_node(b, event, TIER_YAML_TEXT, &st);
        if (!node)
            return st;
        node->plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
        return keep_text(b, event, &node->text);
    case YAML_MAPPING_START_EVENT:
    case YAML_SEQUENCE_START_EVENT:
        if (wants_key)
            return take_key(b, event);
        return open_node(b, event,
                         event->type == YAML_MAPPING_START_EVENT ? TIER_YAML_MAP : TIER_YAML_LIST);
    default:
        return TIER_OK;
    }
}

static enum tier_status fail_syntax(struct builder *b, const yaml_parser_t *parser) {
    if (parser->error == YAML_MEMORY_ERROR)
        return tier_fail(b->err, TIER_ENOMEM, "%s: out of memory", b->doc->name);
    if (parser->error == YAML_READER_ERROR)
        return tier_fail(b->err, TIER_EARG, "%s: not text in UTF-8 at byte %zu: %s", b->doc->name,
                         parser->problem_offset, parser->problem ? parser->problem : "unreadable");
    return tier_fail(b->err, TIER_EARG, "%s:%zu: not valid YAML: %s%s%s", b->doc->name,
                     parser->problem_mark.line + 1,
                     parser->problem ? parser->problem : "cannot be read",
                     parser->context ? " " : "", parser->context ? parser->context : "");
}

static enum tier_status build(struct builder *b, const void *data, size_t bytes) {
    yaml_parser_t parser;
    bool ended = false;
    enum tier_status st = TIER_OK;

    if (!yaml_parser_initialize(&parser))
        return tier_fail(b->err, TIER_ENOMEM, "%s: out of memory", b->doc->name);
    yaml_parser_set_input_string(&parser, data, bytes);
    while (!ended && st == TIER_OK) {
        yaml_event_t event;
        if (!yaml_parser_parse(&parser, &event)) {
            st = fail_syntax(b, &parser);
            break;
        }
        ended = event.type == YAML_STREAM_END_EVENT;
        st = take_event(b, &event);
        yaml_event_delete(&event);
    }
    yaml_parser_delete(&parser);
    if (st == TIER_OK && b->doc->nodes_count == 0)
        b->doc->nodes[b->doc->nodes_count++] =
            (struct tier_yaml_node){.kind = TIER_YAML_MAP, .line = 1, .text = ""};
    return st;
}

enum tier_status tier_yaml_parse(const char *name, const void *data, size_t bytes,
                                 struct tier_yaml **out, struct tier_err *err) {
    enum tier_status st = TIER_OK;

    if (bytes > TIER_YAML_BYTES_MAX)
        return tier_fail(err, TIER_ELIMIT, "%s: larger than %u bytes", name, TIER_YAML_BYTES_MAX);
    struct tier_yaml *doc = calloc(1, sizeof *doc);
    if (!doc)
        return tier_fail(err, TIER_ENOMEM, "%s: out of memory", name);
    /* An escape of two bytes ("\P") stands for three of UTF-8; every text is terminated. */
    doc->text_bytes = 2 * bytes + TIER_YAML_NODES_MAX * 2;
    doc->name = strdup(name);
    doc->nodes = calloc(TIER_YAML_NODES_MAX, sizeof *doc->nodes);
    doc->text = malloc(doc->text_bytes);
    if (!doc->name || !doc->nodes || !doc->text) {
        st = tier_fail(err, TIER_ENOMEM, "%s: out of memory", name);
        goto out;
    }
    struct builder b = {.doc = doc, .err = err};
    TIER_TRY_OUT(build(&b, data, bytes));
    *out = doc;
    doc = NULL;
out:
    tier_yaml_free(doc);
    return st;
}

enum tier_status tier_yaml_load(const char *path, struct tier_yaml **out, struct tier_err *err) {
    enum tier_status st = TIER_OK;
    struct stat info;
    size_t used = 0;
    char *data = NULL;
    /* Non-blocking, so that a named pipe is refused below instead of waited for. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0)
        return tier_fail_errno(err, errno == ENOENT ? TIER_ENOTFOUND : TIER_EIO, "%s", path);
    if (fstat(fd, &info) != 0) {
        st = tier_fail_errno(err, TIER_EIO, "%s", path);
        goto out;
    }
    if (!S_ISREG(info.st_mode)) {
        st = tier_fail(err, TIER_EIO, "%s: not a regular file", path);
        goto out;
    }
    if (info.st_size > (off_t)TIER_YAML_BYTES_MAX) {
        st = tier_fail(err, TIER_ELIMIT, "%s: %lld bytes; at most %u are read", path,
                       (long long)info.st_size, TIER_YAML_BYTES_MAX);
        goto out;
    }
    data = malloc(TIER_YAML_BYTES_MAX + 1);
    if (!data) {
        st = tier_fail(err, TIER_ENOMEM, "%s: out of memory", path);
        goto out;
    }
    for (;;) { /* one byte more than allowed, because the file may have grown */
        ssize_t n = read(fd, data + used, TIER_YAML_BYTES_MAX + 1 - used);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            st = tier_fail_errno(err, TIER_EIO, "%s", path);
            goto out;
        }
        used += (size_t)n;
        if (n == 0 || used > TIER_YAML_BYTES_MAX)
            break;
    }
    st = tier_yaml_parse(path, data, used, out, err);
out:
    free(data);
    close(fd);
    return st;
}

void tier_yaml_free(struct tier_yaml *doc) {
    if (!doc)
        return;
    free(doc->name);
    free(doc->nodes);
    free(doc->text);
    free(doc);
}

const struct tier_yaml_node *tier_yaml_root(const struct tier_yaml *doc) {
    return doc->nodes;
}

const char *tier_yaml_name(const struct tier_yaml *doc) {
    return doc->name;
}
