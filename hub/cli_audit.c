/* SPDX-License-Identifier: Apache-2.0 */
/* What an auditor does with the data directories of nodes, or with exports of them; no node needs
 * to run, and none is asked. */
#include "hub/cli.h"
#include "tier/merge.h"
#include "tier/replay.h"
#include "tier/verify.h"

#include <errno.h>
#include <ftw.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define CA_BYTES_MAX 65536

/* ---- audit verify ---- */

static enum tier_status read_ca(const char *path, char **out, struct tier_err *err) {
    FILE *f = fopen(path, "rb");
    char *text = calloc(1, CA_BYTES_MAX + 1);
    size_t n = f && text ? fread(text, 1, CA_BYTES_MAX + 1, f) : 0;
    enum tier_status st = TIER_OK;

    if (!f)
        st = tier_fail_errno(err, TIER_EIO, "cannot read %s", path);
    else if (!text)
        st = tier_fail(err, TIER_ENOMEM, "no memory for a certificate");
    else if (n > CA_BYTES_MAX)
        st = tier_fail(err, TIER_EARG, "%s is no certificate: it is too long", path);
    if (f)
        fclose(f);
    if (st == TIER_OK)
        *out = text;
    else
        free(text);
    return st;
}

static json_t *node_json(const struct tier_verify_node *n) {
    char head[TIER_HASH_HEX], root[TIER_HASH_HEX];

    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I}", "node", n->name,
                     "file", n->log, "events", (json_int_t)n->lines, "head",
                     tier_hash_hex(&n->head, head), "root", tier_hash_hex(&n->root, root), "heads",
                     (json_int_t)n->heads, "receipts", (json_int_t)n->receipts, "unsigned",
                     (json_int_t)n->unsigned_count, "quotes", (json_int_t)n->quotes, "updates",
                     (json_int_t)n->updates, "files", (json_int_t)n->files);
}

static int verify_json(const struct tier_verify *v) {
    uint64_t found = tier_verify_finding_count(v);
    json_t *o = json_pack("{s:b, s:[], s:[], s:I}", "whole", found == 0, "nodes", "findings",
                          "finding_count", (json_int_t)found);
    const char *text;

    for (size_t i = 0; i < tier_verify_node_count(v); i++)
        json_array_append_new(json_object_get(o, "nodes"), node_json(tier_verify_node_at(v, i)));
    for (size_t i = 0; (text = tier_verify_finding(v, i)); i++)
        json_array_append_new(json_object_get(o, "findings"), json_string(text));
    return cli_print_json(o);
}

static int verify_text(const struct tier_verify *v) {
    uint64_t found = tier_verify_finding_count(v);
    char hex[TIER_HASH_HEX];
    const char *text;
    size_t told = 0;

    for (; (text = tier_verify_finding(v, told)); told++)
        cli_error("%s", text);
    if (found > told)
        cli_error("and %" PRIu64 " findings more", found - told);
    if (found > 0)
        return CLI_FAILED;
    printf("%-20s %8s %6s %8s %8s %7s %6s  %s\n", "node", "events", "heads", "receipts", "unsigned",
           "updates", "files", "head of its chain");
    for (size_t i = 0; i < tier_verify_node_count(v); i++) {
        const struct tier_verify_node *n = tier_verify_node_at(v, i);
        printf("%-20s %8" PRIu64 " %6" PRIu64 " %8" PRIu64 " %8" PRIu64 " %7" PRIu64 " %6" PRIu64
               "  %s\n",
               n->name, n->lines, n->heads, n->receipts, n->unsigned_count, n->updates, n->files,
               tier_hash_hex(&n->head, hex));
    }
    printf("everything that was checked is as it should be\n");
    return cli_done();
}

int cli_audit_verify(int argc, char **argv) {
    const char *ca_path = NULL;
    bool json = false;
    const struct cli_option options[] = {
        {"ca", CLI_TEXT, &ca_path, "FILE",
         "the authority's certificate; otherwise the first directory's own copy is believed", NULL,
         false, 0, 0},
        {"json", CLI_FLAG, &json, NULL, "one JSON object", NULL, false, 0, 0},
    };
    const struct cli_usage usage = {
        "audit verify", "DATA_DIR|FILE...",
        "Checks, off-line, every line of audit logs against the one before it, the heads and "
        "receipts that nodes hold of each other, TPM quotes by which children were admitted, and "
        "every update, model and plan by its name. "
        "What is not given cannot be compared: give the logs of a parent and its children "
        "together"};
    const char **paths = calloc((size_t)argc + 1, sizeof *paths);
    struct tier_verify *v = NULL;
    struct tier_err err = {0};
    char *ca = NULL;
    enum tier_status st = TIER_OK;

    if (!paths)
        abort();
    int code = cli_parse(&usage, options, COUNT(options), argc, argv, paths, 1, (size_t)argc + 1);
    if (code != CLI_GO) {
        free(paths);
        return code;
    }
    if (ca_path)
        TIER_TRY_OUT(read_ca(ca_path, &ca, &err));
    TIER_TRY_OUT(tier_verify_new(ca, &v, &err));
    for (size_t i = 0; paths[i]; i++)
        TIER_TRY_OUT(tier_verify_add(v, paths[i], &err));
    tier_verify_cross(v);
    code = json ? verify_json(v) : verify_text(v);
    if (tier_verify_finding_count(v) > 0)
        code = CLI_FAILED;
out:
    tier_verify_free(v);
    free(ca);
    free(paths);
    return st == TIER_OK ? code : cli_failed(&err);
}

/* ---- audit replay ---- */

struct table {
    bool json, any, all_same;
    json_t *rounds;
};

