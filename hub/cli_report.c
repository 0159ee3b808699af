/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a node did, for a person and for a program, out of its audit log and the plans beside it:
 * one document in JSON, and the same as text. The copies that go with it are all that audit verify
 * and audit replay need, and nothing secret: no key, no journal.
 */
#include "hub/cli.h"
#include "tier/audit.h"
#include "tier/home.h"
#include "tier/plan.h"
#include "tier/retain.h"
#include "tier/vault.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define INCIDENTS_MAX 1000
#define COPY_BYTES (1u << 20)

/* ---- the document ---- */

struct report {
    const char *data_dir;
    json_t *doc, *starts, *runs, *peers, *incidents, *events;
    json_t *counted; /* "RUN CHILD UPDATE": {round, weight}; no part of the document */
    struct tier_hash root;
};

static const char *text_of(const json_t *o, const char *key) {
    const char *text = json_string_value(json_object_get(o, key));
    return text ? text : "";
}

static void set_time(json_t *o, const char *key, int64_t ms) {
    json_object_set_new(o, key, json_integer(ms));
}

static void add(json_t *o, const char *key, json_int_t n) {
    json_int_t was = json_integer_value(json_object_get(o, key));
    json_object_set_new(o, key, json_integer(was + n));
}

/* The member of that name, an object or an array, made where there is none. */
static json_t *member(json_t *o, const char *key, bool array) {
    json_t *m = json_object_get(o, key);
    if (!m) {
        m = array ? json_array() : json_object();
        json_object_set_new(o, key, m);
    }
    return m;
}

/* Takes what a plan says of its purpose; one that is not here, or not as named, leaves it out. */
static void add_plan(struct report *r, json_t *run, const char *plan_hex) {
    char dir[PATH_MAX];
    struct tier_hash hash, is;
    struct tier_cipher cipher;
    static struct tier_plan plan; /* large; one command, one thread */

    if (!tier_hash_parse(plan_hex, &hash))
        return;
    json_object_set_new(run, "plan", json_string(plan_hex));
    snprintf(dir, sizeof dir, "%.4000s/%s/%s%s", r->data_dir, TIER_RETAINED_DIR, plan_hex,
             TIER_CONTENT_PLAN);
    int fd = open(dir, O_RDONLY | O_CLOEXEC);
    char *text = fd >= 0 ? malloc(TIER_PLAN_BYTES_MAX) : NULL;
    ssize_t got = -1;
    if (text && tier_cipher_of(dir, fd, &cipher, NULL) == TIER_OK)
        got = tier_cipher_pread(&cipher, fd, text, TIER_PLAN_BYTES_MAX, 0);
    if (fd >= 0)
        close(fd);
    size_t n = got > 0 ? (size_t)got : 0;
    tier_hash_data(text ? text : "", n, &is);
    if (n > 0 && tier_hash_equal(&is, &hash) && tier_plan_parse(text, n, &plan, NULL) == TIER_OK) {
        json_object_set_new(run, "purpose", json_string(plan.purpose));
        json_object_set_new(run, "contract", json_string(plan.contract));
    }
    free(text);
}

static json_t *round_in(json_t *run, const json_t *data, const char *key) {
    char name[24];
    json_int_t n = json_integer_value(json_object_get(data, key));
    snprintf(name, sizeof name, "%" PRId64, (int64_t)n);
    return member(member(run, "rounds", false), name, false);
}

static const char *update_key(const json_t *data, char key[512]) {
    snprintf(key, 512, "%.64s %.63s %.64s", text_of(data, "run"), text_of(data, "child"),
             text_of(data, "update"));
    return key;
}

static json_t *child_in(json_t *run, const json_t *data) {
    return member(member(run, "children", false), text_of(data, "child"), false);
}

static void add_real(json_t *o, const char *key, double x) {
    json_object_set_new(o, key, json_real(json_number_value(json_object_get(o, key)) + x));
}

