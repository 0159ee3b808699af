/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A plan as a person writes it, and as it travels. The text that travels is rebuilt from what was
 * parsed and compared with what arrived: that one comparison closes every way to write the same
 * plan twice (spacing, order, spellings of a number), and so one plan has one hash.
 */
#include "tier/plan.h"

#include "tier/plan_keys.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The model's path against the plan's folder. False where it would not fit. */
static bool join_path(const char *plan_path, const char *model, char *out) {
    const char *slash = strrchr(plan_path, '/');
    int folder = *model == '/' || !slash ? 0 : (int)(slash - plan_path + 1);
    int n = snprintf(out, TIER_PLAN_PATH_BYTES, "%.*s%s", folder, plan_path, model);

    return n >= 0 && n < TIER_PLAN_PATH_BYTES;
}

/* Hashes the model's file; on failure the reason, without the path. */
static bool hash_model(const char *path, struct tier_plan *plan, char *why, size_t why_bytes) {
    struct stat info;
    struct tier_hash hash;
    struct tier_hasher *hasher = NULL;
    uint8_t *block = NULL;
    uint64_t total = 0;
    bool ok = false;
    ssize_t n;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0 || fstat(fd, &info) != 0) {
        snprintf(why, why_bytes, "cannot be read: %s", strerror(errno));
        goto out;
    }
    if (!S_ISREG(info.st_mode) || info.st_size < 1 ||
        (uint64_t)info.st_size > TIER_GRAPH_BYTES_MAX) {
        snprintf(why, why_bytes, "must be a regular file of 1 to %" PRIu64 " bytes",
                 TIER_GRAPH_BYTES_MAX);
        goto out;
    }
    hasher = tier_hasher_new();
    block = malloc(TIER_CHUNK_BYTES);
    if (!hasher || !block) {
        snprintf(why, why_bytes, "cannot be hashed: out of memory");
        goto out;
    }
    while ((n = read(fd, block, TIER_CHUNK_BYTES)) != 0) {
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            snprintf(why, why_bytes, "cannot be read: %s", strerror(errno));
            goto out;
        }
        total += (uint64_t)n;
        tier_hasher_add(hasher, block, (size_t)n);
    }
    if (total != (uint64_t)info.st_size) {
        snprintf(why, why_bytes, "changed while it was read");
        goto out;
    }
    tier_hasher_finish(hasher, &hash);
    tier_hash_hex(&hash, plan->model_sha256);
    plan->model_bytes = total;
    ok = true;
out:
    free(block);
    tier_hasher_free(hasher);
    if (fd >= 0)
        close(fd);
    return ok;
}

#define STALENESS_DEFAULT 8

static void fill(double *value, double otherwise) {
    if (isnan(*value))
        *value = otherwise;
}

/* The usual values of Hsu et al. 2019 and Reddi et al. 2021. An adaptive optimiser's step is of the
 * size of lr, whatever the model: nobody can choose that but the researcher. */
static void resolve_server(struct tier_plan_server *s) {
    switch ((enum tier_plan_server_kind)s->kind) {
    case TIER_PLAN_SERVER_NONE:
        break;
    case TIER_PLAN_SERVER_MOMENTUM:
        fill(&s->lr, 1);
        fill(&s->momentum, 0.9);
        break;
    case TIER_PLAN_SERVER_ADAM:
    case TIER_PLAN_SERVER_YOGI:
        fill(&s->beta1, 0.9);
        fill(&s->beta2, 0.99);
        fill(&s->tau, 1e-3);
        break;
    case TIER_PLAN_SERVER_ADAGRAD:
        fill(&s->beta1, 0);
        fill(&s->tau, 1e-3);
        break;
    }
}

/*
 * A tier has what is written for it, and the rest from the default. A merge's numbers belong to its
 * rule, so a tier that names a rule takes none of the default's; nor does one that says how it
 * waits take the default's staleness_max.
 */
