/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One batch of rows is in memory at a time, whatever the data hold. The JSON file is written last:
 * where it is, the scores are whole.
 */
#include "spoke/predict.h"
#include "spoke/consent.h"
#include "spoke/csv.h"
#include "spoke/net.h"
#include "spoke/nifti.h"
#include "spoke/slide.h"
#include "tier/model.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BATCH_FLOATS (1u << 20) /* of a batch's rows, about */
#define BATCH_ROWS_MAX 256u

struct predictor {
    const struct spoke_predict *what;
    struct tier_graph *graph;
    struct kern_device *device;
    struct spoke_net *net;
    struct spoke_data *data;
    struct spoke_consent *consents; /* while data are opened; NULL: none */
    enum spoke_part part;
    size_t batch, features, outputs, spots, classes; /* spots: of a row */
    struct spoke_slide *slide;                       /* NULL: the model takes rows whole */
    bool number;                                     /* what is predicted is one, and no class */
    struct kern_buf *x_device;
    float *x, *logits;
    int32_t *rows;
    int folder; /* of masks; -1: none */
    FILE *csv;
    struct tier_err *err;
};

/* ---- a model's values ---------------------------------------------------------------------- */

static bool for_training_only(const char *name) {
    return strncmp(name, "scaffold/", 9) == 0 || strncmp(name, "fedcurv/", 8) == 0;
}

static bool same_shape(const struct tier_tensor *t, const struct tier_graph_param *p) {
    bool same = t->ndim == p->dims_count;
    for (size_t i = 0; same && i < p->dims_count; i++)
        same = t->dims[i] == p->dims[i];
    return same;
}

/* Those of a file's tensors that the graph has; found[i] says which parameters they were. */
static enum tier_status take_tensors(const struct tier_graph *g, const char *path, bool *found,
                                     float *values, struct tier_err *err) {
    struct tier_model *m = NULL;
    size_t count = 0;
    enum tier_status st = TIER_OK;

    TIER_TRY(tier_model_open(path, &m, err));
    const struct tier_tensor *t = tier_model_tensors(m, &count);
    for (size_t k = 0; k < count && st == TIER_OK; k++) {
        const struct tier_graph_param *p = NULL;
        size_t i = 0;
        if (for_training_only(t[k].name))
            continue;
        for (; i < tier_graph_param_count(g) && !p; i++)
            if (strcmp(tier_graph_param(g, i)->name, t[k].name) == 0)
                p = tier_graph_param(g, i);
        if (!p)
            st = tier_fail(err, TIER_EMODEL,
                           "%s: tensor '%s' is none of the graph's: another "
                           "graph was trained",
                           path, t[k].name);
        else if (!same_shape(&t[k], p))
            st = tier_fail(err, TIER_EMODEL, "%s: tensor '%s' has another shape than the graph's",
                           path, t[k].name);
        else
            st = tier_model_read(m, t[k].at, p->elements, values + p->at, err);
        if (st == TIER_OK)
            found[i - 1] = true;
    }
    tier_model_close(m);
    return st;
}

enum tier_status spoke_predict_values(const struct tier_graph *g, const char *model,
                                      const char *kept, float *values, struct tier_err *err) {
    size_t count = tier_graph_param_count(g);
    bool *found = calloc(count ? count : 1, sizeof *found);
    enum tier_status st;

    if (!found)
        return tier_fail(err, TIER_ENOMEM, "no memory for a model");
    st = take_tensors(g, model, found, values, err);
    if (st == TIER_OK && kept)
        st = take_tensors(g, kept, found, values, err);
    for (size_t i = 0; st == TIER_OK && i < count; i++)
        if (!found[i])
            st = tier_fail(err, TIER_EMODEL,
                           "%s: it has no tensor '%s', which the graph needs: it is of another "
                           "graph, or stays at each hospital (--kept FILE, of its data folder's "
                           "private/)",
                           model, tier_graph_param(g, i)->name);
    free(found);
    return st;
}

/* ---- what is opened ------------------------------------------------------------------------ */

/*
 * The data whose training rows standardise: without those that training left out for want of a
 * label. Where they do not open so, because labels are not there, none was.
 */
