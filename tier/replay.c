/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log is read once, checked line by line, and only what it says of the one run is kept. What is
 * made lies in the scratch folder, in which the retained updates get one more name.
 */
#include "tier/replay_private.h"
#include "tier/audit.h"
#include "tier/content.h"
#include "tier/contribution.h"
#include "tier/graph.h"
#include "tier/home.h"
#include "tier/merge.h"
#include "tier/retain.h"
#include "tier/root.h"
#include "tier/stale.h"
#include "tier/vault.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define UPDATES_MAX (1u << 22)

/* ---- the log ---- */

static void *grown(void *at, size_t count, size_t *room, size_t bytes, struct tier_err *err) {
    if (count < *room)
        return at;
    size_t more = *room ? *room * 2 : 64;
    void *moved = more <= UPDATES_MAX ? realloc(at, more * bytes) : NULL;
    if (!moved) {
        tier_fail(err, more > UPDATES_MAX ? TIER_ELIMIT : TIER_ENOMEM,
                  "the log says more of this run than there is room for");
        return NULL;
    }
    *room = more;
    return moved;
}

static bool hash_of(const json_t *data, const char *key, struct tier_hash *out) {
    const char *text = json_string_value(json_object_get(data, key));
    return text && tier_hash_parse(text, out);
}

static uint64_t count_of(const json_t *data, const char *key) {
    json_int_t n = json_integer_value(json_object_get(data, key));
    return n > 0 ? (uint64_t)n : 0;
}

static enum tier_status line_lacks(uint64_t seq, const char *event, struct tier_err *err) {
    return tier_fail(err, TIER_ECORRUPT, "line %" PRIu64 ": %s lacks what it must say", seq, event);
}

static struct replay_logged *round_of(struct replay *p, uint64_t number, struct tier_err *err) {
    for (size_t i = p->round_count; i-- > 0;)
        if (p->rounds[i].round == number)
            return &p->rounds[i];
    struct replay_logged *at = grown(p->rounds, p->round_count, &p->round_room, sizeof *at, err);
    if (!at)
        return NULL;
    p->rounds = at;
    p->rounds[p->round_count] = (struct replay_logged){.round = number};
    return &p->rounds[p->round_count++];
}

static enum tier_status on_begun(struct replay *p, const char *run, const json_t *data,
                                 uint64_t seq, struct tier_err *err) {
    const char *name = json_string_value(json_object_get(data, "name"));

    if (p->found)
        return tier_fail(err, TIER_ECONFLICT, "several runs begin with %s: give more of its id",
                         p->r->run);
    if (!tier_hash_parse(run, &p->run.id) || !hash_of(data, "model", &p->graph_hash) ||
        !hash_of(data, "plan", &p->plan_hash))
        return line_lacks(seq, "run.begun (of an older version?)", err);
    snprintf(p->run.name, sizeof p->run.name, "%s", name ? name : "");
    p->found = true;
    return TIER_OK;
}

static bool child_of(const json_t *data, char child[TIER_NAME_LEN_MAX + 1]) {
    const char *text = json_string_value(json_object_get(data, "child"));
    size_t n = text ? strlen(text) : 0;
    if (n == 0 || n > TIER_NAME_LEN_MAX)
        return false;
    memcpy(child, text, n + 1);
    return true;
}

static enum tier_status on_counted(struct replay *p, const json_t *data, uint64_t seq,
                                   struct tier_err *err) {
    uint64_t counted = count_of(data, "counted");
    struct replay_input in = {.counted = counted ? counted : count_of(data, "round")};

    if (!hash_of(data, "update", &in.update) || !child_of(data, in.child) || in.counted == 0)
        return line_lacks(seq, "update.counted", err);
    struct replay_input *at = grown(p->inputs, p->input_count, &p->input_room, sizeof *at, err);
    if (!at)
        return err->status;
    p->inputs = at;
    p->inputs[p->input_count++] = in;
    return TIER_OK;
}

/* The last of the list that is that child's update; taken out of it. */
static bool take_out(struct replay_input *list, size_t *count, const struct replay_input *one,
                     struct replay_input *out) {
    for (size_t i = *count; i-- > 0;)
        if (tier_hash_equal(&list[i].update, &one->update) &&
            strcmp(list[i].child, one->child) == 0) {
            *out = list[i];
            list[i] = list[--*count];
            return true;
        }
    return false;
}

