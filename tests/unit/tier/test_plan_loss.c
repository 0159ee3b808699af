/* SPDX-License-Identifier: Apache-2.0 */
/* A plan's loss and its options: what may be written, what it becomes, what is refused. */
#include "support/temp_file.h"
#include "tier/plan.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>
#include <string.h>

static struct tier_plan plan, other;
static struct tier_problems problems;
static struct tier_err err;

/* `local` is what follows in the map of that name; `more` stands at the end of the plan. */
static enum tier_status load(const char *local, const char *more) {
    char text[2000];
    temp_file("model.onnx", "abc");
    snprintf(text, sizeof text,
             "plan: 1\nname: seg\npurpose: tests\nmodel: model.onnx\ndata: {contract: seg}\n"
             "local: {optimiser: {name: sgd, lr: 0.1}, batch: 8, epochs: 1, %s}\nrounds: 3\n%s\n",
             local, more);
    memset(&problems, 0, sizeof problems);
    return tier_plan_load(temp_file("plan.yaml", text), &plan, NULL, &problems, &err);
}

static void refused(const char *local, const char *more, const char *why) {
    cr_assert(eq(int, load(local, more), TIER_EPLAN), "%s", local);
    for (size_t i = 0; i < problems.count; i++)
        if (strstr(problems.item[i].text, why))
            return;
    cr_fail("%s: no problem says '%s': %s", local, why, err.text);
}

/* It travels, and arrives as it was. */
static void travels(void) {
    char *text = NULL;
    size_t bytes = 0;
    cr_assert(eq(int, tier_plan_canonical(&plan, &text, &bytes, NULL, &err), TIER_OK));
    cr_assert(eq(int, tier_plan_parse(text, bytes, &other, &err), TIER_OK), "%s", err.text);
    cr_assert(memcmp(&plan.loss_options, &other.loss_options, sizeof plan.loss_options) == 0);
    cr_assert(eq(int, plan.loss, other.loss));
    free(text);
}

TestSuite(tier_plan_loss, .fini = temp_release);

Test(tier_plan_loss, a_loss_without_options_has_the_usual_ones) {
    static const char *const losses[] = {"bce", "cross_entropy", "dice", "dice_ce", "mse", "l1",
                                         "cox"};
    const struct tier_plan_loss_options plain = TIER_PLAN_LOSS_PLAIN;
    for (int i = 0; i < 7; i++) {
        char local[40];
        snprintf(local, sizeof local, "loss: %s", losses[i]);
        cr_assert(eq(int, load(local, ""), TIER_OK), "%s", err.text);
        cr_assert(eq(int, plan.loss, i));
        cr_assert(memcmp(&plan.loss_options, &plain, sizeof plain) == 0, "%s", losses[i]);
        travels();
    }
}

Test(tier_plan_loss, options_are_read_and_travel) {
    cr_assert(eq(int,
                 load("loss: dice_ce, class_weights: [0.5, 2, 1e1], ignore_class: 2, dice: {batch: "
                      "true, include_background: false, smooth_nr: 0, smooth_dr: 1, lambda_dice: "
                      "0.5, lambda_ce: 2}",
                      "stop: {metric: dice, target: 0.9}"),
                 TIER_OK),
              "%s", err.text);
    const struct tier_plan_loss_options *o = &plan.loss_options;
    cr_expect(eq(sz, o->class_weights.count, 3));
    cr_expect(strcmp(tier_keys_list_item(&o->class_weights, 2), "1e1") == 0);
    cr_expect(eq(u64, o->ignore_class, 2));
    cr_expect(o->dice.batch && !o->dice.include_background);
    cr_expect(o->dice.smooth_nr == 0 && o->dice.smooth_dr == 1);
    cr_expect(o->dice.lambda_dice == 0.5 && o->dice.lambda_ce == 2);
    travels();
    cr_assert(eq(int, load("loss: bce, pos_weight: 3", ""), TIER_OK), "%s", err.text);
    cr_expect(plan.loss_options.pos_weight == 3);
    travels();
}

