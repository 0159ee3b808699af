/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A trained model as one ONNX file that anybody's runtime loads: the run's graph, the published
 * values by name, and where a run keeps tensors at the hospitals, one hospital's own. And a graph
 * to be trained with the values of another training in it: as they are in the file that the plan
 * names, they are part of what the plan's hash stands for, and every node has them from where it
 * has all values that training begins with.
 */
#include "hub/cli.h"
#include "tier/graph.h"
#include "tier/model.h"
#include "tier/named_file.h"
#include "tier/task.h"

#include <libgen.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* Both files are in the graph's order, so what is sought comes next: *next is where it begins. */
static const struct tier_tensor *find(const struct tier_model *m, const char *name, size_t *next) {
    size_t count = 0;
    const struct tier_tensor *t = m ? tier_model_tensors(m, &count) : NULL;

    for (size_t i = 0; i < count; i++) {
        const struct tier_tensor *at = &t[(*next + i) % count];
        if (strcmp(at->name, name) == 0) {
            *next += i + 1;
            return at;
        }
    }
    return NULL;
}

static bool same_shape(const struct tier_tensor *t, const struct tier_graph_param *p) {
    return t->ndim == p->dims_count &&
           memcmp(t->dims, p->dims, p->dims_count * sizeof p->dims[0]) == 0;
}

struct sources {
    struct tier_model *model, *kept; /* kept: one hospital's, or NULL */
    size_t model_next, kept_next;
};

static enum tier_status read_param(struct sources *s, const struct tier_graph_param *p, float *out,
                                   struct tier_err *err) {
    const struct tier_model *from = s->model;
    const struct tier_tensor *t = find(s->model, p->name, &s->model_next);
    const struct tier_tensor *own = find(s->kept, p->name, &s->kept_next);
    char text[200];

    if (t && own)
        return tier_fail(err, TIER_EMODEL,
                         "'%.200s' is both in the published model and among the tensors kept at "
                         "the hospital: they are not of one run",
                         p->name);
    if (own) {
        t = own;
        from = s->kept;
    }
    if (!t)
        return tier_fail(err, TIER_EMODEL, "the model has no '%.200s', which its graph has: %s",
                         p->name,
                         s->kept ? "are the files of one run?"
                                 : "the graph of the same run is needed, and with tensors that are "
                                   "kept at the hospitals --kept FILE");
    if (!same_shape(t, p)) {
        cli_shape(t, text, sizeof text);
        return tier_fail(err, TIER_EMODEL,
                         "'%.200s' has the shape %s in the model and another in the graph: the "
                         "graph of the same run is needed",
                         p->name, text);
    }
    return tier_model_read(from, t->at, (size_t)p->elements, out, err);
}

static enum tier_status read_values(struct sources *s, const struct tier_graph *graph,
                                    float **values_out, struct tier_err *err) {
    size_t bytes = (size_t)tier_graph_elements(graph) * sizeof(float);

    TIER_TRY(tier_graph_can_write(graph, err));
    float *values = malloc(bytes + 1);
    if (!values)
        return tier_fail(err, TIER_ENOMEM, "no memory for a model of %zu bytes", bytes);
    for (size_t i = 0; i < tier_graph_param_count(graph); i++) {
        const struct tier_graph_param *p = tier_graph_param(graph, i);
        enum tier_status st = read_param(s, p, values + p->at, err);
        if (st != TIER_OK) {
            free(values);
            return st;
        }
    }
    *values_out = values;
    return TIER_OK;
}

static enum tier_status write_file(const void *data, size_t n, const char *out, mode_t mode,
                                   struct tier_hash *hash_out, struct tier_err *err) {
    char *copy = strdup(out), *dir = copy ? dirname(copy) : NULL;
    struct tier_named_file *f = NULL;
    enum tier_status st = copy ? TIER_OK : tier_fail(err, TIER_ENOMEM, "no memory for a path");

    if (st == TIER_OK)
        st = tier_named_file_begin(dir, "export", &f, err);
    if (st == TIER_OK)
        st = tier_named_file_put(f, data, n, err);
    if (st == TIER_OK) {
        st = tier_named_file_finish(f, ".onnx", mode, hash_out, err);
        f = NULL;
    }
    if (st == TIER_OK)
        st = cli_place(dir, hash_out, ".onnx", out, err);
    tier_named_file_abort(f);
    free(copy);
    return st;
}

struct export {
    const char *model, *graph, *kept, *out;
    struct tier_hash hash;
    size_t bytes;
};

static enum tier_status export_onnx(struct export *e, struct tier_err *err) {
    struct sources from = {0};
    struct tier_graph *graph = NULL;
    uint8_t *bytes = NULL;
    float *values = NULL;
    enum tier_status st;

