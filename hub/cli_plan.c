/* SPDX-License-Identifier: Apache-2.0 */
#include "hub/cli.h"
#include "tier/budget.h"
#include "tier/graph.h"
#include "tier/plan.h"
#include "tier/share.h"
#include "tier/signed.h"
#include "tier/site.h"
#include "tier/task.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* A plan with all that belongs to it. */
struct loaded {
    struct tier_plan plan;
    char model_path[TIER_PLAN_PATH_BYTES];
    char *text; /* canonical */
    size_t bytes;
    struct tier_hash hash;
    struct tier_graph *graph;
    struct tier_manifest *manifest;
    struct tier_manifest *kept; /* at each hospital; NULL: nothing is */
    size_t operators;           /* that are executed */
    json_t *privacy;            /* what it costs; null without */
    struct tier_problems problems;
};

/* Files compute sizes and settings with nodes too: those are not counted. */
static enum tier_status count_operators(struct loaded *l, struct tier_err *err) {
    struct tier_shapes *shapes;

    TIER_TRY(tier_graph_infer(l->graph, 1, &shapes, err));
    for (size_t i = 0; i < tier_graph_node_count(l->graph); i++)
        l->operators += !tier_shapes_call(shapes, i)->folded;
    tier_shapes_free(shapes);
    return TIER_OK;
}

/* NULL where there is no memory for it. Every reason ends up in `problems`. */
static struct loaded *load(const char *path, bool with_graph, int64_t rows) {
    struct loaded *l = calloc(1, sizeof *l);
    struct tier_err err = {0};
    enum tier_status st;

    if (!l)
        return NULL;
    TIER_TRY_OUT(tier_plan_load(path, &l->plan, l->model_path, &l->problems, &err));
    TIER_TRY_OUT(tier_plan_canonical(&l->plan, &l->text, &l->bytes, &l->hash, &err));
    if (!with_graph)
        goto out;
    TIER_TRY_OUT(tier_graph_open(l->model_path, &l->graph, &err));
    TIER_TRY_OUT(count_operators(l, &err));
    TIER_TRY_OUT(tier_task_manifest(&l->plan, l->graph, &l->manifest, &err));
    TIER_TRY_OUT(tier_share_kept(&l->plan, l->graph, &l->kept, &err));
    TIER_TRY_OUT(tier_budget_graph_check(&l->plan, l->graph, &err));
    l->privacy = cli_budget_json(&l->plan, rows, &err);
    st = l->privacy ? TIER_OK : err.status;
out:
    if (st != TIER_OK && l->problems.count == 0)
        tier_problems_add(&l->problems, path, 0, "%s", err.text);
    return l;
}

static void unload(struct loaded *l) {
    tier_manifest_free(l->manifest);
    tier_manifest_free(l->kept);
    tier_graph_free(l->graph);
    json_decref(l->privacy);
    free(l->text);
    free(l);
}

static int tell_problems(const struct loaded *l) {
    for (size_t i = 0; i < l->problems.count; i++)
        cli_error("%s", l->problems.item[i].text);
    if (l->problems.dropped)
        cli_error("and %zu more", l->problems.dropped);
    return CLI_FAILED;
}

/* Names and shapes of what stays at each hospital. */
static json_t *kept_json(const struct tier_manifest *kept) {
    json_t *tensors = json_array();
    char shape[200];

    for (size_t i = 0; kept && i < kept->count; i++) {
        cli_shape(&kept->tensors[i], shape, sizeof shape);
        json_array_append_new(
            tensors, json_pack("{s:s, s:s}", "name", kept->tensors[i].name, "shape", shape));
    }
    return tensors;
}

#define MODE_VALUE_BYTES 64 /* of no list: tier_plan_mode_key has none */

/* What the mode sets of that key, and what the plan has. */
static void mode_values(const struct tier_plan *plan, const struct tier_plan_mode_key *key,
                        const char **set, char has[MODE_VALUE_BYTES]) {
    size_t count;
    const struct tier_keys_item *keys = tier_plan_keys(&count);

    *set = plan->mode == TIER_PLAN_UNTRUSTED ? key->untrusted : key->trusted;
    tier_keys_text(&keys[tier_keys_find(keys, count, key->path)], plan, has, MODE_VALUE_BYTES);
}

