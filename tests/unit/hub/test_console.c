/* SPDX-License-Identifier: Apache-2.0 */
/* The console's service, asked over mutual TLS as any operator's program would ask it. */
#include "tests/support/tree.h"
#include "tier/authority.h"
#include "tier/cert.h"
#include "tier/console_wire.h"
#include "tier/content.h"
#include "tier/log.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXAMPLE CONSILIUM_SOURCE_DIR "/deploy/examples/breast-cancer"
#define TIMEOUT_MS 60000

static char work[64], operator_dir[128];
static struct tree *tree;
static struct tree_node *top;
static char *plan_text, *graph;
static size_t plan_bytes, graph_bytes;
static struct tier_err err;

static void enroll_operator(void) {
    char dir[128], token[TIER_TOKEN_SIZE], *csr = NULL, *cert = NULL, *ca = NULL;
    int64_t now = tier_wall_ms() / 1000;
    struct tier_authority *a = NULL;
    struct tier_key *key = NULL;

    snprintf(dir, sizeof dir, "%s/tree/authority", work);
    snprintf(operator_dir, sizeof operator_dir, "%s/operator", work);
    cr_assert(tier_authority_open(dir, &a, &err) == TIER_OK, "%s", err.text);
    cr_assert(tier_authority_token_create(a, "anna", TIER_ROLE_OPERATOR, 600, false, now, token,
                                          &err) == TIER_OK);
    cr_assert(tier_identity_prepare(operator_dir, &key, &err) == TIER_OK);
    cr_assert(tier_csr_new(key, "anna", TIER_ROLE_OPERATOR, &csr, &err) == TIER_OK);
    cr_assert(tier_authority_enroll(a, token, csr, now, &cert, &ca, &err) == TIER_OK);
    cr_assert(tier_identity_store(operator_dir, cert, ca, now, &err) == TIER_OK);
    tier_authority_close(a);
    tier_key_free(key);
    free(csr);
    free(cert);
    free(ca);
}

static void read_graph(void) {
    FILE *f = fopen(EXAMPLE "/model.onnx", "rb");
    cr_assert(f != NULL);
    fseek(f, 0, SEEK_END);
    graph_bytes = (size_t)ftell(f);
    rewind(f);
    graph = malloc(graph_bytes + 1);
    cr_assert(eq(sz, fread(graph, 1, graph_bytes, f), graph_bytes));
    graph[graph_bytes] = '\0';
    fclose(f);
}

static void make_plan(uint64_t rounds) {
    struct tier_plan p = {.version = TIER_PLAN_VERSION,
                          .name = "wdbc",
                          .purpose = "tests",
                          .contract = "breast-cancer",
                          .loss = TIER_PLAN_BCE,
                          .batch = 16,
                          .steps = 5,
                          .seed = 7,
                          .clip = 1,
                          .frac_bits = 30,
                          .weight_total_max = UINT64_C(1) << 31,
                          .rounds = rounds,
                          .evaluate_every = 1};
    struct tier_hash hash;
    p.optimiser.lr = 0.05;
    p.optimiser.beta1 = p.optimiser.beta2 = p.optimiser.eps = NAN;
    p.schedule.gamma = p.schedule.lr_min = NAN;
    p.accumulate = 1;
    p.stop.target = NAN;
    p.server = TIER_PLAN_SERVER_OFF;
    p.loss_options = TIER_PLAN_LOSS_PLAIN;
    tier_hash_data(graph, graph_bytes, &hash);
    tier_hash_hex(&hash, p.model_sha256);
    p.model_bytes = graph_bytes;
    free(plan_text);
    cr_assert(tier_plan_canonical(&p, &plan_text, &plan_bytes, NULL, &err) == TIER_OK);
}

static void set_up(void) {
    char dir[128];
    tier_log_init("test", getenv("T_LOG") ? TIER_LOG_INFO : TIER_LOG_ERROR);
    snprintf(work, sizeof work, "/tmp/consilium-console-XXXXXX");
    cr_assert(mkdtemp(work) != NULL);
    snprintf(dir, sizeof dir, "%s/tree", work);
    tree = tree_new(dir, true);
    top = tree_hub(tree, "top", NULL, 1);
    enroll_operator();
    read_graph();
    make_plan(2);
}

static void tear_down(void) {
    char command[128];
    tree_free(tree);
    free(plan_text);
    free(graph);
    snprintf(command, sizeof command, "rm -rf %s", work);
    cr_assert(system(command) == 0);
}

TestSuite(hub_console, .init = set_up, .fini = tear_down);