    TIER_TRY_OUT(tier_model_open(e->model, &from.model, err));
    if (e->kept)
        TIER_TRY_OUT(tier_model_open(e->kept, &from.kept, err));
    TIER_TRY_OUT(tier_graph_open(e->graph, &graph, err));
    TIER_TRY_OUT(read_values(&from, graph, &values, err));
    TIER_TRY_OUT(tier_graph_write(graph, values, &bytes, &e->bytes, err));
    /* A hospital's own tensors are nobody else's to read. */
    st = write_file(bytes, e->bytes, e->out, e->kept ? 0600 : 0644, &e->hash, err);
out:
    free(bytes);
    free(values);
    tier_graph_free(graph);
    tier_model_close(from.kept);
    tier_model_close(from.model);
    return st;
}

int cli_model_export(int argc, char **argv) {
    struct export e = {0};
    bool json = false;
    const struct cli_option options[] = {
        {"graph", CLI_TEXT, &e.graph, "FILE", "the run's graph (model pull --graph)", NULL, true, 0,
         0},
        {"onnx", CLI_TEXT, &e.out, "FILE", "where to put it", NULL, true, 0, 0},
        {"kept", CLI_TEXT, &e.kept, "FILE", "one hospital's own tensors, where a run keeps some",
         NULL, false, 0, 0},
        {"json", CLI_FLAG, &json, NULL, "one JSON object", NULL, false, 0, 0},
    };
    const struct cli_usage usage = {
        "model export", "FILE",
        "Writes a published .safetensors as an ONNX file for inference (BatchNormalization by its "
        "running statistics, no Dropout), at most 2 GiB, and prints the SHA-256 of the new file"};
    struct tier_err err = {0};
    char hex[TIER_HASH_HEX];
    int code = cli_parse(&usage, options, COUNT(options), argc, argv, &e.model, 1, 1);

    if (code != CLI_GO)
        return code;
    if (export_onnx(&e, &err) != TIER_OK)
        return cli_failed(&err);
    tier_hash_hex(&e.hash, hex);
    if (json)
        return cli_print_json(json_pack("{s:s, s:s, s:I}", "file", e.out, "sha256", hex, "bytes",
                                        (json_int_t)e.bytes));
    puts(hex);
    return cli_done();
}

/* ---- init ---- */

/* Names of one kind, for a person: all of them are told with --json. */
struct names {
    json_t *list;
    const char *what;
};

struct init {
    const char *graph, *weights, *out;
    bool partial;
    struct names taken, missing, unknown, shape;
    struct tier_hash hash;
    size_t bytes;
};

static enum tier_status note(struct names *n, const char *name, struct tier_err *err) {
    if (!n->list)
        n->list = json_array();
    if (json_array_append_new(n->list, json_string(name)) != 0)
        return tier_fail(err, TIER_ENOMEM, "no memory for the names of tensors");
    return TIER_OK;
}

/* "2 tensors that ... ('a', 'b')"; the first few names. */
static int say_names(const struct names *n, char *buf, size_t bytes) {
    enum { SAID = 3 };
    size_t count = json_array_size(n->list);
    int used = snprintf(buf, bytes, "%zu %s (", count, n->what);

    for (size_t i = 0; i < count && i < SAID && used > 0 && (size_t)used < bytes; i++)
        used += snprintf(buf + used, bytes - (size_t)used, "%s'%.80s'", i ? ", " : "",
                         json_string_value(json_array_get(n->list, i)));
    if (used > 0 && (size_t)used < bytes)
        used += snprintf(buf + used, bytes - (size_t)used, count > SAID ? ", ...)" : ")");
    return used;
}

/* The file's values over the graph's, by name. */
static enum tier_status take_weights(struct init *n, const struct tier_model *m,
                                     const struct tier_graph *graph, float *values,
                                     struct tier_err *err) {
    size_t count = 0, next = 0;
    const struct tier_tensor *t = tier_model_tensors(m, &count);

    for (size_t i = 0; i < tier_graph_param_count(graph); i++) {
        const struct tier_graph_param *p = tier_graph_param(graph, i);
        const struct tier_tensor *from = find(m, p->name, &next);
        bool fits = from && same_shape(from, p);
        TIER_TRY(note(fits ? &n->taken : from ? &n->shape : &n->missing, p->name, err));
        if (fits)
            TIER_TRY(tier_model_read(m, from->at, (size_t)p->elements, values + p->at, err));
    }
    for (size_t i = 0, at = 0; i < count; i++) {
        if (!tier_task_is_parameter(t[i].name))
            continue; /* a run's SCAFFOLD or FedCurv let it travel along */
        size_t k = 0, params = tier_graph_param_count(graph);
        while (k < params &&
               strcmp(tier_graph_param(graph, (at + k) % params)->name, t[i].name) != 0)
            k++;
        if (k == params)
            TIER_TRY(note(&n->unknown, t[i].name, err));
        else
            at += k + 1; /* both files are mostly in one order */
    }
    return TIER_OK;
}