Test(tier_plan_loss, what_does_not_go_together_is_refused_by_name) {
    static const struct {
        const char *local, *more, *why;
    } cases[] = {
        {"loss: bce, class_weights: [1, 2]", "", "class_weights is for local.loss: cross_entropy"},
        {"loss: dice, class_weights: [1, 2]", "", "class_weights is for local.loss: cross_entropy"},
        {"loss: cross_entropy, class_weights: [1]", "", "a number for each class, at least two"},
        {"loss: cross_entropy, class_weights: [0, 0.0]", "", "not all of them 0"},
        {"loss: cross_entropy, class_weights: [1, -2]", "", "numbers from 0 to 1e6, not '-2'"},
        {"loss: cross_entropy, class_weights: [1, two]", "", "not 'two'"},
        {"loss: cross_entropy, class_weights: [1, inf]", "", "not 'inf'"},
        {"loss: cross_entropy, class_weights: [1, 0x10]", "", "not '0x10'"},
        {"loss: cross_entropy, class_weights: [1, 1e7]", "", "not '1e7'"},
        {"loss: mse, ignore_class: 1", "", "ignore_class is for local.loss: cross_entropy, dice"},
        {"loss: dice, ignore_class: 2000", "", "local.ignore_class"},
        {"loss: cross_entropy, pos_weight: 2", "", "pos_weight is for local.loss: bce"},
        {"loss: bce, pos_weight: 0", "", "local.pos_weight must be a number"},
        {"loss: cross_entropy, dice: {batch: true}", "", "dice.batch is for local.loss: dice"},
        {"loss: bce, dice: {smooth_nr: 1}", "", "dice.smooth_nr is for local.loss: dice"},
        {"loss: bce, dice: {smooth_dr: 1}", "", "dice.smooth_dr is for local.loss: dice"},
        {"loss: mse, dice: {include_background: false}", "", "include_background is for"},
        {"loss: dice, dice: {smooth_dr: 0}", "", "local.dice.smooth_dr must be a number"},
        {"loss: dice, dice: {lambda_ce: 2}", "", "lambda_ce is for local.loss: dice_ce"},
        {"loss: dice, dice: {lambda_dice: 2}", "", "lambda_dice is for local.loss: dice_ce"},
        {"loss: dice_ce, dice: {lambda_dice: 0, lambda_ce: 0}", "", "and lambda_ce are both 0"},
        {"loss: cox, curvature: {lambda: 0.1}", "", "local.curvature.lambda excludes cox"},
        {"loss: mse", "stop: {metric: accuracy, target: 0.9}", "accuracy is of classes"},
        {"loss: dice", "stop: {metric: auc, target: 0.9}", "auc is defined for two classes"},
        {"loss: bce", "stop: {metric: dice, target: 0.9}", "dice is of segmentations"},
        {"loss: bce", "stop: {metric: mse, target: 0.9}", "mse is of values"},
        {"loss: cox", "stop: {metric: mae, target: 0.9}", "mae is of values"},
        {"loss: mse", "stop: {metric: concordance, target: 0.9}", "concordance needs local.loss"},
        {"loss: cox", "stop: {metric: concordance, target: 1.5}", "must be at most 1.0 for"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        refused(cases[i].local, cases[i].more, cases[i].why);
    /* ... and beside them what may be. */
    cr_assert(eq(int, load("loss: l1", "stop: {metric: mae, target: 12.5}"), TIER_OK), "%s",
              err.text);
    cr_assert(eq(int, load("loss: cox", "stop: {metric: concordance, target: 0.7}"), TIER_OK));
}

Test(tier_plan_loss, coxs_batch_has_patients_to_compare) {
    char text[2000];
    static const struct {
        int batch;
        enum tier_status want;
    } cases[] = {{1, TIER_EPLAN}, {2, TIER_OK}, {16384, TIER_OK}, {16385, TIER_EPLAN}};
    temp_file("model.onnx", "abc");
    for (size_t i = 0; i < 4; i++) {
        snprintf(text, sizeof text,
                 "plan: 1\nname: a\npurpose: p\nmodel: model.onnx\ndata: {contract: a}\nrounds: 1\n"
                 "local: {loss: cox, optimiser: {name: sgd, lr: 0.1}, batch: %d, epochs: 1}\n",
                 cases[i].batch);
        memset(&problems, 0, sizeof problems);
        cr_assert(eq(int, tier_plan_load(temp_file("p.yaml", text), &plan, NULL, &problems, &err),
                     cases[i].want),
                  "%d: %s", cases[i].batch, err.text);
    }
}
