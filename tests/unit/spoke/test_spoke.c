/* SPDX-License-Identifier: Apache-2.0 */
/* A spoke and a parent made of tier/serve.h on one loop, so that the order of messages is the
 * test's. In plain text; the table is one region's of deploy/examples/breast-cancer. */
#include "spoke/consent.h"
#include "spoke/spoke.h"
#include "tier/content.h"
#include "tier/log.h"
#include "tier/model.h"
#include "tier/serve.h"
#include "tier/statistics.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define EXAMPLE CONSILIUM_SOURCE_DIR "/deploy/examples/breast-cancer"
#define TIMEOUT_MS 20000

static char work[64];
static struct tier_loop *loop;
static struct tier_spool *spool;
static struct tier_serve *serve;
static struct spoke spoke;
static struct tier_config config;
static struct tier_plan plan;
static char *plan_text;
static size_t plan_bytes;
static struct tier_hash base[2];    /* two models of the same manifest */
static struct tier_hash offered_id; /* last */
static uint64_t offered_weight;
static int64_t offered_rows; /* that were counted, of the column that the plan asks for */

/* What the parent heard. */
static struct { unsigned attending, accepted, offered, declined; } heard;

static enum tier_status attending(void *owner, const char *child, struct tier_err *err) {
    (void)owner, (void)child, (void)err;
    heard.attending++;
    return TIER_OK;
}

static void left(void *owner, const char *child) {
    (void)owner, (void)child;
}

static void answered(void *owner, const char *child, const struct tier_hash *run, bool accepted,
                     bool waiting, const char *reason) {
    (void)owner, (void)child, (void)run;
    cr_assert(accepted && !waiting, "%s", reason);
    heard.accepted++;
}

static void offered(void *owner, const char *child, const struct tier_hash *id,
                    const struct tier_update_header *header) {
    (void)owner, (void)child;
    offered_id = *id;
    offered_weight = header->weight;
    if (header->metrics)
        offered_rows = tier_metrics_scalar(header->metrics, TIER_STATISTIC_PREFIX "radius_mean");
    heard.offered++;
}

static void declined(void *owner, const char *child, const struct tier_hash *run, uint64_t round,
                     const char *reason) {
    (void)owner, (void)child, (void)run, (void)round;
    cr_log_info("declined: %s\n", reason);
    heard.declined++;
}

static void progressed(void *owner, const char *child, const struct tier_hash *run, uint64_t round,
                       const char *phase, uint32_t done, uint32_t total) {
    (void)owner, (void)child, (void)run, (void)round, (void)phase, (void)done, (void)total;
}

static const struct tier_serve_events events = {.attending = attending,
                                                .left = left,
                                                .answered = answered,
                                                .offered = offered,
                                                .declined = declined,
                                                .progressed = progressed};

static bool reached(void *arg) {
    const unsigned *want = arg; /* which counter, and its value */
    return ((unsigned *)&heard)[want[0]] >= want[1] || heard.declined > 0;
}

static void wait_for(unsigned counter, unsigned value) {
    unsigned want[2] = {counter, value};
    cr_assert(tier_loop_run_until(loop, reached, want, TIMEOUT_MS), "counter %u", counter);
}
enum { ATTENDING, ACCEPTED, OFFERED };

/* ---- fixture ---- */

static void models(const char *dir) {
    struct tier_err err = {0};
    struct tier_graph *graph = NULL;
    struct tier_manifest *manifest = NULL;
    struct tier_model_writer *w = NULL;
    struct tier_hash graph_hash;
    size_t bytes;
    FILE *f = fopen(EXAMPLE "/model.onnx", "rb");

    cr_assert(f != NULL);
    uint8_t *onnx = malloc(1 << 20);
    bytes = fread(onnx, 1, 1 << 20, f);
    fclose(f);
    cr_assert(tier_content_store(dir, TIER_CONTENT_GRAPH, onnx, bytes, &graph_hash, &err) ==
              TIER_OK);
    free(onnx);
    tier_hash_hex(&graph_hash, plan.model_sha256);
    plan.model_bytes = bytes;
    cr_assert(tier_plan_canonical(&plan, &plan_text, &plan_bytes, NULL, &err) == TIER_OK, "%s",
              err.text);
    cr_assert(tier_graph_open(EXAMPLE "/model.onnx", &graph, &err) == TIER_OK);
    cr_assert(tier_task_manifest(&plan, graph, &manifest, &err) == TIER_OK);
    cr_assert(tier_task_first_model(graph, manifest, dir, &base[0], &err) == TIER_OK);
    float *zeros = calloc(manifest->elements, sizeof *zeros);
    cr_assert(tier_model_writer_begin(dir, manifest, NULL, 0, &w, &err) == TIER_OK);
    cr_assert(tier_model_writer_append(w, zeros, manifest->elements, &err) == TIER_OK);
    cr_assert(tier_model_writer_finish(w, &base[1], &err) == TIER_OK);
    free(zeros);
    tier_manifest_free(manifest);
    tier_graph_free(graph);
}

