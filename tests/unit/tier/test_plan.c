/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "tier/plan.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A line for each key, so that a test can replace one. */
static const char *const good[] = {
    "plan: 1",
    "name: heart-disease",
    "purpose: predict heart disease from thirteen findings",
    "model: model.onnx",
    "data: {contract: heart.v1}",
    "local.loss: bce", /* written as a path; expanded below */
    "local.optimiser.name: sgd",
    "local.optimiser.lr: 0.1",
    "local.batch: 32",
    "local.epochs: 2",
    "rounds: 30",
    NULL,
};

static struct tier_plan plan, other;
static struct tier_problems problems;
static struct tier_err err;
static char folder[64], file[128], model[128];

static void set_up(void) {
    snprintf(folder, sizeof folder, "/tmp/consilium-plan-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    snprintf(file, sizeof file, "%s/plan.yaml", folder);
    snprintf(model, sizeof model, "%s/model.onnx", folder);
    FILE *f = fopen(model, "w");
    cr_assert_not_null(f);
    fputs("abc", f);
    fclose(f);
}

static void tear_down(void) {
    unlink(file);
    unlink(model);
    rmdir(folder);
}
TestSuite(tier_plan, .init = set_up, .fini = tear_down);

static enum tier_status load_bytes(const void *text, size_t bytes) {
    FILE *f = fopen(file, "w");
    cr_assert_not_null(f);
    fwrite(text, 1, bytes, f);
    fclose(f);
    memset(&problems, 0, sizeof problems);
    return tier_plan_load(file, &plan, NULL, &problems, &err);
}

static enum tier_status load_text(const char *text) {
    return load_bytes(text, strlen(text));
}

static void put(char *text, size_t bytes, const char *line) {
    size_t used = strlen(text);
    snprintf(text + used, bytes - used, "%s\n", line);
}

/* A line that begins with "local.", "local.optimiser." or "local.curvature." goes below that key,
 * indented. */
static void put_section(char *text, size_t bytes, const char *const *lines, size_t count,
                        const char *prefix, const char *indent) {
    for (size_t i = 0; i < count; i++) {
        size_t length = strlen(prefix);
        char line[400];
        if (!lines[i] || strncmp(lines[i], prefix, length) != 0 ||
            strcspn(lines[i] + length, ".") < strcspn(lines[i] + length, ":"))
            continue;
        snprintf(line, sizeof line, "%s%s", indent, lines[i] + length);
        put(text, bytes, line);
    }
}

/* The good plan with one line (by its key) replaced or, with NULL, left out; then `more` lines. */
static enum tier_status load_with(const char *key, const char *line, const char *const *more) {
    static char text[8192];
    const char *lines[40];
    size_t count = 0;

    text[0] = 0;
    for (size_t i = 0; good[i]; i++)
        if (!key || strncmp(good[i], key, strlen(key)) != 0 || good[i][strlen(key)] != ':')
            lines[count++] = good[i];
    if (line)
        lines[count++] = line;
    for (; more && *more; more++)
        lines[count++] = *more;
    put_section(text, sizeof text, lines, count, "", "");
    put(text, sizeof text, "local:");
    put_section(text, sizeof text, lines, count, "local.", "  ");
    put(text, sizeof text, "  optimiser:");
    put_section(text, sizeof text, lines, count, "local.optimiser.", "    ");
    for (size_t i = 0; i < count; i++)
        if (strncmp(lines[i], "local.curvature.", 16) == 0) {
            put(text, sizeof text, "  curvature:");
            put_section(text, sizeof text, lines, count, "local.curvature.", "    ");
            break;
        }
    return load_text(text);
}

static bool complained(const char *part) {
    for (size_t i = 0; i < problems.count; i++)
        if (strstr(problems.item[i].text, part))
            return true;
    for (size_t i = 0; i < problems.count; i++)
        fprintf(stderr, "problem: %s\n", problems.item[i].text);
    return false;
}

Test(tier_plan, a_plan_is_loaded_with_every_default_resolved) {
    cr_assert(eq(int, load_with(NULL, NULL, NULL), TIER_OK), "%s", err.text);
    cr_assert(eq(str, plan.name, "heart-disease"));
    cr_assert(eq(str, plan.model_sha256,
                 "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"));
    cr_assert(eq(u64, plan.model_bytes, 3));
    cr_assert(eq(dbl, plan.optimiser.lr, 0.1));
    cr_assert(eq(dbl, plan.optimiser.momentum, 0));
    cr_assert(isnan(plan.optimiser.beta1));
    cr_assert(eq(u64, plan.epochs, 2));
    cr_assert(eq(u64, plan.steps, 0));
    cr_assert(eq(dbl, plan.clip, 8));
    cr_assert(eq(int, plan.frac_bits, 27));
    cr_assert(eq(u64, plan.weight_total_max, TIER_WEIGHT_TOTAL_MAX));
    cr_assert(eq(int, plan.weights, TIER_PLAN_SAMPLES));
    cr_assert(eq(int, plan.top.quorum.kind, TIER_QUORUM_ALL));
    cr_assert(eq(int, plan.top.retain, TIER_PLAN_RETAIN_SUMS));
    cr_assert(eq(u64, plan.evaluate_every, 1));
    cr_assert(eq(int, plan.stop.metric, TIER_PLAN_METRIC_NONE));
}

Test(tier_plan, tiers_take_what_the_default_does_not_override) {
    const char *more[] = {
        "tiers: {default: {quorum: 0.5, deadline_s: 60}, top: {quorum: 2}, hub: {deadline_s: 0}}",
        NULL};

    cr_assert(eq(int, load_with(NULL, NULL, more), TIER_OK), "%s", err.text);
    const struct tier_plan_tier *top = tier_plan_tier_of(&plan, true);
    const struct tier_plan_tier *hub = tier_plan_tier_of(&plan, false);
    cr_assert(eq(int, top->quorum.kind, TIER_QUORUM_COUNT));
    cr_assert(eq(u64, top->quorum.count, 2));
    cr_assert(eq(u64, top->deadline_s, 60));
    cr_assert(eq(int, hub->quorum.kind, TIER_QUORUM_FRACTION));
    cr_assert(eq(dbl, hub->quorum.fraction, 0.5));
    cr_assert(eq(u64, hub->deadline_s, 0));
}

Test(tier_plan, a_quorum_is_at_least_one_and_at_most_all) {
    struct tier_quorum all = {.kind = TIER_QUORUM_ALL};
    struct tier_quorum three = {.kind = TIER_QUORUM_COUNT, .count = 3};
    struct tier_quorum some = {.kind = TIER_QUORUM_FRACTION, .fraction = 0.6};

    cr_assert(eq(u64, tier_quorum_needed(&all, 5), 5));
    cr_assert(eq(u64, tier_quorum_needed(&three, 5), 3));
    cr_assert(eq(u64, tier_quorum_needed(&three, 2), 2));
    cr_assert(eq(u64, tier_quorum_needed(&some, 5), 3));
    cr_assert(eq(u64, tier_quorum_needed(&some, 1), 1));
    cr_assert(eq(u64, tier_quorum_needed(&all, 0), 1));
}

Test(tier_plan, adam_gets_its_usual_constants) {
    const char *more[] = {"local.optimiser.weight_decay: 1e-4", NULL};

    cr_assert(
        eq(int, load_with("local.optimiser.name", "local.optimiser.name: adam", more), TIER_OK),
        "%s", err.text);
    cr_assert(eq(dbl, plan.optimiser.beta1, 0.9));
    cr_assert(eq(dbl, plan.optimiser.beta2, 0.999));
    cr_assert(eq(dbl, plan.optimiser.eps, 1e-8));
    cr_assert(isnan(plan.optimiser.momentum));
}

Test(tier_plan, every_required_key_is_missed) {
    static const char *const keys[] = {
        "plan",
        "name",
        "purpose",
        "model",
        "local.loss",
        "local.optimiser.name",
        "local.optimiser.lr",
        "local.batch",
        "rounds",
    };
    char complaint[100];

    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        cr_assert(eq(int, load_with(keys[i], NULL, NULL), TIER_EPLAN), "%s", keys[i]);
        snprintf(complaint, sizeof complaint, "plan.yaml: %s is missing: ", keys[i]);
        cr_assert(complained(complaint), "%s", complaint);
    }
    cr_assert(eq(int, load_with("data", NULL, NULL), TIER_EPLAN));
    cr_assert(complained("data.contract is missing"));
    cr_assert(eq(int, load_with("local.epochs", NULL, NULL), TIER_EPLAN));
    cr_assert(complained("either local.steps or local.epochs"));
}

