/* SPDX-License-Identifier: Apache-2.0 */
/* Windows of images in a plan: what may be written, what travels, what a graph must take. */
#include "support/onnx_writer.h"
#include "support/temp_file.h"
#include "tier/graph.h"
#include "tier/plan.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

static struct tier_plan plan, other;
static struct tier_problems problems;
static struct tier_err err;

TestSuite(tier_plan_patch, .fini = temp_release);

static enum tier_status load(const char *loss, const char *local) {
    char text[2000];
    temp_file("model.onnx", "abc");
    snprintf(text, sizeof text,
             "plan: 1\nname: seg\npurpose: tests\nmodel: model.onnx\ndata: {contract: seg}\n"
             "local: {optimiser: {name: sgd, lr: 0.1}, batch: 8, epochs: 1, loss: %s, %s}\n"
             "rounds: 3\n",
             loss, local);
    memset(&problems, 0, sizeof problems);
    return tier_plan_load(temp_file("plan.yaml", text), &plan, NULL, &problems, &err);
}

static void refused(const char *loss, const char *local, const char *why) {
    cr_assert(eq(int, load(loss, local), TIER_EPLAN), "%s", local);
    for (size_t i = 0; i < problems.count; i++)
        if (strstr(problems.item[i].text, why))
            return;
    cr_fail("%s: no problem says '%s': %s", local, why, err.text);
}

Test(tier_plan_patch, a_plan_that_says_nothing_takes_images_whole) {
    uint64_t side[3];
    cr_assert(eq(int, load("bce", "seed: 2"), TIER_OK), "%s", err.text);
    cr_expect(eq(sz, tier_plan_patch_sides(&plan, side), 0));
    cr_expect(plan.patch.positive == 0 && plan.patch.overlap == 0.25);
    cr_expect(eq(int, tier_plan_patch_fits(&plan, NULL, &err), TIER_OK));
}

Test(tier_plan_patch, windows_travel_as_they_were_written) {
    char *text = NULL;
    size_t bytes = 0;
    uint64_t side[3];
    cr_assert(eq(int, load("dice_ce", "patch: {size: [16, 128, 7], positive: 0.5, overlap: 0.75}"),
                 TIER_OK),
              "%s", err.text);
    cr_assert(eq(int, tier_plan_canonical(&plan, &text, &bytes, NULL, &err), TIER_OK));
    cr_assert(eq(int, tier_plan_parse(text, bytes, &other, &err), TIER_OK), "%s", err.text);
    free(text);
    cr_assert(eq(sz, tier_plan_patch_sides(&other, side), 3));
    cr_expect(side[0] == 16 && side[1] == 128 && side[2] == 7);
    cr_expect(other.patch.positive == 0.5 && other.patch.overlap == 0.75);
}

Test(tier_plan_patch, windows_that_cannot_be_are_refused) {
    refused("dice", "patch: {size: [16, 0]}", "whole numbers from 1 to 65536, not '0'");
    refused("dice", "patch: {size: [\"016\"]}", "not '016'");
    refused("dice", "patch: {size: [1.5]}", "not '1.5'");
    refused("dice", "patch: {size: [65537]}", "not '65537'");
    refused("dice", "patch: {size: [1, 2, 3, 4]}", "an image has at most 3");
    refused("dice", "patch: {size: [8], overlap: 0.95}", "local.patch.overlap must");
    refused("dice", "patch: {size: [8], positive: 1.5}", "local.patch.positive must");
    refused("dice", "patch: {positive: 0.5}", "local.patch.positive needs local.patch.size");
    refused("dice", "patch: {overlap: 0.5}", "local.patch.overlap needs local.patch.size");
    refused("bce", "patch: {size: [8, 8]}", "is for masks: it needs local.loss: dice");
    refused("dice", "patch: {size: [8, 8]}, curvature: {lambda: 0.1}",
            "local.patch.size excludes local.curvature.lambda");
}

Test(tier_plan_patch, the_models_input_has_those_sides) {
    static struct onnx_msg graph, model;
    static const float w[2] = {-1, 1}, b[2] = {10, -10};
    static const int64_t filter[4] = {2, 1, 1, 1}, two = 2, x[3] = {1, 6, 4}, y[3] = {2, 6, 4};
    struct tier_graph *g = NULL;
    graph.n = 0;
    onnx_add_rows(&graph, 11, "x", 3, x, 1);
    onnx_add_rows(&graph, 12, "y", 3, y, 1);
    onnx_add_dims(&graph, "w", 4, filter, 1, w);
    onnx_add_dims(&graph, "b", 1, &two, 1, b);
    onnx_add_node(&graph, "Conv", "x w b", "y");
    onnx_model(&model, &graph, 13);
    cr_assert(eq(int, tier_graph_parse(model.b, model.n, &g, &err), TIER_OK), "%s", err.text);
    cr_assert(eq(int, load("dice", "patch: {size: [6, 4]}"), TIER_OK));
    cr_expect(eq(int, tier_plan_patch_fits(&plan, g, &err), TIER_OK), "%s", err.text);
    cr_assert(eq(int, load("dice", "patch: {size: [4, 6]}"), TIER_OK));
    cr_expect(eq(int, tier_plan_patch_fits(&plan, g, &err), TIER_EPLAN));
    cr_expect(strstr(err.text, "local.patch.size is 4 x 6: the model's input is 1 x 1 x 6 x 4") !=
                  NULL,
              "%s", err.text);
    cr_assert(eq(int, load("dice", "patch: {size: [6]}"), TIER_OK));
    cr_expect(eq(int, tier_plan_patch_fits(&plan, g, &err), TIER_EPLAN));
    tier_graph_free(g);
}