/* It is in no sum. One that was withdrawn before it was counted is not here. */
static enum tier_status on_withdrawn(struct replay *p, const json_t *data, uint64_t seq,
                                     struct tier_err *err) {
    struct replay_input gone = {0}, was;

    if (!hash_of(data, "update", &gone.update) || !child_of(data, gone.child))
        return line_lacks(seq, "update.withdrawn", err);
    if (take_out(p->inputs, &p->input_count, &gone, &was) ||
        !take_out(p->aside, &p->aside_count, &gone, &was))
        return TIER_OK;
    struct replay_logged *l = round_of(p, was.counted, err);
    if (!l)
        return err->status;
    l->torn = true;
    return TIER_OK;
}

/* It had been counted. A line that is there twice says it once. */
static enum tier_status on_quarantined(struct replay *p, const json_t *data, uint64_t seq,
                                       struct tier_err *err) {
    struct replay_input one = {.counted = count_of(data, "round")}, was;

    if (!hash_of(data, "update", &one.update) || !child_of(data, one.child) || one.counted == 0 ||
        !hash_of(data, "set", &one.set))
        return line_lacks(seq, "update.quarantined", err);
    one.by_loss = json_is_true(json_object_get(data, "by_loss"));
    if (!take_out(p->inputs, &p->input_count, &one, &was))
        return TIER_OK;
    struct replay_input *at = grown(p->aside, p->aside_count, &p->aside_room, sizeof *at, err);
    if (!at)
        return err->status;
    p->aside = at;
    p->aside[p->aside_count++] = one;
    return TIER_OK;
}

static enum tier_status on_contributed(struct replay *p, const json_t *data, uint64_t seq,
                                       struct tier_err *err) {
    struct replay_said one = {.round = count_of(data, "round"),
                              .known = json_is_true(json_object_get(data, "known")),
                              .share = json_number_value(json_object_get(data, "share")),
                              .error = json_number_value(json_object_get(data, "error")),
                              .without = json_number_value(json_object_get(data, "without"))};

    const char *utility = json_string_value(json_object_get(data, "utility"));

    if (!child_of(data, one.child) || one.round == 0 || !utility)
        return line_lacks(seq, "update.contributed", err);
    one.by_loss = strcmp(utility, TIER_CONTRIBUTION_UTILITY) != 0;
    struct replay_said *at = grown(p->said, p->said_count, &p->said_room, sizeof *at, err);
    if (!at)
        return err->status;
    p->said = at;
    p->said[p->said_count++] = one;
    return TIER_OK;
}

static enum tier_status on_round(struct replay *p, const char *event, const json_t *data,
                                 uint64_t seq, struct tier_err *err) {
    uint64_t number = count_of(data, "round");
    bool whole = true;

    if (strcmp(event, "round.opened") != 0 && strcmp(event, "round.folded") != 0 &&
        strcmp(event, "round.screened") != 0 && strcmp(event, "round.committed") != 0 &&
        strcmp(event, "privacy.charged") != 0 && strcmp(event, "privacy.resumed") != 0 &&
        strcmp(event, "round.unmasked") != 0 && strcmp(event, "round.skipped") != 0)
        return TIER_OK;
    struct replay_logged *l = number ? round_of(p, number, err) : NULL;
    if (!l)
        return number ? err->status : line_lacks(seq, event, err);
    if (strcmp(event, "round.opened") == 0) {
        whole = hash_of(data, "base", &l->base);
    } else if (strcmp(event, "round.screened") == 0) {
        whole = hash_of(data, "set", &l->set);
        l->screened = true;
        l->torn = false;
    } else if (strcmp(event, "round.folded") == 0) {
        whole = hash_of(data, "update", &l->folded);
        (void)hash_of(data, "previous", &l->previous);
        l->has_fold = true;
    } else if (strncmp(event, "privacy.", 8) == 0) {
        whole = hash_of(data, "key", &l->noise_key);
    } else if (strcmp(event, "round.unmasked") == 0) {
        (void)hash_of(data, "terms", &l->terms);
    } else if (strcmp(event, "round.skipped") == 0) {
        l->skipped = true;
    } else {
        whole = hash_of(data, "model", &l->model);
        l->committed = true;
    }
    return whole ? TIER_OK : line_lacks(seq, event, err);
}