/* What came of it, and how long it was waited for: the hub sees no more of a child's work. */
static void on_counted(struct report *r, json_t *run, const json_t *data, int64_t ms) {
    const char *in = json_object_get(data, "counted") ? "counted" : "round";
    json_t *round = round_in(run, data, in), *child = child_in(run, data);
    int64_t opened_ms =
        json_integer_value(json_object_get(round_in(run, data, "round"), "opened_ms"));
    char key[512];

    add(child, "updates", 1);
    add(child, "weight", json_integer_value(json_object_get(data, "weight")));
    if (opened_ms > 0 && ms >= opened_ms)
        add_real(child, "seconds", (double)(ms - opened_ms) / 1000);

    add(round, "weight", json_integer_value(json_object_get(data, "weight")));
    json_array_append(member(round, "children", true), json_object_get(data, "child"));
    json_object_set_new(r->counted, update_key(data, key),
                        json_pack("{s:O, s:O}", "round", json_object_get(data, in), "weight",
                                  json_object_get(data, "weight")));
}

/* The update counts no more; one that was withdrawn before it was counted never did, and one in
 * quarantine may be said to be twice. */
static void on_uncounted(struct report *r, json_t *run, const json_t *data, const char *as) {
    char key[512];
    json_t *was = json_object_get(r->counted, update_key(data, key));
    json_t *round = round_in(run, was ? was : data, "round"), *child = child_in(run, data);
    json_t *children = member(round, "children", true);
    bool quarantined = strcmp(as, "quarantined") == 0;

    if (was || !quarantined)
        add(round, as, 1);
    if (was && quarantined)
        add(child, as, 1);
    if (quarantined)
        json_object_set(child, "reason", json_object_get(data, "reason"));
    if (!was)
        return;
    add(child, "updates", -1);
    add(child, "weight", -json_integer_value(json_object_get(was, "weight")));
    add(round, "weight", -json_integer_value(json_object_get(was, "weight")));
    for (size_t i = json_array_size(children); i-- > 0;)
        if (json_equal(json_array_get(children, i), json_object_get(data, "child"))) {
            json_array_remove(children, i);
            break;
        }
    json_object_del(r->counted, key);
}

/* A fold that a restart does again gives the same figures, so the last line of a round counts. */
static void on_contributed(json_t *run, const json_t *data) {
    json_t *child = child_in(run, data);
    json_int_t round = json_integer_value(json_object_get(data, "round"));

    json_object_set(run, "utility", json_object_get(data, "utility"));
    if (round <= json_integer_value(json_object_get(child, "last_shared")))
        return;
    json_object_set_new(child, "last_shared", json_integer(round));
    add(child, "bytes", json_integer_value(json_object_get(data, "bytes")));
    if (!json_is_true(json_object_get(data, "known")))
        return;
    double error = json_number_value(json_object_get(data, "error"));
    add(child, "shares", 1);
    add_real(child, "share", json_number_value(json_object_get(data, "share")));
    add_real(child, "share_variance", error * error);
    add_real(child, "without", json_number_value(json_object_get(data, "without")));
}

static void on_run(struct report *r, const char *event, const json_t *data, int64_t ms) {
    json_t *run = member(r->runs, text_of(data, "run"), false);
    json_t *value;

    if (strcmp(event, "run.begun") == 0 || strcmp(event, "plan.accepted") == 0) {
        set_time(run, "begun_ms", ms);
        json_object_set(run, "name", json_object_get(data, "name"));
        add_plan(r, run, text_of(data, "plan"));
        if ((value = json_object_get(data, "purpose")))
            json_object_set(run, "purpose", value);
    } else if (strcmp(event, "console.start") == 0) {
        json_object_set(run, "started_by", json_object_get(data, "caller"));
    } else if (strcmp(event, "plan.declined") == 0) {
        json_object_set(run, "declined", json_object_get(data, "reason"));
    } else if (strcmp(event, "data.opened") == 0) {
        json_object_set(run, "data", (json_t *)data);
        json_object_set(run, "contract", json_object_get(data, "contract"));
    } else if (strcmp(event, "data.read") == 0) {
        add(run, "data_reads", 1);
        if (!json_object_get(run, "first_read_ms"))
            set_time(run, "first_read_ms", ms);
        set_time(run, "last_read_ms", ms);
    } else if (strcmp(event, "update.sealed") == 0) {
        add(run, "updates_sealed", 1);
    } else if (strcmp(event, "receipt") == 0) {
        add(run, "receipts", 1);
        json_object_set(run, "recipient", json_object_get(data, "parent"));
    } else if (strcmp(event, "round.opened") == 0) {
        json_t *round = round_in(run, data, "round");
        set_time(round, "opened_ms", ms);
        json_object_set(round, "base", json_object_get(data, "base"));
    } else if (strcmp(event, "update.counted") == 0) {
        on_counted(r, run, data, ms);
    } else if (strcmp(event, "update.withdrawn") == 0) {
        on_uncounted(r, run, data, "withdrawn");
    } else if (strcmp(event, "update.quarantined") == 0) {
        on_uncounted(r, run, data, "quarantined");
    } else if (strcmp(event, "update.contributed") == 0) {
        on_contributed(run, data);
    } else if (strcmp(event, "update.refused") == 0) {
        add(round_in(run, data, "round"), "refused", 1);
    } else if (strcmp(event, "round.committed") == 0) {
        json_t *round = round_in(run, data, "round");
        set_time(round, "committed_ms", ms);
        json_object_set(round, "model", json_object_get(data, "model"));
    } else if (strcmp(event, "run.ended") == 0) {
        set_time(run, "ended_ms", ms);
        value = json_object_get(data, "state");
        json_object_set_new(run, "state",
                            value ? json_incref(value)
                                  : json_string(json_is_true(json_object_get(data, "completed"))
                                                    ? "completed"
                                                    : "stopped"));
        json_object_set(run, "reason", json_object_get(data, "reason"));
        if ((value = json_object_get(data, "model")))
            json_object_set(run, "model", value);
    }
}