static json_t *mode_json(const struct tier_plan *plan) {
    json_t *set = json_object(), *written = json_object(), *left_out = json_array();
    const struct tier_plan_mode_key *key;
    char has[MODE_VALUE_BYTES];
    const char *value;

    for (size_t i = 0; (key = tier_plan_mode_key(i)) != NULL; i++) {
        mode_values(plan, key, &value, has);
        json_object_set_new(strcmp(value, has) == 0 ? set : written, key->path, json_string(has));
    }
    for (size_t i = 0; i < plan->exceptions.count; i++)
        json_array_append_new(left_out, json_string(tier_keys_list_item(&plan->exceptions, i)));
    return json_pack("{s:s, s:o, s:o, s:o}", "name", tier_plan_mode_text(plan->mode), "set", set,
                     "written", written, "exceptions", left_out);
}

/* Each line begins so. */
static void print_mode(const struct tier_plan *plan, const char *before) {
    const struct tier_plan_mode_key *key;
    char has[MODE_VALUE_BYTES];
    const char *value;

    for (size_t i = 0; (key = tier_plan_mode_key(i)) != NULL; i++) {
        mode_values(plan, key, &value, has);
        if (strcmp(value, has) == 0)
            printf("%s%-20s %s%s%s\n", before, key->path, has,
                   plan->mode == TIER_PLAN_UNTRUSTED ? ": " : "",
                   plan->mode == TIER_PLAN_UNTRUSTED ? key->why : "");
        else
            printf("%s%-20s %s, written; the mode has %s\n", before, key->path, has, value);
    }
    for (size_t i = 0; i < plan->exceptions.count; i++)
        printf("%sdoes without %s, which the mode promises\n", before,
               tier_keys_list_item(&plan->exceptions, i));
}

static json_t *checked_json(const struct loaded *l) {
    char hex[TIER_HASH_HEX], proof[600], shape[200];
    json_t *problems = json_array(), *tensors = json_array();
    bool ok = l->problems.count == 0;

    for (size_t i = 0; i < l->problems.count; i++)
        json_array_append_new(problems, json_pack("{s:i, s:s}", "line", l->problems.item[i].line,
                                                  "text", l->problems.item[i].text));
    json_t *o = json_pack("{s:b, s:o}", "ok", ok, "problems", problems);
    for (size_t i = 0; ok && i < l->manifest->count; i++) {
        const struct tier_tensor *t = &l->manifest->tensors[i];
        cli_shape(t, shape, sizeof shape);
        json_array_append_new(tensors,
                              json_pack("{s:s, s:s, s:i, s:b}", "name", t->name, "shape", shape,
                                        "frac_bits", t->frac_bits, "wide", (int)t->wide));
    }
    if (ok) {
        json_object_set_new(o, "name", json_string(l->plan.name));
        json_object_set_new(o, "sha256", json_string(tier_hash_hex(&l->hash, hex)));
        json_object_set_new(o, "proof",
                            json_string(tier_plan_proof(&l->plan, proof, sizeof proof)));
        json_object_set_new(o, "model_sha256", json_string(l->plan.model_sha256));
        json_object_set_new(o, "elements", json_integer((json_int_t)l->manifest->elements));
        json_object_set_new(o, "manifest", json_string(tier_hash_hex(&l->manifest->hash, hex)));
        json_object_set(o, "tensors", tensors);
    }
    json_decref(tensors);
    if (ok)
        json_object_set_new(o, "kept", kept_json(l->kept));
    if (ok)
        json_object_set(o, "privacy", l->privacy);
    if (ok)
        json_object_set_new(o, "mode", mode_json(&l->plan));
    return o;
}

static const char *mixing(const struct tier_plan_merge *merge) {
    return merge->mix == TIER_PLAN_MIX_NEAREST ? "nearest, then " : "";
}