static void resolve_tier(struct tier_plan_tier *out, const struct tier_plan_tier *fallback,
                         const struct tier_plan_tier *own, const char *tier, const int *lines) {
    size_t count;
    const struct tier_keys_item *keys = tier_plan_written_keys(&count);
    char path[64];

    *out = *fallback;
#define WRITTEN(leaf)                                                                              \
    (snprintf(path, sizeof path, "%s." leaf, tier), lines[tier_keys_find(keys, count, path)] != 0)
#define TAKE(leaf, member)                                                                         \
    do {                                                                                           \
        if (WRITTEN(leaf))                                                                         \
            out->member = own->member;                                                             \
    } while (0)
    if (WRITTEN("merge.rule"))
        out->merge = own->merge;
    if (WRITTEN("sync")) {
        out->sync = own->sync;
        out->staleness_max = own->staleness_max;
    }
    TAKE("staleness_max", staleness_max);
    TAKE("quorum", quorum);
    TAKE("deadline_s", deadline_s);
    TAKE("merge.mix", merge.mix);
    TAKE("merge.byzantine", merge.byzantine);
    TAKE("merge.select", merge.select);
    TAKE("merge.radius", merge.radius);
    TAKE("merge.iterations", merge.iterations);
    TAKE("merge.smoothing", merge.smoothing);
    TAKE("retain", retain);
    TAKE("screen.norm", screen.norm);
    TAKE("screen.cosine_distance", screen.cosine_distance);
    TAKE("screen.loss", screen.loss);
    TAKE("screen.strikes", screen.strikes);
    TAKE("contribution.permutations", contribution.permutations);
    if (out->sync == TIER_PLAN_BUFFERED && !WRITTEN("staleness_max") &&
        (WRITTEN("sync") || !lines[tier_keys_find(keys, count, "tiers.default.staleness_max")]))
        out->staleness_max = STALENESS_DEFAULT;
    if (!WRITTEN("retain") && !lines[tier_keys_find(keys, count, "tiers.default.retain")] &&
        tier_plan_looks_at_updates(out))
        out->retain = TIER_PLAN_RETAIN_UPDATES;
#undef TAKE
#undef WRITTEN
    tier_plan_merge_defaults(&out->merge);
    tier_plan_screen_defaults(&out->screen);
}

static bool was_written(const void *lines, const char *path) {
    size_t count;
    const struct tier_keys_item *keys = tier_plan_written_keys(&count);

    return ((const int *)lines)[tier_keys_find(keys, count, path)] > 0;
}

/* Fills in what depends on other keys. What does not apply stays absent. */
static void resolve(struct tier_plan_draft *d, const int *lines) {
    struct tier_plan *p = &d->plan;
    size_t count;
    const struct tier_keys_item *keys = tier_plan_written_keys(&count);

    tier_plan_mode_defaults(p, was_written, lines);
    resolve_tier(&p->top, &d->fallback, &d->top, "tiers.top", lines);
    resolve_tier(&p->hub, &d->fallback, &d->hub, "tiers.hub", lines);
    tier_plan_recipe_defaults(p, was_written, lines);
    resolve_server(&p->server);
    bool top_k = p->codec.name == TIER_PLAN_TOP_K;
    if (top_k && !lines[tier_keys_find(keys, count, "codec.share")])
        p->codec.share = 0.01;
    if ((top_k || p->codec.name == TIER_PLAN_ONE_BIT) &&
        !lines[tier_keys_find(keys, count, "codec.error_feedback")])
        p->codec.error_feedback = true; /* without, most of every round would be lost */
}

static void check_written(const char *path, struct tier_plan_draft *d, const int *lines,
                          char *model_path, struct tier_problems *problems) {
    size_t count;
    const struct tier_keys_item *keys = tier_plan_written_keys(&count);
    struct tier_plan_checker checker = {&d->plan, keys, count, path, lines, problems};
    int model_line = lines[tier_keys_find(keys, count, "model")];
    char why[200];

    for (size_t i = 0; i < count; i++)
        if (!keys[i].value && !lines[i])
            tier_problems_add(problems, path, 0, "%s is missing: %s", keys[i].path, keys[i].help);
    resolve(d, lines);
    tier_plan_check(&checker);
    if (!*d->model)
        return; /* missing or refused already */
    if (!join_path(path, d->model, model_path))
        tier_problems_add(problems, path, model_line, "model is too long as a path");
    else if (!hash_model(model_path, &d->plan, why, sizeof why))
        tier_problems_add(problems, path, model_line, "model '%.120s' %s", model_path, why);
}