static bool is_incident(const char *event) {
    static const char *const kinds[] = {
        "audit.cut",      "peer.equivocates",   "peer.began_anew", "receipt.invalid",
        "update.refused", "update.quarantined", "child.pardoned",  "retention.expired",
        "attest.refused", "attest.declined"};
    for (size_t i = 0; i < COUNT(kinds); i++)
        if (strcmp(event, kinds[i]) == 0)
            return true;
    return false;
}

static enum tier_status on_line(void *arg, uint64_t seq, const json_t *record,
                                const struct tier_tree_edge *edge, struct tier_err *err) {
    struct report *r = arg;
    const char *event = text_of(record, "event");
    json_t *data = json_object_get(record, "data");
    int64_t ms = json_integer_value(json_object_get(record, "time_ms"));
    (void)err;

    tier_tree_edge_root(edge, &r->root);
    add(r->events, event, 1);
    if (seq == 1) {
        json_object_set(r->doc, "node", json_object_get(data, "node"));
        set_time(r->doc, "first_ms", ms);
    }
    set_time(r->doc, "last_ms", ms);
    if (strcmp(event, "node.started") == 0) {
        json_t *start = json_copy(data);
        set_time(start, "time_ms", ms);
        json_array_append_new(r->starts, start);
    } else if (strcmp(event, "peer.head") == 0) {
        json_t *peer = member(r->peers, text_of(data, "peer"), false);
        add(peer, "heads", 1);
        json_object_set(peer, "size", json_object_get(data, "size"));
        json_object_set(peer, "root", json_object_get(data, "root"));
    } else if (strcmp(event, "peer.certificate") == 0) {
        add(member(r->peers, text_of(data, "peer"), false), "certificates", 1);
    }
    if (is_incident(event) && json_array_size(r->incidents) < INCIDENTS_MAX)
        json_array_append_new(r->incidents,
                              json_pack("{s:I, s:I, s:s, s:O}", "line", (json_int_t)seq, "time_ms",
                                        (json_int_t)ms, "event", event, "data", data));
    if (*text_of(data, "run"))
        on_run(r, event, data, ms);
    return TIER_OK;
}

static enum tier_status make(struct report *r, struct tier_err *err) {
    char path[PATH_MAX], hex[TIER_HASH_HEX];
    struct tier_hash head;
    uint64_t lines;

