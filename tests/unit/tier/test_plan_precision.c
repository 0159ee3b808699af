/* SPDX-License-Identifier: Apache-2.0 */
/* local.precision: what may be written, and that it travels. */
#include "support/temp_file.h"
#include "tier/plan.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

static struct tier_plan plan, other;
static struct tier_problems problems;
static struct tier_err err;

static enum tier_status load(const char *local) {
    char text[2000];
    temp_file("model.onnx", "abc");
    snprintf(text, sizeof text,
             "plan: 1\nname: heart\npurpose: tests\nmodel: model.onnx\ndata: {contract: heart}\n"
             "local: {loss: bce, optimiser: {name: sgd, lr: 0.1}, batch: 8, epochs: 1%s}\n"
             "rounds: 3\n",
             local);
    memset(&problems, 0, sizeof problems);
    return tier_plan_load(temp_file("plan.yaml", text), &plan, NULL, &problems, &err);
}

TestSuite(tier_plan_precision, .fini = temp_release);

Test(tier_plan_precision, a_plan_that_says_nothing_computes_in_float32) {
    cr_assert(eq(int, load(""), TIER_OK), "%s", err.text);
    cr_assert(eq(int, plan.precision, TIER_PLAN_PRECISION_F32));
}

Test(tier_plan_precision, tf32_is_read_and_travels) {
    char *text = NULL;
    size_t bytes = 0;
    cr_assert(eq(int, load(", precision: tf32"), TIER_OK), "%s", err.text);
    cr_assert(eq(int, plan.precision, TIER_PLAN_PRECISION_TF32));
    cr_assert(eq(int, tier_plan_canonical(&plan, &text, &bytes, NULL, &err), TIER_OK));
    cr_assert(eq(int, tier_plan_parse(text, bytes, &other, &err), TIER_OK), "%s", err.text);
    free(text);
    cr_assert(eq(int, other.precision, TIER_PLAN_PRECISION_TF32));
}

Test(tier_plan_precision, half_precisions_are_read_and_travel) {
    static const struct {
        const char *text;
        int precision;
    } cases[] = {{", precision: bf16", TIER_PLAN_PRECISION_BF16},
                 {", precision: f16", TIER_PLAN_PRECISION_F16}};
    for (size_t i = 0; i < 2; i++) {
        char *text = NULL;
        size_t bytes = 0;
        cr_assert(eq(int, load(cases[i].text), TIER_OK), "%s", err.text);
        cr_assert(eq(int, plan.precision, cases[i].precision));
        cr_assert(eq(int, tier_plan_canonical(&plan, &text, &bytes, NULL, &err), TIER_OK));
        cr_assert(eq(int, tier_plan_parse(text, bytes, &other, &err), TIER_OK), "%s", err.text);
        free(text);
        cr_assert(eq(int, other.precision, cases[i].precision));
    }
}

Test(tier_plan_precision, another_precision_is_refused_with_those_that_are_known) {
    cr_assert(eq(int, load(", precision: f8"), TIER_EPLAN));
    cr_expect(strstr(err.text, "local.precision") && strstr(err.text, "f32, tf32, bf16, f16"), "%s",
              err.text);
}
