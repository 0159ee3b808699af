/* SPDX-License-Identifier: Apache-2.0 */
/* The training recipe of a plan: what may be written, what fills the rest in, what is refused. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "tests/support/temp_file.h"
#include "tier/plan.h"

#include <stdlib.h>

static struct tier_plan plan, other;
static struct tier_problems problems;
static struct tier_err err;

TestSuite(tier_plan_recipe, .fini = temp_release);

/* A good plan, with these lines below `local`, of which optimiser and length are the first. */
static enum tier_status load(const char *optimiser, const char *lines) {
    static char text[4096];
    const char *model = temp_file("model.onnx", "abc");
    snprintf(text, sizeof text,
             "plan: 1\nname: heart-disease\npurpose: predict heart disease\nmodel: %s\n"
             "data: {contract: heart.v1}\nrounds: 10\nlocal:\n  loss: bce\n  batch: 32\n"
             "  steps: 5\n  optimiser: {%s}\n%s\n",
             strrchr(model, '/') + 1, optimiser, lines);
    memset(&problems, 0, sizeof problems);
    return tier_plan_load(temp_file("plan.yaml", text), &plan, NULL, &problems, &err);
}

static void refused(const char *optimiser, const char *lines, const char *why) {
    bool found = false;
    cr_expect(eq(int, load(optimiser, lines), TIER_EPLAN), "%s, %s", optimiser, lines);
    for (size_t i = 0; i < problems.count; i++)
        found = found || strstr(problems.item[i].text, why);
    cr_expect(found, "%s, %s: %s", optimiser, lines, problems.item[0].text);
}

#define SGD "name: sgd, lr: 0.1"

static void accepted(const char *optimiser, const char *lines) {
    cr_assert(eq(int, load(optimiser, lines), TIER_OK), "%s, %s: %s", optimiser, lines, err.text);
}

Test(tier_plan_recipe, a_plan_that_says_nothing_trains_as_it_did) {
    accepted(SGD, "");
    cr_expect(plan.schedule.kind == TIER_PLAN_CONSTANT && plan.schedule.warmup == 0);
    cr_expect(isnan(plan.schedule.gamma) && isnan(plan.schedule.lr_min));
    cr_expect(plan.clip_norm == 0 && plan.clip_value == 0 && plan.ema == 0);
    cr_expect(eq(u64, plan.accumulate, 1));
}

Test(tier_plan_recipe, adamw_has_adams_numbers_and_a_decay_of_its_own) {
    accepted("name: adamw, lr: 0.001", "");
    cr_expect(plan.optimiser.kind == TIER_PLAN_ADAMW);
    cr_expect(eq(dbl, plan.optimiser.beta1, 0.9));
    cr_expect(eq(dbl, plan.optimiser.beta2, 0.999));
    cr_expect(eq(dbl, plan.optimiser.eps, 1e-8));
    cr_expect(eq(dbl, plan.optimiser.weight_decay, 0.01));
    accepted("name: adamw, lr: 0.001, weight_decay: 0.0", "");
    cr_expect(eq(dbl, plan.optimiser.weight_decay, 0));
    accepted("name: adam, lr: 0.001", "");
    cr_expect(eq(dbl, plan.optimiser.weight_decay, 0));
    refused("name: adamw, lr: 0.001, momentum: 0.9", "", "is for sgd; adamw has beta1");
    refused("name: adamw, lr: 0.001", "  normalise: true", "local.normalise is defined for sgd");
}

Test(tier_plan_recipe, a_schedule_has_the_numbers_of_its_kind) {
    accepted(SGD, "  schedule: {name: step, step_size: 3}");
    cr_expect(plan.schedule.kind == TIER_PLAN_STEP && plan.schedule.step_size == 3);
    cr_expect(eq(dbl, plan.schedule.gamma, 0.1));
    cr_expect(plan.schedule.per == TIER_PLAN_PER_ROUND);
    accepted(SGD, "  schedule: {name: cosine, per: step, warmup: 2}");
    cr_expect(plan.schedule.per == TIER_PLAN_PER_STEP && plan.schedule.warmup == 2);
    cr_expect(eq(dbl, plan.schedule.lr_min, 0));
    accepted(SGD, "  schedule: {warmup: 9}");
    refused(SGD, "  schedule: {name: step}", "local.schedule.step_size must be above 0 for step");
    refused(SGD, "  schedule: {name: step, step_size: 1, lr_min: 0.1}",
            "local.schedule.lr_min is for cosine");
    refused(SGD, "  schedule: {name: cosine, gamma: 0.5}", "local.schedule.gamma is for step");
    refused(SGD, "  schedule: {step_size: 5}", "local.schedule.step_size is for step");
    refused(SGD, "  schedule: {name: cosine, lr_min: 0.2}", "above local.optimiser.lr");
    refused(SGD, "  schedule: {warmup: 10}", "is 10 of 10 rounds");
    refused(SGD, "  schedule: {name: step, step_size: 1, gamma: 1.5}", "local.schedule.gamma must");
    refused(SGD, "  schedule: {name: linear}", "local.schedule.name must be one of");
    refused(SGD, "  schedule: {per: epoch}", "local.schedule.per must be one of");
}