static void set_up(void) {
    char command[1024], path[128];
    struct tier_err err = {0};

    tier_log_init("test", TIER_LOG_ERROR);
    snprintf(work, sizeof work, "/tmp/consilium-spoke-XXXXXX");
    cr_assert(mkdtemp(work) != NULL);
    snprintf(command, sizeof command,
             "cd %s && mkdir tables models node && awk -v out=tables -f " EXAMPLE
             "/split.awk " EXAMPLE "/breast_cancer.csv",
             work);
    cr_assert(system(command) == 0);
    plan = (struct tier_plan){.version = TIER_PLAN_VERSION,
                              .name = "wdbc",
                              .purpose = "tests",
                              .contract = "breast-cancer",
                              .loss = TIER_PLAN_BCE,
                              .batch = 16,
                              .steps = 2,
                              .seed = 7,
                              .clip = 8,
                              .frac_bits = 27,
                              .weight_total_max = UINT64_C(1) << 31,
                              .rounds = 3,
                              .evaluate_every = 1,
                              .loss_options = TIER_PLAN_LOSS_PLAIN,
                              .server = TIER_PLAN_SERVER_OFF};
    plan.optimiser.lr = 0.05;
    plan.optimiser.beta1 = plan.optimiser.beta2 = plan.optimiser.eps = NAN;
    plan.schedule.gamma = plan.schedule.lr_min = NAN;
    plan.accumulate = 1;
    plan.stop.target = NAN;
    snprintf(path, sizeof path, "%s/models", work);
    models(path);

    cr_assert(tier_loop_new(&loop, &err) == TIER_OK);
    const struct tier_serve_options options = {
        .name = "parent", .address = "127.0.0.1:0", .models_dir = path, .max_uploaders = 4};
    char spool_dir[128];
    snprintf(spool_dir, sizeof spool_dir, "%s/spool", work);
    cr_assert(tier_spool_open(spool_dir, false, &spool, &err) == TIER_OK);
    cr_assert(tier_serve_new(loop, &options, spool, &events, NULL, &serve, &err) == TIER_OK);

    config = (struct tier_config){.kind = TIER_CONFIG_SPOKE, .threads = 1, .role = TIER_ROLE_SPOKE};
    snprintf(config.name, sizeof config.name, "north-1");
    snprintf(config.parent_name, sizeof config.parent_name, "parent");
    snprintf(config.parent_address, sizeof config.parent_address, "127.0.0.1:%d",
             tier_serve_port(serve));
    snprintf(config.data_dir, sizeof config.data_dir, "%s/node", work);
    snprintf(config.spoke.csv, sizeof config.spoke.csv, "%s/tables/north-1.csv", work);
    snprintf(config.spoke.schema, sizeof config.spoke.schema, EXAMPLE "/schema.yaml");
    snprintf(config.spoke.device, sizeof config.spoke.device, "cpu");
    config.spoke.accept = TIER_ACCEPT_ALL;
    cr_assert(spoke_open(&config, loop, &spoke, &err) == TIER_OK, "%s", err.text);
    wait_for(ATTENDING, 1);
}

static void tear_down(void) {
    char command[128];
    spoke_close(&spoke);
    tier_serve_free(serve);
    tier_spool_close(spool);
    tier_loop_free(loop);
    free(plan_text);
    snprintf(command, sizeof command, "rm -rf %s", work);
    cr_assert(system(command) == 0);
}

TestSuite(spoke, .init = set_up, .fini = tear_down);

/* ---- what the parent says ---- */

static struct tier_hash run_of(unsigned n) {
    struct tier_hash run;
    tier_hash_data(&n, sizeof n, &run);
    return run;
}

static void say_plan(unsigned run) {
    struct tier_to_child m = {.type = TIER_TO_PLAN,
                              .run = run_of(run),
                              .plan = (const uint8_t *)plan_text,
                              .plan_bytes = plan_bytes};
    cr_assert(tier_serve_send(serve, "north-1", &m));
}

static void say_round(unsigned run, uint64_t round, const struct tier_hash *model) {
    struct tier_to_child m = {
        .type = TIER_TO_ROUND, .run = run_of(run), .round = round, .model = *model};
    cr_assert(tier_serve_send(serve, "north-1", &m));
}

/* The receipt that is right for the update offered last. */
static struct tier_to_child receipt(unsigned run, uint64_t round, uint64_t weight) {
    struct tier_to_child m = {.type = TIER_TO_RECEIPT};
    m.receipt = (struct tier_receipt){
        .run = run_of(run), .round = round, .update = offered_id, .weight = weight, .time_ms = 1};
    snprintf(m.receipt.child, sizeof m.receipt.child, "north-1");
    snprintf(m.receipt.parent, sizeof m.receipt.parent, "parent");
    return m;
}

static enum tier_status see_sent(void *arg, const struct tier_journal_sent *row,
                                 struct tier_err *err) {
    (void)err;
    *(int *)arg = (int)row->state;
    return TIER_OK;
}