/* Without --partial everything must fit. */
static enum tier_status check_taken(const struct init *n, struct tier_err *err) {
    const struct names *const kinds[] = {&n->missing, &n->shape, &n->unknown};
    char text[3][320];
    size_t said = 0;

    if (!n->taken.list)
        return tier_fail(err, TIER_EMODEL,
                         "%s has no tensor of the graph's, by name and shape: names as torch.onnx "
                         "writes them, which are those of a state_dict, would be right",
                         n->weights);
    for (size_t i = 0; i < COUNT(kinds); i++)
        if (kinds[i]->list)
            say_names(kinds[i], text[said++], sizeof text[0]);
    if (said == 0 || n->partial)
        return TIER_OK;
    return tier_fail(err, TIER_EMODEL,
                     "%s and the graph are not of one model: %s%s%s%s%s; with "
                     "--partial what fits is taken",
                     n->weights, text[0], said > 1 ? "; " : "", said > 1 ? text[1] : "",
                     said > 2 ? "; " : "", said > 2 ? text[2] : "");
}

static enum tier_status init_graph(struct init *n, struct tier_err *err) {
    struct tier_model *model = NULL;
    struct tier_graph *graph = NULL;
    uint8_t *bytes = NULL;
    float *values = NULL;
    enum tier_status st;

    TIER_TRY_OUT(tier_model_open(n->weights, &model, err));
    TIER_TRY_OUT(tier_graph_open(n->graph, &graph, err));
    TIER_TRY_OUT(tier_graph_can_write(graph, err));
    values = malloc((size_t)tier_graph_elements(graph) * sizeof *values);
    if (!values) {
        st = tier_fail(err, TIER_ENOMEM, "no memory for a model");
        goto out;
    }
    TIER_TRY_OUT(tier_graph_values(graph, values, err));
    TIER_TRY_OUT(take_weights(n, model, graph, values, err));
    TIER_TRY_OUT(check_taken(n, err));
    TIER_TRY_OUT(tier_graph_write(graph, values, &bytes, &n->bytes, err));
    st = write_file(bytes, n->bytes, n->out, 0644, &n->hash, err);
out:
    free(bytes);
    free(values);
    tier_graph_free(graph);
    tier_model_close(model);
    return st;
}

static json_t *names_json(const struct names *n) {
    return n->list ? json_incref(n->list) : json_array();
}

static int print_init(const struct init *n, bool json) {
    const struct names *const kinds[] = {&n->taken, &n->missing, &n->shape, &n->unknown};
    char hex[TIER_HASH_HEX], text[320];

    tier_hash_hex(&n->hash, hex);
    if (json)
        return cli_print_json(json_pack("{s:s, s:s, s:I, s:o, s:o, s:o, s:o}", "file", n->out,
                                        "sha256", hex, "bytes", (json_int_t)n->bytes, "taken",
                                        names_json(&n->taken), "missing", names_json(&n->missing),
                                        "shape", names_json(&n->shape), "unknown",
                                        names_json(&n->unknown)));
    for (size_t i = 0; i < COUNT(kinds); i++)
        if (kinds[i]->list) {
            say_names(kinds[i], text, sizeof text);
            puts(text);
        }
    puts(hex);
    return cli_done();
}

int cli_model_init(int argc, char **argv) {
    struct init n = {.taken.what = "taken",
                     .missing.what = "as the graph has them, for the file does not",
                     .shape.what = "as the graph has them, for the file's are of another shape",
                     .unknown.what = "of the file that the graph does not have"};
    bool json = false;
    const struct cli_option options[] = {
        {"weights", CLI_TEXT, &n.weights, "FILE", "a .safetensors of float32 tensors", NULL, true,
         0, 0},
        {"onnx", CLI_TEXT, &n.out, "FILE", "where to put it", NULL, true, 0, 0},
        {"partial", CLI_FLAG, &n.partial, NULL, "take what fits by name and shape", NULL, false, 0,
         0},
        {"json", CLI_FLAG, &json, NULL, "one JSON object, with all names", NULL, false, 0, 0},
    };
    const struct cli_usage usage = {
        "model init", "GRAPH",
        "Writes an ONNX graph with the values of a .safetensors in it, for a plan whose training "
        "starts from them; says which tensors were taken and which not, and prints the SHA-256"};
    struct tier_err err = {0};
    int code = cli_parse(&usage, options, COUNT(options), argc, argv, &n.graph, 1, 1);

    if (code == CLI_GO)
        code = init_graph(&n, &err) == TIER_OK ? print_init(&n, json) : cli_failed(&err);
    json_decref(n.taken.list);
    json_decref(n.missing.list);
    json_decref(n.shape.list);
    json_decref(n.unknown.list);
    return code;
}