Test(tier_plan_recipe, a_gradient_is_clipped_in_one_way) {
    accepted(SGD, "  clip_norm: 1.0");
    cr_expect(eq(dbl, plan.clip_norm, 1));
    accepted(SGD, "  clip_value: 0.5");
    cr_expect(eq(dbl, plan.clip_value, 0.5));
    refused(SGD, "  clip_norm: 1.0\n  clip_value: 0.5", "exclude each other: keep one");
    refused(SGD, "  clip_norm: -1.0", "local.clip_norm must be");
}

Test(tier_plan_recipe, averages_and_batches_are_bounded) {
    accepted(SGD, "  ema: 0.99\n  accumulate: 8");
    cr_expect(plan.ema == 0.99 && plan.accumulate == 8);
    refused(SGD, "  ema: 1.0", "local.ema must be");
    refused(SGD, "  accumulate: 0", "local.accumulate must be");
}

Test(tier_plan_recipe, what_is_frozen_is_a_list_of_patterns) {
    accepted(SGD, "  freeze: [\"layer1.*\", conv1.weight]");
    cr_expect(eq(sz, plan.freeze.count, 2));
    cr_expect(strcmp(tier_keys_list_item(&plan.freeze, 0), "layer1.*") == 0);
    refused(SGD, "  freeze: [a, a]", "local.freeze lists 'a' twice");
    refused(SGD, "  freeze: [a]\ncodec: {name: one_bit}", "must not be one_bit with local.freeze");
    accepted(SGD, "codec: {name: one_bit}");
}

Test(tier_plan_recipe, a_list_of_patterns_takes_so_many_and_so_much) {
    struct tier_keys_list many = {0}, long_ones = {0};
    char name[TIER_TENSOR_NAME_LEN_MAX + 1];
    memset(name, 'a', sizeof name);
    for (size_t i = 0; i < TIER_KEYS_LIST_MAX; i++) {
        name[0] = (char)('!' + i);
        cr_assert(tier_keys_list_add(&many, name, 1 + i % 60), "%zu", i);
    }
    cr_expect(not(tier_keys_list_add(&many, "a", 1)));
    for (size_t i = 0; i < TIER_KEYS_LIST_MAX; i++)
        cr_expect(tier_keys_list_item(&many, i)[0] == (char)('!' + i) &&
                      strlen(tier_keys_list_item(&many, i)) == 1 + i % 60,
                  "%zu", i);
    for (size_t i = 0; i < TIER_KEYS_LIST_BYTES / sizeof name; i++)
        cr_assert(tier_keys_list_add(&long_ones, name, sizeof name - 1), "%zu", i);
    cr_expect(not(tier_keys_list_add(&long_ones, "a", 1)));
    cr_expect(eq(sz, long_ones.count, TIER_KEYS_LIST_BYTES / sizeof name));
}

Test(tier_plan_recipe, a_tensor_may_have_a_clip_of_its_own) {
    char text[600];
    accepted(SGD, "exact: {clip: 0.5, clips: [\"bn*.running_var=1000\", \"a=b=1e-3\", \"bn*=4\"]}");
    cr_expect(eq(int, tier_plan_tensor_bits(&plan, "bn1.running_var"), 20));
    cr_expect(eq(int, tier_plan_tensor_bits(&plan, "bn1.weight"), 28));
    cr_expect(eq(int, tier_plan_tensor_bits(&plan, "a=b"), 39));
    cr_expect(eq(int, tier_plan_tensor_bits(&plan, "fc1.weight"), 31));
    cr_expect(strstr(tier_plan_proof(&plan, text, sizeof text), "exact.clips") != NULL);
    static const char *const bad[] = {"bn",      "=3",       "bn=",      "bn=x",     "bn=-1",
                                      "bn=1e31", "bn=1e-21", "bn=inf",   "bn=0x10",  "bn=1 2",
                                      "bn= 3",   "bn=nan",   "bn=1e999", "bn=1e-999"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char line[64];
        snprintf(line, sizeof line, "exact: {clips: [\"%s\"]}", bad[i]);
        refused(SGD, line, "exact.clips has '");
    }
    refused(SGD, "  scaffold: true\nexact: {clips: [\"bn*=4\"]}", "exact.clips must be empty with");
    refused(SGD, "codec: {name: q8}\nexact: {clips: [\"bn*=4\"]}",
            "exact.clips must be empty with");
    accepted(SGD, "codec: {name: f16}\nexact: {clips: [\"bn*=4\"]}");
    refused(SGD, "exact: {clips: [\"a=1\", \"a=1\"]}", "exact.clips lists 'a=1' twice");
}

