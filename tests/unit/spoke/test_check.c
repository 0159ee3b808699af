/* SPDX-License-Identifier: Apache-2.0 */
#include "spoke/check.h"
#include "spoke/process.h"
#include "tests/support/data_path.h"
#include "tests/support/dicom_writer.h"
#include "tests/support/picture_writer.h"
#include "tests/support/temp_file.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <jansson.h>

TestSuite(spoke_check, .fini = temp_release);

static char *text, *errors;
static size_t text_bytes, errors_bytes;

static const char *cells_min = "1"; /* tables of a few rows are told as they are */

/* The command's exit status; what it printed is in text and errors. */
static int run(char *option, const char *schema, const char *data) {
    char *argv[] = {"check-data",
                    "--cells-min",
                    (char *)(uintptr_t)cells_min,
                    (char *)(uintptr_t)schema,
                    (char *)(uintptr_t)data,
                    option,
                    NULL};
    FILE *out = open_memstream(&text, &text_bytes), *err = open_memstream(&errors, &errors_bytes);
    int code = spoke_check_main(option ? 6 : 5, argv, out, err);
    fclose(out);
    fclose(err);
    return code;
}

static void done(void) {
    cr_expect(strstr(text, "SECRET") == NULL && strstr(errors, "SECRET") == NULL, "%s%s", text,
              errors);
    free(text);
    free(errors);
}

static const char table[] = "name: t\n"
                            "missing_rows: drop\n"
                            "columns:\n"
                            "  - {name: a, type: number, min: 0, max: 9, standardise: true}\n"
                            "  - {name: t, type: target, categories: [well, ill]}\n"
                            "  - {name: set, type: split}\n"
                            "split: {by: column}\n";

Test(spoke_check, a_table_that_keeps_its_contract_is_counted) {
    const char *csv =
        temp_file("t.csv", "a,t,set\n1,well,train\n2,ill,train\n3,ill,test\n,ill,val\n");
    cr_expect(eq(int, run(NULL, temp_file("s.yaml", table), csv), 0), "%s", errors);
    cr_expect(strstr(text, "table of 1\n") != NULL, "%s", text);
    cr_expect(strstr(text, "left out, a value missing: 1\nrefused: 0\n") != NULL, "%s", text);
    done();
    cr_expect(eq(int, run("--json", temp_file("s.yaml", table), csv), 0));
    json_t *o = json_loads(text, 0, NULL);
    json_int_t train = 0, test = 0, ill = 0;
    const char *name = NULL;
    cr_assert(eq(int,
                 json_unpack(o, "{s:s,s:{s:I,s:I},s:[{},{s:{s:I}}]}", "contract", &name, "rows",
                             "train", &train, "test", &test, "classes", "count", "train", &ill),
                 0),
              "%s", text);
    cr_expect(train == 2 && test == 1 && ill == 1);
    cr_expect(eq(str, (char *)(uintptr_t)name, "t"));
    json_decref(o);
    done();
}

Test(spoke_check, refused_rows_are_counted_by_reason_and_told_by_line_on_request) {
    const char *csv =
        temp_file("t.csv", "a,t,set\n1,well,train\n2,ill,train\n99,ill,train\nSECRET,ill,test\n"
                           "98,well,train\n4,SECRET,test\n5,well\n");
    cr_expect(eq(int, run(NULL, temp_file("s.yaml", table), csv), 1));
    cr_expect(strstr(text, "refused: 5\n") != NULL, "%s", text);
    cr_expect(strstr(text, "       2  column 'a': this cell is outside the range") != NULL, "%s",
              text);
    cr_expect(strstr(text, "       1  column 't': this cell is none of the categories") != NULL);
    cr_expect(strstr(text, "       1  2 cells where the schema has 3 columns") != NULL);
    cr_expect(errors_bytes == 0);
    done();
    cr_expect(eq(int, run("--lines", temp_file("s.yaml", table), csv), 1));
    cr_expect(strstr(errors, "t.csv:4: column 'a'") != NULL, "%s", errors);
    cr_expect(strstr(errors, "t.csv:7: column 't'") != NULL, "%s", errors);
    done();
}

Test(spoke_check, a_range_is_told_with_its_unit) {
    static const char schema[] = "columns:\n"
                                 "  - {name: a, type: number, unit: mmol/L, min: 0, max: 9}\n"
                                 "  - {name: t, type: target, categories: [well, ill]}\n"
                                 "  - {name: set, type: split}\n"
                                 "split: {by: column}\n";
    cr_expect(eq(int,
                 run(NULL, temp_file("s.yaml", schema),
                     temp_file("t.csv", "a,t,set\n3,ill,train\n162,ill,train\n4,well,test\n")),
                 1));
    cr_expect(strstr(text,
                     "       1  column 'a': this cell is outside the range the schema gives, 0 "
                     "to 9 mmol/L\n") != NULL,
              "%s", text);
    done();
}

