/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A YAML document as a bounded tree that remembers lines. Files come from people and, through
 * them, from strangers, so what YAML allows beyond plain data is refused: anchors and aliases
 * (which expand without bound), tags, several documents, keys that are not text, duplicate keys.
 *
 * Threads: a document is immutable once loaded; any thread may read it.
 */
#ifndef CONSILIUM_TIER_YAML_H
#define CONSILIUM_TIER_YAML_H

#include "tier/err.h"

#include <stdbool.h>
#include <stddef.h>

#define TIER_YAML_BYTES_MAX (1u << 20)
#define TIER_YAML_NODES_MAX 65536
#define TIER_YAML_DEPTH_MAX 12

enum tier_yaml_kind { TIER_YAML_TEXT, TIER_YAML_MAP, TIER_YAML_LIST };

/* Nodes link to their first child and next sibling; a map's child carries its key. */
struct tier_yaml_node {
    enum tier_yaml_kind kind;
    int line;         /* of the key where there is one, from 1 */
    bool plain;       /* TEXT: written without quotes */
    const char *key;  /* NULL below a list and at the root */
    const char *text; /* TEXT: terminated, no NUL inside; "" for an empty value */
    const struct tier_yaml_node *child, *next;
};

struct tier_yaml;

/* Reads a regular file of at most TIER_YAML_BYTES_MAX. Errors: TIER_EIO, TIER_ENOTFOUND,
 * TIER_ELIMIT, TIER_EARG (not the YAML this house takes); every text names the file, and the line
 * where there is one. */
enum tier_status tier_yaml_load(const char *path, struct tier_yaml **out, struct tier_err *err);
/* The same from memory; `name` stands for the file in messages. */
enum tier_status tier_yaml_parse(const char *name, const void *data, size_t bytes,
                                 struct tier_yaml **out, struct tier_err *err);
void tier_yaml_free(struct tier_yaml *doc);

/* A map; an empty document is an empty map. Borrowed from the document, as all nodes are. */
const struct tier_yaml_node *tier_yaml_root(const struct tier_yaml *doc);
const char *tier_yaml_name(const struct tier_yaml *doc);

#endif