Test(tier_plan, every_key_refuses_what_it_cannot_take) {
    static const struct {
        const char *key, *line, *complaint;
    } cases[] = {
        {"plan", "plan: 2", "plan must be 1"},
        {"plan", "plan: one", "plan must be a whole number"},
        {"name", "name: heart disease", "name must be letters"},
        {"name", "name: [a]", "name must be one value, not a list"},
        {"purpose", "purpose: \"a\\nb\"", "purpose must not contain line breaks"},
        {"model", "model: {path: a}", "model must be one value, not a map"},
        {"model", "model: absent.onnx", "cannot be read: No such file"},
        {"model", "model: /", "must be a regular file"},
        {"data", "data: {contract: 'a b'}", "data.contract must be letters"},
        {"data", "data: {contract: a, fold: 1000}", "data.fold must be a whole number from 0"},
        {"data", "data: [a]", "data must be a map of keys"},
        {"local.loss", "local.loss: hinge", "local.loss must be one of: bce, cross_entropy"},
        {"local.optimiser.name", "local.optimiser.name: lamb", "must be one of: sgd, adam"},
        {"local.optimiser.lr", "local.optimiser.lr: 0", "local.optimiser.lr must be a number"},
        {"local.optimiser.lr", "local.optimiser.lr: -0.1", "local.optimiser.lr must be a number"},
        {"local.optimiser.lr", "local.optimiser.lr: .nan", "local.optimiser.lr must be a number"},
        {"local.optimiser.lr", "local.optimiser.lr: nan", "local.optimiser.lr must be a number"},
        {"local.optimiser.lr", "local.optimiser.lr: .inf", "local.optimiser.lr must be a number"},
        {"local.optimiser.lr", "local.optimiser.lr: 1e999", "local.optimiser.lr must be a number"},
        {"local.optimiser.lr", "local.optimiser.lr: 1e-999", "local.optimiser.lr must be a number"},
        {"local.optimiser.lr", "local.optimiser.lr: 0x1p-3", "local.optimiser.lr must be a number"},
        {"local.optimiser.lr", "local.optimiser.lr: \"0.1\"", "must be written without quotes"},
        {"local.optimiser.lr", "local.optimiser.lr:", "local.optimiser.lr must have a value"},
        {"x", "local.optimiser.momentum: 1.0", "momentum must be a number from 0.0 to 0.999999"},
        {"x", "local.optimiser.weight_decay: 1e4", "weight_decay must be a number"},
        {"x", "local.prox_mu: -0.1", "local.prox_mu must be a number"},
        {"x", "local.prox_mu: much", "local.prox_mu must be a number"},
        {"x", "local.optimiser.nesterov: yes", "nesterov must be true or false"},
        {"x", "local.optimiser.nesterov: true", "nesterov needs a momentum above 0"},
        {"x", "local.optimiser.beta1: 0.9", "beta1 is for adam"},
        {"x", "local.optimiser.beta2: 0.9", "beta2 is for adam"},
        {"x", "local.optimiser.eps: 1e-7", "eps is for adam"},
        {"x", "local.optimiser.beta1: 1", "beta1 must be a number"},
        {"x", "local.optimiser.beta2: 1", "beta2 must be a number"},
        {"x", "local.optimiser.eps: 0", "eps must be a number"},
        {"local.batch", "local.batch: 0", "local.batch must be a whole number"},
        {"local.batch", "local.batch: 1e3", "local.batch must be a whole number"},
        {"x", "local.steps: 5", "local.steps and local.epochs exclude each other"},
        {"local.epochs", "local.steps: 0", "local.steps must be above 0"},
        {"local.epochs", "local.epochs: -1", "local.epochs must be a whole number"},
        {"x", "local.seed: 9007199254740992", "local.seed must be a whole number"},
        {"x", "weights: rows", "weights must be one of: samples, uniform"},
        {"x", "exact: {clip: 0}", "exact.clip must be a number"},
        {"x", "exact: {clip: 1e31}", "exact.clip must be a number"},
        {"x", "local.normalise: 1", "local.normalise must be true or false"},
        {"x", "local.normalise: true", "local.normalise_max must be above 0 with local.epochs"},
        {"x", "local.normalise_max: 5", "normalise_max is for local.normalise with local.epochs"},
        {"x", "local.normalise_max: 1048577", "local.normalise_max must be a whole number"},
        {"x", "share: fc1.weight", "share must be a list"},
        {"x", "share: [a, b, a]", "share lists 'a' twice"},
        {"x", "keep: [\"bn*\", \"bn*\"]", "keep lists 'bn*' twice"},
        {"x", "keep: [\"a,b\"]", "keep every entry"},
        {"x", "exact: {wide: bn}", "exact.wide must be a list"},
        {"x", "exact: {wide: [a, a]}", "exact.wide lists 'a' twice"},
        {"x", "exact: {wide: [\"a,b\"]}", "exact.wide every entry"},
        {"x", "exact: {wide: [[a]]}", "exact.wide every entry"},
        {"x", "exact: {saturate: 1}", "exact.saturate must be true or false"},
        {"x", "exact: {weight_total_max: 4294967297}", "must be at most 4294967296"},
        {"x", "exact: {weight_total_max: 0}", "weight_total_max must be a whole number"},
        {"x", "tiers: {default: {quorum: 0}}", "tiers.default.quorum must be all"},
        {"x", "tiers: {top: {quorum: 1.5}}", "tiers.top.quorum must be all"},
        {"x", "tiers: {hub: {quorum: most}}", "tiers.hub.quorum must be all"},
        {"x", "tiers: {hub: {quorum: 0.0}}", "tiers.hub.quorum must be all"},
        {"x", "tiers: {hub: {deadline_s: 2592001}}", "tiers.hub.deadline_s must be"},
        {"x", "tiers: {top: {deadline_s: soon}}", "tiers.top.deadline_s must be"},
        {"x", "tiers: {default: {deadline_s: -1}}", "tiers.default.deadline_s must be"},
        {"x", "tiers: {hub: {retain: all}}", "tiers.hub.retain must be one of: updates, sums"},
        {"x", "tiers: {hub: {retain: sums, merge: {rule: median}}}",
         "tiers.hub.retain must be updates: the rule median looks at each update"},
        {"x", "tiers: {default: {retain: sums, merge: {rule: krum}}}",
         "tiers.default.retain must be updates: the rule krum"},
        {"rounds", "rounds: 0", "rounds must be a whole number"},
        {"rounds", "rounds: 1000001", "rounds must be a whole number"},
        {"x", "evaluate: {every: -1}", "evaluate.every must be"},
        {"x", "evaluate: {every: 31}", "evaluate.every is 31 but there are only 30 rounds"},
        {"x", "stop: {metric: f1, target: 0.9}", "stop.metric must be one of"},
        {"x", "stop: {metric: auc}", "stop.metric needs stop.target or stop.patience"},
        {"x", "stop: {metric: auc, target: 1.5}", "stop.target must be at most 1.0 for auc"},
        {"x", "stop: {target: 0.5}", "stop.target needs stop.metric"},
        {"x", "stop: {patience: 5}", "stop.patience needs stop.metric"},
        {"x", "stop: {metric: loss, patience: x}", "stop.patience must be a whole number"},
        {"x", "codec: {down: top_k}", "codec.down must be one of: f32, bf16"},
        {"x", "codec: {entropy: gzip}", "codec.entropy must be one of: none, zstd"},
        {"x", "codec: {name: one_bit, entropy: zstd}",
         "codec.entropy must be none for one_bit: its bits are as good as random"},
        {"x", "codec: {name: q2}", "codec.name must be one of: f32, f16"},
        {"x", "codec: {error_feedback: true}", "codec.error_feedback is for the shorter forms"},
        {"x", "codec: {name: q8, share: 0.1}", "codec.share is for top_k; codec.name is q8"},
        {"x", "codec: {name: top_k, share: 0}", "codec.share must be above 0"},
        {"x", "codec: {name: top_k, share: 1.5}", "codec.share must be"},
        {"x", "server: {optimiser: {name: sgd}}", "server.optimiser.name must be one of: none"},
        {"x", "server: {optimiser: {lr: 1}}", "lr is for momentum, adam, yogi and adagrad"},
        {"x", "server: {optimiser: {name: adam}}", "server.optimiser.lr must be a number for adam"},
        {"x", "server: {optimiser: {name: adam, lr: 0.1, momentum: 0.9}}",
         "server.optimiser.momentum is for momentum; server.optimiser.name is adam"},
        {"x", "server: {optimiser: {name: momentum, beta1: 0.9}}",
         "server.optimiser.beta1 is for adam, yogi and adagrad"},
        {"x", "server: {optimiser: {name: adagrad, lr: 0.1, beta2: 0.9}}",
         "server.optimiser.beta2 is for adam and yogi"},
        {"x", "server: {optimiser: {name: momentum, tau: 0.1}}",
         "server.optimiser.tau is for adam"},
        {"x", "server: {optimiser: {name: yogi, lr: 0.1, beta2: 1.0}}",
         "server.optimiser.beta2 must be"},
        {"x", "server: {optimiser: {name: yogi, lr: 0.1, tau: 0}}", "server.optimiser.tau must be"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_assert(eq(int, load_with(cases[i].key, cases[i].line, NULL), TIER_EPLAN), "%s",
                  cases[i].line);
        cr_assert(complained(cases[i].complaint), "%s: %s", cases[i].line, cases[i].complaint);
    }
}

Test(tier_plan, updates_are_normalised_where_effective_steps_are_defined) {
    static const struct {
        const char *more[5];
        const char *complaint; /* NULL: it is taken */
    } cases[] = {
        {{"local.normalise_max: 100"}, NULL},
        {{"local.normalise_max: 100", "local.optimiser.momentum: 0.9"}, NULL},
        {{"local.normalise_max: 100", "local.prox_mu: 1.0"}, NULL},
        {{"local.normalise_max: 100", "local.prox_mu: 1.0", "local.optimiser.momentum: 0.9"},
         "local.normalise is defined for momentum or for prox_mu, not for both"},
        {{"local.normalise_max: 100", "local.prox_mu: 10.0"},
         "local.normalise needs local.prox_mu times lr below 1: it is 1"},
    };
    const char *adam[] = {"local.normalise: true", "local.normalise_max: 9", NULL};
    const char *steps[] = {"local.normalise: true", "local.steps: 9", NULL};
    const char *many[] = {"local.normalise: true", "local.steps: 1048577", NULL};
    const char *both[] = {"local.normalise: true", "local.steps: 9", "local.normalise_max: 9",
                          NULL};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *more[7] = {"local.normalise: true"};
        memcpy(more + 1, cases[i].more, sizeof cases[i].more);
        cr_assert(eq(int, load_with(NULL, NULL, more), cases[i].complaint ? TIER_EPLAN : TIER_OK),
                  "case %zu: %s", i, err.text);
        cr_assert(cases[i].complaint == NULL || complained(cases[i].complaint));
    }
    cr_assert(
        eq(int, load_with("local.optimiser.name", "local.optimiser.name: adam", adam), TIER_EPLAN));
    cr_assert(complained("local.normalise is defined for sgd"));
    cr_assert(eq(int, load_with("local.epochs", NULL, steps), TIER_OK), "%s", err.text);
    cr_assert(eq(int, load_with("local.epochs", NULL, many), TIER_EPLAN));
    cr_assert(complained("local.normalise needs at most 1048576 effective steps"));
    cr_assert(eq(int, load_with("local.epochs", NULL, both), TIER_EPLAN));
    cr_assert(complained("normalise_max is for local.normalise with local.epochs"));
}

