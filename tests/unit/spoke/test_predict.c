/* SPDX-License-Identifier: Apache-2.0 */
/* A model on data: masks on the grids of their images, scores by row, and what is refused. */
#include "spoke/nifti.h"
#include "spoke/predict.h"
#include "tests/support/onnx_writer.h"
#include "tests/support/picture_writer.h"
#include "tests/support/temp_file.h"
#include "tier/model.h"
#include "tier/plan.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>

static struct tier_err err;
static uint8_t file[1 << 14];
static const char *made[16]; /* by the program, in the test's folder */
static size_t made_count;

static const char *made_path(const char *name) {
    static char paths[16][160];
    char *path = paths[made_count];
    cr_assert(made_count < 16 && temp.folder[0]);
    snprintf(path, sizeof paths[0], "%.60s/%s", temp.folder, name);
    return made[made_count++] = path;
}

static void release(void) {
    char folder[sizeof temp.folder];
    snprintf(folder, sizeof folder, "%s", temp.folder);
    while (made_count > 0)
        remove(made[--made_count]); /* files before the folder that they are in */
    temp_release();
    rmdir(folder);
}

TestSuite(spoke_predict, .fini = release);

/* One voxel, two classes: class 1 where x is above 10. Of images of these sides. */
static const char *threshold_graph(int64_t deep, int64_t high, int64_t wide) {
    static struct onnx_msg graph, model;
    static const float w[2] = {-1, 1}, b[2] = {10, -10};
    static const int64_t filter[5] = {2, 1, 1, 1, 1}, two = 2;
    const int64_t x[4] = {1, deep, high, wide}, y[4] = {2, deep, high, wide};
    graph.n = 0;
    onnx_add_rows(&graph, 11, "x", 4, x, 1);
    onnx_add_rows(&graph, 12, "y", 4, y, 1);
    onnx_add_dims(&graph, "w", 5, filter, 1, w);
    onnx_add_dims(&graph, "b", 1, &two, 1, b);
    onnx_add_node(&graph, "Conv", "x w b", "y");
    onnx_model(&model, &graph, 13);
    return temp_file_n("threshold.onnx", (char *)model.b, model.n);
}

static const char masks[] = "kind: nifti\n"
                            "image: {size: [3, 2, 4], spacing: [3, 2, 1], orientation: RAS}\n"
                            "columns:\n"
                            "  - {name: scan, type: image}\n"
                            "  - {name: organ, type: mask, categories: [none, liver]}\n"
                            "  - {name: who, type: id}\n"
                            "split: {by: hash, key: eight bytes, fraction: 0.5}\n";

static struct spoke_grid loaded(const char *path) {
    struct spoke_grid g = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    cr_assert(fd >= 0, "%s", path);
    cr_assert(eq(int, spoke_nifti_load(fd, NULL, &g, &err), TIER_OK), "%s", err.text);
    close(fd);
    return g;
}

/*
 * The file's x goes to the left, its y to the head and its z to the back: three axes turned, and
 * two mirrored, on their way to the contract and back.
 */