Test(tier_plan_recipe, what_fednova_and_scaffold_are_not_worked_out_for_is_refused) {
    accepted(SGD, "  normalise: true\n  clip_norm: 1.0\n  schedule: {name: cosine}");
    accepted(SGD, "  scaffold: true\n  accumulate: 2");
    refused(SGD, "  normalise: true\n  ema: 0.9", "local.ema and local.normalise exclude");
    refused(SGD, "  scaffold: true\n  ema: 0.9", "local.ema and local.scaffold exclude");
    refused(SGD, "  normalise: true\n  schedule: {name: cosine, per: step}",
            "local.schedule.name must be constant without warmup");
    refused(SGD, "  normalise: true\n  prox_mu: 0.1\n  schedule: {warmup: 2}",
            "local.schedule.name must be constant without warmup");
    refused(SGD, "  normalise: true\n  prox_mu: 0.1\n  clip_value: 2.0", "local.clip_value must");
    refused(SGD, "  scaffold: true\n  schedule: {warmup: 2}",
            "local.schedule.name must be constant without warmup");
    refused(SGD, "  scaffold: true\n  clip_norm: 2.0", "local.clip_norm must be 0");
}

Test(tier_plan_recipe, a_recipe_travels_as_it_was_written) {
    char *text = NULL;
    size_t bytes = 0;
    accepted("name: adamw, lr: 0.001",
             "  schedule: {name: step, per: step, warmup: 1, step_size: 2, gamma: 0.3}\n"
             "  clip_norm: 2.5\n  ema: 0.9\n  accumulate: 3");
    cr_assert(eq(int, tier_plan_canonical(&plan, &text, &bytes, NULL, &err), TIER_OK));
    cr_assert(eq(int, tier_plan_parse(text, bytes, &other, &err), TIER_OK), "%s", err.text);
    cr_expect(other.schedule.kind == TIER_PLAN_STEP && other.schedule.per == TIER_PLAN_PER_STEP);
    cr_expect(other.schedule.warmup == 1 && other.schedule.step_size == 2);
    cr_expect(other.schedule.gamma == 0.3 && isnan(other.schedule.lr_min));
    cr_expect(other.optimiser.kind == TIER_PLAN_ADAMW && other.clip_norm == 2.5);
    cr_expect(other.ema == 0.9 && other.accumulate == 3);
    free(text);
}

Test(tier_plan_recipe, augmentation_is_none_or_as_written_and_within_its_ranges) {
    accepted(SGD, "");
    cr_expect(plan.augment.noise == 0 && plan.augment.rotate_deg == 0 && plan.augment.scale == 0);
    cr_expect(plan.augment.contrast == 0 && plan.augment.brightness == 0);
    cr_expect(eq(int, plan.augment.flip_x || plan.augment.flip_y || plan.augment.flip_z, false));
    accepted(SGD, "  augment: {flip_x: true, flip_z: true, rotate_deg: 15.0, scale: 0.25, "
                  "contrast: 0.125, brightness: 0.5, noise: 0.1}");
    cr_expect(plan.augment.flip_x && plan.augment.flip_z && !plan.augment.flip_y);
    cr_expect(plan.augment.rotate_deg == 15 && plan.augment.scale == 0.25);
    cr_expect(plan.augment.contrast == 0.125 && plan.augment.brightness == 0.5);
    cr_expect(plan.augment.noise == 0.1);
    refused(SGD, "  augment: {rotate_deg: 181.0}", "local.augment.rotate_deg must be");
    refused(SGD, "  augment: {scale: -0.5}", "local.augment.scale must be");
    refused(SGD, "  augment: {contrast: 1.5}", "local.augment.contrast must be");
    refused(SGD, "  augment: {noise: strong}", "local.augment.noise must be");
    refused(SGD, "  augment: {flip: true}", "augment");
}