Test(tier_plan, control_variates_are_for_plain_sgd_and_the_mean) {
    static const struct {
        const char *more, *complaint;
    } cases[] = {
        {"rounds: 30", NULL},
        {"local.optimiser.weight_decay: 0.1", NULL},
        {"keep: [a]", NULL},
        {"local.optimiser.momentum: 0.9", "local.scaffold is defined for sgd without momentum"},
        {"local.prox_mu: 0.1", "local.scaffold is defined for sgd without momentum"},
        {"local.normalise: true", "local.scaffold and local.normalise exclude each other"},
        {"codec: {name: q8}", "local.scaffold needs codec.name: f32"},
        {"server: {optimiser: {name: momentum}}", "local.scaffold needs server.optimiser.name"},
        {"tiers: {hub: {merge: {rule: median}}}", "local.scaffold needs the rule mean at every"},
        {"tiers: {top: {merge: {rule: x-mine}}}", "local.scaffold needs the rule mean at every"},
        {"exact: {clip: 1.0e+30}", NULL},
        {"exact: {clip: 1.0e-20}", NULL},
    };
    const char *adam[] = {"local.scaffold: true", NULL};
    const char *wide[] = {"local.scaffold: true", "exact: {clip: 1.0e+30}", NULL};
    cr_assert(
        eq(int, load_with("local.optimiser.lr", "local.optimiser.lr: 1.0e-12", wide), TIER_EPLAN));
    cr_assert(complained("has controls of up to 4 * exact.clip / lr = 4e+42"));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *more[] = {"local.scaffold: true", cases[i].more, NULL};
        enum tier_status st = load_with("rounds", i ? "rounds: 30" : NULL, more);
        cr_assert(eq(int, st, cases[i].complaint ? TIER_EPLAN : TIER_OK), "case %zu: %s", i,
                  err.text);
        cr_assert(cases[i].complaint == NULL || complained(cases[i].complaint));
    }
    cr_assert(
        eq(int, load_with("local.optimiser.name", "local.optimiser.name: adam", adam), TIER_EPLAN));
    cr_assert(complained("local.scaffold is defined for sgd"));
}