static const char *result_text(enum tier_replay_result r) {
    static const char *const texts[] = {"same", "DIFFERS", "not kept", "not ended"};
    return texts[r];
}

static void show_round(void *arg, const struct tier_replay_round *r) {
    struct table *t = arg;
    char logged[TIER_HASH_HEX], made[TIER_HASH_HEX];
    bool has_made = !tier_hash_is_zero(&r->made);

    t->all_same = t->all_same && (r->result == TIER_REPLAY_SAME || r->result == TIER_REPLAY_OPEN);
    tier_hash_hex(&r->logged, logged);
    tier_hash_hex(&r->made, made);
    if (t->json) {
        json_array_append_new(
            t->rounds, json_pack("{s:I, s:I, s:I, s:s, s:s, s:s, s:s}", "round",
                                 (json_int_t)r->round, "updates", (json_int_t)r->updates, "weight",
                                 (json_int_t)r->weight, "result", result_text(r->result), "logged",
                                 logged, "made", has_made ? made : "", "why", r->why));
        return;
    }
    if (!t->any)
        printf("%6s %8s %10s  %-9s %s\n", "round", "updates", "weight", "result", "SHA-256");
    t->any = true;
    printf("%6" PRIu64 " %8" PRIu64 " %10" PRIu64 "  %-9s %s\n", r->round, r->updates, r->weight,
           result_text(r->result), has_made ? made : "-");
    if (*r->why)
        printf("       %s%s%s\n", r->why,
               has_made && r->result == TIER_REPLAY_DIFFERS ? "; the log says " : "",
               has_made && r->result == TIER_REPLAY_DIFFERS ? logged : "");
}

static int remove_one(const char *name, const struct stat *info, int type, struct FTW *at) {
    (void)info, (void)type, (void)at;
    return remove(name);
}

static enum tier_status make_scratch(const char *where, char *path, size_t room,
                                     struct tier_err *err) {
    int n = snprintf(path, room, "%s/consilium-replay-XXXXXX", where);
    if (n < 0 || (size_t)n >= room)
        return tier_fail(err, TIER_EARG, "%s: the path is too long", where);
    return mkdtemp(path) ? TIER_OK
                         : tier_fail_errno(err, TIER_EIO, "cannot make a folder in %s", where);
}

static int replay(struct tier_replay *r, const char *scratch, struct table *t,
                  struct tier_err *err) {
    char path[PATH_MAX], id[TIER_HASH_HEX];
    struct tier_replay_run run = {0};

    if (make_scratch(scratch, path, sizeof path, err) != TIER_OK)
        return cli_failed(err);
    r->scratch = path;
    enum tier_status st = tier_replay_run(r, show_round, t, &run, err);
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    if (st != TIER_OK)
        return cli_failed(err);
    tier_hash_hex(&run.id, id);
    if (t->json) {
        cli_print_json(json_pack("{s:s, s:s, s:s, s:b, s:O}", "run", id, "name", run.name, "of",
                                 run.top ? "models" : "updates", "same", t->all_same, "rounds",
                                 t->rounds));
    } else {
        printf("%s: run %.12s, %s: %s\n", r->data_dir, id, run.name,
               t->all_same ? "every round gives what the log says"
                           : "NOT every round gives what the log says");
    }
    int code = cli_done();
    return t->all_same ? code : CLI_FAILED;
}

int cli_audit_replay(int argc, char **argv) {
    const char *args[2], *plugin = NULL, *scratch = getenv("TMPDIR");
    struct tier_replay r = {.threads = 1};
    int64_t threads = sysconf(_SC_NPROCESSORS_ONLN);
    struct table t = {.all_same = true};
    struct tier_err err = {0};
    char prefix[TIER_HASH_HEX], *end = NULL;
    const struct cli_option options[] = {
        {"data-dir", CLI_TEXT, &r.data_dir, "DIR", "of a hub that is stopped, or an export of it",
         NULL, true, 0, 0},
        {"scratch", CLI_TEXT, &scratch, "DIR", "where to compute; $TMPDIR or /tmp otherwise", NULL,
         false, 0, 0},
        {"merge-plugin", CLI_TEXT, &plugin, "FILE", "the operator's own rule that the plan names",
         NULL, false, 0, 0},
        {"threads", CLI_NUMBER, &threads, "N", "at most", NULL, false, 1, 1024},
        {"json", CLI_FLAG, &t.json, NULL, "one JSON object", NULL, false, 0, 0},
    };
    const struct cli_usage usage = {
        "audit replay", "RUN [ROUND]",
        "Computes every round of a run again from the updates that the hub has retained (its "
        "retention.updates_days), and compares what comes of it with the audit log"};
    int code = cli_parse(&usage, options, COUNT(options), argc, argv, args, 1, 2);

    if (code != CLI_GO)
        return code;
    if (cli_run_prefix(args[0], prefix, &err) != TIER_OK)
        return cli_failed(&err);
    r.run = prefix;
    r.threads = (unsigned)(threads > 0 ? threads : 1);
    errno = 0;
    if (args[1])
        r.round = strtoull(args[1], &end, 10);
    if (args[1] && (errno || *end || end == args[1] || r.round == 0)) {
        cli_error("'%s' is no round: they count from 1", args[1]);
        return CLI_USAGE;
    }
    const struct tier_merge_ops *rule;
    if (plugin && tier_merge_load(plugin, &rule, NULL, &err) != TIER_OK)
        return cli_failed(&err);
    t.rounds = json_array();
    code = replay(&r, scratch && *scratch ? scratch : "/tmp", &t, &err);
    json_decref(t.rounds);
    return code;
}