    r->doc = json_pack("{s:s, s:s}", "node", "", "software", CONSILIUM_VERSION);
    r->starts = member(r->doc, "starts", true);
    r->runs = member(r->doc, "runs", false);
    r->peers = member(r->doc, "peers", false);
    r->incidents = member(r->doc, "incidents", true);
    r->events = member(r->doc, "events", false);
    r->counted = json_object();
    snprintf(path, sizeof path, "%.4000s/audit/audit.log", r->data_dir);
    TIER_TRY(tier_audit_walk(path, on_line, r, &lines, &head, err));
    json_object_set_new(r->doc, "lines", json_integer((json_int_t)lines));
    json_object_set_new(r->doc, "head", json_string(tier_hash_hex(&head, hex)));
    json_object_set_new(r->doc, "root", json_string(tier_hash_hex(&r->root, hex)));
    return TIER_OK;
}

/* ---- as text ---- */

static const char *time_of(const json_t *o, const char *key, char *buf) {
    return cli_time(json_integer_value(json_object_get(o, key)), buf);
}

/* Of a table's cell: what would end it, or the line, is not written. */
static void cell(FILE *f, const char *text) {
    for (; *text; text++)
        fputc(*text == '|' || (unsigned char)*text < 0x20 ? ' ' : *text, f);
}

static void write_starts(FILE *f, const struct report *r) {
    size_t i;
    json_t *start;
    char when[CLI_TIME_SIZE];

    fprintf(f, "\n## What ran here\n\n| started | version | program (SHA-256) | kernels | "
               "configuration | changed since the start before |\n|---|---|---|---|---|---|\n");
    json_array_foreach(r->starts, i, start) {
        fprintf(f, "| %s | %s | %.16s | %.16s | %.16s | ", time_of(start, "time_ms", when),
                text_of(start, "software"), text_of(start, "binary"), text_of(start, "kernels"),
                text_of(start, "config"));
        cell(f, *text_of(start, "changed") ? text_of(start, "changed") : "nothing");
        fprintf(f, " |\n");
    }
}

static int by_number(const void *a, const void *b) {
    const char *const *x = a, *const *y = b;
    long long p = strtoll(*x, NULL, 10), q = strtoll(*y, NULL, 10);
    return p < q ? -1 : p > q;
}

/* What a commit names is the result at the top; elsewhere the base is what is certain. */
static void write_rounds(FILE *f, json_t *rounds, bool top) {
    size_t count = json_object_size(rounds), i = 0;
    const char **names = calloc(count + 1, sizeof *names);
    const char *name;
    json_t *value;
    char opened[CLI_TIME_SIZE], committed[CLI_TIME_SIZE];

    if (!names)
        abort();
    json_object_foreach(rounds, name, value) names[i++] = name;
    if (count > 1)
        qsort(names, count, sizeof *names, by_number);
    fprintf(
        f,
        "\n| round | opened | committed | updates | weight | withdrawn | refused | quarantined | "
        "starts from | gives |\n|---|---|---|---|---|---|---|---|---|---|\n");
    for (i = 0; i < count; i++) {
        const json_t *round = json_object_get(rounds, names[i]);
        fprintf(f,
                "| %s | %s | %s | %zu | %" PRId64 " | %" PRId64 " | %" PRId64 " | %" PRId64
                " | %.16s | %.16s |\n",
                names[i], time_of(round, "opened_ms", opened),
                time_of(round, "committed_ms", committed),
                json_array_size(json_object_get(round, "children")),
                (int64_t)json_integer_value(json_object_get(round, "weight")),
                (int64_t)json_integer_value(json_object_get(round, "withdrawn")),
                (int64_t)json_integer_value(json_object_get(round, "refused")),
                (int64_t)json_integer_value(json_object_get(round, "quarantined")),
                text_of(round, "base"), top ? text_of(round, "model") : "");
    }
    free(names);
}