static enum tier_status on_line(void *arg, uint64_t seq, const json_t *record,
                                const struct tier_tree_edge *edge, struct tier_err *err) {
    struct replay *p = arg;
    const char *event = json_string_value(json_object_get(record, "event"));
    const json_t *data = json_object_get(record, "data");
    const char *run = json_string_value(json_object_get(data, "run"));
    char hex[TIER_HASH_HEX];
    (void)edge;

    if (strcmp(event, "parent.attended") == 0)
        p->attends_parent = true;
    if (!run || strncmp(run, p->r->run, strlen(p->r->run)) != 0)
        return TIER_OK;
    if (strcmp(event, "run.begun") == 0)
        return on_begun(p, run, data, seq, err);
    if (!p->found || strcmp(run, tier_hash_hex(&p->run.id, hex)) != 0)
        return TIER_OK;
    if (strcmp(event, "update.counted") == 0)
        return on_counted(p, data, seq, err);
    if (strcmp(event, "update.withdrawn") == 0)
        return on_withdrawn(p, data, seq, err);
    if (strcmp(event, "update.quarantined") == 0)
        return on_quarantined(p, data, seq, err);
    if (strcmp(event, "update.contributed") == 0)
        return on_contributed(p, data, seq, err);
    if (strcmp(event, "run.ended") == 0)
        (void)hash_of(data, "model", &p->run.model);
    return on_round(p, event, data, seq, err);
}

static int by_round(const void *a, const void *b) {
    const struct replay_input *x = a, *y = b;
    if (x->counted != y->counted)
        return x->counted < y->counted ? -1 : 1;
    return memcmp(x->update.b, y->update.b, TIER_HASH_BYTES);
}

static enum tier_status read_log(struct replay *p, struct tier_err *err) {
    char path[PATH_MAX];
    struct tier_hash head;
    uint64_t lines;

    snprintf(path, sizeof path, "%.4000s/audit/audit.log", p->r->data_dir);
    TIER_TRY(tier_audit_walk(path, on_line, p, &lines, &head, err));
    if (!p->found)
        return tier_fail(err, TIER_ENOTFOUND, "%s: no run that begins with '%s' was begun here",
                         path, p->r->run);
    p->run.top = !p->attends_parent;
    if (p->input_count > 1)
        qsort(p->inputs, p->input_count, sizeof *p->inputs, by_round);
    for (size_t i = 0; i < p->input_count; i++)
        for (size_t k = 0; k < p->round_count; k++) {
            struct replay_logged *l = &p->rounds[k];
            if (l->round != p->inputs[i].counted)
                continue;
            if (l->count++ == 0)
                l->first = i;
        }
    return TIER_OK;
}

/* ---- files ---- */

#define COPY_BYTES (1u << 20)

static bool copy(int in, int out) {
    char *buf = malloc(COPY_BYTES);
    ssize_t n = -1;
    bool good = buf != NULL;

    while (good && (n = read(in, buf, COPY_BYTES)) > 0)
        good = write(out, buf, (size_t)n) == n;
    free(buf);
    return good && n == 0;
}

/* One more name of a file, or a copy where it lies on another disk. Nothing here writes into it:
 * a spool would, into a large one that it had deleted, so inputs are only unlinked. */
static bool have_file(const char *from, const char *to) {
    if (link(from, to) == 0 || errno == EEXIST)
        return true;
    int in = open(from, O_RDONLY | O_CLOEXEC), out = -1;
    if (in >= 0)
        out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    bool good = in >= 0 && out >= 0 && copy(in, out);
    if (in >= 0)
        close(in);
    if (out >= 0)
        good = close(out) == 0 && good;
    if (out >= 0 && !good)
        unlink(to);
    return good;
}

/* ---- what the run is ---- */

