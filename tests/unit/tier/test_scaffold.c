/* SPDX-License-Identifier: Apache-2.0 */
#include "support/small_graph.h"
#include "tier/model.h"
#include "tier/scaffold.h"
#include "tier/task.h"

TestSuite(tier_scaffold, .init = fixture_up, .fini = fixture_down);

static struct tier_plan plan_of(double clip, double lr) {
    struct tier_plan p = {.scaffold = true, .clip = clip, .frac_bits = tier_plan_frac_bits(clip)};
    p.optimiser.lr = lr;
    return p;
}

Test(tier_scaffold, the_manifest_has_a_control_for_each_tensor_that_travels) {
    struct tier_graph *g = graph_of("w", "b");
    struct tier_plan p = plan_of(1, 0.05), plain = p;
    struct tier_manifest *m = NULL;
    plain.scaffold = false;
    tier_keys_list_add(&p.wide, "b", strlen("b"));
    MUST(tier_task_manifest(&p, g, &m, err));
    CHECK(m->count == 4 && m->elements == 12 && tier_task_model_elements(&p, m) == 6);
    CHECK(tier_task_model_elements(&plain, m) == 12);
    cr_assert(eq(str, m->tensors[2].name, "scaffold/w"));
    cr_assert(eq(str, m->tensors[3].name, "scaffold/b"));
    CHECK(m->tensors[2].ndim == 2 && m->tensors[2].dims[1] == 2 && m->tensors[3].at == 10);
    /* 4 * 1 / 0.05 = 80, and 2^7 is above that. */
    CHECK(m->tensors[0].frac_bits == 30 && m->tensors[2].frac_bits == 23);
    CHECK(m->tensors[1].wide && !m->tensors[3].wide);
    tier_manifest_free(m);
    tier_keys_list_add(&p.keep, "w", strlen("w"));
    MUST(tier_task_manifest(&p, g, &m, err));
    CHECK(m->count == 2);
    cr_assert(eq(str, m->tensors[1].name, "scaffold/b"));
    tier_manifest_free(m);
    tier_graph_free(g);
}

Test(tier_scaffold, the_first_model_has_controls_of_zero) {
    struct tier_graph *g = graph_of("w", "b");
    struct tier_plan p = plan_of(1, 0.05);
    struct tier_manifest *m = NULL;
    struct tier_model *model = NULL;
    struct tier_hash first;
    float got[12];
    MUST(tier_task_manifest(&p, g, &m, err));
    MUST(tier_task_first_model(g, m, fixture_dir, &first, err));
    char *path = tier_model_path(fixture_dir, &first);
    MUST(tier_model_open(path, &model, err));
    MUST(tier_model_matches(model, m, err));
    MUST(tier_model_read(model, 0, 12, got, err));
    CHECK(memcmp(got, values, sizeof values) == 0);
    for (int i = 6; i < 12; i++)
        CHECK(got[i] == 0);
    tier_model_close(model);
    free(path);
    tier_manifest_free(m);
    tier_graph_free(g);
}

Test(tier_scaffold, names_that_would_be_taken_for_controls_or_are_too_long_are_refused) {
    static char longest[TIER_TENSOR_NAME_LEN_MAX + 1];
    struct tier_graph *g = graph_of("w", "scaffold/w");
    struct tier_plan p = plan_of(1, 0.05);
    struct tier_manifest *m = NULL;
    REFUSED(TIER_EMODEL, "tensor scaffold/w: names that begin with scaffold/",
            tier_task_manifest(&p, g, &m, err));
    p.scaffold = false;
    MUST(tier_task_manifest(&p, g, &m, err));
    p.scaffold = true;
    tier_manifest_free(m);
    tier_graph_free(g);
    memset(longest, 'w', sizeof longest - 9);
    g = graph_of(longest, "b");
    REFUSED(TIER_EMODEL, "its control variate's name would have more than 255 bytes",
            tier_task_manifest(&p, g, &m, err));
    tier_graph_free(g);
    longest[TIER_TENSOR_NAME_LEN_MAX - 9] = '\0';
    g = graph_of(longest, "b");
    MUST(tier_task_manifest(&p, g, &m, err));
    tier_manifest_free(m);
    tier_graph_free(g);
}