Test(tier_plan, curvature_is_for_exact_means_and_steps_that_do_not_overshoot) {
    static const struct {
        const char *more, *complaint;
    } cases[] = {
        {"rounds: 30", NULL},
        {"local.optimiser.momentum: 0.9", NULL},
        {"local.prox_mu: 0.1", NULL},
        {"keep: [a]", NULL},
        {"local.curvature.rows: 100", NULL},
        {"local.scaffold: true", "local.curvature.lambda and local.scaffold exclude each other"},
        {"local.normalise: true", "local.curvature.lambda and local.normalise exclude each other"},
        {"codec: {name: q8}", "local.curvature.lambda needs codec.name: f32"},
        {"codec: {down: bf16}", "local.curvature.lambda needs codec.down: f32"},
        {"server: {optimiser: {name: momentum}}", "local.curvature.lambda needs server.optimiser"},
        {"tiers: {hub: {merge: {rule: median}}}", "local.curvature.lambda needs the rule mean"},
        {"tiers: {top: {merge: {rule: x-mine}}}", "local.curvature.lambda needs the rule mean"},
        {"tiers: {top: {sync: buffered, quorum: 2}}",
         "tiers.top.sync buffered and local.curvature exclude each other"},
        {"exact: {clip: 1.0e-20}", NULL},
        {"local.curvature.clip: 9.0", "local.curvature.lambda times lr times "},
        {"local.curvature.rows: -1", "local.curvature.rows must be"},
        {"local.curvature.clip: 0.0", "local.curvature.clip must be at least 1e-20"},
    };
    const char *adam[] = {"local.curvature.lambda: 1.0", "local.curvature.clip: 9.0", NULL};
    const char *off[] = {"local.curvature.lambda: 0.0", "local.curvature.clip: 9.0",
                         "codec: {name: q8}", NULL};
    const char *far[] = {"local.curvature.lambda: 1.0e-12", "local.curvature.clip: 1.0e+10",
                         "exact: {clip: 1.0e+30}", NULL};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *more[] = {"local.curvature.lambda: 1.0", cases[i].more, NULL};
        enum tier_status st = load_with("rounds", i ? "rounds: 30" : NULL, more);
        cr_assert(eq(int, st, cases[i].complaint ? TIER_EPLAN : TIER_OK), "case %zu: %s", i,
                  err.text);
        cr_assert(cases[i].complaint == NULL || complained(cases[i].complaint), "case %zu: %s", i,
                  err.text);
    }
    cr_assert(
        eq(int, load_with("local.optimiser.name", "local.optimiser.name: adam", adam), TIER_OK),
        "%s", err.text);
    cr_assert(eq(int, load_with("x", NULL, off), TIER_OK), "%s", err.text);
    cr_assert(eq(int, load_with("rounds", "rounds: 1000000", far), TIER_EPLAN));
    cr_assert(complained("local.curvature.lambda has sums of up to 2.5"));
}