static void print_checked(const struct loaded *l) {
    char hex[TIER_HASH_HEX], text[600];

    printf("plan %s is good\n", l->plan.name);
    printf("  sha256    %s\n", tier_hash_hex(&l->hash, hex));
    printf("  mode      %s\n", tier_plan_mode_text(l->plan.mode));
    print_mode(&l->plan, "    ");
    printf("  sums      %s\n", tier_plan_proof(&l->plan, text, sizeof text));
    printf("  merges    at the top: %s%s, at hubs: %s%s\n", mixing(&l->plan.top.merge),
           tier_plan_rule_text(&l->plan.top.merge), mixing(&l->plan.hub.merge),
           tier_plan_rule_text(&l->plan.hub.merge));
    printf("  updates   %s%s%s\n",
           l->plan.secure.sums      ? tier_encoding_text(tier_task_masked(&l->plan))
           : tier_site_on(&l->plan) ? "sum: whole numbers, cut"
                                    : tier_encoding_text(tier_task_encoding(&l->plan)),
           l->plan.codec.entropy == TIER_PLAN_ENTROPY_ZSTD
               ? ", in zstd frames where that is shorter"
               : "",
           l->plan.codec.error_feedback ? ", what is dropped added to the next round's" : "");
    cli_budget_print(l->privacy);
    struct tier_delta_form down;
    if (tier_task_down(&l->plan, 1, &down))
        printf("  models    down as what they differ by, %s\n", tier_encoding_text(down.encoding));
    printf("  model     %s\n            sha256 %s, %" PRIu64 " bytes\n", l->model_path,
           l->plan.model_sha256, l->plan.model_bytes);
    printf("  graph     %" PRIu64 " inputs, %zu operators, %" PRIu64 " outputs\n",
           tier_graph_features(l->graph), l->operators, tier_graph_outputs(l->graph));
    printf("  manifest  %zu tensors, %" PRIu64 " elements\n            sha256 %s\n",
           l->manifest->count, l->manifest->elements, tier_hash_hex(&l->manifest->hash, hex));
    for (size_t i = 0; i < l->manifest->count; i++) {
        const struct tier_tensor *t = &l->manifest->tensors[i];
        cli_shape(t, text, sizeof text);
        printf("    %-32s %-12s f = %d%s%s\n", t->name, text, t->frac_bits, t->wide ? ", wide" : "",
               t->state ? ", a state" : "");
    }
    if (!l->kept)
        return;
    printf("  stays at each hospital, and is never sent: %zu tensors, %" PRIu64 " elements\n",
           l->kept->count, l->kept->elements);
    for (size_t i = 0; i < l->kept->count; i++) {
        cli_shape(&l->kept->tensors[i], text, sizeof text);
        printf("    %-32s %s\n", l->kept->tensors[i].name, text);
    }
}

int cli_plan_check(int argc, char **argv) {
    const char *path;
    bool json = false;
    int64_t rows = 0;
    const struct cli_option options[] = {
        {"json", CLI_FLAG, &json, NULL, "one JSON object", NULL, false, 0, 0},
        {"rows", CLI_NUMBER, &rows, "N",
         "with privacy: what it costs where so many training rows are, not in several such places",
         NULL, false, 1, INT64_C(16) << 20},
    };
    const struct cli_usage usage = {
        "plan check", "FILE",
        "Says everything that is wrong with a plan and its graph, by line; or why its sums cannot "
        "overflow, what will be summed, and what it costs of patients' privacy"};
    int code = cli_parse(&usage, options, COUNT(options), argc, argv, &path, 1, 1);

    if (code != CLI_GO)
        return code;
    struct loaded *l = load(path, true, rows);
    if (!l)
        return cli_failed(&(struct tier_err){.text = "out of memory"});
    if (json)
        code = cli_print_json(checked_json(l));
    else if (l->problems.count == 0)
        print_checked(l);
    if (l->problems.count)
        code = json ? CLI_FAILED : tell_problems(l);
    else if (!json)
        code = cli_done();
    unload(l);
    return code;
}

/* Behind the keys, for the steward of a site's data. */
static void print_seen(const struct tier_plan *plan) {
    char text[600];

    puts("#\n# what each tier sees of a site's data:");
    for (size_t i = 0; tier_plan_sees(plan, i, text, sizeof text); i++)
        printf("#   %s\n", text);
}