static enum tier_status open_like(struct predictor *p, struct spoke_data **out) {
    const struct spoke_predict *w = p->what;
    const char *like = w->like ? w->like : w->data;
    struct spoke_data_options seen = {.on_demand = true,
                                      .fold_set = w->fold_set,
                                      .fold = w->fold,
                                      .consent = p->consents,
                                      .purpose = w->purpose};

    if (spoke_data_open(w->schema, like, &seen, out, NULL) == TIER_OK)
        return TIER_OK;
    seen.unlabelled = true;
    return spoke_data_open(w->schema, like, &seen, out, p->err);
}

/* The windows that the model takes: the sides of its input. */
static enum tier_status find_patch(const struct predictor *p, struct spoke_patch *out) {
    struct spoke_patch patch = {.overlap = p->what->overlap};
    struct tier_shapes *shapes = NULL;

    if (!p->what->slides)
        return TIER_OK;
    TIER_TRY(tier_graph_infer(p->graph, 1, &shapes, p->err));
    const struct tier_shape *in = tier_shapes_of(shapes, tier_graph_input(p->graph));
    patch.axes = in->rank > 2 ? in->rank - 2 : 0;
    for (size_t i = 0; i < patch.axes && i < SPOKE_AXES_MAX; i++)
        patch.side[i] = (size_t)in->dims[2 + i];
    tier_shapes_free(shapes);
    if (patch.axes < 1 || patch.axes > SPOKE_AXES_MAX)
        return tier_fail(p->err, TIER_EDATA,
                         "an overlap was given: the model's input has %zu sides, where 1 to %u "
                         "could be slid over an image",
                         patch.axes, SPOKE_AXES_MAX);
    *out = patch;
    return TIER_OK;
}

static enum tier_status open_data(struct predictor *p) {
    const struct spoke_predict *w = p->what;
    struct spoke_data_options o = {.on_demand = true,
                                   .unlabelled = true,
                                   .identified = true,
                                   .undivided = !w->part_set,
                                   .fold_set = w->fold_set,
                                   .fold = w->fold};
    struct spoke_data *like = NULL;

    if (w->consent || w->opt_out)
        TIER_TRY(spoke_consent_load(w->consent, w->opt_out, &p->consents, p->err));
    o.consent = p->consents;
    o.purpose = w->purpose;

    p->part = w->part_set ? w->part : SPOKE_TEST;
    TIER_TRY(find_patch(p, &o.patch));
    if (w->like || w->part_set) {
        TIER_TRY(open_like(p, &like));
        o.stats_count = spoke_data_stats_count(like);
        o.mean = spoke_data_mean(like);
        o.std = spoke_data_std(like);
    }
    enum tier_status st = spoke_data_open(w->schema, w->data, &o, &p->data, p->err);
    spoke_data_free(like);
    return st;
}

/* Whether the graph takes what the schema makes, and gives what it wants to know. */
static enum tier_status choose_loss(struct predictor *p, enum spoke_loss *loss) {
    enum spoke_target_kind target = spoke_data_target(p->data);
    size_t features = spoke_data_seen_features(p->data), spots = 1;
    uint64_t outputs = tier_graph_outputs(p->graph);

    p->classes = spoke_data_classes(p->data);
    p->spots = target == SPOKE_TARGET_MASK ? spoke_data_target_size(p->data) : 1;
    if (target == SPOKE_TARGET_MASK)
        spots = features / spoke_data_shape(p->data).channels;
    p->number = target == SPOKE_TARGET_VALUE || target == SPOKE_TARGET_SURVIVAL;
    if (tier_graph_features(p->graph) != features)
        return tier_fail(p->err, TIER_EDATA,
                         "the schema makes %zu features of a row: the model takes %" PRIu64 "%s",
                         features, tier_graph_features(p->graph),
                         target == SPOKE_TARGET_MASK && !p->what->slides
                             ? " (one that was trained on windows of images is slid over them "
                               "with --overlap 0.25)"
                             : "");
    if (p->number && outputs != 1)
        return tier_fail(p->err, TIER_EDATA,
                         "the schema's target is a number: the model gives %" PRIu64 " outputs",
                         outputs);
    *loss = target == SPOKE_TARGET_SURVIVAL ? SPOKE_LOSS_COX
            : p->number                     ? SPOKE_LOSS_MSE
            : outputs == 1                  ? SPOKE_LOSS_BCE
                                            : SPOKE_LOSS_CE;
    if (p->number)
        return TIER_OK;
    /* A last class that counted nothing in training (local.ignore_class) may have no output. */
    uint64_t given = outputs == 1 ? (spots == 1 ? 2 : 0) : outputs / spots;
    bool whole = outputs == 1 || outputs % spots == 0;
    if (!whole || given < 2 || (given != p->classes && given + 1 != p->classes))
        return tier_fail(p->err, TIER_EDATA,
                         "the schema has %zu classes at %zu places of a row: the model gives "
                         "%" PRIu64 " outputs, where one for each class, or a single one for two "
                         "classes, would fit",
                         p->classes, spots, outputs);
    p->classes = (size_t)given;
    return TIER_OK;
}

