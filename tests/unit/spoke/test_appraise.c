/* SPDX-License-Identifier: Apache-2.0 */
/* Models appraised as a hub asks for it, beside the evaluation that hospitals do. */
#include "spoke/appraise.h"
#include "spoke/eval.h"
#include "spoke/loss.h"
#include "tests/support/wdbc.h"
#include "tier/content.h"
#include "tier/task.h"

#include <string.h>
#include <unistd.h>

#define GRAPH EXAMPLE "/model.onnx"
#define SCHEMA EXAMPLE "/schema.yaml"

static char plan_path[128], model_path[256], csv[128];
static struct tier_plan plan;
static struct tier_graph *graph;

static void up(void) {
    struct tier_manifest *manifest = NULL;
    struct tier_err err = {0};
    struct tier_hash first;
    char *text = NULL, *path;
    size_t bytes = 0;

    set_up();
    plan = plan_of(3);
    snprintf(plan.model_sha256, sizeof plan.model_sha256, "%064d", 0);
    plan.model_bytes = 1;
    cr_assert(eq(int, tier_plan_canonical(&plan, &text, &bytes, NULL, &err), TIER_OK), "%s",
              err.text);
    snprintf(plan_path, sizeof plan_path, "%s/a.plan", work);
    FILE *f = fopen(plan_path, "wb");
    cr_assert(f && fwrite(text, 1, bytes, f) == bytes && fclose(f) == 0);
    free(text);
    cr_assert(eq(int, tier_graph_open(GRAPH, &graph, &err), TIER_OK));
    cr_assert(eq(int, tier_task_manifest(&plan, graph, &manifest, &err), TIER_OK));
    cr_assert(eq(int, tier_task_first_model(graph, manifest, work, &first, &err), TIER_OK));
    path = tier_content_path(work, &first, TIER_CONTENT_MODEL);
    snprintf(model_path, sizeof model_path, "%s", path);
    snprintf(csv, sizeof csv, "%s/tables/%s.csv", work, sites[0]);
    free(path);
    tier_manifest_free(manifest);
}

static void down(void) {
    tier_graph_free(graph);
    tear_down();
}

TestSuite(spoke_appraise, .init = up, .fini = down, .timeout = 60);

/* The answers to lines of paths; its status. */
static enum tier_status ask(const struct spoke_appraise *w, const char *lines, char *answers,
                            size_t size, struct tier_err *err) {
    FILE *in = fmemopen((void *)(uintptr_t)lines, strlen(lines), "r");
    FILE *out = fmemopen(answers, size, "w");
    enum tier_status st = spoke_appraise(w, in, out, err);
    fclose(in);
    fclose(out);
    return st;
}

static struct spoke_appraise usual(void) {
    return (struct spoke_appraise){
        .plan = plan_path, .graph = GRAPH, .schema = SCHEMA, .data = csv, .threads = 1};
}

Test(spoke_appraise, every_row_counts_and_the_sums_are_those_of_an_evaluation) {
    const struct spoke_data_options all = {.undivided = true};
    struct spoke_appraise w = usual();
    struct kern_device *device = NULL;
    struct spoke_data *data = NULL;
    struct spoke_net *net = NULL;
    struct spoke_sums *sums = calloc(1, sizeof *sums);
    struct tier_err err = {0};
    char lines[600], answers[400] = "", want[400];

    cr_assert(eq(int, spoke_data_open(SCHEMA, csv, &all, &data, &err), TIER_OK), "%s", err.text);
    kern_init(NULL);
    cr_assert(eq(int, kern_device_open("cpu", 1, &device), KERN_OK));
    const struct spoke_objective objective = spoke_objective_for(&plan, data);
    cr_assert(eq(int, spoke_net_new_for(device, graph, &objective, 16, &net, &err), TIER_OK));
    cr_assert(eq(int, spoke_evaluate(net, data, SPOKE_TEST, sums, &err), TIER_OK));
    cr_assert(gt(i64, sums->count, 20));
    snprintf(want, sizeof want, "{\"count\":%lld,\"loss\":%lld}\n", (long long)sums->count,
             (long long)sums->loss);
    snprintf(lines, sizeof lines, "%s\n", model_path);
    cr_assert(eq(int, ask(&w, lines, answers, sizeof answers, &err), TIER_OK), "%s", err.text);
    cr_assert(eq(str, answers, want));
    spoke_net_free(net);
    spoke_data_free(data);
    kern_device_close(device);
    free(sums);
}

Test(spoke_appraise, a_file_that_is_no_model_is_said_and_the_next_one_is_taken) {
    struct spoke_appraise w = usual();
    struct tier_err err = {0};
    char lines[1200], answers[1000] = "";
    snprintf(lines, sizeof lines, "/nowhere\n%s\n%s\n", plan_path, model_path);
    cr_assert(eq(int, ask(&w, lines, answers, sizeof answers, &err), TIER_OK), "%s", err.text);
    char *second = strchr(answers, '\n'), *third = second ? strchr(second + 1, '\n') : NULL;
    cr_assert(third != NULL, "%s", answers);
    cr_assert(eq(int, strncmp(answers, "{\"error\":\"cannot open /nowhere", 30), 0), "%s", answers);
    cr_assert(eq(int, strncmp(second + 1, "{\"error\":", 9), 0), "%s", second);
    cr_assert(eq(int, strncmp(third + 1, "{\"count\":", 9), 0), "%s", third);
}

Test(spoke_appraise, what_does_not_fit_together_is_refused_before_a_model_is_read) {
    struct tier_err err = {0};
    char answers[400] = "";
    struct spoke_appraise w = usual();
    w.plan = csv;
    cr_assert(eq(int, ask(&w, "x\n", answers, sizeof answers, &err), TIER_EPLAN));
    w = usual();
    w.data = "/nowhere.csv";
    cr_assert(ne(int, ask(&w, "x\n", answers, sizeof answers, &err), TIER_OK));
    w = usual();
    w.graph = csv;
    cr_assert(ne(int, ask(&w, "x\n", answers, sizeof answers, &err), TIER_OK));
    cr_assert(eq(str, answers, ""));
}

Test(spoke_appraise, a_path_that_is_too_long_ends_it) {
    struct spoke_appraise w = usual();
    struct tier_err err = {0};
    char *lines = malloc(20001), answers[400] = "";
    memset(lines, 'x', 20000);
    lines[20000] = '\0';
    cr_assert(eq(int, ask(&w, lines, answers, sizeof answers, &err), TIER_EPROTO));
    free(lines);
}

Test(spoke_appraise, the_command_says_how_it_is_called) {
    char *bad[] = {(char[]){"appraise"}, (char[]){"--plan"}, (char[]){"p"},
                   (char[]){"s"},        (char[]){"d"},      NULL};
    char *help[] = {(char[]){"appraise"}, (char[]){"--help"}, NULL};
    FILE *null = fopen("/dev/null", "w+");
    cr_assert(eq(int, spoke_appraise_main(5, bad, null, null, null), 2));
    cr_assert(eq(int, spoke_appraise_main(2, help, null, null, null), 0));
    fclose(null);
}