/* Shares are of a round, in the mean over the rounds that have them. */
static void write_children(FILE *f, const json_t *run) {
    const char *name;
    json_t *c;

    fprintf(f, "\n| child | updates | weight | bytes | seconds until they were here | share | +- | "
               "without | quarantined |\n|---|---|---|---|---|---|---|---|---|\n");
    json_object_foreach(json_object_get(run, "children"), name, c) {
        double n = (double)json_integer_value(json_object_get(c, "shares"));
        fprintf(f, "| ");
        cell(f, name);
        fprintf(f, " | %" PRId64 " | %" PRId64 " | %" PRId64 " | %.1f |",
                (int64_t)json_integer_value(json_object_get(c, "updates")),
                (int64_t)json_integer_value(json_object_get(c, "weight")),
                (int64_t)json_integer_value(json_object_get(c, "bytes")),
                json_number_value(json_object_get(c, "seconds")));
        if (n > 0)
            fprintf(f, " %.4f | %.4f | %.4f |", json_number_value(json_object_get(c, "share")) / n,
                    sqrt(json_number_value(json_object_get(c, "share_variance"))) / n,
                    json_number_value(json_object_get(c, "without")) / n);
        else
            fprintf(f, " - | - | - |");
        fprintf(f, " %" PRId64 " |\n",
                (int64_t)json_integer_value(json_object_get(c, "quarantined")));
    }
    if (*text_of(run, "utility"))
        fprintf(f,
                "\nA share is a Shapley value, without what a round would lack if the child had "
                "not taken part, of the utility %s: how near a coalition's mean update comes to "
                "that of all. It says who moved the model, not whether to the better.\n",
                text_of(run, "utility"));
}

static void line_of(FILE *f, const char *what, const char *text) {
    if (!*text)
        return;
    fprintf(f, "- %s: ", what);
    cell(f, text);
    fprintf(f, "\n");
}

static void number_of(FILE *f, const char *what, const json_t *o, const char *key) {
    if (json_object_get(o, key))
        fprintf(f, "- %s: %" PRId64 "\n", what,
                (int64_t)json_integer_value(json_object_get(o, key)));
}

static void write_run(FILE *f, const char *id, json_t *run) {
    char begun[CLI_TIME_SIZE], ended[CLI_TIME_SIZE], from[CLI_TIME_SIZE], to[CLI_TIME_SIZE];
    const json_t *data = json_object_get(run, "data");

    fprintf(f, "\n### ");
    cell(f, *text_of(run, "name") ? text_of(run, "name") : "(no name)");
    fprintf(f, "\n\n- run: %s\n- begun %s, ended %s\n", id, time_of(run, "begun_ms", begun),
            time_of(run, "ended_ms", ended));
    line_of(f, "purpose", text_of(run, "purpose"));
    line_of(f, "started by", text_of(run, "started_by"));
    line_of(f, "plan (SHA-256)", text_of(run, "plan"));
    line_of(f, "declined", text_of(run, "declined"));
    line_of(f, "state", text_of(run, "state"));
    line_of(f, "because", text_of(run, "reason"));
    line_of(f, "model (SHA-256)", text_of(run, "model"));
    line_of(f, "contract of the data", text_of(run, "contract"));
    number_of(f, "rows of the data that train", data, "train_rows");
    number_of(f, "rows that test", data, "test_rows");
    number_of(f, "times that the data were read for a round", run, "data_reads");
    if (json_object_get(run, "first_read_ms"))
        fprintf(f, "- first read %s, last %s\n", time_of(run, "first_read_ms", from),
                time_of(run, "last_read_ms", to));
    number_of(f, "updates that were sealed for others", run, "updates_sealed");
    number_of(f, "receipts for what was given", run, "receipts");
    line_of(f, "given to", text_of(run, "recipient"));
    if (json_object_get(run, "rounds"))
        write_rounds(f, json_object_get(run, "rounds"), !*text_of(run, "recipient"));
    if (json_object_size(json_object_get(run, "children")) > 0)
        write_children(f, run);
}