enum tier_status tier_plan_load(const char *path, struct tier_plan *out, char *model_path_out,
                                struct tier_problems *problems, struct tier_err *err) {
    enum tier_status st = TIER_OK;
    struct tier_yaml *doc = NULL;
    struct tier_plan_draft *draft = calloc(1, sizeof *draft);
    struct tier_problems *own = calloc(1, sizeof *own);
    char model_path[TIER_PLAN_PATH_BYTES];
    struct tier_err local = {0};
    size_t count;
    const struct tier_keys_item *keys = tier_plan_written_keys(&count);
    int lines[TIER_KEYS_MAX] = {0};

    if (!draft || !own) {
        st = tier_fail(err, TIER_ENOMEM, "%s: out of memory", path);
        goto out;
    }
    st = tier_yaml_load(path, &doc, &local);
    if (st != TIER_OK) {
        if (st == TIER_EARG || st == TIER_ELIMIT)
            st = TIER_EPLAN; /* the file is there, and is no plan */
        tier_fail(err, st, "%s", local.text);
        own->item[own->count++] = (struct tier_problem){0};
        snprintf(own->item[0].text, sizeof own->item[0].text, "%.399s", local.text);
        goto out;
    }
    tier_keys_defaults(keys, count, draft);
    tier_keys_read(keys, count, doc, draft, lines, own);
    check_written(path, draft, lines, model_path, own);
    tier_problems_sort(own);
    TIER_TRY_OUT(tier_problems_status(own, TIER_EPLAN, err));
    *out = draft->plan;
    if (model_path_out)
        memcpy(model_path_out, model_path, sizeof model_path);
out:
    if (problems && own)
        *problems = *own;
    tier_yaml_free(doc);
    free(own);
    free(draft);
    return st;
}

static json_t *list_json(const struct tier_keys_list *list) {
    json_t *array = json_array();

    for (size_t i = 0; array && i < list->count; i++)
        if (json_array_append_new(array, json_string(tier_keys_list_item(list, i))) != 0) {
            json_decref(array);
            return NULL;
        }
    return array;
}

/* NULL where jansson refuses it: no memory, or text that is not UTF-8. */
static json_t *value_json(const struct tier_keys_item *key, const void *base) {
    const void *field = (const char *)base + key->offset;
    const struct tier_quorum *q = field;
    char text[TIER_NAME_LEN_MAX + 1];

    switch (key->type) {
    case TIER_KEYS_INT:
        return json_integer((json_int_t) * (const uint64_t *)field);
    case TIER_KEYS_REAL:
        return isnan(*(const double *)field) ? json_null() : json_real(*(const double *)field);
    case TIER_KEYS_BOOL:
        return json_boolean(*(const bool *)field);
    case TIER_KEYS_CHOICE:
        return *(const int *)field < 0 ? json_null()
                                       : json_string(key->choices[*(const int *)field]);
    case TIER_KEYS_LIST:
        return list_json(field);
    case TIER_KEYS_RULE:
        return json_string(tier_keys_text(key, base, text, sizeof text));
    case TIER_KEYS_QUORUM:
        return q->kind == TIER_QUORUM_ALL     ? json_string("all")
               : q->kind == TIER_QUORUM_COUNT ? json_integer((json_int_t)q->count)
                                              : json_real(q->fraction);
    default:
        return json_string(field);
    }
}

/* Puts value (taken, may be NULL) at a dotted path, making the objects on the way. */
static bool put_json(json_t *root, const char *path, json_t *value) {
    json_t *at = root;
    const char *dot;

    for (; value && (dot = strchr(path, '.')); path = dot + 1) {
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)(dot - path), path);
        json_t *below = json_object_get(at, name);
        if (!below) {
            below = json_object();
            if (json_object_set_new(at, name, below) != 0) {
                json_decref(value);
                return false;
            }
        }
        at = below;
    }
    return value && json_object_set_new(at, path, value) == 0;
}

enum tier_status tier_plan_canonical(const struct tier_plan *plan, char **text_out,
                                     size_t *bytes_out, struct tier_hash *hash_out,
                                     struct tier_err *err) {
    enum tier_status st = TIER_OK;
    size_t count;
    const struct tier_keys_item *keys = tier_plan_keys(&count);
    json_t *root = json_object();
    char *text = NULL;

    for (size_t i = 0; i < count; i++)
        if (!root || !put_json(root, keys[i].path, value_json(&keys[i], plan))) {
            st = tier_fail(err, TIER_EPLAN,
                           "plan: %s cannot be written as JSON: no memory, or not "
                           "UTF-8",
                           keys[i].path);
            goto out;
        }
    text = json_dumps(root, JSON_COMPACT | JSON_SORT_KEYS);
    if (!text) {
        st = tier_fail(err, TIER_ENOMEM, "plan: out of memory writing its canonical text");
        goto out;
    }
    *bytes_out = strlen(text);
    if (hash_out)
        tier_hash_data(text, *bytes_out, hash_out);
    *text_out = text;
out:
    json_decref(root);
    return st;
}

/* A JSON list as the text tier_keys_set takes; false where an entry is no text or it is too long.
 */
static bool list_text(const json_t *array, char *buf, size_t bytes) {
    size_t used = 0;

    if (!json_is_array(array))
        return false;
    buf[0] = 0;
    for (size_t i = 0; i < json_array_size(array); i++) {
        const char *item = json_string_value(json_array_get(array, i));
        if (!item || strlen(item) + 2 > bytes - used)
            return false;
        used += (size_t)snprintf(buf + used, bytes - used, "%s%s", i ? "," : "", item);
    }
    return true;
}