static enum tier_status open_net(struct predictor *p, struct tier_hash *model_out) {
    const struct spoke_predict *w = p->what;
    enum spoke_loss loss = SPOKE_LOSS_BCE;
    float *values = NULL;
    enum tier_status st = TIER_OK;

    TIER_TRY(tier_model_hash_file(w->model ? w->model : w->graph, model_out, p->err));
    TIER_TRY(choose_loss(p, &loss));
    p->features = spoke_data_features(p->data);
    p->batch = BATCH_FLOATS / spoke_data_seen_features(p->data);
    p->batch = p->batch < 1 ? 1 : p->batch > BATCH_ROWS_MAX ? BATCH_ROWS_MAX : p->batch;
    kern_init(NULL);
    if (kern_device_open(w->device ? w->device : "cpu", w->threads, &p->device) != KERN_OK)
        return tier_fail(p->err, TIER_EDEVICE, "the device does not open: %s",
                         kern_device_error(NULL));
    TIER_TRY(spoke_net_new(p->device, p->graph, loss, p->batch, &p->net, p->err));
    p->outputs = spoke_net_outputs(p->net);
    if (spoke_data_patch(p->data)) {
        const struct spoke_shape shape = spoke_data_shape(p->data);
        TIER_TRY(spoke_slide_new(p->net, spoke_data_patch(p->data), &shape, &p->slide, p->err));
        p->batch = 1; /* row; its windows are the net's batch */
    } else if (spoke_net_spots(p->net) != p->spots)
        return tier_fail(p->err, TIER_EDATA,
                         "the model predicts %zu places of a row, of which the schema has %zu",
                         spoke_net_spots(p->net), p->spots);
    if (!w->model)
        return TIER_OK;
    values = malloc((spoke_net_elements(p->net) + 1) * sizeof *values);
    st = values ? spoke_predict_values(p->graph, w->model, w->kept, values, p->err)
                : tier_fail(p->err, TIER_ENOMEM, "no memory for a model");
    if (st == TIER_OK)
        st = spoke_net_set(p->net, values, p->err);
    free(values);
    return st;
}

static enum tier_status make_room(struct predictor *p) {
    p->x = malloc(p->batch * p->features * sizeof *p->x);
    p->logits = malloc(p->batch * p->spots * p->outputs * sizeof *p->logits);
    p->rows = malloc(p->batch * sizeof *p->rows);
    if (!p->x || !p->logits || !p->rows)
        return tier_fail(p->err, TIER_ENOMEM, "no memory for a batch of %zu rows", p->batch);
    enum kern_status st =
        kern_buf_new(p->device, p->batch * p->features * sizeof(float), &p->x_device);
    return st == KERN_OK ? TIER_OK
                         : spoke_net_kern_fail(p->device, st, "taking memory for rows", p->err);
}

/* ---- what is written ----------------------------------------------------------------------- */

static void put_row_name(const struct predictor *p, size_t row) {
    const char *id = spoke_data_id(p->data, p->part, row);

    fprintf(p->csv, "%" PRIu64 ",", spoke_data_number(p->data, p->part, row));
    spoke_csv_put(p->csv, id ? id : "", ',');
}

static void put_header(const struct predictor *p) {
    fputs("row,id,", p->csv);
    if (p->folder >= 0) {
        fputs("file\n", p->csv);
        return;
    }
    for (size_t c = 0; p->outputs > 1 && c < p->classes; c++) {
        char name[SPOKE_TEXT_LEN_MAX + 8];
        snprintf(name, sizeof name, "score:%s",
                 spoke_schema_class_name(spoke_data_schema(p->data), c));
        spoke_csv_put(p->csv, name, ',');
        putc(',', p->csv);
    }
    fputs(p->number ? "score\n" : p->outputs > 1 ? "class\n" : "score,class\n", p->csv);
}