/* A file of the node by its hash, wherever it lies; the caller's to free. NULL: nowhere. */
char *replay_find_file(const struct replay *p, const struct tier_hash *hash, const char *suffix) {
    static const char *const folders[] = {TIER_RETAINED_DIR, "models", TIER_QUARANTINE_DIR};
    char dir[PATH_MAX];

    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        snprintf(dir, sizeof dir, "%.4000s/%s", p->r->data_dir, folders[i]);
        if (tier_content_has(dir, hash, suffix))
            return tier_content_path(dir, hash, suffix);
    }
    return NULL;
}

static enum tier_status read_plan(struct replay *p, struct tier_err *err) {
    char *path = replay_find_file(p, &p->plan_hash, TIER_CONTENT_PLAN);
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    struct tier_cipher cipher;
    struct tier_hash is;
    ssize_t n = -1;

    if (fd < 0) {
        free(path);
        return tier_fail(err, TIER_ENOTFOUND, "the plan of the run is not in %s/%s", p->r->data_dir,
                         TIER_RETAINED_DIR);
    }
    enum tier_status st = tier_cipher_of(path, fd, &cipher, err);
    p->plan_text = malloc(TIER_PLAN_BYTES_MAX + 1);
    if (st == TIER_OK && p->plan_text)
        n = tier_cipher_pread(&cipher, fd, p->plan_text, TIER_PLAN_BYTES_MAX + 1, 0);
    p->plan_bytes = n > 0 ? (size_t)n : 0;
    close(fd);
    free(path);
    TIER_TRY(st);
    if (!p->plan_text)
        return tier_fail(err, TIER_ENOMEM, "no memory for a plan");
    tier_hash_data(p->plan_text, p->plan_bytes, &is);
    if (!tier_hash_equal(&is, &p->plan_hash))
        return tier_fail(err, TIER_ECORRUPT,
                         "the plan is not the one that the log names: it was "
                         "altered");
    return tier_plan_parse(p->plan_text, p->plan_bytes, &p->plan, err);
}

static enum tier_status read_graph(struct replay *p, struct tier_err *err) {
    char *from = replay_find_file(p, &p->graph_hash, TIER_CONTENT_GRAPH);
    char *path = tier_content_path(p->models_dir, &p->graph_hash, TIER_CONTENT_GRAPH);
    enum tier_status st = TIER_OK;

    if (!from)
        st = tier_fail(err, TIER_ENOTFOUND, "the graph of the run is kept no more");
    else if (!have_file(from, path))
        st = tier_fail_errno(err, TIER_EIO, "%s cannot be had as %s", from, path);
    if (st == TIER_OK) /* of a bad one, the name here is deleted */
        st = tier_content_check(p->models_dir, &p->graph_hash, TIER_CONTENT_GRAPH, err);
    if (st == TIER_OK)
        st = tier_graph_open(path, &p->graph, err);
    if (st == TIER_OK)
        st = tier_task_manifest(&p->plan, p->graph, &p->manifest, err);
    free(from);
    free(path);
    return st;
}

static enum tier_status prepare(struct replay *p, struct tier_err *err) {
    snprintf(p->spool_dir, sizeof p->spool_dir, "%.4000s/spool", p->r->scratch);
    snprintf(p->models_dir, sizeof p->models_dir, "%.4000s/models", p->r->scratch);
    if (mkdir(p->models_dir, 0700) != 0)
        return tier_fail_errno(err, TIER_EIO, "cannot make %s", p->models_dir);
    TIER_TRY(tier_spool_open(p->spool_dir, false, &p->spool, err));
    TIER_TRY(read_plan(p, err));
    TIER_TRY(read_graph(p, err));
    p->tier = tier_plan_tier_of(&p->plan, p->run.top);
    p->rule = tier_merge_rule_of(&p->tier->merge);
    if (!p->rule && (*p->tier->merge.rule.own || p->tier->merge.rule.choice != TIER_PLAN_MEAN))
        return tier_fail(err, TIER_EPLAN,
                         "the plan merges by the rule %s, which is not loaded: name its file with "
                         "--merge-plugin",
                         tier_plan_rule_text(&p->tier->merge));
    return TIER_OK;
}

/* ---- one round ---- */

void replay_not_kept(struct tier_replay_round *out, const char *what,
                     const struct tier_hash *hash) {
    char hex[TIER_HASH_HEX];
    out->result = TIER_REPLAY_NOT_KEPT;
    snprintf(out->why, sizeof out->why, "%s %.12s is kept no more", what, tier_hash_hex(hash, hex));
}