static void write_text(FILE *f, struct report *r) {
    const char *name;
    json_t *value;
    size_t i;
    char from[CLI_TIME_SIZE], to[CLI_TIME_SIZE];

    fprintf(f,
            "# What %s did\n\nFrom its audit log of %" PRId64 " lines, %s to %s (UTC). "
            "Hash of the last line: %s. Root of its tree: %s.\n",
            text_of(r->doc, "node"), (int64_t)json_integer_value(json_object_get(r->doc, "lines")),
            time_of(r->doc, "first_ms", from), time_of(r->doc, "last_ms", to),
            text_of(r->doc, "head"), text_of(r->doc, "root"));
    write_starts(f, r);
    fprintf(f, "\n## Record of processing\n");
    json_object_foreach(r->runs, name, value) write_run(f, name, value);
    fprintf(f, "\n## Whose logs it keeps a hold of\n\n| peer | heads | lines of the last | root |"
               " certificates |\n|---|---|---|---|---|\n");
    json_object_foreach(r->peers, name, value)
        fprintf(f, "| %s | %" PRId64 " | %" PRId64 " | %.16s | %" PRId64 " |\n", name,
                (int64_t)json_integer_value(json_object_get(value, "heads")),
                (int64_t)json_integer_value(json_object_get(value, "size")), text_of(value, "root"),
                (int64_t)json_integer_value(json_object_get(value, "certificates")));
    fprintf(f, "\n## What was out of the ordinary, and what was deleted in time\n\n");
    json_array_foreach(r->incidents, i, value) {
        char *text = json_dumps(json_object_get(value, "data"), JSON_COMPACT | JSON_SORT_KEYS);
        fprintf(f, "- line %" PRId64 ", %s: %s ",
                (int64_t)json_integer_value(json_object_get(value, "line")),
                time_of(value, "time_ms", from), text_of(value, "event"));
        cell(f, text ? text : "");
        fprintf(f, "\n");
        free(text);
    }
    if (json_array_size(r->incidents) == 0)
        fprintf(f, "Nothing.\n");
    fprintf(f, "\n## Lines of the log by what they say\n\n");
    json_object_foreach(r->events, name, value)
        fprintf(f, "- %s: %" PRId64 "\n", name, (int64_t)json_integer_value(value));
}

/* ---- the copies ---- */

static enum tier_status copy_file(const char *from, const char *to, struct tier_err *err) {
    uint8_t *buf = malloc(COPY_BYTES);
    int in = open(from, O_RDONLY | O_CLOEXEC), out = -1;
    struct tier_cipher cipher;
    uint64_t at = 0;
    ssize_t n = 0;
    enum tier_status st = TIER_OK;

    if (in >= 0)
        out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (!buf || in < 0 || out < 0)
        st = tier_fail_errno(err, TIER_EIO, "%s cannot be copied to %s", from, to);
    if (st == TIER_OK) /* what an auditor gets is plain: the key stays with the node */
        st = tier_cipher_of(from, in, &cipher, err);
    for (; st == TIER_OK && (n = tier_cipher_pread(&cipher, in, buf, COPY_BYTES, at)) > 0;
         at += (uint64_t)n)
        for (ssize_t done = 0, k; st == TIER_OK && done < n; done += k)
            if ((k = write(out, buf + done, (size_t)(n - done))) < 0)
                st = tier_fail_errno(err, TIER_EIO, "%s cannot be written", to);
    if (st == TIER_OK && n < 0)
        st = tier_fail_errno(err, TIER_EIO, "%s cannot be read", from);
    if (in >= 0)
        close(in);
    if (out >= 0 && close(out) != 0 && st == TIER_OK)
        st = tier_fail_errno(err, TIER_EIO, "%s cannot be written", to);
    free(buf);
    return st;
}

static bool named_by_hash(const char *name) {
    char hex[TIER_HASH_HEX];
    struct tier_hash hash;
    if (strlen(name) <= TIER_HASH_HEX || name[TIER_HASH_HEX - 1] != '.' || strstr(name, ".part"))
        return false;
    memcpy(hex, name, TIER_HASH_HEX - 1);
    hex[TIER_HASH_HEX - 1] = '\0';
    return tier_hash_parse(hex, &hash);
}

static enum tier_status copy_folder(const char *data_dir, const char *out, const char *folder,
                                    struct tier_err *err) {
    char from[PATH_MAX], to[PATH_MAX];
    enum tier_status st = TIER_OK;

    snprintf(to, sizeof to, "%.3900s/%s", out, folder);
    if (mkdir(to, 0700) != 0)
        return tier_fail_errno(err, TIER_EIO, "cannot make %s", to);
    snprintf(from, sizeof from, "%.3900s/%s", data_dir, folder);
    DIR *dir = opendir(from);
    if (!dir && errno == ENOENT)
        return TIER_OK;
    if (!dir)
        return tier_fail_errno(err, TIER_EIO, "%s cannot be read", from);
    for (struct dirent *e; st == TIER_OK && (e = readdir(dir));) {
        if (!named_by_hash(e->d_name))
            continue;
        snprintf(from, sizeof from, "%.3700s/%s/%.255s", data_dir, folder, e->d_name);
        snprintf(to, sizeof to, "%.3700s/%s/%.255s", out, folder, e->d_name);
        st = copy_file(from, to, err);
    }
    closedir(dir);
    return st;
}