Test(spoke_predict, a_mask_lies_voxel_by_voxel_on_the_grid_of_its_image) {
    static int16_t voxels[4 * 3 * 2];
    struct nifti_maker m = {.side = {4, 3, 2}, .type = 4, .bits = 16};
    struct spoke_predicted done = {0};
    const char *graph = threshold_graph(3, 2, 4);
    for (int i = 0; i < 24; i++)
        voxels[i] = (int16_t)(i * 7 % 23);
    m.srow[0][0] = -1.0f;
    m.srow[2][1] = 3.0f;
    m.srow[1][2] = -2.0f;
    m.srow[0][3] = 5.0f;
    m.srow[1][3] = 6.0f;
    m.srow[2][3] = 7.0f;
    const char *scan =
        temp_file_n("scan.nii", (char *)file, nifti_make(&m, voxels, 48, file, sizeof file));
    /* No mask, and no column for one: none is needed. */
    struct spoke_predict w = {.schema = temp_file("s.yaml", masks),
                              .data = temp_file("t.csv", "scan,who\nscan.nii,\"A,1\"\n"),
                              .graph = graph,
                              .threads = 1,
                              .out = made_path("out")};
    const char *csv = made_path("out/masks.csv"), *mask = made_path("out/row-2.nii.gz");
    const char *origin = made_path("out/masks.csv.json");
    cr_assert(eq(int, spoke_predict(&w, &done, &err), TIER_OK), "%s", err.text);
    cr_expect(eq(u64, done.rows, 1));
    struct spoke_grid a = loaded(scan), b = loaded(mask);
    for (int i = 0; i < 3; i++) {
        cr_expect(a.side[i] == b.side[i] && a.spacing[i] == b.spacing[i]);
        for (int k = 0; k < 4; k++)
            cr_expect(a.affine[i][k] == b.affine[i][k]);
    }
    for (int i = 0; i < 24; i++)
        cr_expect(b.at[i] == (voxels[i] > 10 ? 1.0f : 0.0f), "voxel %d: %g of %d", i, b.at[i],
                  voxels[i]);
    spoke_grid_release(&a);
    spoke_grid_release(&b);
    char text[128] = "";
    FILE *f = fopen(csv, "r");
    cr_assert(f && fread(text, 1, sizeof text - 1, f) > 0);
    fclose(f);
    cr_expect(strcmp(text, "row,id,file\n2,\"A,1\",row-2.nii.gz\n") == 0, "%s", text);
    json_t *o = json_load_file(origin, 0, NULL);
    struct tier_hash hash;
    char hex[TIER_HASH_HEX];
    cr_assert(eq(int, tier_model_hash_file(graph, &hash, &err), TIER_OK));
    const char *said = json_string_value(json_object_get(o, "model_sha256"));
    cr_expect(said && strcmp(said, tier_hash_hex(&hash, hex)) == 0);
    json_decref(o);
    cr_expect(eq(int, spoke_predict(&w, &done, &err), TIER_ECONFLICT));
    cr_expect(strstr(err.text, "nothing is written over") != NULL, "%s", err.text);
}

/* The contract's images are 3 x 2 x 4, the model's windows 2 x 2 x 3. */
Test(spoke_predict, a_model_of_windows_is_slid_over_images_where_an_overlap_says_so) {
    static int16_t voxels[4 * 3 * 2];
    struct nifti_maker m = {.side = {4, 2, 3}, .type = 4, .bits = 16};
    struct spoke_predicted done = {0};
    for (int i = 0; i < 24; i++)
        voxels[i] = (int16_t)(i * 7 % 23);
    m.srow[0][0] = 1.0f;
    m.srow[1][1] = 2.0f;
    m.srow[2][2] = 3.0f;
    temp_file_n("scan.nii", (char *)file, nifti_make(&m, voxels, 48, file, sizeof file));
    struct spoke_predict w = {.schema = temp_file("s.yaml", masks),
                              .data = temp_file("t.csv", "scan,who\nscan.nii,A\n"),
                              .graph = threshold_graph(2, 2, 3),
                              .threads = 1,
                              .overlap = 0.5,
                              .out = made_path("out")};
    cr_expect(eq(int, spoke_predict(&w, &done, &err), TIER_EDATA));
    cr_expect(strstr(err.text, "slid over them with --overlap") != NULL, "%s", err.text);
    w.slides = true;
    made_path("out/masks.csv");
    made_path("out/masks.csv.json");
    const char *mask = made_path("out/row-2.nii.gz");
    cr_assert(eq(int, spoke_predict(&w, &done, &err), TIER_OK), "%s", err.text);
    struct spoke_grid g = loaded(mask);
    for (int i = 0; i < 24; i++)
        cr_expect(g.at[i] == (voxels[i] > 10 ? 1.0f : 0.0f), "voxel %d: %g of %d", i, g.at[i],
                  voxels[i]);
    spoke_grid_release(&g);
    w.graph = threshold_graph(4, 2, 3);
    w.out = made_path("out2");
    cr_expect(eq(int, spoke_predict(&w, &done, &err), TIER_EDATA));
    cr_expect(strstr(err.text, "side 1 is 4: the schema's images are 3") != NULL, "%s", err.text);
}

/* ---- tables -------------------------------------------------------------------------------- */

static const char table[] = "columns:\n"
                            "  - {name: a, type: number, standardise: true}\n"
                            "  - {name: b, type: number}\n"
                            "  - {name: y, type: target, categories: [well, ill]}\n"
                            "  - {name: part, type: split}\n"
                            "split: {by: column}\n";