static size_t greatest(const float *z, size_t n) {
    size_t best = 0;
    for (size_t c = 1; c < n; c++)
        if (z[c] > z[best])
            best = c;
    return best;
}

/* Probabilities in double, from logits that may be large. */
static void put_scores(const struct predictor *p, size_t row, const float *z) {
    size_t best = p->outputs == 1 ? z[0] > 0.0f : greatest(z, p->outputs);
    double sum = 0.0;

    put_row_name(p, row);
    if (p->number) {
        fprintf(p->csv, ",%.9g\n", (double)z[0]);
        return;
    }
    for (size_t c = 0; c < p->outputs; c++)
        sum += exp((double)z[c] - (double)z[p->outputs > 1 ? best : 0]);
    if (p->outputs == 1)
        fprintf(p->csv, ",%.9g",
                z[0] >= 0.0f ? 1.0 / (1.0 + exp(-(double)z[0]))
                             : exp((double)z[0]) / (1.0 + exp((double)z[0])));
    for (size_t c = 0; p->outputs > 1 && c < p->outputs; c++)
        fprintf(p->csv, ",%.9g", exp((double)z[c] - (double)z[best]) / sum);
    putc(',', p->csv);
    spoke_csv_put(p->csv, spoke_schema_class_name(spoke_data_schema(p->data), best), ',');
    putc('\n', p->csv);
}

/*
 * Where the contract's grid lies in that of the file, the nearest class; outside, the background.
 * Then from the grid's axes to the file's.
 */
static enum tier_status to_file(const struct predictor *p, const struct spoke_grid *g,
                                const struct spoke_axis axis[3], const float *classes, float *wide,
                                int16_t *voxels, struct spoke_nifti *v) {
    struct spoke_axis back[3];
    size_t stride[3];

    for (int i = 0; i < 3; i++)
        back[i] = (struct spoke_axis){.in = axis[i].out,
                                      .out = axis[i].in,
                                      .start = -axis[i].start / axis[i].step,
                                      .step = 1.0 / axis[i].step};
    TIER_TRY(spoke_grid_resample(classes, back, SPOKE_NEAREST, wide, p->err));
    for (int i = 0; i < 3; i++) { /* a grid's sides are z, y, x */
        int to = g->from[2 - i];
        v->side[to] = g->side[i];
        v->spacing[to] = g->spacing[i];
        for (int k = 0; k < 3; k++) {
            v->affine[k][to] = g->affine[k][i];
            v->affine[k][3] = g->affine[k][3];
        }
    }
    const size_t of_file[3] = {1, v->side[0], v->side[0] * v->side[1]};
    for (int i = 0; i < 3; i++)
        stride[i] = of_file[g->from[2 - i]];
    for (size_t z = 0; z < g->side[0]; z++)
        for (size_t y = 0; y < g->side[1]; y++)
            for (size_t x = 0; x < g->side[2]; x++)
                voxels[z * stride[0] + y * stride[1] + x * stride[2]] = (int16_t)*wide++;
    return TIER_OK;
}

static enum tier_status put_mask(const struct predictor *p, size_t row, const float *z) {
    struct spoke_grid g = {0};
    struct spoke_axis axis[3];
    struct spoke_nifti v = {.channels = 1};
    char name[64];

    TIER_TRY(spoke_data_grid(p->data, p->part, row, &g, axis, p->err));
    size_t n = g.side[0] * g.side[1] * g.side[2];
    float *classes = malloc(p->spots * sizeof *classes), *wide = malloc(n * sizeof *wide);
    int16_t *voxels = malloc(n * sizeof *voxels);
    enum tier_status st = TIER_OK;
    if (!classes || !wide || !voxels) {
        st = tier_fail(p->err, TIER_ENOMEM, "no memory for a mask");
        goto out;
    }
    for (size_t i = 0; i < p->spots; i++)
        classes[i] = (float)greatest(z + i * p->outputs, p->outputs);
    TIER_TRY_OUT(to_file(p, &g, axis, classes, wide, voxels, &v));
    snprintf(name, sizeof name, "row-%" PRIu64 ".nii.gz", spoke_data_number(p->data, p->part, row));
    TIER_TRY_OUT(spoke_nifti_save(p->folder, name, &v, voxels, p->err));
    put_row_name(p, row);
    fprintf(p->csv, ",%s\n", name);
out:
    free(voxels);
    free(wide);
    free(classes);
    return st;
}