static struct tree_node *add_spoke(struct tree_node *parent) {
    char command[1024], csv[128];
    snprintf(command, sizeof command,
             "mkdir -p %s/tables && awk -v out=%s/tables -f " EXAMPLE "/split.awk " EXAMPLE
             "/breast_cancer.csv",
             work, work);
    cr_assert(system(command) == 0);
    snprintf(csv, sizeof csv, "%s/tables/north-1.csv", work);
    return tree_spoke(tree, "north-1", parent, csv, EXAMPLE "/schema.yaml");
}

/* ---- a small client ---- */

struct client {
    struct tier_loop *loop;
    struct tier_rpc_channel *channel;
    struct tier_node node;
    struct tier_bytes *out; /* to be sent, then a half-close */
    size_t out_count, sent;
    bool over;
    enum tier_status status;
    char text[512];
    unsigned messages;
    struct tier_console_run run; /* the last one that came */
    bool pulls;
    struct tier_hasher *hasher; /* of what is pulled */
    uint64_t pulled;
    struct tier_hash id;
};

static bool get_port(struct hub *hub, void *arg) {
    *(int *)arg = tier_serve_port(hub->serve);
    return true;
}

static struct client client_new(struct tree_node *hub, const char *hub_name, const char *identity) {
    struct client c = {.status = TIER_OK};
    char address[64];
    int port = 0;

    cr_assert(tree_until(hub, get_port, &port, TIMEOUT_MS));
    snprintf(address, sizeof address, "127.0.0.1:%d", port);
    cr_assert(tier_identity_load(identity, tier_wall_ms() / 1000, &c.node, &err) == TIER_OK);
    const struct tier_rpc_tls tls = {
        .ca_pem = c.node.ca_pem, .cert_pem = c.node.cert_pem, .key_pem = c.node.key_pem};
    cr_assert(tier_loop_new(&c.loop, &err) == TIER_OK);
    cr_assert(tier_rpc_channel_new(c.loop, address, hub_name, "", &tls, NULL, &c.channel, &err) ==
              TIER_OK);
    c.hasher = tier_hasher_new();
    return c;
}

static void client_free(struct client *c) {
    tier_rpc_channel_free(c->channel);
    tier_loop_free(c->loop);
    tier_identity_release(&c->node);
    tier_console_run_release(&c->run);
    tier_hasher_free(c->hasher);
}

static void take_piece(struct client *c, const uint8_t *bytes, size_t n) {
    struct tier_piece piece;
    size_t at;
    size_t head = n < TIER_PIECE_PREFIX_MAX ? n : TIER_PIECE_PREFIX_MAX;
    cr_assert(tier_wire_piece(bytes, head, n, &piece, &at, &err) == TIER_OK);
    cr_assert(eq(u64, piece.offset, c->pulled));
    if (c->messages == 1)
        c->id = piece.id;
    tier_hasher_add(c->hasher, bytes + at, piece.data_bytes);
    c->pulled += piece.data_bytes;
}

static void on_message(struct tier_rpc_call *call, struct tier_rpc_message *m) {
    struct client *c = tier_rpc_user(call);
    size_t n = tier_rpc_message_bytes(m);
    const uint8_t *bytes = tier_rpc_message_flat(m, TIER_MESSAGE_BYTES_MAX);
    struct tier_console_run run;

    cr_assert(bytes != NULL);
    c->messages++;
    if (c->pulls) {
        take_piece(c, bytes, n);
    } else if (tier_console_run(bytes, n, &run, &err) == TIER_OK) {
        tier_console_run_release(&c->run);
        c->run = run;
    }
    tier_rpc_read(call);
}

static void on_sent(struct tier_rpc_call *call) {
    struct client *c = tier_rpc_user(call);
    if (c->sent == c->out_count) {
        tier_rpc_half_close(call);
        return;
    }
    tier_rpc_send(call, c->out[c->sent].data, c->out[c->sent].n);
    c->sent++;
}

static void on_closed(struct tier_rpc_call *call, enum tier_status status, const char *text) {
    struct client *c = tier_rpc_user(call);
    c->over = true;
    c->status = status;
    snprintf(c->text, sizeof c->text, "%s", text);
}

static const struct tier_rpc_handler handler = {
    .message = on_message, .sent = on_sent, .closed = on_closed};

static bool is_over(void *arg) {
    return ((struct client *)arg)->over;
}

/* Frees what it sends. */
static enum tier_status call(struct client *c, const char *path, struct tier_bytes *out,
                             size_t count) {
    c->out = out;
    c->out_count = count;
    c->sent = 0;
    c->over = false;
    c->messages = 0;
    struct tier_rpc_call *rpc = tier_rpc_call_new(c->channel, path, &handler, c, TIMEOUT_MS);
    tier_rpc_read(rpc);
    on_sent(rpc);
    cr_assert(tier_loop_run_until(c->loop, is_over, c, TIMEOUT_MS));
    for (size_t i = 0; i < count; i++)
        free(out[i].data);
    return c->status;
}