static const char rows[] = "a,b,y,part\n1,2,well,train\n3,4,ill,train\n5,6,well,test\n";

/* x[N,features] -> Gemm to `outputs` logits. */
static const char *linear_graph(int64_t features, int64_t outputs) {
    static struct onnx_msg graph, model;
    static const float values[16] = {1, -1, 0.5f, 2};
    graph.n = 0;
    onnx_add_value(&graph, 11, "x", 0, features);
    onnx_add_value(&graph, 12, "y", 0, outputs);
    onnx_add_tensor(&graph, "w", features, outputs, values);
    onnx_add_tensor(&graph, "c", outputs, 0, values);
    onnx_add_node(&graph, "Gemm", "x w c", "y");
    onnx_model(&model, &graph, 13);
    return temp_file_n("linear.onnx", (char *)model.b, model.n);
}

static enum tier_status predict_table(const char *schema, const char *csv, const char *graph,
                                      struct spoke_predict w, char *text, size_t size) {
    struct spoke_predicted done = {0};
    char json[200];
    w.schema = temp_file("s.yaml", schema);
    w.data = temp_file("t.csv", csv);
    w.graph = graph;
    w.threads = 1;
    w.out = made_path("scores.csv");
    enum tier_status st = spoke_predict(&w, &done, &err);
    snprintf(json, sizeof json, "%s.json", w.out);
    FILE *f = fopen(w.out, "r");
    cr_expect(st == TIER_OK ? f != NULL : f == NULL, "a file is there where the scores are whole");
    text[f ? fread(text, 1, size - 1, f) : 0] = '\0';
    if (f)
        fclose(f);
    remove(w.out);
    remove(json);
    made_count--;
    return st;
}

Test(spoke_predict, rows_are_scored_as_the_training_rows_here_standardise_them) {
    char text[512], alone[512];
    struct spoke_predict test = {.part_set = true, .part = SPOKE_TEST}, like = {0};
    const char *graph = linear_graph(2, 1);
    cr_assert(eq(int, predict_table(table, rows, graph, test, text, sizeof text), TIER_OK), "%s",
              err.text);
    /* a: mean 2, deviation sqrt 2; 3 / sqrt 2 - 6 + 1 is the logit. */
    double z = 3.0 / (sqrt(2.0) + 1e-9) - 6.0 + 1.0, score = 0.0;
    cr_assert(strncmp(text, "row,id,score,class\n4,,", 22) == 0, "%s", text);
    score = strtod(text + 22, NULL);
    cr_expect(epsilon_eq(dbl, score, 1.0 / (1.0 + exp(-z)), 1e-6), "%g", score);
    cr_expect(strstr(text, ",well\n") != NULL, "%s", text);
    /* New patients, without targets and split: by those on whom the model was trained. */
    like.like = temp_file("like.csv", rows);
    cr_assert(
        eq(int, predict_table(table, "a,b\n5,6\n", graph, like, alone, sizeof alone), TIER_OK),
        "%s", err.text);
    cr_expect(strcmp(strchr(text, '\n') + 2, strchr(alone, '\n') + 2) == 0, "%s", alone);
    like.like = NULL;
    cr_expect(
        eq(int, predict_table(table, "a,b\n5,6\n", graph, like, alone, sizeof alone), TIER_EDATA));
    cr_expect(strstr(err.text, "column 'a' is standardised by training rows") != NULL, "%s",
              err.text);
}

Test(spoke_predict, a_last_class_that_training_ignored_needs_no_output) {
    static const char three[] = "columns:\n"
                                "  - {name: a, type: number}\n"
                                "  - {name: y, type: target, categories: [well, ill, unsure]}\n"
                                "  - {name: part, type: split}\n"
                                "split: {by: column}\n";
    char text[256];
    struct spoke_predict all = {0};
    cr_assert(eq(int, predict_table(three, "a\n1\n", linear_graph(1, 2), all, text, sizeof text),
                 TIER_OK),
              "%s", err.text);
    cr_expect(strncmp(text, "row,id,score:well,score:ill,class\n2,,", 37) == 0, "%s", text);
    cr_assert(eq(int, predict_table(three, "a\n1\n", linear_graph(1, 1), all, text, sizeof text),
                 TIER_OK),
              "%s", err.text);
    cr_expect(strncmp(text, "row,id,score,class\n2,,", 22) == 0, "%s", text);
}