void replay_differs(struct tier_replay_round *out, const char *why) {
    out->result = TIER_REPLAY_DIFFERS;
    snprintf(out->why, sizeof out->why, "%.255s", why);
}

/* Where an update lies in the scratch folder. */
static const char *spool_path(const struct replay *p, const struct tier_hash *id,
                              char path[PATH_MAX + 80]) {
    char hex[TIER_HASH_HEX];
    snprintf(path, PATH_MAX + 80, "%s/%s.upd", p->spool_dir, tier_hash_hex(id, hex));
    return path;
}

bool replay_have_update(struct replay *p, const struct tier_hash *id) {
    char to[PATH_MAX + 80];
    char *from = replay_find_file(p, id, ".upd");
    bool there = from && have_file(from, spool_path(p, id, to));

    free(from);
    return there;
}

enum tier_status replay_check_input(struct replay *p, const struct tier_hash *id, bool *masked_out,
                                    struct tier_err *err) {
    struct tier_update *u = NULL;

    TIER_TRY(tier_spool_update_open(p->spool, id, &u, err));
    enum tier_status st = tier_spool_update_check(u, err);
    *masked_out = tier_encoding_masked(tier_spool_update_header(u)->encoding);
    if (st == TIER_OK && !*masked_out)
        st = tier_update_verify(u, p->manifest, err);
    tier_spool_update_close(u);
    return st;
}

/* The first `masked` of the inputs are masked. */
static enum tier_status fold(struct replay *p, const struct replay_logged *l,
                             const struct tier_hash *inputs, size_t masked, struct tier_hash *out,
                             struct tier_err *err) {
    struct tier_fold_version versions[TIER_STALENESS_LIMIT + 1];
    struct tier_fold_stale stale = {.damps = tier_stale_buffers(p->tier), .versions = versions};
    uint64_t behind = tier_task_trains(&p->plan, l->round) ? p->tier->staleness_max : 0;
    struct tier_fold f = {.spool = p->spool,
                          .manifest = p->manifest,
                          .run = p->run.id,
                          .round = l->round,
                          .base_model = l->base,
                          .stale = tier_stale_in(&p->plan) ? &stale : NULL,
                          .inputs = inputs,
                          .count = l->count,
                          .threads = p->r->threads,
                          .memory_bytes = REPLAY_MEMORY_BYTES};

    for (size_t i = p->round_count; i-- > 0 && stale.version_count <= TIER_STALENESS_LIMIT;)
        if (p->rounds[i].round < l->round && l->round - p->rounds[i].round <= behind)
            versions[stale.version_count++] =
                (struct tier_fold_version){p->rounds[i].round, p->rounds[i].base};
    size_t least = p->rule ? tier_merge_memory_min(p->manifest, p->rule, &p->tier->merge, l->count)
                           : tier_fold_memory_min(p->manifest, l->count);
    if (f.memory_bytes < least)
        f.memory_bytes = least;
    if (masked > 0)
        return replay_fold_masked(p, l, &f, inputs, masked, out, err);
    const struct tier_merge merge = {
        .fold = f, .rule = p->rule, .settings = &p->tier->merge, .previous = p->previous};
    return p->rule ? tier_merge_run(&merge, out, err) : tier_fold_run(&f, out, err);
}