static struct tier_bytes plan_part(void) {
    const struct tier_console_part p = {
        .is_plan = true, .data = (uint8_t *)plan_text, .bytes = plan_bytes};
    return tier_console_part_bytes(&p);
}

static struct tier_bytes graph_part(size_t from, size_t bytes) {
    const struct tier_console_part p = {.data = (uint8_t *)graph + from, .bytes = bytes};
    return tier_console_part_bytes(&p);
}

static enum tier_status start(struct client *c) {
    struct tier_bytes out[] = {plan_part(), graph_part(0, 1000),
                               graph_part(1000, graph_bytes - 1000)};
    return call(c, TIER_PATH_CONSOLE_START, out, 3);
}

static enum tier_status ask_run(struct client *c, const char *path, const char *run) {
    struct tier_console_run_request request = {.run = ""};
    snprintf(request.run, sizeof request.run, "%s", run);
    struct tier_bytes out = tier_console_run_request_bytes(&request);
    return call(c, path, &out, 1);
}

static bool audit_says(struct tree_node *node, const char *what) {
    char path[700], line[4096];
    bool found = false;
    snprintf(path, sizeof path, "%s/audit/audit.log", tree_dir(node));
    FILE *f = fopen(path, "r");
    cr_assert(f != NULL);
    while (!found && fgets(line, sizeof line, f))
        found = strstr(line, what) != NULL;
    fclose(f);
    return found;
}

/* ---- tests ---- */

Test(hub_console, an_operator_starts_watches_and_pulls_a_run) {
    add_spoke(top);
    struct client c = client_new(top, "top", operator_dir);
    cr_assert(start(&c) == TIER_OK, "%s", c.text);
    cr_assert(eq(str, c.run.name, "wdbc"));
    cr_assert(eq(str, c.run.state, "open"));
    cr_assert(eq(u64, c.run.rounds, 3));
    cr_assert(audit_says(top, "\"caller\":\"anna\""));

    cr_assert(ask_run(&c, TIER_PATH_CONSOLE_WATCH, "") == TIER_OK, "%s", c.text);
    cr_assert(eq(str, c.run.state, "completed"));
    cr_assert(eq(u64, c.run.round, 3));
    cr_assert(ge(uint, c.messages, 1));
    cr_assert(eq(sz, c.run.child_count, 1));
    cr_assert(eq(str, c.run.children[0].name, "north-1"));

    /* Once over, one message tells everything. */
    cr_assert(ask_run(&c, TIER_PATH_CONSOLE_WATCH, "") == TIER_OK);
    cr_assert(eq(uint, c.messages, 1));
    cr_assert(eq(sz, c.run.history_count, 4), "the first model and three rounds");
    cr_assert(eq(sz, c.run.history[0].metric_count, 4));
    cr_assert(eq(sz, c.run.history[2].metric_count, 4));
    cr_assert(eq(u32, c.run.history[1].updates, 1));
    cr_assert(tier_hash_equal(&c.run.history[2].model, &c.run.model));

    struct tier_console_pull pull = {.graph = false};
    struct tier_hash model = c.run.model, got;
    struct tier_bytes out = tier_console_pull_bytes(&pull);
    c.pulls = true;
    cr_assert(call(&c, TIER_PATH_CONSOLE_PULL, &out, 1) == TIER_OK, "%s", c.text);
    tier_hasher_finish(c.hasher, &got);
    cr_assert(tier_hash_equal(&got, &model));
    cr_assert(tier_hash_equal(&c.id, &model));
    client_free(&c);
}

Test(hub_console, a_spoke_may_neither_start_nor_list_and_the_audit_says_so) {
    struct tree_node *spoke = add_spoke(top);
    struct client c = client_new(top, "top", tree_dir(spoke));
    struct tier_bytes empty = tier_console_empty_bytes();

    cr_assert(start(&c) == TIER_EPOLICY);
    cr_assert(strstr(c.text, "role operator") != NULL);
    cr_assert(call(&c, TIER_PATH_CONSOLE_RUNS, &empty, 1) == TIER_EPOLICY);
    cr_assert(audit_says(top, "\"method\":\"ListRuns\""));
    client_free(&c);
}

Test(hub_console, the_hub_itself_may_ask_its_own_console) {
    struct client c = client_new(top, "top", tree_dir(top));
    struct tier_bytes empty = tier_console_empty_bytes();
    cr_assert(call(&c, TIER_PATH_CONSOLE_NODES, &empty, 1) == TIER_OK, "%s", c.text);
    client_free(&c);
}