/* ---- rows ---------------------------------------------------------------------------------- */

static enum tier_status predict_batch(struct predictor *p, size_t first, size_t n) {
    size_t outputs = p->spots * p->outputs;
    struct kern_vec z;
    enum kern_status kst;

    for (size_t i = 0; i < n; i++)
        p->rows[i] = (int32_t)(first + i);
    TIER_TRY(spoke_data_read(p->data, p->part, p->rows, n, p->x, NULL, p->err));
    if (p->slide) {
        TIER_TRY(spoke_slide_row(p->slide, p->x, p->logits, p->err));
        return put_mask(p, first, p->logits);
    }
    kst = kern_upload(p->x_device, 0, p->x, n * p->features * sizeof *p->x);
    if (kst != KERN_OK)
        return spoke_net_kern_fail(p->device, kst, "an upload", p->err);
    TIER_TRY(spoke_net_forward(p->net, (struct kern_vec){p->x_device, 0}, n, &z, p->err));
    kst = kern_download(p->logits, z.buf, z.at * sizeof(float), n * outputs * sizeof(float));
    if (kst != KERN_OK)
        return spoke_net_kern_fail(p->device, kst, "a download", p->err);
    for (size_t i = 0; i < n * outputs; i++)
        if (!isfinite(p->logits[i]))
            return tier_fail(p->err, TIER_EMODEL, "the model gives an output that is not finite");
    for (size_t i = 0; i < n; i++) {
        if (p->folder >= 0)
            TIER_TRY(put_mask(p, first + i, p->logits + i * outputs));
        else
            put_scores(p, first + i, p->logits + i * outputs);
    }
    return TIER_OK;
}

static enum tier_status predict_all(struct predictor *p) {
    size_t rows = spoke_data_rows(p->data, p->part);

    put_header(p);
    for (size_t at = 0; at < rows; at += p->batch)
        TIER_TRY(predict_batch(p, at, rows - at < p->batch ? rows - at : p->batch));
    if (fflush(p->csv) != 0 || ferror(p->csv))
        return tier_fail_errno(p->err, TIER_EIO, "%s", p->what->out);
    return TIER_OK;
}

/* ---- the output ---------------------------------------------------------------------------- */

/* A new file, or a new folder with one in it; `path` becomes the CSV file's. */
static enum tier_status open_output(struct predictor *p, char *path, size_t size) {
    bool masks = spoke_data_target(p->data) == SPOKE_TARGET_MASK;
    int n = snprintf(path, size, "%s%s", p->what->out, masks ? "/masks.csv" : "");

    if (n < 0 || (size_t)n + 16 >= size)
        return tier_fail(p->err, TIER_EARG, "%s: the path is too long", p->what->out);
    if (masks && mkdir(p->what->out, 0700) != 0)
        return tier_fail_errno(p->err, errno == EEXIST ? TIER_ECONFLICT : TIER_EIO,
                               "%s: a new folder is needed for the masks", p->what->out);
    if (masks) {
        p->folder = open(p->what->out, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (p->folder < 0)
            return tier_fail_errno(p->err, TIER_EIO, "%s", p->what->out);
    }
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    p->csv = fd < 0 ? NULL : fdopen(fd, "w");
    if (!p->csv)
        return tier_fail_errno(p->err, errno == EEXIST ? TIER_ECONFLICT : TIER_EIO,
                               "%s: nothing that exists is written over", path);
    return TIER_OK;
}

static json_t *hash_json(const struct tier_hash *hash) {
    char hex[TIER_HASH_HEX];
    return json_string(tier_hash_hex(hash, hex));
}

/* Which model, graph and contract the scores come from, and the hash of the file they are in. */
static enum tier_status write_origin(const struct predictor *p, const char *path,
                                     const struct spoke_predicted *done) {
    static const char *const names[SPOKE_PARTS] = {"train", "test", "val"};
    struct tier_hash graph, schema, scores;
    json_t *o = json_object(), *classes = json_array();
    char name[4096 + 32];
    enum tier_status st = TIER_OK;

    TIER_TRY_OUT(tier_model_hash_file(p->what->graph, &graph, p->err));
    TIER_TRY_OUT(tier_model_hash_file(path, &scores, p->err));
    spoke_schema_hash(spoke_data_schema(p->data), &schema);
    for (size_t c = 0; c < p->classes; c++)
        json_array_append_new(classes,
                              json_string(spoke_schema_class_name(spoke_data_schema(p->data), c)));
    json_object_set_new(o, "model_sha256", hash_json(&done->model));
    json_object_set_new(o, "graph_sha256", hash_json(&graph));
    json_object_set_new(o, "schema_sha256", hash_json(&schema));
    json_object_set_new(o, "csv_sha256", hash_json(&scores));
    json_object_set_new(o, "rows", json_integer((json_int_t)done->rows));
    json_object_set_new(o, "part", p->what->part_set ? json_string(names[p->part]) : json_null());
    json_object_set(o, "classes", classes);
    json_object_set_new(o, "software", json_string("consilium-spoke " CONSILIUM_VERSION));
    snprintf(name, sizeof name, "%s.json", path);
    int fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || json_dumpfd(o, fd, JSON_INDENT(1)) != 0)
        st = tier_fail_errno(p->err, errno == EEXIST ? TIER_ECONFLICT : TIER_EIO, "%s", name);
    if (fd >= 0 && close(fd) != 0 && st == TIER_OK)
        st = tier_fail_errno(p->err, TIER_EIO, "%s", name);
out:
    json_decref(classes);
    json_decref(o);
    return st;
}