int cli_plan_show(int argc, char **argv) {
    const char *path;
    bool json = false;
    const struct cli_option options[] = {
        {"json", CLI_FLAG, &json, NULL, "the text that travels and is hashed", NULL, false, 0, 0},
    };
    const struct cli_usage usage = {
        "plan show", "FILE",
        "Shows a plan as it travels: every default filled in, its model by hash"};
    size_t count;
    const struct tier_keys_item *keys = tier_plan_keys(&count);
    int code = cli_parse(&usage, options, COUNT(options), argc, argv, &path, 1, 1);

    if (code != CLI_GO)
        return code;
    struct loaded *l = load(path, false, 0);
    if (!l)
        return cli_failed(&(struct tier_err){.text = "out of memory"});
    if (l->problems.count) {
        code = tell_problems(l);
    } else if (json) {
        puts(l->text);
        code = cli_done();
    } else {
        char hex[TIER_HASH_HEX], *value = malloc(TIER_KEYS_LIST_MAX * TIER_KEYS_TEXT_MAX);
        printf("# sha256 %s\n", tier_hash_hex(&l->hash, hex));
        for (size_t i = 0; value && i < count; i++)
            printf(
                "%-30s %s\n", keys[i].path,
                tier_keys_text(&keys[i], &l->plan, value, TIER_KEYS_LIST_MAX * TIER_KEYS_TEXT_MAX));
        free(value);
        printf("#\n# mode: %s sets, where nothing else is written:\n",
               tier_plan_mode_text(l->plan.mode));
        print_mode(&l->plan, "#   ");
        print_seen(&l->plan);
        code = cli_done();
    }
    unload(l);
    return code;
}

/* ---- sign ---- */

static enum tier_status write_signature(const char *path, const char *text, size_t bytes,
                                        struct tier_err *err) {
    FILE *f = fopen(path, "we");

    if (!f)
        return tier_fail_errno(err, TIER_EIO, "%s", path);
    bool whole = fwrite(text, 1, bytes, f) == bytes;
    if (fclose(f) != 0 || !whole)
        return tier_fail_errno(err, TIER_EIO, "%s", path);
    return TIER_OK;
}

static enum tier_status sign(const struct loaded *l, const char *identity, const char *path,
                             struct tier_err *err) {
    struct tier_node signer = {0};
    const char *author = l->plan.governance.author;
    char *text = NULL;
    size_t bytes;
    enum tier_status st;

    TIER_TRY_OUT(tier_identity_load(identity, (int64_t)time(NULL), &signer, err));
    if (*author && strcmp(author, signer.id.name) != 0) {
        st = tier_fail(err, TIER_EIDENTITY, "the plan's governance.author is %s, and you are %s",
                       author, signer.id.name);
        goto out;
    }
    TIER_TRY_OUT(tier_signed_make(&signer, &l->hash, &text, &bytes, err));
    TIER_TRY_OUT(write_signature(path, text, bytes, err));
out:
    free(text);
    tier_identity_release(&signer);
    return st;
}

int cli_plan_sign(int argc, char **argv) {
    const char *path, *identity = NULL, *to = NULL;
    const struct cli_option options[] = {
        {"identity", CLI_TEXT, &identity, "DATA_DIR",
         "the data directory in which you are enrolled", "CONSILIUM_IDENTITY", true, 0, 0},
        {"out", CLI_TEXT, &to, "FILE", "where the signature goes; FILE.sig if left out", NULL,
         false, 0, 0},
    };
    const struct cli_usage usage = {
        "plan sign", "FILE",
        "Signs a plan as it travels, with every default and its model's hash, so that sites can "
        "tell who answers for it; 'run start' sends the signature with the plan"};
    char beside[TIER_PLAN_PATH_BYTES], hex[TIER_HASH_HEX];
    struct tier_err err = {0};
    int code = cli_parse(&usage, options, COUNT(options), argc, argv, &path, 1, 1);

    if (code != CLI_GO)
        return code;
    struct loaded *l = load(path, false, 0);
    if (!l)
        return cli_failed(&(struct tier_err){.text = "out of memory"});
    snprintf(beside, sizeof beside, "%s.sig", path);
    if (l->problems.count) {
        code = tell_problems(l);
    } else if (sign(l, identity, to ? to : beside, &err) != TIER_OK) {
        code = cli_failed(&err);
    } else {
        printf("%s  %s\n", tier_hash_hex(&l->hash, hex), to ? to : beside);
        code = cli_done();
    }
    unload(l);
    return code;
}