Test(hub_console, a_graph_that_is_not_the_plans_is_refused) {
    struct client c = client_new(top, "top", operator_dir);

    graph[graph_bytes / 2] ^= 1;
    cr_assert(start(&c) == TIER_ECORRUPT, "another hash");
    graph[graph_bytes / 2] ^= 1;

    struct tier_bytes cut[] = {plan_part(), graph_part(0, graph_bytes - 1)};
    cr_assert(call(&c, TIER_PATH_CONSOLE_START, cut, 2) == TIER_EARG, "too short");
    struct tier_bytes longer[] = {plan_part(), graph_part(0, graph_bytes), graph_part(0, 1)};
    cr_assert(call(&c, TIER_PATH_CONSOLE_START, longer, 3) == TIER_ELIMIT, "too long");
    struct tier_bytes no_plan[] = {graph_part(0, graph_bytes)};
    cr_assert(call(&c, TIER_PATH_CONSOLE_START, no_plan, 1) == TIER_EARG, "no plan");
    cr_assert(call(&c, TIER_PATH_CONSOLE_START, NULL, 0) == TIER_EARG, "nothing");
    plan_text[plan_bytes - 1] = ' ';
    cr_assert(start(&c) == TIER_EARG, "not a canonical plan");
    plan_text[plan_bytes - 1] = '}';
    cr_assert(audit_says(top, "\"method\":\"StartRun\""));
    cr_assert(not(audit_says(top, "console.start")));

    cr_assert(start(&c) == TIER_OK, "and none of that spoils the next: %s", c.text);
    client_free(&c);
}

Test(hub_console, a_run_is_stopped_once) {
    struct client c = client_new(top, "top", operator_dir);
    char run[TIER_HASH_HEX];

    cr_assert(ask_run(&c, TIER_PATH_CONSOLE_STOP, "") == TIER_ENOTFOUND, "there is none");
    cr_assert(start(&c) == TIER_OK, "%s", c.text);
    snprintf(run, 9, "%s", tier_hash_hex(&c.run.run, (char[TIER_HASH_HEX]){0}));
    cr_assert(ask_run(&c, TIER_PATH_CONSOLE_STOP, run) == TIER_OK, "%s", c.text);
    cr_assert(eq(str, c.run.state, "stopped"));
    cr_assert(eq(str, c.run.reason, "stopped by anna"));
    cr_assert(ask_run(&c, TIER_PATH_CONSOLE_STOP, run) == TIER_ECONFLICT);
    client_free(&c);
}

Test(hub_console, a_prefix_of_two_runs_is_refused) {
    struct client c = client_new(top, "top", operator_dir);
    char seen[16] = {0}, prefix[2] = "";

    /* Seventeen ids begin with sixteen digits: two of them with the same. */
    for (int i = 0; i < 17 && !*prefix; i++) {
        cr_assert(start(&c) == TIER_OK, "%s", c.text);
        unsigned digit = c.run.run.b[0] >> 4;
        if (seen[digit]++)
            snprintf(prefix, sizeof prefix, "%x", digit);
    }
    cr_assert(ask_run(&c, TIER_PATH_CONSOLE_STOP, prefix) == TIER_EARG);
    cr_assert(strstr(c.text, "more than one") != NULL);
    client_free(&c);
}

Test(hub_console, a_hub_below_the_top_shows_runs_but_starts_none) {
    struct tree_node *hub = tree_hub(tree, "hub-a", top, 1);
    struct client c = client_new(hub, "hub-a", operator_dir);
    struct tier_bytes empty = tier_console_empty_bytes();

    cr_assert(start(&c) == TIER_EPOLICY);
    cr_assert(strstr(c.text, "at the top") != NULL);
    cr_assert(call(&c, TIER_PATH_CONSOLE_RUNS, &empty, 1) == TIER_OK, "%s", c.text);
    client_free(&c);
}

Test(hub_console, a_hub_that_stops_tells_its_watchers) {
    struct client c = client_new(top, "top", operator_dir);
    cr_assert(start(&c) == TIER_OK, "%s", c.text);
    c.over = false;
    c.messages = 0;
    struct tier_console_run_request request = {.run = ""};
    struct tier_bytes out = tier_console_run_request_bytes(&request);
    c.out = &out;
    c.out_count = 1;
    c.sent = 0;
    struct tier_rpc_call *rpc =
        tier_rpc_call_new(c.channel, TIER_PATH_CONSOLE_WATCH, &handler, &c, TIMEOUT_MS);
    tier_rpc_read(rpc);
    on_sent(rpc);
    while (!c.messages)
        tier_loop_run_until(c.loop, is_over, &c, 10);
    tree_stop(top);
    cr_assert(tier_loop_run_until(c.loop, is_over, &c, TIMEOUT_MS));
    cr_assert(c.status == TIER_EUNAVAILABLE || c.status == TIER_ECANCELLED);
    free(out.data);
    client_free(&c);
}