Test(spoke_predict, rows_that_training_left_out_standardise_nobody) {
    static const char left_out[] = "missing_rows: drop\n"
                                   "columns:\n"
                                   "  - {name: a, type: number, standardise: true}\n"
                                   "  - {name: sick, type: target, categories: [well, ill]}\n"
                                   "  - {name: part, type: split}\n"
                                   "split: {by: column}\n";
    char whole[256], text[256];
    struct spoke_predict test = {.part_set = true, .part = SPOKE_TEST}, like = {0};
    const char *graph = linear_graph(1, 1);
    cr_assert(eq(int,
                 predict_table(left_out,
                               "a,sick,part\n1,ill,train\n3,well,train\n,,train\n"
                               "5,ill,test\n",
                               graph, test, whole, sizeof whole),
                 TIER_OK),
              "%s", err.text);
    const char *more = "a,sick,part\n1,ill,train\n3,well,train\n900,,train\n5,ill,test\n";
    cr_assert(eq(int, predict_table(left_out, more, graph, test, text, sizeof text), TIER_OK), "%s",
              err.text);
    cr_expect(strcmp(whole, text) == 0, "%s%s", whole, text);
    like.like = temp_file("like.csv", more);
    cr_assert(eq(int, predict_table(left_out, "a\n5\n", graph, like, text, sizeof text), TIER_OK),
              "%s", err.text);
    cr_expect(strcmp(strchr(whole, '\n') + 2, strchr(text, '\n') + 2) == 0, "%s%s", whole, text);
}

Test(spoke_predict, rows_that_consents_do_not_allow_are_neither_scored_nor_standardise) {
    static const char known[] = "columns:\n"
                                "  - {name: a, type: number, standardise: true}\n"
                                "  - {name: who, type: id}\n"
                                "  - {name: sick, type: target, categories: [well, ill]}\n"
                                "  - {name: part, type: split}\n"
                                "split: {by: column}\n";
    char without[256], text[256];
    struct spoke_predict test = {.part_set = true, .part = SPOKE_TEST}, asked = test;
    const char *graph = linear_graph(1, 1);
    cr_assert(
        eq(int,
           predict_table(known, "a,who,sick,part\n1,u,ill,train\n3,v,well,train\n5,x,ill,test\n",
                         graph, test, without, sizeof without),
           TIER_OK),
        "%s", err.text);
    const char *all = "a,who,sick,part\n1,u,ill,train\n3,v,well,train\n5,x,ill,test\n"
                      "900,w,well,train\n7,y,ill,test\n";
    asked.purpose = TIER_PLAN_CARE;
    asked.consent = temp_file("consent.csv", "id,purposes\nu,care\nv,*\nx,quality care\nw,quality\n"
                                             "y,care\n");
    asked.opt_out = temp_file("opt-out.txt", "y\n");
    cr_assert(eq(int, predict_table(known, all, graph, asked, text, sizeof text), TIER_OK), "%s",
              err.text);
    cr_expect(strcmp(without, text) == 0, "%s%s", without, text);
    asked.purpose = TIER_PLAN_EDUCATION;
    cr_expect(eq(int, predict_table(known, all, graph, asked, text, sizeof text), TIER_EDATA),
              "v alone allows it, which standardises nothing");
}

Test(spoke_predict, a_model_that_does_not_fit_the_schema_is_refused) {
    char text[256];
    struct spoke_predict part = {.part_set = true, .part = SPOKE_TEST};
    cr_expect(eq(int, predict_table(table, rows, linear_graph(3, 1), part, text, sizeof text),
                 TIER_EDATA));
    cr_expect(strstr(err.text, "makes 2 features of a row: the model takes 3") != NULL, "%s",
              err.text);
    cr_expect(eq(int, predict_table(table, rows, linear_graph(2, 3), part, text, sizeof text),
                 TIER_EDATA));
    cr_expect(strstr(err.text, "2 classes at 1 places of a row: the model gives 3") != NULL, "%s",
              err.text);
    cr_assert(
        eq(int, predict_table(table, rows, linear_graph(2, 2), part, text, sizeof text), TIER_OK),
        "%s", err.text);
    cr_expect(strncmp(text, "row,id,score:well,score:ill,class\n4,,", 37) == 0, "%s", text);
}