enum tier_status spoke_predict(const struct spoke_predict *what, struct spoke_predicted *out,
                               struct tier_err *err) {
    struct predictor p = {.what = what, .folder = -1, .err = err};
    struct spoke_predicted done = {0};
    char path[4096];
    struct stat info;
    enum tier_status st;

    if (lstat(what->out, &info) == 0)
        return tier_fail(err, TIER_ECONFLICT, "%s: it exists, and nothing is written over",
                         what->out);
    TIER_TRY_OUT(tier_graph_open(what->graph, &p.graph, err));
    TIER_TRY_OUT(open_data(&p));
    TIER_TRY_OUT(open_net(&p, &done.model));
    TIER_TRY_OUT(make_room(&p));
    done.rows = spoke_data_rows(p.data, p.part);
    TIER_TRY_OUT(open_output(&p, path, sizeof path));
    st = predict_all(&p);
    if (st == TIER_OK)
        st = write_origin(&p, path, &done);
    if (st != TIER_OK && p.folder < 0)
        unlink(path);
    if (st == TIER_OK)
        *out = done;
out:
    if (p.csv)
        fclose(p.csv);
    if (p.folder >= 0)
        close(p.folder);
    free(p.x);
    free(p.logits);
    free(p.rows);
    kern_buf_free(p.x_device);
    spoke_slide_free(p.slide);
    spoke_net_free(p.net);
    kern_device_close(p.device);
    spoke_data_free(p.data);
    spoke_consent_free(p.consents);
    tier_graph_free(p.graph);
    return st;
}

/* ---- the command --------------------------------------------------------------------------- */

static const char usage[] =
    "Usage: consilium-spoke predict --graph FILE.onnx [--model FILE.safetensors [--kept FILE]]\n"
    "                               --out PATH [--part train|val|test] [--like DATA] [--fold N]\n"
    "                               [--overlap SHARE] [--consent FILE] [--opt-out FILE]\n"
    "                               [--purpose CODE] [--device SPEC] [--threads N] [--json]\n"
    "                               SCHEMA DATA\n\n"
    "Applies a model to a hospital's own data, read under its schema; targets need not be there.\n"
    "The graph and the model are what `consilium model pull` fetches; without --model the graph's\n"
    "own values are used. Scores are written to PATH, a new CSV file with a line a row; masks to\n"
    "PATH, a new folder, as NIfTI files on the grids of their images. PATH.json says by SHA-256\n"
    "which model made them. Without --part all rows are taken. Where the schema standardises by\n"
    "the training rows of a site, --like names the data that the model was trained on here, or\n"
    "--part takes a part of those data. With --overlap the model takes windows of images as large\n"
    "as its input, and is slid over each; neighbouring windows overlap by that share of a side,\n"
    "from 0 to 0.9. --consent and --opt-out are the spoke's files of whose rows may be read,\n"
    "--purpose (care) is what for; the other rows are not scored, nor standardise. Nothing leaves\n"
    "this machine.\n";