Test(spoke_check, scans_of_another_modality_are_counted) {
    static const char schema[] = "kind: dicom\nimage: {size: [2, 3], modality: MR}\n"
                                 "columns:\n"
                                 "  - {name: scan, type: image}\n"
                                 "  - {name: t, type: target, categories: [well, ill]}\n"
                                 "  - {name: set, type: split}\n"
                                 "split: {by: column}\n";
    static const uint16_t pixels[6] = {1, 2, 3, 4, 5, 6};
    static const char *const tool[] = {"dcm2json", "--version", NULL};
    struct spoke_process p = {.argv = tool,
                              .output_max = 1 << 16,
                              .memory_max = UINT64_C(1) << 32,
                              .file_max = 1 << 16,
                              .timeout_ms = 60000};
    struct dicom_maker m = {.rows = 2, .columns = 3, .modality = "MR", .instance = 1};
    struct tier_err err = {0};
    uint8_t file[8192], *said = NULL;
    size_t n = 0;
    int code = 0;
    if (spoke_process_run(&p, &code, &said, &n, &err) != TIER_OK)
        cr_skip_test("dcm2json is not here (Debian's package dcmtk): %s", err.text);
    free(said);
    temp_file_n("a", (char *)file, dicom_make(&m, pixels, file, sizeof file));
    m.modality = "CT";
    temp_file_n("b", (char *)file, dicom_make(&m, pixels, file, sizeof file));
    m.modality = NULL;
    temp_file_n("c", (char *)file, dicom_make(&m, pixels, file, sizeof file));
    cr_expect(eq(int,
                 run(NULL, temp_file("s.yaml", schema),
                     temp_file("t.csv", "scan,t,set\na,ill,train\nb,ill,train\nb,well,test\n"
                                        "c,well,test\na,well,test\n")),
                 1),
              "%s", errors);
    cr_expect(strstr(text, "refused: 3\n") != NULL, "%s", text);
    cr_expect(strstr(text, "       2  column 'scan': its modality is CT where the schema wants "
                           "MR\n") != NULL,
              "%s", text);
    cr_expect(strstr(text,
                     "       1  column 'scan': its modality is not said where the schema wants "
                     "MR\n") != NULL,
              "%s", text);
    done();
}

/* 12 well and 4 ill to train on, 3 ill to test, 7 of each to validate. */
static const char *few(void) {
    static char csv[1024];
    size_t n = (size_t)snprintf(csv, sizeof csv, "a,t,set\n99,ill,train\n");
    for (int i = 0; i < 33; i++)
        n += (size_t)snprintf(csv + n, sizeof csv - n, "1,%s,%s\n",
                              i < 12 || (i >= 19 && i < 26) ? "well" : "ill",
                              i < 16   ? "train"
                              : i < 19 ? "test"
                                       : "val");
    return temp_file("t.csv", csv);
}

Test(spoke_check, few_patients_are_not_counted_out) {
    const char *schema = temp_file("s.yaml", table), *csv = few();
    char rows[128], well[128], ill[128];
    cells_min = "5";
    snprintf(rows, sizeof rows, "\n%-32s %12s %12s %12s\n", "rows", "16", "14", "< 5");
    snprintf(well, sizeof well, "\n  %-30s %12s %12s %12s\n", "well", ">= 5", "7", "0");
    snprintf(ill, sizeof ill, "\n  %-30s %12s %12s %12s\n", "ill", "< 5", "7", "< 5");
    cr_expect(eq(int, run(NULL, schema, csv), 1));
    cr_expect(strstr(text, rows) && strstr(text, well) && strstr(text, ill), "%s", text);
    cr_expect(strstr(text, "refused: 1\n") != NULL, "what is to be mended is told: %s", text);
    done();
    cr_expect(eq(int, run("--json", schema, csv), 1));
    cr_expect(strstr(text, "\"rows\":{\"train\":16,\"val\":14,\"test\":\"< 5\"}") != NULL, "%s",
              text);
    cr_expect(strstr(text, "\"count\":{\"train\":\">= 5\",\"val\":7,\"test\":0}") != NULL);
    cr_expect(strstr(text, "\"count\":{\"train\":\"< 5\",\"val\":7,\"test\":\"< 5\"}") != NULL);
    done();
    cells_min = "8";
    cr_expect(eq(int, run(NULL, schema, csv), 1));
    snprintf(ill, sizeof ill, "\n  %-30s %12s %12s %12s\n", "ill", "< 8", "< 8", "< 8");
    cr_expect(strstr(text, ill) != NULL, "%s", text);
    done();
    cells_min = "1";
    cr_expect(eq(int, run(NULL, schema, csv), 1));
    cr_expect(strstr(text, "<") == NULL, "%s", text);
    done();
    cells_min = "0";
    cr_expect(eq(int, run(NULL, schema, csv), 2));
    done();
}

