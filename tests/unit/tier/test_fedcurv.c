/* SPDX-License-Identifier: Apache-2.0 */
#include "support/small_graph.h"
#include "tier/fedcurv.h"
#include "tier/model.h"
#include "tier/task.h"

TestSuite(tier_fedcurv, .init = fixture_up, .fini = fixture_down);

static struct tier_plan plan_of(double clip, uint64_t rounds, double fisher_clip) {
    struct tier_plan p = {
        .clip = clip, .frac_bits = tier_plan_frac_bits(clip), .rounds = rounds, .model_bytes = 100};
    p.curvature.lambda = 1;
    p.curvature.clip = fisher_clip;
    return p;
}

Test(tier_fedcurv, the_manifest_has_two_more_for_each_tensor_that_travels) {
    struct tier_graph *g = graph_of("w", "b");
    struct tier_plan p = plan_of(0.75, 10, 0.3);
    struct tier_manifest *m = NULL;
    tier_keys_list_add(&p.wide, "b", strlen("b"));
    MUST(tier_task_manifest(&p, g, &m, err));
    CHECK(m->count == 6 && m->elements == 18 && tier_task_model_elements(&p, m) == 6);
    cr_assert(eq(str, m->tensors[2].name, "fedcurv/fisher/w"));
    cr_assert(eq(str, m->tensors[3].name, "fedcurv/fisher/b"));
    cr_assert(eq(str, m->tensors[4].name, "fedcurv/pull/w"));
    cr_assert(eq(str, m->tensors[5].name, "fedcurv/pull/b"));
    CHECK(m->tensors[4].ndim == 2 && m->tensors[4].dims[1] == 2 && m->tensors[5].at == 16);
    /* 0.3 is within 2^-1; ten changes within 1 each, times that and twice: within 2^4. */
    CHECK(m->tensors[0].frac_bits == 30 && m->tensors[2].frac_bits == 31);
    CHECK(m->tensors[4].frac_bits == 26 && m->tensors[5].frac_bits == 26);
    CHECK(m->tensors[1].wide && !m->tensors[3].wide && !m->tensors[5].wide);
    tier_manifest_free(m);
    tier_keys_list_add(&p.keep, "w", strlen("w"));
    MUST(tier_task_manifest(&p, g, &m, err));
    CHECK(m->count == 3 && tier_task_model_elements(&p, m) == 2);
    cr_assert(eq(str, m->tensors[2].name, "fedcurv/pull/b"));
    tier_manifest_free(m);
    tier_graph_free(g);
}

Test(tier_fedcurv, without_a_lambda_nothing_of_it_is_there) {
    struct tier_graph *g = graph_of("w", "fedcurv/pull/b");
    struct tier_plan p = plan_of(1, 10, 1);
    struct tier_manifest *m = NULL;
    uint64_t with = tier_task_model_bytes_max(&p);
    p.curvature.lambda = 0;
    MUST(tier_task_manifest(&p, g, &m, err));
    CHECK(!tier_fedcurv_on(&p) && m->count == 2 && tier_task_model_elements(&p, m) == 6);
    cr_assert(eq(ulong, with - tier_task_model_bytes_max(&p), 200));
    tier_manifest_free(m);
    tier_graph_free(g);
}

Test(tier_fedcurv, the_first_model_has_sums_of_zero) {
    struct tier_graph *g = graph_of("w", "b");
    struct tier_plan p = plan_of(1, 10, 1);
    struct tier_manifest *m = NULL;
    struct tier_model *model = NULL;
    struct tier_hash first;
    float got[18];
    MUST(tier_task_manifest(&p, g, &m, err));
    MUST(tier_task_first_model(g, m, fixture_dir, &first, err));
    char *path = tier_model_path(fixture_dir, &first);
    MUST(tier_model_open(path, &model, err));
    MUST(tier_model_matches(model, m, err));
    MUST(tier_model_read(model, 0, 18, got, err));
    CHECK(memcmp(got, values, sizeof values) == 0);
    for (int i = 6; i < 18; i++)
        CHECK(got[i] == 0);
    tier_model_close(model);
    free(path);
    tier_manifest_free(m);
    tier_graph_free(g);
}

Test(tier_fedcurv, names_that_would_be_taken_for_its_own_or_are_too_long_are_refused) {
    static char longest[TIER_TENSOR_NAME_LEN_MAX + 1];
    const size_t prefix = strlen(TIER_FEDCURV_FISHER);
    struct tier_plan p = plan_of(1, 10, 1);
    struct tier_manifest *m = NULL;
    struct tier_graph *g = graph_of("w", "fedcurv/pull/w");
    REFUSED(TIER_EMODEL, "tensor fedcurv/pull/w: names that begin with fedcurv/pull/",
            tier_task_manifest(&p, g, &m, err));
    tier_graph_free(g);
    g = graph_of("w", "fedcurv/fisher/w");
    REFUSED(TIER_EMODEL, "tensor fedcurv/fisher/w: names that begin with fedcurv/fisher/",
            tier_task_manifest(&p, g, &m, err));
    tier_graph_free(g);
    memset(longest, 'w', TIER_TENSOR_NAME_LEN_MAX - prefix + 1);
    g = graph_of(longest, "b");
    REFUSED(TIER_EMODEL, "the name of its curvature would have more than 255 bytes",
            tier_task_manifest(&p, g, &m, err));
    tier_graph_free(g);
    longest[TIER_TENSOR_NAME_LEN_MAX - prefix] = '\0';
    g = graph_of(longest, "b");
    MUST(tier_task_manifest(&p, g, &m, err));
    tier_manifest_free(m);
    tier_graph_free(g);
}