static enum tier_status fold_round(struct replay *p, const struct replay_logged *l,
                                   struct tier_replay_round *out, struct tier_hash *folded,
                                   struct tier_err *err) {
    struct tier_hash *inputs = calloc(l->count ? l->count : 1, sizeof *inputs);
    struct tier_err why = {0};
    enum tier_status st = TIER_OK;
    size_t masked = 0;

    if (!inputs)
        return tier_fail(err, TIER_ENOMEM, "no memory for a round's inputs");
    for (size_t i = 0; i < l->count && out->result == TIER_REPLAY_SAME; i++) {
        bool is_masked = false;
        inputs[i] = p->inputs[l->first + i].update;
        if (!replay_have_update(p, &inputs[i]))
            replay_not_kept(out, "update", &inputs[i]);
        else if (replay_check_input(p, &inputs[i], &is_masked, &why) != TIER_OK)
            replay_differs(out, why.text);
        if (is_masked) {
            const struct tier_hash id = inputs[i];
            inputs[i] = inputs[masked];
            inputs[masked++] = id;
        }
    }
    if (out->result == TIER_REPLAY_SAME && l->count == 0)
        replay_differs(out, "the log counts no update in it");
    if (out->result == TIER_REPLAY_SAME && replay_look_again(p, l, inputs, out, &why) != TIER_OK)
        replay_differs(out, why.text);
    if (out->result == TIER_REPLAY_SAME && fold(p, l, inputs, masked, folded, &why) != TIER_OK) {
        replay_differs(out, why.text);
        if (why.status == TIER_ENOTFOUND && masked > 0)
            out->result = TIER_REPLAY_NOT_KEPT;
    }
    if (why.status == TIER_ENOMEM || why.status == TIER_EFULL || why.status == TIER_EIO)
        st = tier_fail(err, why.status, "%s", why.text);
    free(inputs);
    return st;
}

/* The base is what the round before made, or what was kept of it. */
static bool have_base(struct replay *p, const struct tier_hash *base) {
    if (tier_content_has(p->models_dir, base, TIER_CONTENT_MODEL))
        return true;
    char *from = replay_find_file(p, base, TIER_CONTENT_MODEL);
    char *to = tier_content_path(p->models_dir, base, TIER_CONTENT_MODEL);
    bool there = from && have_file(from, to) &&
                 tier_content_check(p->models_dir, base, TIER_CONTENT_MODEL, NULL) == TIER_OK;
    free(to);
    free(from);
    return there;
}

static enum tier_status publish(struct replay *p, const struct replay_logged *l,
                                const struct tier_hash *folded, struct tier_replay_round *out,
                                struct tier_err *err) {
    struct tier_root root;
    struct tier_published made = {0};
    struct tier_task_figures figures;
    struct tier_err why = {0};

    if (!have_base(p, &l->base)) {
        replay_not_kept(out, "the base model", &l->base);
        return TIER_OK;
    }
    tier_root_init(&root, &p->plan, p->plan_text, p->plan_bytes, l->round);
    root.update = *folded;
    root.base = l->base;
    root.state = p->state;
    TIER_TRY(replay_find_noise(p, l, &root.noise_key, out, err));
    if (out->result != TIER_REPLAY_SAME) {
        tier_noise_key_wipe(&root.noise_key);
        return TIER_OK;
    }
    enum tier_status st = tier_root_run(&root, p->spool, p->manifest, p->models_dir, &made,
                                        &figures, &out->weight, &why);
    tier_noise_key_wipe(&root.noise_key);
    if (st == TIER_ENOMEM || st == TIER_EFULL || st == TIER_EIO)
        return tier_fail(err, st, "%s", why.text);
    if (st != TIER_OK) {
        replay_differs(out, why.text);
        return TIER_OK;
    }
    p->state = made.state;
    p->model = made.model;
    out->made = made.model;
    out->logged = l->model;
    if (!l->committed)
        out->result = TIER_REPLAY_OPEN;
    else if (!tier_hash_equal(&made.model, &l->model))
        replay_differs(out, "another model than the log says");
    return TIER_OK;
}

/* What is not needed by a later round. */
static void tidy(struct replay *p, const struct replay_logged *l, const struct tier_hash *folded) {
    char name[PATH_MAX + 80];

    for (size_t i = 0; i < l->count; i++)
        if (!tier_hash_equal(&p->inputs[l->first + i].update, folded))
            unlink(spool_path(p, &p->inputs[l->first + i].update, name));
    for (size_t i = 0; i < p->aside_count; i++)
        if (p->aside[i].counted == l->round && !tier_hash_equal(&p->aside[i].update, folded))
            unlink(spool_path(p, &p->aside[i].update, name));
    if (!tier_hash_is_zero(&p->previous) && !tier_hash_equal(&p->previous, folded))
        unlink(spool_path(p, &p->previous, name));
    p->previous = (struct tier_hash){{0}};
    if (p->rule && p->rule->has_previous)
        p->previous = *folded;
    else if (!tier_hash_is_zero(folded))
        unlink(spool_path(p, folded, name));
    if (!tier_hash_equal(&l->base, &p->model)) {
        char *path = tier_content_path(p->models_dir, &l->base, TIER_CONTENT_MODEL);
        unlink(path);
        free(path);
    }
}