static enum tier_status copy_named(const char *data_dir, const char *out, const char *name,
                                   bool needed, struct tier_err *err) {
    char from[PATH_MAX], to[PATH_MAX];
    snprintf(from, sizeof from, "%.3900s/%s", data_dir, name);
    snprintf(to, sizeof to, "%.3900s/%s", out, name);
    if (!needed && access(from, F_OK) != 0)
        return TIER_OK;
    return copy_file(from, to, err);
}

static enum tier_status copy_all(const char *data_dir, const char *out, bool files,
                                 struct tier_err *err) {
    static const char *const made[] = {"audit", "identity"};
    char path[PATH_MAX];

    if (mkdir(out, 0700) != 0)
        return tier_fail_errno(err, TIER_EIO, "cannot make %s (it must not be there yet)", out);
    for (size_t i = 0; i < COUNT(made); i++) {
        snprintf(path, sizeof path, "%.4000s/%s", out, made[i]);
        if (mkdir(path, 0700) != 0)
            return tier_fail_errno(err, TIER_EIO, "cannot make %s", path);
    }
    TIER_TRY(copy_named(data_dir, out, "audit/audit.log", true, err));
    TIER_TRY(copy_named(data_dir, out, "identity/cert.pem", false, err));
    TIER_TRY(copy_named(data_dir, out, "identity/ca.pem", false, err));
    if (!files)
        return TIER_OK;
    TIER_TRY(copy_folder(data_dir, out, "models", err));
    TIER_TRY(copy_folder(data_dir, out, TIER_RETAINED_DIR, err));
    snprintf(path, sizeof path, "%.4000s/" TIER_QUARANTINE_DIR, data_dir);
    return access(path, F_OK) == 0 ? copy_folder(data_dir, out, TIER_QUARANTINE_DIR, err) : TIER_OK;
}

static enum tier_status write_report(struct report *r, const char *out, bool json,
                                     struct tier_err *err) {
    char path[PATH_MAX];

    snprintf(path, sizeof path, "%.4000s/report.%s", out, json ? "json" : "md");
    FILE *f = fopen(path, "w");
    if (!f)
        return tier_fail_errno(err, TIER_EIO, "%s cannot be written", path);
    if (json)
        json_dumpf(r->doc, f, JSON_INDENT(1) | JSON_SORT_KEYS);
    else
        write_text(f, r);
    bool failed = ferror(f) != 0;
    if (fclose(f) != 0 || failed)
        return tier_fail_errno(err, TIER_EIO, "%s cannot be written", path);
    return TIER_OK;
}

int cli_audit_export(int argc, char **argv) {
    const char *out = NULL;
    bool bare = false;
    struct report r = {0};
    const struct cli_option options[] = {
        {"out", CLI_TEXT, &out, "DIR", "the folder to make", NULL, true, 0, 0},
        {"without-files", CLI_FLAG, &bare, NULL,
         "the log and the reports alone, no models and updates", NULL, false, 0, 0},
    };
    const struct cli_usage usage = {
        "audit export", "DATA_DIR",
        "Copies what an auditor needs of a node, and nothing secret: the log, its certificate, "
        "models, plans and retained updates; and writes report.md and report.json: what ran, "
        "what changed, which data were used for what, and what came of it"};
    struct tier_err err = {0};
    enum tier_status st;
    int code = cli_parse(&usage, options, COUNT(options), argc, argv, &r.data_dir, 1, 1);

    if (code != CLI_GO)
        return code;
    TIER_TRY_OUT(make(&r, &err));
    TIER_TRY_OUT(copy_all(r.data_dir, out, !bare, &err));
    TIER_TRY_OUT(write_report(&r, out, false, &err));
    TIER_TRY_OUT(write_report(&r, out, true, &err));
    printf("%s: %" PRId64 " lines of %s\n", out,
           (int64_t)json_integer_value(json_object_get(r.doc, "lines")), text_of(r.doc, "node"));
out:
    json_decref(r.doc);
    json_decref(r.counted);
    return st == TIER_OK ? cli_done() : cli_failed(&err);
}