Test(tier_plan, what_cannot_hold_together_is_refused) {
    const char *adam[] = {"local.optimiser.momentum: 0.9", NULL};
    const char *never[] = {"evaluate: {every: 0}", "stop: {metric: loss, target: 0.1}", NULL};
    const char *auc[] = {"stop: {metric: auc, target: 0.9}", NULL};

    cr_assert(
        eq(int, load_with("local.optimiser.name", "local.optimiser.name: adam", adam), TIER_EPLAN));
    cr_assert(complained("momentum is for sgd"));
    cr_assert(eq(int, load_with(NULL, NULL, never), TIER_EPLAN));
    cr_assert(complained("evaluate.every is 0"));
    cr_assert(eq(int, load_with("local.loss", "local.loss: cross_entropy", auc), TIER_EPLAN));
    cr_assert(complained("auc is defined for two classes"));
    cr_assert(eq(int, load_with(NULL, NULL, auc), TIER_OK), "%s", err.text);
}

Test(tier_plan, a_codec_gets_the_usual_values_and_travels) {
    static const struct {
        const char *line;
        struct tier_plan_codec want;
    } cases[] = {
        {"codec: {name: f32}",
         {TIER_PLAN_F32, false, 0, TIER_PLAN_DOWN_F32, TIER_PLAN_ENTROPY_NONE}},
        {"codec: {entropy: zstd}",
         {TIER_PLAN_F32, false, 0, TIER_PLAN_DOWN_F32, TIER_PLAN_ENTROPY_ZSTD}},
        {"codec: {name: bf16}",
         {TIER_PLAN_BF16, false, 0, TIER_PLAN_DOWN_F32, TIER_PLAN_ENTROPY_NONE}},
        {"codec: {name: q4, error_feedback: true}",
         {TIER_PLAN_Q4, true, 0, TIER_PLAN_DOWN_F32, TIER_PLAN_ENTROPY_NONE}},
        {"codec: {name: one_bit}",
         {TIER_PLAN_ONE_BIT, true, 0, TIER_PLAN_DOWN_F32, TIER_PLAN_ENTROPY_NONE}},
        {"codec: {name: top_k}",
         {TIER_PLAN_TOP_K, true, 0.01, TIER_PLAN_DOWN_F32, TIER_PLAN_ENTROPY_NONE}},
        {"codec: {name: top_k, share: 0.05, error_feedback: false}",
         {TIER_PLAN_TOP_K, false, 0.05, TIER_PLAN_DOWN_F32, TIER_PLAN_ENTROPY_NONE}},
        {"codec: {down: bf16}",
         {TIER_PLAN_F32, false, 0, TIER_PLAN_DOWN_BF16, TIER_PLAN_ENTROPY_NONE}},
        {"codec: {name: q8, down: q4}",
         {TIER_PLAN_Q8, false, 0, TIER_PLAN_DOWN_Q4, TIER_PLAN_ENTROPY_NONE}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *text = NULL;
        size_t bytes = 0;
        cr_assert(eq(int, load_with("x", cases[i].line, NULL), TIER_OK), "%s", err.text);
        for (int travelled = 0; travelled < 2; travelled++) {
            const struct tier_plan_codec *got = travelled ? &other.codec : &plan.codec;
            cr_assert(got->name == cases[i].want.name, "%s", cases[i].line);
            cr_assert(got->error_feedback == cases[i].want.error_feedback, "%s", cases[i].line);
            cr_assert(got->share == cases[i].want.share, "%s", cases[i].line);
            cr_assert(got->down == cases[i].want.down, "%s", cases[i].line);
            cr_assert(got->entropy == cases[i].want.entropy, "%s", cases[i].line);
            cr_assert(eq(int, tier_plan_canonical(&plan, &text, &bytes, NULL, &err), TIER_OK));
            cr_assert(eq(int, tier_plan_parse(text, bytes, &other, &err), TIER_OK), "%s", err.text);
            free(text);
        }
    }
    const char *robust[] = {"tiers: {hub: {merge: {rule: median}}}", NULL};
    cr_assert(eq(int, load_with("x", "codec: {entropy: zstd}", robust), TIER_EPLAN));
    cr_assert(complained("codec.entropy must be none where a tier merges by another rule"));
    const char *wide[] = {"exact: {wide: [\"bn*\"]}", NULL};
    cr_assert(eq(int, load_with("x", "codec: {name: q8}", wide), TIER_EPLAN));
    cr_assert(complained("codec.name must be f32 where exact.wide lists tensors"));
    cr_assert(eq(int, load_with("x", "codec: {down: bf16}", wide), TIER_EPLAN));
    cr_assert(complained("codec.down must be f32 where exact.wide lists tensors"));
}

Test(tier_plan, an_optimiser_at_the_top_gets_the_usual_values_and_travels) {
    static const struct {
        const char *line;
        struct tier_plan_server want;
    } cases[] = {
        {"server: {optimiser: {name: none}}", {TIER_PLAN_SERVER_NONE, NAN, NAN, NAN, NAN, NAN}},
        {"server: {optimiser: {name: momentum}}",
         {TIER_PLAN_SERVER_MOMENTUM, 1, 0.9, NAN, NAN, NAN}},
        {"server: {optimiser: {name: adam, lr: 0.1}}",
         {TIER_PLAN_SERVER_ADAM, 0.1, NAN, 0.9, 0.99, 1e-3}},
        {"server: {optimiser: {name: yogi, lr: 0.1, beta2: 0.5}}",
         {TIER_PLAN_SERVER_YOGI, 0.1, NAN, 0.9, 0.5, 1e-3}},
        {"server: {optimiser: {name: adagrad, lr: 0.1, tau: 0.01}}",
         {TIER_PLAN_SERVER_ADAGRAD, 0.1, NAN, 0, NAN, 0.01}},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct tier_plan_server *want = &cases[i].want, *got = &plan.server;
        char *text = NULL;
        size_t bytes = 0;
        struct tier_plan again;
        cr_assert(eq(int, load_with("x", cases[i].line, NULL), TIER_OK), "%s", err.text);
        const double pairs[][2] = {{want->lr, got->lr},
                                   {want->momentum, got->momentum},
                                   {want->beta1, got->beta1},
                                   {want->beta2, got->beta2},
                                   {want->tau, got->tau}};
        cr_assert(eq(int, got->kind, want->kind));
        for (size_t k = 0; k < 5; k++)
            cr_assert(pairs[k][0] == pairs[k][1] || (isnan(pairs[k][0]) && isnan(pairs[k][1])),
                      "%s: value %zu is %g", cases[i].line, k, pairs[k][1]);
        cr_assert(eq(int, tier_plan_canonical(&plan, &text, &bytes, NULL, &err), TIER_OK));
        cr_assert(eq(int, tier_plan_parse(text, bytes, &again, &err), TIER_OK), "%s", err.text);
        cr_assert(again.server.kind == want->kind);
        free(text);
    }
}

Test(tier_plan, unknown_keys_come_with_the_nearest_known_one) {
    static const struct {
        const char *line, *complaint;
    } cases[] = {
        {"round: 3", "unknown key 'round'; did you mean 'rounds'?"},
        {"local.optimizer: sgd", "unknown key 'local.optimizer'; did you mean 'local.optimiser'?"},
        {"local.lr: 3", "unknown key 'local.lr'; did you mean 'local.optimiser.lr'?"},
        {"tiers: {region: {quorum: all}}", "unknown key 'tiers.region'"},
        {"zzzzzz: 1", "unknown key 'zzzzzz'"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_assert(eq(int, load_with("x", cases[i].line, NULL), TIER_EPLAN));
        cr_assert(complained(cases[i].complaint), "%s", cases[i].complaint);
    }
}

Test(tier_plan, all_problems_come_at_once_with_their_lines) {
    cr_assert(
        eq(int, load_text("plan: 1\nname: a b\nrounds: 0\nfoo: 1\nexact.clip: 1\n"), TIER_EPLAN));
    cr_assert(complained("plan.yaml:2: name"));
    cr_assert(complained("plan.yaml:3: rounds"));
    cr_assert(complained("plan.yaml:4: unknown key 'foo'"));
    cr_assert(complained("plan.yaml:5: unknown key 'exact.clip'"));
    cr_assert(complained("local.batch is missing"));
    cr_assert_not_null(strstr(err.text, "more problems"));
}

Test(tier_plan, yaml_beyond_plain_data_is_refused) {
    static const struct {
        const char *text, *complaint;
    } cases[] = {
        {"plan: 1\nplan: 1\n", ":2: key 'plan' is written twice, first in line 1"},
        {"a: &x 1\n", ":1: anchors (&) and aliases (*)"},
        {"a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n", ":1: anchors (&) and aliases (*)"},
        {"a: *x\n", ":1: anchors (&) and aliases (*)"},
        {"a: !!int 1\n", ":1: tags (!)"},
        {"a: 1\n---\nb: 2\n", ":2: a second document"},
        {"? [a]\n: 1\n", ":1: a key must be text"},
        {"- a\n", ":1: must be a map of keys"},
        {"just text\n", ":1: must be a map of keys"},
        {"a: \"x\\0y\"\n", ":1: text must not contain a NUL"},
        {"a: [[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]\n", ":1: nested deeper than"},
        {"a: {b: \n", "not valid YAML"},
        {"a: \xff\n", "not text in UTF-8"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_assert(eq(int, load_text(cases[i].text), TIER_EPLAN), "%s", cases[i].text);
        cr_assert(complained(cases[i].complaint), "%s", cases[i].complaint);
    }
    cr_assert(eq(int, load_text(""), TIER_EPLAN));
    cr_assert(complained("name is missing"));
    cr_assert(eq(int, load_text("# nothing\n---\n"), TIER_EPLAN));
    cr_assert(complained("name is missing"));
}

Test(tier_plan, giants_are_refused_before_they_are_read) {
    size_t bytes = TIER_YAML_BYTES_MAX + 1;
    char *text = malloc(bytes);

    memset(text, 'a', bytes);
    cr_assert(eq(int, load_bytes(text, bytes), TIER_EPLAN));
    cr_assert(complained("1048577 bytes; at most 1048576"));
    for (size_t i = 0; i + 2 <= bytes; i += 2) /* "[[[..." and "{a,a,..." within the bytes */
        memcpy(text + i, "a,", 2);
    memcpy(text, "k: [", 4);
    cr_assert(eq(int, load_bytes(text, bytes - 1), TIER_EPLAN));
    cr_assert(complained("more than 65536 keys and values"));
    memset(text, '[', bytes);
    cr_assert(eq(int, load_bytes(text, bytes - 1), TIER_EPLAN));
    free(text);
    cr_assert(eq(int, tier_plan_load("/nonexistent/p.yaml", &plan, NULL, &problems, &err),
                 TIER_ENOTFOUND));
    cr_assert(eq(int, tier_plan_load("/dev/zero", &plan, NULL, &problems, &err), TIER_EIO));
}

Test(tier_plan, fractional_bits_are_exact_around_powers_of_two) {
    cr_assert(eq(int, tier_plan_frac_bits(1), 30));
    cr_assert(eq(int, tier_plan_frac_bits(nextafter(1, 2)), 29));
    cr_assert(eq(int, tier_plan_frac_bits(nextafter(1, 0)), 30));
    cr_assert(eq(int, tier_plan_frac_bits(0.5), 31));
    cr_assert(eq(int, tier_plan_frac_bits(3), 28));
    cr_assert(le(int, tier_plan_frac_bits(1e-20), TIER_FRAC_BITS_MAX));
    cr_assert(ge(int, tier_plan_frac_bits(1e30), TIER_FRAC_BITS_MIN));
    for (double clip = 1e-20; clip <= 1e30; clip *= 1.7) /* the proof's first step */
        cr_assert(le(dbl, ldexp(clip, tier_plan_frac_bits(clip)), (double)TIER_Q_MAX));
}

Test(tier_plan, the_proof_names_its_numbers) {
    char proof[512];

    cr_assert(eq(int, load_with("x", "exact: {clip: 3.5, weight_total_max: 1000}", NULL), TIER_OK));
    tier_plan_proof(&plan, proof, sizeof proof);
    cr_assert_not_null(strstr(proof, "clip = 3.5 and f = 28"));
    cr_assert_not_null(strstr(proof, "at most 1000 <= 2^32"));
}

/* The canonical text of the good plan with a few awkward values. */
static char *canonical(struct tier_hash *hash) {
    const char *more[] = {"exact: {clip: 0.125, wide: [\"bn*.running_*\", \"\xc3\xa9\"]}",
                          "tiers: {default: {quorum: 1.0}, top: {quorum: 2}}",
                          "stop: {metric: auc, target: 0.85, patience: 5}",
                          "local.optimiser.momentum: 0.5",
                          "local.seed: 9007199254740991",
                          "share: [\"fc*\", conv]",
                          "keep: [\"*.bias\"]",
                          NULL};
    char *text;
    size_t bytes;

    cr_assert(eq(int, load_with(NULL, NULL, more), TIER_OK), "%s", err.text);
    cr_assert(eq(int, tier_plan_canonical(&plan, &text, &bytes, hash, &err), TIER_OK));
    cr_assert(eq(sz, bytes, strlen(text)));
    return text;
}

Test(tier_plan, the_canonical_text_round_trips_exactly) {
    struct tier_hash first, second;
    char *text = canonical(&first), *again;
    size_t bytes;

    cr_assert(eq(int, tier_plan_parse(text, strlen(text), &other, &err), TIER_OK), "%s", err.text);
    cr_assert(memcmp(&other.clip, &plan.clip, sizeof plan.clip) == 0);
    cr_assert(eq(int, other.frac_bits, plan.frac_bits));
    cr_assert(eq(u64, other.seed, 9007199254740991));
    cr_assert(eq(int, other.hub.quorum.kind, TIER_QUORUM_FRACTION));
    cr_assert(strcmp(tier_keys_list_item(&other.wide, 1), "\xc3\xa9") == 0);
    cr_assert(eq(sz, other.share.count, 2));
    cr_assert(strcmp(tier_keys_list_item(&other.share, 1), "conv") == 0);
    cr_assert(strcmp(tier_keys_list_item(&other.keep, 0), "*.bias") == 0);
    cr_assert(eq(int, tier_plan_canonical(&other, &again, &bytes, &second, &err), TIER_OK));
    cr_assert(eq(str, text, again));
    cr_assert(tier_hash_equal(&first, &second));
    free(text);
    free(again);
}

Test(tier_plan, plans_that_mean_the_same_have_the_same_hash) {
    struct tier_hash first, second;
    char *text;
    size_t bytes;

    cr_assert(eq(int, load_with("local.optimiser.lr", "local.optimiser.lr: 0.10", NULL), TIER_OK));
    cr_assert(eq(int, tier_plan_canonical(&plan, &text, &bytes, &first, &err), TIER_OK));
    free(text);
    cr_assert(eq(int, load_with("local.optimiser.lr", "local.optimiser.lr: 1e-1", NULL), TIER_OK));
    cr_assert(eq(int, tier_plan_canonical(&plan, &text, &bytes, &second, &err), TIER_OK));
    free(text);
    cr_assert(tier_hash_equal(&first, &second));
    cr_assert(eq(int, load_with("rounds", "rounds: 31", NULL), TIER_OK));
    cr_assert(eq(int, tier_plan_canonical(&plan, &text, &bytes, &second, &err), TIER_OK));
    free(text);
    cr_assert(not(tier_hash_equal(&first, &second)));
}

/* Replaces the first `from` in text; the answer is freed by the caller. */
static char *replaced(const char *text, const char *from, const char *to) {
    const char *at = strstr(text, from);
    char *out = malloc(strlen(text) + strlen(to) + 1);

    cr_assert_not_null(at, "%s not in %s", from, text);
    snprintf(out, strlen(text) + strlen(to) + 1, "%.*s%s%s", (int)(at - text), text, to,
             at + strlen(from));
    return out;
}

Test(tier_plan, the_wire_is_not_trusted) {
    static const struct {
        const char *from, *to, *complaint;
    } cases[] = {
        {"\"batch\":32", "\"batch\":0", "local.batch must be a whole number"},
        {"\"batch\":32", "\"batch\":-1", "local.batch must be a whole number"},
        {"\"batch\":32", "\"batch\":32.0", "local.batch"},
        {"\"batch\":32", "\"batch\":\"32\"", "local.batch is of the wrong type"},
        {"\"batch\":32", "\"batch\":99999999999999999999", "not a JSON object"},
        {"\"batch\":32", "\"batch\":null", "local.batch must have a value"},
        {"\"batch\":32", "\"batch\":32,\"batch\":32", "not a JSON object"},
        {"\"batch\":32", "\"batch\":32,\"extra\":1", "not the canonical text"},
        {"\"batch\":32,", "", "local.batch is missing"},
        {"\"batch\":32", "\"batch\": 32", "not the canonical text"},
        {"\"clip\":0.125", "\"clip\":1e400", "not a JSON object"},
        {"\"clip\":0.125", "\"clip\":NaN", "not a JSON object"},
        {"\"clip\":0.125", "\"clip\":-1.0", "exact.clip must be a number"},
        {"\"clip\":0.125", "\"clip\":1e31", "exact.clip must be a number"},
        {"\"weight_total_max\":4294967296", "\"weight_total_max\":4294967297", "must be at most"},
        {"\"momentum\":0.5", "\"momentum\":null", "must be a number for sgd"},
        {"\"steps\":0", "\"steps\":7", "exclude each other"},
        {"\"plan\":1", "\"plan\":2", "plan must be 1"},
        {"\"name\":\"sgd\"", "\"name\":\"adam\"", "must be numbers for adam"},
        {"\"wide\":[", "\"wide\":[1,", "exact.wide is of the wrong type"},
        {"\"wide\":[", "\"wide\":[\"a,b\",", "not the canonical text"},
        {"\"wide\":[", "\"wide\":[\"\\u0000\",", "not a JSON object"},
        {"\"sha256\":\"ba", "\"sha256\":\"BA", "model.sha256 must be 64"},
        {"\"bytes\":3", "\"bytes\":0", "model.bytes must be"},
        {"\"quorum\":2", "\"quorum\":0", "tiers.top.quorum must be all"},
        {"\"quorum\":2", "\"quorum\":true", "tiers.top.quorum is of the wrong type"},
        {"\"tiers\":{", "\"tiers\":[{", "not a JSON object"},
        {"{", "[{", "not a JSON object"},
    };
    struct tier_hash hash;
    char *text = canonical(&hash);

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *bad = replaced(text, cases[i].from, cases[i].to);
        cr_assert(eq(int, tier_plan_parse(bad, strlen(bad), &other, &err), TIER_EPLAN), "%s", bad);
        cr_assert_not_null(strstr(err.text, cases[i].complaint), "%s: %s", cases[i].to, err.text);
        free(bad);
    }
    cr_assert(eq(int, tier_plan_parse("[]", 2, &other, &err), TIER_EPLAN));
    cr_assert(eq(int, tier_plan_parse("", 0, &other, &err), TIER_EPLAN));
    free(text);
    char *large = malloc(TIER_PLAN_BYTES_MAX + 1);
    memset(large, '[', TIER_PLAN_BYTES_MAX + 1);
    cr_assert(eq(int, tier_plan_parse(large, TIER_PLAN_BYTES_MAX + 1, &other, &err), TIER_ELIMIT));
    cr_assert(eq(int, tier_plan_parse(large, TIER_PLAN_BYTES_MAX, &other, &err), TIER_EPLAN));
    free(large);
}

Test(tier_plan, every_travelling_key_is_required) {
    struct tier_hash hash;
    size_t count;
    char *text = canonical(&hash);
    const struct tier_keys_item *keys = tier_plan_keys(&count);

    for (size_t i = 0; i < count; i++) {
        const char *dot = strrchr(keys[i].path, '.');
        char from[100], to[100];
        snprintf(from, sizeof from, "\"%s\":", dot ? dot + 1 : keys[i].path);
        snprintf(to, sizeof to, "\"%sX\":", dot ? dot + 1 : keys[i].path);
        char *bad = replaced(text, from, to);
        cr_assert(eq(int, tier_plan_parse(bad, strlen(bad), &other, &err), TIER_EPLAN), "%s", bad);
        free(bad);
    }
    free(text);
}

Test(tier_plan, real_numbers_are_written_short_and_exact) {
    static const double values[] = {0, 1, 0.1, 1.0 / 3, 1e-8, 1e30, 123456789.0, 5e-324};
    char text[32];

    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++)
        cr_assert(eq(dbl, strtod(tier_real_text(values[i], text, sizeof text), NULL), values[i]));
    cr_assert(eq(str, (char *)tier_real_text(0.1, text, sizeof text), "0.1"));
    cr_assert(eq(str, (char *)tier_real_text(2, text, sizeof text), "2.0"));
}