static enum tier_status one_round(struct replay *p, const struct replay_logged *l,
                                  struct tier_replay_round *out, struct tier_err *err) {
    struct tier_hash folded = {{0}};

    *out = (struct tier_replay_round){
        .round = l->round, .updates = l->count, .logged = p->run.top ? l->model : l->folded};
    if (p->run.top && l->skipped) { /* it gave no sum, and the model stays */
        out->made = l->base;
        if (!tier_hash_equal(&l->base, &l->model))
            replay_differs(out, "it was skipped, and another model than before it was published");
        return TIER_OK;
    }
    if (!l->has_fold) {
        out->result = TIER_REPLAY_OPEN;
        return TIER_OK;
    }
    TIER_TRY(fold_round(p, l, out, &folded, err));
    if (out->result == TIER_REPLAY_SAME && !tier_hash_equal(&folded, &l->folded))
        replay_differs(out, "its updates give another sum than the log says");
    if (!p->run.top)
        out->made = folded;
    if (p->run.top && out->result == TIER_REPLAY_SAME)
        TIER_TRY(publish(p, l, &folded, out, err));
    tidy(p, l, &folded);
    return TIER_OK;
}

/* ---- the run ---- */

static bool needs_earlier(struct replay *p) {
    struct kern_server optimiser;
    return tier_task_server(&p->plan, &optimiser) || (p->rule && p->rule->has_previous);
}

static enum tier_status all_rounds(struct replay *p, tier_replay_fn fn, void *arg,
                                   struct tier_err *err) {
    struct tier_replay_round out;
    bool any = false;

    for (size_t i = 0; i < p->round_count; i++) {
        const struct replay_logged *l = &p->rounds[i];
        bool wanted = p->r->round == 0 || l->round == p->r->round;
        if (p->r->round && l->round > p->r->round)
            break;
        if (!wanted && !p->run.top && !(p->rule && p->rule->has_previous))
            continue;
        if (!wanted && !needs_earlier(p)) { /* its base may be kept */
            const struct replay_logged *target = &p->rounds[p->round_count - 1];
            for (size_t k = 0; k < p->round_count; k++)
                if (p->rounds[k].round == p->r->round)
                    target = &p->rounds[k];
            if (have_base(p, &target->base))
                continue;
        }
        if (p->run.top && l->round == 1) {
            TIER_TRY(tier_task_first_model(p->graph, p->manifest, p->models_dir, &p->model, err));
            if (!tier_hash_equal(&p->model, &l->base)) {
                out = (struct tier_replay_round){
                    .round = l->round, .logged = l->base, .made = p->model};
                replay_differs(&out, "it starts from another model than the plan's graph gives");
                fn(arg, &out);
                return TIER_OK;
            }
        }
        TIER_TRY(one_round(p, l, &out, err));
        any = any || wanted;
        if (wanted || out.result != TIER_REPLAY_SAME)
            fn(arg, &out);
    }
    if (!any)
        return tier_fail(err, TIER_ENOTFOUND, "the log says nothing of round %" PRIu64 " of it",
                         p->r->round);
    return TIER_OK;
}

enum tier_status tier_replay_run(const struct tier_replay *replay, tier_replay_fn fn, void *arg,
                                 struct tier_replay_run *run_out, struct tier_err *err) {
    struct replay p = {.r = replay};
    struct tier_vault *vault =
        NULL; /* what is linked elsewhere is encrypted with this node's key */
    enum tier_status st = tier_vault_open(replay->data_dir, false, &vault, err);

    if (st == TIER_OK)
        st = read_log(&p, err);
    if (st == TIER_OK)
        st = prepare(&p, err);
    if (st == TIER_OK)
        *run_out = p.run;
    if (st == TIER_OK)
        st = all_rounds(&p, fn, arg, err);
    tier_manifest_free(p.manifest);
    tier_graph_free(p.graph);
    tier_spool_close(p.spool);
    free(p.plan_text);
    free(p.inputs);
    free(p.aside);
    free(p.said);
    free(p.rounds);
    tier_vault_close(vault);
    return st;
}