static bool take_number(const char *text, long most, long *out) {
    char *end;
    *out = strtol(text, &end, 10);
    return end != text && !*end && *out >= 0 && *out <= most;
}

static bool take_share(const char *text, double *out) {
    char *end;
    *out = strtod(text, &end);
    return end != text && !*end && *out >= 0.0 && *out <= 0.9;
}

static bool take_part(const char *text, struct spoke_predict *w) {
    static const char *const names[SPOKE_PARTS] = {"train", "test", "val"};
    for (int i = 0; i < SPOKE_PARTS; i++) {
        if (strcmp(text, names[i]) != 0)
            continue;
        w->part_set = true;
        w->part = (enum spoke_part)i;
        return true;
    }
    return false;
}

static bool take_purpose(const char *text, struct spoke_predict *w) {
    w->purpose = tier_plan_purpose_find(text);
    return w->purpose > TIER_PLAN_UNSTATED;
}

static bool take_option(int option, struct spoke_predict *w, bool *json) {
    long number = 0;

    switch (option) {
    case 'g':
        w->graph = optarg;
        return true;
    case 'm':
        w->model = optarg;
        return true;
    case 'k':
        w->kept = optarg;
        return true;
    case 'o':
        w->out = optarg;
        return true;
    case 'l':
        w->like = optarg;
        return true;
    case 'd':
        w->device = optarg;
        return true;
    case 'c':
        w->consent = optarg;
        return true;
    case 'x':
        w->opt_out = optarg;
        return true;
    case 'u':
        return take_purpose(optarg, w);
    case 'p':
        return take_part(optarg, w);
    case 'f':
        w->fold_set = take_number(optarg, 999, &number);
        w->fold = (uint32_t)number;
        return w->fold_set;
    case 't':
        if (!take_number(optarg, 1024, &number))
            return false;
        w->threads = (int)number;
        return true;
    case 'v':
        w->slides = take_share(optarg, &w->overlap);
        return w->slides;
    case 'j':
        *json = true;
        return true;
    default:
        return false;
    }
}

int spoke_predict_main(int argc, char **argv, FILE *out, FILE *errors) {
    static const struct option longs[] = {
        {"graph", required_argument, NULL, 'g'},   {"model", required_argument, NULL, 'm'},
        {"kept", required_argument, NULL, 'k'},    {"out", required_argument, NULL, 'o'},
        {"like", required_argument, NULL, 'l'},    {"device", required_argument, NULL, 'd'},
        {"part", required_argument, NULL, 'p'},    {"fold", required_argument, NULL, 'f'},
        {"threads", required_argument, NULL, 't'}, {"json", no_argument, NULL, 'j'},
        {"overlap", required_argument, NULL, 'v'}, {"consent", required_argument, NULL, 'c'},
        {"opt-out", required_argument, NULL, 'x'}, {"purpose", required_argument, NULL, 'u'},
        {"help", no_argument, NULL, 'h'},          {NULL, 0, NULL, 0}};
    struct spoke_predict w = {.purpose = TIER_PLAN_CARE};
    struct spoke_predicted done = {0};
    struct tier_err err = {0};
    char hex[TIER_HASH_HEX];
    bool json = false;
    int option;

    optind = 1;
    opterr = 0;
    while ((option = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        if (option == 'h') {
            fputs(usage, out);
            return 0;
        }
        if (!take_option(option, &w, &json)) {
            fputs(usage, errors);
            return 2;
        }
    }
    if (argc - optind != 2 || !w.graph || !w.out || (w.kept && !w.model) ||
        (w.like && w.part_set)) {
        fputs(usage, errors);
        return 2;
    }
    w.schema = argv[optind];
    w.data = argv[optind + 1];
    if (spoke_predict(&w, &done, &err) != TIER_OK) {
        fprintf(errors, "consilium-spoke: %s\n", err.text);
        return 1;
    }
    fprintf(out,
            json ? "{\"rows\":%" PRIu64 ",\"model_sha256\":\"%s\"}\n"
                 : "rows %" PRIu64 "\nmodel SHA-256 %s\n",
            done.rows, tier_hash_hex(&done.model, hex));
    return 0;
}
