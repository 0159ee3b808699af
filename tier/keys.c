/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Values and tables of keys. One parser per type, on text, whatever the text came from; it is
 * stricter than YAML (no octal, no yes/no, no .inf) because a plan is agreed between people who
 * must read the same thing. The walk over a YAML tree and the collected problems are in
 * keys_read.c.
 */
#include "tier/keys.h"

#include "kernels/group.h"
#include "tier/hash.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

static bool is_alnum(char c) {
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool refuse(char *why, size_t bytes, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static bool refuse(char *why, size_t bytes, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    vsnprintf(why, bytes, fmt, args);
    va_end(args);
    return false;
}

/* Whole numbers as people write them: no sign, no leading zero, no exponent. */
static bool parse_whole(const char *text, uint64_t *out) {
    size_t length = strspn(text, "0123456789");

    if (length == 0 || length > 19 || text[length] || (text[0] == '0' && length > 1))
        return false;
    *out = strtoull(text, NULL, 10);
    return true;
}

/* JSON's grammar of numbers, which leaves out nan, inf, hexadecimal and ".5". */
static bool parse_real(const char *text, double *out) {
    const char *p = text + (*text == '-');
    size_t whole = strspn(p, "0123456789");

    if (whole == 0 || (p[0] == '0' && whole > 1))
        return false;
    p += whole;
    if (*p == '.') {
        size_t part = strspn(p + 1, "0123456789");
        if (part == 0)
            return false;
        p += 1 + part;
    }
    if (*p == 'e' || *p == 'E') {
        p += 1 + (p[1] == '+' || p[1] == '-');
        size_t part = strspn(p, "0123456789");
        if (part == 0)
            return false;
        p += part;
    }
    if (*p)
        return false;
    errno = 0;
    double value = strtod(text, NULL);
    if (!isfinite(value) || (errno == ERANGE && fabs(value) < 1e-300))
        return false;
    *out = value;
    return true;
}

const char *tier_real_text(double value, char *buf, size_t bytes) {
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(buf, bytes, "%.*g", digits, value);
        if (strtod(buf, NULL) == value)
            break;
    }
    size_t used = strlen(buf);
    if (!strpbrk(buf, ".e") && used + 3 <= bytes)
        memcpy(buf + used, ".0", 3);
    return buf;
}

static bool valid_name(const char *text) {
    if (!is_alnum(*text))
        return false;
    for (const char *p = text; *p; p++)
        if (!is_alnum(*p) && !strchr("._-", *p))
            return false;
    return true;
}

static bool valid_port(const char *text, bool zero_allowed) {
    uint64_t port;
    return parse_whole(text, &port) && port <= 65535 && (port > 0 || zero_allowed);
}

static bool valid_address(const char *text, bool zero_allowed) {
    const char *colon = strrchr(text, ':');

    if (!colon || colon == text || !valid_port(colon + 1, zero_allowed))
        return false;
    if (text[0] == '[') {
        size_t inside = strspn(text + 1, "0123456789abcdefABCDEF:.");
        return inside >= 2 && text[1 + inside] == ']' && text + 2 + inside == colon;
    }
    for (const char *p = text; p < colon; p++)
        if (!is_alnum(*p) && !strchr("._-", *p))
            return false;
    return true;
}

static bool valid_device(const char *text) {
    size_t count;

    return kern_devices_parse(text, &count);
}

static bool valid_hash(const char *text) {
    return strlen(text) == TIER_HASH_HEX - 1 &&
           strspn(text, "0123456789abcdef") == TIER_HASH_HEX - 1;
}

static bool has_control(const char *text) {
    for (const char *p = text; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return true;
    return false;
}

/* The types whose field is a char array. */
static bool is_text(enum tier_keys_type type) {
    return type <= TIER_KEYS_HASH;
}

static bool set_text(const struct tier_keys_item *key, char *field, const char *text, char *why,
                     size_t bytes) {
    if (strlen(text) >= key->size)
        return refuse(why, bytes, "must be at most %zu bytes long, not %zu", key->size - 1,
                      strlen(text));
    if (has_control(text))
        return refuse(why, bytes, "must not contain line breaks, tabs or control characters");
    if (*text) {
        if (key->type == TIER_KEYS_NAME && !valid_name(text))
            return refuse(why, bytes,
                          "must be letters, digits, '.', '_' and '-', beginning with a letter or "
                          "digit, not '%.60s'",
                          text);
        if (key->type == TIER_KEYS_ADDRESS && !valid_address(text, key->min == 0))
            return refuse(why, bytes, "must be an address like hub.example:7400, not '%.60s'",
                          text);
        if (key->type == TIER_KEYS_DEVICE && !valid_device(text))
            return refuse(
                why, bytes,
                "must be auto, cpu, cpu*N, cuda, cuda:N, cuda:N,N or cuda:all, not '%.60s'", text);
        if (key->type == TIER_KEYS_HASH && !valid_hash(text))
            return refuse(why, bytes, "must be 64 lower-case hex digits, not '%.70s'", text);
    }
    memset(field, 0, key->size);
    memcpy(field, text, strlen(text) + 1);
    return true;
}

static bool set_int(const struct tier_keys_item *key, uint64_t *field, const char *text, char *why,
                    size_t bytes) {
    uint64_t value;

    if (!*text) {
        *field = 0;
        return true;
    }
    if (!parse_whole(text, &value) || value < (uint64_t)key->min || value > (uint64_t)key->max)
        return refuse(why, bytes, "must be a whole number from %.0f to %.0f, not '%.60s'", key->min,
                      key->max, text);
    *field = value;
    return true;
}

static bool set_real(const struct tier_keys_item *key, double *field, const char *text, char *why,
                     size_t bytes) {
    double value;
    char low[32], high[32];

    if (!*text) {
        *field = NAN;
        return true;
    }
    if (!parse_real(text, &value) || value < key->min || value > key->max)
        return refuse(why, bytes, "must be a number from %s to %s, not '%.60s'",
                      tier_real_text(key->min, low, sizeof low),
                      tier_real_text(key->max, high, sizeof high), text);
    *field = value == 0 ? 0 : value; /* one zero, so that one plan has one text */
    return true;
}

static bool set_bool(bool *field, const char *text, char *why, size_t bytes) {
    if (strcmp(text, "true") == 0)
        *field = true;
    else if (strcmp(text, "false") == 0 || !*text)
        *field = false;
    else
        return refuse(why, bytes, "must be true or false, not '%.60s'", text);
    return true;
}

static bool set_choice(const struct tier_keys_item *key, int *field, const char *text, char *why,
                       size_t bytes) {
    char known[200];
    size_t used = 0;

    if (!*text) {
        *field = -1;
        return true;
    }
    for (int i = 0; key->choices[i]; i++) {
        if (strcmp(key->choices[i], text) == 0) {
            *field = i;
            return true;
        }
        int n = snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", key->choices[i]);
        if (n > 0 && (size_t)n < sizeof known - used)
            used += (size_t)n;
    }
    return refuse(why, bytes, "must be one of: %s; not '%.60s'", known, text);
}

/* An own name is what set_choice would refuse, so that its list of what is known is given once. */
static bool set_rule(const struct tier_keys_item *key, struct tier_keys_rule *field,
                     const char *text, char *why, size_t bytes) {
    struct tier_keys_rule rule = {0};

    if (strncmp(text, "x-", 2) == 0) {
        if (!text[2] || !valid_name(text) || strlen(text) >= sizeof rule.own)
            return refuse(why, bytes,
                          "must be at most %zu letters, digits, '.', '_' and '-' for a rule of "
                          "one's own, not '%.70s'",
                          sizeof rule.own - 1, text);
        memcpy(rule.own, text, strlen(text));
    } else if (!set_choice(key, &rule.choice, text, why, bytes)) {
        size_t used = strlen(why);
        snprintf(why + used, bytes - used, "; a rule of one's own is called x-...");
        return false;
    }
    *field = rule;
    return true;
}

const char *tier_keys_list_item(const struct tier_keys_list *list, size_t i) {
    return list->text + list->at[i];
}

bool tier_keys_list_add(struct tier_keys_list *list, const char *text, size_t length) {
    size_t n = list->count, at = n > 0 ? list->at[n - 1] : 0;

    if (n > 0)
        at += strlen(list->text + at) + 1;
    if (n == TIER_KEYS_LIST_MAX || length >= sizeof list->text - at)
        return false;
    memcpy(list->text + at, text, length);
    list->text[at + length] = 0;
    list->at[n] = (uint16_t)at;
    list->count++;
    return true;
}

static bool set_list(struct tier_keys_list *field, const char *text, char *why, size_t bytes) {
    struct tier_keys_list list = {0};

    for (const char *p = text; *p;) {
        size_t length = strcspn(p, ",");
        if (length == 0 || length > TIER_TENSOR_NAME_LEN_MAX)
            return refuse(why, bytes, "every entry must be 1 to %d bytes long",
                          TIER_TENSOR_NAME_LEN_MAX);
        if (!tier_keys_list_add(&list, p, length))
            return refuse(why, bytes, TIER_KEYS_LIST_FULL, TIER_KEYS_LIST_MAX,
                          TIER_KEYS_LIST_BYTES);
        p += length;
        if (*p == ',' && !*++p)
            return refuse(why, bytes, "must not end with a comma");
    }
    if (has_control(text))
        return refuse(why, bytes, "must not contain line breaks, tabs or control characters");
    *field = list;
    return true;
}

static bool set_quorum(struct tier_quorum *field, const char *text, char *why, size_t bytes) {
    struct tier_quorum q = {.kind = TIER_QUORUM_ALL};

    if (strpbrk(text, ".e") && parse_real(text, &q.fraction) && q.fraction > 0 && q.fraction <= 1)
        q.kind = TIER_QUORUM_FRACTION;
    else if (parse_whole(text, &q.count) && q.count >= 1 && q.count <= TIER_CHILDREN_MAX)
        q.kind = TIER_QUORUM_COUNT;
    else if (strcmp(text, "all") != 0)
        return refuse(why, bytes,
                      "must be all, a number of children from 1 to %d, or a fraction above 0.0 up "
                      "to 1.0, not '%.60s'",
                      TIER_CHILDREN_MAX, text);
    if (q.kind != TIER_QUORUM_FRACTION)
        q.fraction = 0;
    if (q.kind != TIER_QUORUM_COUNT)
        q.count = 0;
    *field = q;
    return true;
}

bool tier_keys_set(const struct tier_keys_item *key, void *base, const char *text, char *why,
                   size_t why_bytes) {
    void *field = (char *)base + key->offset;

    if (!*text && (!key->value || (*key->value && key->type != TIER_KEYS_LIST)))
        return refuse(why, why_bytes, "must have a value");
    if (is_text(key->type))
        return set_text(key, field, text, why, why_bytes);
    switch (key->type) {
    case TIER_KEYS_INT:
        return set_int(key, field, text, why, why_bytes);
    case TIER_KEYS_REAL:
        return set_real(key, field, text, why, why_bytes);
    case TIER_KEYS_BOOL:
        return set_bool(field, text, why, why_bytes);
    case TIER_KEYS_CHOICE:
        return set_choice(key, field, text, why, why_bytes);
    case TIER_KEYS_LIST:
        return set_list(field, text, why, why_bytes);
    case TIER_KEYS_RULE:
        return set_rule(key, field, text, why, why_bytes);
    default:
        return set_quorum(field, text, why, why_bytes);
    }
}

static void list_text(const struct tier_keys_list *list, char *buf, size_t bytes) {
    size_t used = 0;

    for (size_t i = 0; i < list->count && used < bytes; i++)
        used += (size_t)snprintf(buf + used, bytes - used, "%s%s", i ? "," : "",
                                 tier_keys_list_item(list, i));
}

const char *tier_keys_text(const struct tier_keys_item *key, const void *base, char *buf,
                           size_t bytes) {
    const void *field = (const char *)base + key->offset;

    buf[0] = 0;
    if (is_text(key->type)) {
        snprintf(buf, bytes, "%s", (const char *)field);
    } else if (key->type == TIER_KEYS_INT) {
        snprintf(buf, bytes, "%" PRIu64, *(const uint64_t *)field);
    } else if (key->type == TIER_KEYS_REAL) {
        if (!isnan(*(const double *)field))
            tier_real_text(*(const double *)field, buf, bytes);
    } else if (key->type == TIER_KEYS_BOOL) {
        snprintf(buf, bytes, "%s", *(const bool *)field ? "true" : "false");
    } else if (key->type == TIER_KEYS_CHOICE) {
        if (*(const int *)field >= 0)
            snprintf(buf, bytes, "%s", key->choices[*(const int *)field]);
    } else if (key->type == TIER_KEYS_LIST) {
        list_text(field, buf, bytes);
    } else if (key->type == TIER_KEYS_RULE) {
        const struct tier_keys_rule *rule = field;
        snprintf(buf, bytes, "%s", *rule->own ? rule->own : key->choices[rule->choice]);
    } else {
        const struct tier_quorum *q = field;
        if (q->kind == TIER_QUORUM_ALL)
            snprintf(buf, bytes, "all");
        else if (q->kind == TIER_QUORUM_COUNT)
            snprintf(buf, bytes, "%" PRIu64, q->count);
        else
            tier_real_text(q->fraction, buf, bytes);
    }
    return buf;
}

uint64_t tier_quorum_needed(const struct tier_quorum *q, uint64_t children) {
    uint64_t needed = children;

    if (q->kind == TIER_QUORUM_COUNT)
        needed = q->count;
    else if (q->kind == TIER_QUORUM_FRACTION)
        needed = (uint64_t)ceil(q->fraction * (double)children);
    if (needed > children)
        needed = children;
    return needed > 0 ? needed : 1;
}

int tier_keys_find(const struct tier_keys_item *keys, size_t count, const char *path) {
    for (size_t i = 0; i < count; i++)
        if (strcmp(keys[i].path, path) == 0)
            return (int)i;
    return -1;
}

void tier_keys_defaults(const struct tier_keys_item *keys, size_t count, void *base) {
    char why[200];

    for (size_t i = 0; i < count; i++) {
        struct tier_keys_item key = keys[i];
        if (!key.value)
            key.value = ""; /* required: starts absent */
        if (key.type == TIER_KEYS_QUORUM && !*key.value)
            key.value = "all";
        if (!tier_keys_set(&key, base, key.value, why, sizeof why))
            abort(); /* a default outside its own bounds is a bug in the table */
    }
}