Test(spoke_predict, a_number_and_a_hazard_are_scores_as_they_are) {
    static const char values[] = "columns:\n  - {name: a, type: number}\n"
                                 "  - {name: b, type: number}\n"
                                 "  - {name: y, type: target, value: true}\n"
                                 "  - {name: who, type: id}\n"
                                 "split: {by: hash, key: eight bytes, fraction: 0.5}\n";
    static const char survival[] =
        "columns:\n  - {name: a, type: number}\n  - {name: b, type: number}\n"
        "  - {name: y, type: target, value: true}\n"
        "  - {name: died, type: event, categories: [no, yes]}\n  - {name: who, type: id}\n"
        "split: {by: hash, key: eight bytes, fraction: 0.5}\n";
    struct spoke_predict w = {0};
    char text[256];
    /* a - b + 1 */
    const char *graph = linear_graph(2, 1);
    cr_expect(
        eq(int, predict_table(survival, "a,b\n5,2\n1,9\n", graph, w, text, sizeof text), TIER_OK),
        "%s", err.text);
    cr_expect(strcmp(text, "row,id,score\n2,,4\n3,,-7\n") == 0, "%s", text);
    cr_expect(
        eq(int, predict_table(values, "a,b\n5,2\n1,9\n", graph, w, text, sizeof text), TIER_OK),
        "%s", err.text);
    cr_expect(strcmp(text, "row,id,score\n2,,4\n3,,-7\n") == 0, "%s", text);
    cr_expect(eq(int,
                 predict_table(survival, "a,b\n5,2\n", linear_graph(2, 2), w, text, sizeof text),
                 TIER_EDATA));
    cr_expect(strstr(err.text, "target is a number: the model gives 2 outputs") != NULL, "%s",
              err.text);
}

Test(spoke_predict, tensors_are_found_by_name_or_missed_by_name) {
    struct tier_tensor t[2] = {{.name = "w", .ndim = 2, .dims = {2, 1}},
                               {.name = "fedcurv/pull/w", .ndim = 1, .dims = {3}}};
    const float x[5] = {1, 2, 3, 4, 5}, own = 6;
    float values[3] = {0};
    struct tier_tensor c = {.name = "c", .ndim = 1, .dims = {1}};
    struct tier_graph *g = NULL;
    char *paths[2];
    struct tier_hash hash;

    cr_assert(eq(int, tier_graph_open(linear_graph(2, 1), &g, &err), TIER_OK), "%s", err.text);
    for (int i = 0; i < 2; i++) {
        struct tier_manifest *m = NULL;
        struct tier_model_writer *w = NULL;
        cr_assert(eq(int, tier_manifest_new(i ? &c : t, i ? 1 : 2, &m, &err), TIER_OK));
        cr_assert(eq(int, tier_model_writer_begin(temp.folder, m, NULL, 0, &w, &err), TIER_OK));
        cr_assert(eq(int, tier_model_writer_append(w, i ? &own : x, i ? 1 : 5, &err), TIER_OK));
        cr_assert(eq(int, tier_model_writer_finish(w, &hash, &err), TIER_OK), "%s", err.text);
        paths[i] = tier_model_path(temp.folder, &hash);
        tier_manifest_free(m);
    }
    cr_expect(eq(int, spoke_predict_values(g, paths[0], NULL, values, &err), TIER_EMODEL));
    cr_expect(strstr(err.text, "it has no tensor 'c'") != NULL, "%s", err.text);
    cr_assert(eq(int, spoke_predict_values(g, paths[0], paths[1], values, &err), TIER_OK), "%s",
              err.text);
    cr_expect(values[0] == 1 && values[1] == 2 && values[2] == 6);
    tier_graph_free(g);
    g = NULL;
    cr_assert(eq(int, tier_graph_open(linear_graph(3, 1), &g, &err), TIER_OK), "%s", err.text);
    cr_expect(eq(int, spoke_predict_values(g, paths[0], paths[1], values, &err), TIER_EMODEL));
    cr_expect(strstr(err.text, "tensor 'w' has another shape") != NULL, "%s", err.text);
    tier_graph_free(g);
    for (int i = 0; i < 2; i++) {
        unlink(paths[i]);
        free(paths[i]);
    }
}