/* A JSON value as the text tier_keys_set takes; false where it is of another type. */
static bool json_text(const struct tier_keys_item *key, const json_t *value, char *buf,
                      size_t bytes) {
    bool number =
        key->type == TIER_KEYS_INT || key->type == TIER_KEYS_REAL || key->type == TIER_KEYS_QUORUM;

    buf[0] = 0;
    if (key->type == TIER_KEYS_LIST)
        return list_text(value, buf, bytes);
    if (json_is_null(value))
        return true;
    if (key->type == TIER_KEYS_BOOL && json_is_boolean(value))
        snprintf(buf, bytes, "%s", json_is_true(value) ? "true" : "false");
    else if (number && json_is_integer(value))
        snprintf(buf, bytes, "%lld", (long long)json_integer_value(value));
    else if (number && json_is_real(value))
        tier_real_text(json_real_value(value), buf, bytes);
    else if (json_is_string(value) && key->type != TIER_KEYS_BOOL && key->type != TIER_KEYS_INT &&
             key->type != TIER_KEYS_REAL && json_string_length(value) < bytes)
        memcpy(buf, json_string_value(value), json_string_length(value) + 1);
    else
        return false;
    return true;
}

static const json_t *find_json(const json_t *at, const char *path) {
    const char *dot;

    for (; at && (dot = strchr(path, '.')); path = dot + 1) {
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)(dot - path), path);
        at = json_object_get(at, name);
    }
    return json_object_get(at, path);
}

static void read_json(const json_t *root, struct tier_plan *plan, struct tier_problems *problems) {
    static const char where[] = "plan";
    size_t count;
    const struct tier_keys_item *keys = tier_plan_keys(&count);
    char text[TIER_KEYS_LIST_MAX * (TIER_TENSOR_NAME_LEN_MAX + 1) + 1], why[300];

    for (size_t i = 0; i < count; i++) {
        const json_t *value = find_json(root, keys[i].path);
        if (!value)
            tier_problems_add(problems, where, 0, "%s is missing", keys[i].path);
        else if (!json_text(&keys[i], value, text, sizeof text))
            tier_problems_add(problems, where, 0, "%s is of the wrong type", keys[i].path);
        else if (!tier_keys_set(&keys[i], plan, text, why, sizeof why))
            tier_problems_add(problems, where, 0, "%s %s", keys[i].path, why);
    }
}

enum tier_status tier_plan_parse(const void *text, size_t bytes, struct tier_plan *out,
                                 struct tier_err *err) {
    enum tier_status st = TIER_OK;
    json_error_t bad;
    json_t *root = NULL;
    char *again = NULL;
    size_t again_bytes, count;
    struct tier_plan *plan = NULL;
    struct tier_problems *problems = NULL;

    if (bytes > TIER_PLAN_BYTES_MAX)
        return tier_fail(err, TIER_ELIMIT, "plan: %zu bytes; at most %u are read", bytes,
                         TIER_PLAN_BYTES_MAX);
    root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &bad);
    if (!json_is_object(root)) {
        st = tier_fail(err, TIER_EPLAN, "plan: not a JSON object: %s",
                       root ? "it is another value" : bad.text);
        goto out;
    }
    plan = calloc(1, sizeof *plan);
    problems = calloc(1, sizeof *problems);
    if (!plan || !problems) {
        st = tier_fail(err, TIER_ENOMEM, "plan: out of memory");
        goto out;
    }
    struct tier_plan_checker checker = {.plan = plan, .name = "plan", .problems = problems};
    checker.keys = tier_plan_keys(&count);
    checker.count = count;
    tier_keys_defaults(checker.keys, count, plan);
    read_json(root, plan, problems);
    TIER_TRY_OUT(tier_problems_status(problems, TIER_EPLAN, err));
    tier_plan_check(&checker);
    TIER_TRY_OUT(tier_problems_status(problems, TIER_EPLAN, err));
    TIER_TRY_OUT(tier_plan_canonical(plan, &again, &again_bytes, NULL, err));
    if (again_bytes != bytes || memcmp(again, text, bytes) != 0) {
        st = tier_fail(err, TIER_EPLAN,
                       "plan: not the canonical text of what it says (a key this version does not "
                       "know, another order, spacing or spelling of a number)");
        goto out;
    }
    *out = *plan;
out:
    free(again);
    free(problems);
    free(plan);
    json_decref(root);
    return st;
}
