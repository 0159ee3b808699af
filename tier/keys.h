/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One table describes every key of a configuration or a plan: its path, type, default, bounds and
 * help. YAML files, environment variables, options, canonical JSON and printed help all read that
 * table, so that a value means the same wherever it is written. Problems are collected, all of
 * them, with file and line, because a person would rather mend five mistakes at once than one five
 * times.
 *
 * Values land in the caller's struct at the key's offset. Strings are fixed arrays inside it:
 * nothing is allocated, nothing is owned, a struct may be copied and dropped.
 *
 * Threads: no shared state; tables are constant.
 */
#ifndef CONSILIUM_TIER_KEYS_H
#define CONSILIUM_TIER_KEYS_H

#include "tier/err.h"
#include "tier/limits.h"
#include "tier/yaml.h"

#include <stdint.h>

#define TIER_KEYS_MAX 192 /* keys in one table */
#define TIER_KEYS_LIST_MAX 64
#define TIER_KEYS_LIST_BYTES 4096 /* of all entries of one, terminators included */
#define TIER_KEYS_TEXT_MAX 1024   /* bytes of one value, terminator included */

struct tier_problem {
    int line;       /* 0: about the file as a whole */
    char text[400]; /* "hub.yaml:3: unknown key ..." */
};

/* The first 64 problems found; `dropped` counts the rest. Zero-initialised is empty. */
struct tier_problems {
    size_t count, dropped;
    struct tier_problem item[64];
};

/* `where` is a file name or "environment"; with line 0 it stands alone. */
void tier_problems_add(struct tier_problems *p, const char *where, int line, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* By line, keeping the order found within a line. */
void tier_problems_sort(struct tier_problems *p);
/* TIER_OK when empty; else fills err with the first problem and how many more there are. */
enum tier_status tier_problems_status(const struct tier_problems *p, enum tier_status status,
                                      struct tier_err *err);

/* The type of a key is the type of the field at its offset. */
enum tier_keys_type {
    TIER_KEYS_TEXT,    /* char[size]: UTF-8 without control characters */
    TIER_KEYS_NAME,    /* char[size]: letters, digits, '.', '_', '-'; begins with letter or digit */
    TIER_KEYS_PATH,    /* char[size] */
    TIER_KEYS_ADDRESS, /* char[size]: host:port, [v6]:port; port 0 only where min is 0 */
    TIER_KEYS_DEVICE,  /* char[size]: a list of devices (kernels/group.h) */
    TIER_KEYS_HASH,    /* char[TIER_HASH_HEX]: SHA-256 in lower-case hex */
    TIER_KEYS_INT,     /* uint64_t in [min, max], max at most 2^53 */
    TIER_KEYS_REAL,    /* double in [min, max]; NAN stands for absent */
    TIER_KEYS_BOOL,    /* bool */
    TIER_KEYS_CHOICE,  /* int, the index in choices; -1 for absent */
    TIER_KEYS_LIST,    /* struct tier_keys_list */
    TIER_KEYS_QUORUM,  /* struct tier_quorum */
    TIER_KEYS_RULE,    /* struct tier_keys_rule: one of choices, or an operator's own, "x-..." */
};

/* Its texts lie one behind the other: a plan has several lists, and a node many plans. */
struct tier_keys_list {
    size_t count;
    uint16_t at[TIER_KEYS_LIST_MAX]; /* where each begins */
    char text[TIER_KEYS_LIST_BYTES];
};

#define TIER_KEYS_LIST_FULL "must have at most %d entries, of %d bytes in all"
const char *tier_keys_list_item(const struct tier_keys_list *list, size_t i);
/* text[length] behind the others; false where there is no room for it. */
bool tier_keys_list_add(struct tier_keys_list *list, const char *text, size_t length);

struct tier_keys_rule {
    int choice;                      /* the index in choices; 0 with an own name */
    char own[TIER_NAME_LEN_MAX + 1]; /* "x-..."; "" where it is one of the choices */
};

enum tier_quorum_kind { TIER_QUORUM_ALL, TIER_QUORUM_COUNT, TIER_QUORUM_FRACTION };
struct tier_quorum {
    enum tier_quorum_kind kind;
    uint64_t count;  /* for COUNT: at least 1 */
    double fraction; /* for FRACTION: above 0, at most 1 */
};
/* How many of `children` must answer: at least 1, at most children (a count above it is all). */
uint64_t tier_quorum_needed(const struct tier_quorum *q, uint64_t children);

struct tier_keys_item {
    const char *path; /* "parent.address" */
    enum tier_keys_type type;
    size_t offset, size; /* of the field */
    const char *value;   /* default, written as in YAML; NULL: required; "": may be absent */
    double min, max;     /* INT, REAL; for ADDRESS min 0 allows port 0 */
    const char *const *choices;
    const char *help;
};

/*
 * Checks `text` against the key and stores it at base + offset. An empty text means absent, where
 * the key allows that. On a refusal nothing is stored, false is returned, and `why` says what would
 * be right ("must be a whole number from 1 to 65536, not 'many'").
 */
bool tier_keys_set(const struct tier_keys_item *key, void *base, const char *text, char *why,
                   size_t why_bytes);
/* The value at base as tier_keys_set would take it again; a list with commas. Returns buf. */
const char *tier_keys_text(const struct tier_keys_item *key, const void *base, char *buf,
                           size_t bytes);
/* "0.001": the shortest decimal that reads back as the same double, with '.' or 'e' in it. */
const char *tier_real_text(double value, char *buf, size_t bytes);

/* Index of the key with this path, or -1. */
int tier_keys_find(const struct tier_keys_item *keys, size_t count, const char *path);
/* Stores every default; keys without one become absent (zero, "", NAN, -1). */
void tier_keys_defaults(const struct tier_keys_item *keys, size_t count, void *base);
/*
 * Stores what the document says over what is there. lines[i] becomes the line of key i where the
 * document has it. Unknown keys, wrong types and values out of bounds become problems; those keys
 * keep their old value, but their line is set.
 */
void tier_keys_read(const struct tier_keys_item *keys, size_t count, const struct tier_yaml *doc,
                    void *base, int *lines, struct tier_problems *problems);
/* The known path most like this one ("local.lerning_rate"), or NULL where none is near. The answer
 * lies in buf. */
const char *tier_keys_nearest(const struct tier_keys_item *keys, size_t count, const char *path,
                              char *buf, size_t bytes);
/* Edits (insert, delete, replace, swap of neighbours) between two short texts; over 63 bytes counts
 * as far away. */
unsigned tier_text_distance(const char *a, const char *b);

#endif