static bool received(void *arg) {
    int state = TIER_SENT_PENDING;
    (void)arg;
    tier_journal_sent_each(spoke.home.journal, NULL, TIER_SENT_STATE_ANY, see_sent, &state, NULL);
    return state == TIER_SENT_RECEIVED;
}

static bool has_model(const struct tier_hash *model) {
    char dir[128];
    snprintf(dir, sizeof dir, "%s/node/models", work);
    return tier_content_has(dir, model, TIER_CONTENT_MODEL);
}

/* ---- tests ---- */

Test(spoke, a_base_model_stays_while_another_run_goes_on_from_it) {
    say_plan(0);
    say_plan(1);
    wait_for(ACCEPTED, 2);
    say_round(0, 1, &base[0]);
    wait_for(OFFERED, 1);
    /* In one breath: the second run begins with the model that the first one is through with. */
    say_round(1, 1, &base[0]);
    say_round(0, 2, &base[1]);
    wait_for(OFFERED, 3);
    cr_assert(eq(uint, heard.declined, 0u));
    cr_assert(has_model(&base[0]));
    say_round(1, 2, &base[1]);
    wait_for(OFFERED, 4);
    cr_assert(has_model(&base[0]) == false, "nobody goes on from it any more");
    cr_assert(has_model(&base[1]));
}

Test(spoke, a_round_that_goes_back_is_passed_over) {
    say_plan(0);
    wait_for(ACCEPTED, 1);
    say_round(0, 2, &base[0]);
    wait_for(OFFERED, 1);
    say_round(0, 1, &base[1]);
    say_round(0, 3, &base[0]);
    wait_for(OFFERED, 2);
    cr_assert(eq(u64, spoke.runs->round, 3u));
    cr_assert(has_model(&base[1]) == false);
}

Test(spoke, only_a_receipt_for_its_own_update_counts) {
    say_plan(0);
    wait_for(ACCEPTED, 1);
    say_round(0, 1, &base[0]);
    wait_for(OFFERED, 1);
    struct tier_to_child wrong[] = {receipt(0, 1, offered_weight + 1),
                                    receipt(0, 2, offered_weight), receipt(0, 1, offered_weight),
                                    receipt(0, 1, offered_weight)};
    snprintf(wrong[2].receipt.child, sizeof wrong[2].receipt.child, "north-2");
    snprintf(wrong[3].receipt.parent, sizeof wrong[3].receipt.parent, "another");
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        cr_assert(tier_serve_send(serve, "north-1", &wrong[i]));
    say_round(0, 2, &base[0]); /* behind them: what it leads to says that they were read */
    wait_for(OFFERED, 2);
    cr_assert(received(NULL) == false);
    struct tier_to_child right = receipt(0, 2, offered_weight);
    cr_assert(tier_serve_send(serve, "north-1", &right));
    cr_assert(tier_loop_run_until(loop, received, NULL, TIMEOUT_MS));
}

/* ---- counting, while consents change ---- */

static sem_t gate;

static void wait_at_gate(void *arg) {
    (void)arg;
    sem_wait(&gate);
}

static void nothing(void *arg) {
    (void)arg;
}

static bool is_counting(void *arg) {
    (void)arg;
    return spoke.runs->training;
}

/* A plan that counts one column. */
static void count_one_column(void) {
    struct tier_err err = {0};
    const char *column = "radius_mean=0:40:4";
    free(plan_text);
    plan.rounds = 1;
    plan.evaluate_every = 0;
    plan.governance.purpose = TIER_PLAN_QUALITY;
    cr_assert(tier_keys_list_add(&plan.statistics.columns, column, strlen(column)));
    cr_assert(tier_plan_canonical(&plan, &plan_text, &plan_bytes, NULL, &err) == TIER_OK);
}

/* The loop reads the files anew whenever they change, and frees what it had: the worker, which is
 * counting then, goes by what it has read itself. */
Test(spoke, a_count_goes_by_consents_of_its_own_while_the_loops_are_let_go) {
    FILE *f;
    sem_init(&gate, 0, 0);
    snprintf(config.spoke.opt_out, sizeof config.spoke.opt_out, "%s/opt-out.txt", work);
    config.spoke.rows_min = 1;
    f = fopen(config.spoke.opt_out, "w");
    cr_assert(f != NULL);
    fputs("wdbc-1\n", f); /* one of 44 */
    cr_assert(eq(int, fclose(f), 0));
    count_one_column();
    say_plan(0);
    wait_for(ACCEPTED, 1);
    tier_worker_submit(spoke.worker, wait_at_gate, nothing, NULL, NULL);
    say_round(0, 1, &base[0]);
    cr_assert(tier_loop_run_until(loop, is_counting, NULL, TIMEOUT_MS));
    cr_assert(spoke.consent != NULL);
    spoke_consent_free(spoke.consent);
    spoke.consent = NULL;
    sem_post(&gate);
    wait_for(OFFERED, 1);
    cr_expect(eq(i64, offered_rows, 43));
    cr_expect(eq(uint, heard.declined, 0u));
    sem_destroy(&gate);
}