Test(spoke_check, damaged_images_are_counted_and_the_others_read) {
    static const char schema[] = "kind: images\n"
                                 "image: {size: [2, 2], standardise: true, max: 200}\n"
                                 "columns:\n"
                                 "  - {name: file, type: image}\n"
                                 "  - {name: mask, type: mask, categories: [none, organ]}\n"
                                 "  - {name: set, type: split}\n"
                                 "split: {by: column}\n";
    static const uint8_t pixels[4] = {9, 8, 7, 6}, mask[4] = {0, 1, 1, 0}, wrong[4] = {0, 2, 0, 0};
    static const uint8_t bright[4] = {9, 8, 7, 201};
    uint8_t file[4096];
    temp_file_n("a.png", (char *)file, png_make(2, 2, 1, pixels, file, sizeof file));
    temp_file_n("b.png", (char *)file, png_make(2, 2, 1, bright, file, sizeof file));
    temp_file_n("SECRET.png", (char *)file, png_make(2, 2, 1, pixels, file, sizeof file) - 9);
    temp_file_n("m.png", (char *)file, png_make(2, 2, 1, mask, file, sizeof file));
    temp_file_n("w.png", (char *)file, png_make(2, 2, 1, wrong, file, sizeof file));
    const char *csv =
        temp_file("t.csv", "file,mask,set\na.png,m.png,train\nSECRET.png,m.png,train\n"
                           "b.png,m.png,test\na.png,w.png,test\nno.png,m.png,test\n"
                           "a.png,m.png,test\n");
    cr_expect(eq(int, run("--json", temp_file("s.yaml", schema), csv), 1), "%s", errors);
    json_t *o = json_loads(text, 0, NULL);
    json_int_t train = 0, test = 0, refused = 0, organ = 0;
    cr_assert(
        eq(int,
           json_unpack(o, "{s:{s:I,s:I},s:I,s:[{},{s:{s:I}}]}", "rows", "train", &train, "test",
                       &test, "refused", &refused, "classes", "count", "train", &organ),
           0),
        "%s", text);
    cr_expect(train == 1 && test == 1 && refused == 4 && organ == 2, "%s", text);
    cr_expect(strstr(text, "column 'file': the PNG file is damaged or cut off") != NULL);
    cr_expect(strstr(text, "a value of the image is outside the min and max") != NULL);
    cr_expect(strstr(text, "column 'mask': the mask has an element") != NULL);
    cr_expect(strstr(text, "column 'file': the file it names is not there") != NULL);
    json_decref(o);
    done();
}

Test(spoke_check, what_has_no_row_and_a_wrong_command_say_so) {
    cr_expect(eq(int, run(NULL, temp_file("s.yaml", "columns: x\n"), "t.csv"), 1));
    cr_expect(strstr(errors, "s.yaml:1:") != NULL, "%s", errors);
    done();
    cr_expect(
        eq(int, run(NULL, temp_file("s.yaml", table), temp_file("t.csv", "a,t,set\n99,ill,test\n")),
           1));
    cr_expect(strstr(text, "refused: 1\n") != NULL, "%s", text);
    done();
    cr_expect(eq(int, run("--nothing", "s.yaml", "t.csv"), 2));
    done();
    cr_expect(eq(int, run("--help", "s.yaml", "t.csv"), 0));
    cr_expect(strstr(text, "counts alone") != NULL);
    done();
}

Test(spoke_check, pneumoniamnist_keeps_its_contract) {
    char path[1024], schema[1024], line[128];
    if (!data_path("pneumoniamnist/pneumoniamnist_28_content.npz", path, sizeof path))
        cr_skip_test("pneumoniamnist is not here");
    source_path("deploy/examples/pneumonia/schema.yaml", schema, sizeof schema);
    snprintf(line, sizeof line, "\n  %-30s %12d %12d %12d\n", "pneumonia", 3494, 389, 390);
    cr_expect(eq(int, run(NULL, schema, path), 0), "%s", errors);
    cr_expect(strstr(text, line) != NULL, "%s", text);
    done();
}
