/* SPDX-License-Identifier: Apache-2.0 */
/* Both ends of a call on one loop, over mutual TLS with certificates made here. */
#include "tier/authority.h"
#include "tier/cert.h"
#include "tier/log.h"
#include "tier/rpc.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ECHO_PATH "/test.Echo/Echo"
#define TIMEOUT_MS 10000

static char work[64];
static struct tier_loop *loop;
static struct tier_rpc_server *server;

/* What the server saw and what the client got. */
static struct {
    unsigned server_messages, server_closed, client_messages, client_closed;
    enum tier_status server_status, client_status;
    char client_text[256], peer_uri[256], claim[64];
    size_t bytes;
    bool hold; /* the server does not read on */
    size_t finish_after;
} seen;

static void set_up(void) {
    char dir[128];
    struct tier_err err = {0};
    memset(&seen, 0, sizeof seen);
    tier_log_init("test", TIER_LOG_ERROR);
    snprintf(work, sizeof work, "/tmp/consilium-rpc-XXXXXX");
    cr_assert(mkdtemp(work) != NULL);
    for (const char *const *name = (const char *const[]){"authority", "foreign", NULL}; *name;
         name++) {
        snprintf(dir, sizeof dir, "%s/%s", work, *name);
        /* Old enough to have issued certificates that have run out by now. */
        int64_t born_s = tier_wall_ms() / 1000 - (int64_t)(TIER_NODE_CERT_DAYS + 9) * 86400;
        cr_assert(eq(int, tier_authority_init(dir, *name, 1000, born_s, &err), TIER_OK));
    }
    cr_assert(eq(int, tier_loop_new(&loop, &err), TIER_OK));
}

static void tear_down(void) {
    char command[128];
    tier_rpc_server_free(server);
    tier_loop_free(loop);
    snprintf(command, sizeof command, "rm -rf %s", work);
    cr_assert(system(command) == 0);
}

TestSuite(tier_rpc, .init = set_up, .fini = tear_down);

/* A node's identity by one of the two authorities, at a given time. */
static struct tier_rpc_tls identity(const char *authority, const char *name, int64_t now_s) {
    char dir[128], node_dir[160], token[TIER_TOKEN_SIZE], *csr = NULL, *cert = NULL, *ca = NULL;
    char *key_pem = NULL;
    struct tier_authority *a = NULL;
    struct tier_key *key = NULL;
    struct tier_err err = {0};

    snprintf(dir, sizeof dir, "%s/%s", work, authority);
    snprintf(node_dir, sizeof node_dir, "%s/%s-%s", work, authority, name);
    cr_assert(eq(int, tier_authority_open(dir, &a, &err), TIER_OK));
    cr_assert(
        eq(int,
           tier_authority_token_create(a, name, TIER_ROLE_SPOKE, 600, true, now_s, token, &err),
           TIER_OK),
        "%s", err.text);
    cr_assert(eq(int, tier_key_generate(&key, &err), TIER_OK));
    cr_assert(eq(int, tier_key_to_pem(key, &key_pem, &err), TIER_OK));
    cr_assert(eq(int, tier_csr_new(key, name, TIER_ROLE_SPOKE, &csr, &err), TIER_OK));
    cr_assert(eq(int, tier_authority_enroll(a, token, csr, now_s, &cert, &ca, &err), TIER_OK), "%s",
              err.text);
    tier_authority_close(a);
    tier_key_free(key);
    free(csr);
    return (struct tier_rpc_tls){.ca_pem = ca, .cert_pem = cert, .key_pem = key_pem};
}

static void release(struct tier_rpc_tls *tls) {
    free((char *)tls->ca_pem);
    free((char *)tls->cert_pem);
    free((char *)tls->key_pem);
}

/* ---- the server: echoes, or counts and holds ---- */

static void echo_opened(struct tier_rpc_call *call) {
    snprintf(seen.peer_uri, sizeof seen.peer_uri, "%s", tier_rpc_peer_uri(call));
    snprintf(seen.claim, sizeof seen.claim, "%s", tier_rpc_peer_claim(call));
    tier_rpc_read(call);
}

static void echo_message(struct tier_rpc_call *call, struct tier_rpc_message *m) {
    size_t n = tier_rpc_message_bytes(m);
    seen.server_messages++;
    seen.bytes += n;
    if (seen.hold)
        return;
    if (seen.finish_after && seen.server_messages >= seen.finish_after) {
        tier_rpc_finish(call, TIER_EPOLICY, "enough");
        return;
    }
    const uint8_t *bytes = tier_rpc_message_flat(m, TIER_MESSAGE_BYTES_MAX);
    tier_rpc_send(call, bytes, n);
    tier_rpc_read(call);
}

static void echo_half_closed(struct tier_rpc_call *call) {
    tier_rpc_finish(call, TIER_OK, "");
}

static void echo_closed(struct tier_rpc_call *call, enum tier_status status, const char *text) {
    (void)call;
    (void)text;
    seen.server_closed++;
    seen.server_status = status;
}

static const struct tier_rpc_handler echo = {.opened = echo_opened,
                                             .message = echo_message,
                                             .half_closed = echo_half_closed,
                                             .closed = echo_closed};
static const struct tier_rpc_method methods[] = {{ECHO_PATH, &echo}};

static void serve(const struct tier_rpc_tls *tls) {
    struct tier_err err = {0};
    cr_assert(
        eq(int,
           tier_rpc_server_new(loop, "127.0.0.1:0", tls, NULL, methods, 1, NULL, &server, &err),
           TIER_OK),
        "%s", err.text);
}

/* ---- the client ---- */

static void got_message(struct tier_rpc_call *call, struct tier_rpc_message *m) {
    (void)m;
    seen.client_messages++;
    tier_rpc_read(call);
}

static void got_closed(struct tier_rpc_call *call, enum tier_status status, const char *text) {
    (void)call;
    seen.client_closed++;
    seen.client_status = status;
    snprintf(seen.client_text, sizeof seen.client_text, "%s", text);
}

static const struct tier_rpc_handler client = {.message = got_message, .closed = got_closed};

static struct tier_rpc_channel *connect_as(const struct tier_rpc_tls *tls, const char *peer) {
    struct tier_rpc_channel *channel = NULL;
    struct tier_err err = {0};
    char address[32];
    snprintf(address, sizeof address, "127.0.0.1:%d", tier_rpc_server_port(server));
    cr_assert(eq(int, tier_rpc_channel_new(loop, address, peer, "me", tls, NULL, &channel, &err),
                 TIER_OK));
    return channel;
}

static bool client_is_closed(void *arg) {
    (void)arg;
    return seen.client_closed > 0;
}

static bool server_is_closed(void *arg) {
    (void)arg;
    return seen.server_closed > 0;
}

static bool two_messages(void *arg) {
    (void)arg;
    return seen.client_messages >= 2;
}

static bool held_one(void *arg) {
    (void)arg;
    return seen.server_messages >= 1;
}

/* One call that sends a message and ends; returns its status. */
static enum tier_status call_once(struct tier_rpc_channel *channel, const char *path) {
    struct tier_rpc_call *call = tier_rpc_call_new(channel, path, &client, NULL, TIMEOUT_MS);
    tier_rpc_send(call, "hello", 5);
    tier_rpc_half_close(call);
    tier_rpc_read(call);
    cr_assert(tier_loop_run_until(loop, client_is_closed, NULL, TIMEOUT_MS));
    return seen.client_status;
}

Test(tier_rpc, a_message_comes_back_and_the_peer_is_known_by_its_certificate) {
    struct tier_rpc_tls s = identity("authority", "hub-a", tier_wall_ms() / 1000);
    struct tier_rpc_tls c = identity("authority", "spoke-b", tier_wall_ms() / 1000);
    serve(&s);
    struct tier_rpc_channel *channel = connect_as(&c, "hub-a");
    cr_expect(eq(int, call_once(channel, ECHO_PATH), TIER_OK), "%s", seen.client_text);
    cr_expect(eq(u32, seen.client_messages, 1));
    cr_expect(eq(str, seen.peer_uri, "spiffe://authority/spoke/spoke-b"));
    cr_expect(eq(str, seen.claim, "me"));
    tier_rpc_channel_free(channel);
    release(&s);
    release(&c);
}

Test(tier_rpc, a_server_with_another_name_is_refused) {
    struct tier_rpc_tls s = identity("authority", "hub-a", tier_wall_ms() / 1000);
    struct tier_rpc_tls c = identity("authority", "spoke-b", tier_wall_ms() / 1000);
    serve(&s);
    struct tier_rpc_channel *channel = connect_as(&c, "hub-x");
    cr_expect(eq(int, call_once(channel, ECHO_PATH), TIER_EUNAVAILABLE), "%s", seen.client_text);
    cr_expect(eq(u32, seen.server_messages, 0));
    tier_rpc_channel_free(channel);
    release(&s);
    release(&c);
}

Test(tier_rpc, a_client_of_a_foreign_authority_or_without_a_certificate_is_refused) {
    struct tier_rpc_tls s = identity("authority", "hub-a", tier_wall_ms() / 1000);
    struct tier_rpc_tls c = identity("foreign", "spoke-b", tier_wall_ms() / 1000);
    char *own_ca = (char *)c.ca_pem;
    serve(&s);
    c.ca_pem = s.ca_pem; /* it trusts the server; the server must not trust it */
    struct tier_rpc_channel *channel = connect_as(&c, "hub-a");
    cr_expect(ne(int, call_once(channel, ECHO_PATH), TIER_OK));
    tier_rpc_channel_free(channel);

    struct tier_rpc_tls nobody = {.ca_pem = s.ca_pem};
    seen.client_closed = 0;
    channel = connect_as(&nobody, "hub-a");
    cr_expect(ne(int, call_once(channel, ECHO_PATH), TIER_OK));
    tier_rpc_channel_free(channel);
    cr_expect(eq(u32, seen.server_messages, 0));
    c.ca_pem = own_ca;
    release(&s);
    release(&c);
}

Test(tier_rpc, an_expired_certificate_is_refused) {
    struct tier_rpc_tls s = identity("authority", "hub-a", tier_wall_ms() / 1000);
    int64_t then = tier_wall_ms() / 1000 - (int64_t)(TIER_NODE_CERT_DAYS + 2) * 86400;
    struct tier_rpc_tls c = identity("authority", "spoke-b", then);
    serve(&s);
    struct tier_rpc_channel *channel = connect_as(&c, "hub-a");
    cr_expect(ne(int, call_once(channel, ECHO_PATH), TIER_OK));
    cr_expect(eq(u32, seen.server_messages, 0));
    tier_rpc_channel_free(channel);
    release(&s);
    release(&c);
}

Test(tier_rpc, new_connections_get_the_reloaded_certificate) {
    struct tier_rpc_tls a = identity("authority", "hub-a", tier_wall_ms() / 1000);
    struct tier_rpc_tls b = identity("authority", "hub-b", tier_wall_ms() / 1000);
    struct tier_rpc_tls c = identity("authority", "spoke-c", tier_wall_ms() / 1000);
    struct tier_err err = {0};
    serve(&a);
    struct tier_rpc_channel *before = connect_as(&c, "hub-a");
    cr_expect(eq(int, call_once(before, ECHO_PATH), TIER_OK));
    cr_assert(eq(int, tier_rpc_server_reload(server, &b, &err), TIER_OK));
    struct tier_rpc_channel *after = connect_as(&c, "hub-b");
    seen.client_closed = 0;
    cr_expect(eq(int, call_once(after, ECHO_PATH), TIER_OK), "%s", seen.client_text);
    seen.client_closed = 0;
    cr_expect(eq(int, call_once(before, ECHO_PATH), TIER_OK), "the old connection goes on");
    tier_rpc_channel_free(before);
    tier_rpc_channel_free(after);
    release(&a);
    release(&b);
    release(&c);
}

static struct {
    unsigned asked;
    const char *refused; /* a name */
} guard;

static enum tier_status ask_guard(void *arg, struct tier_rpc_call *call, struct tier_err *err) {
    const struct tier_identity *id = NULL;
    guard.asked += arg == &guard;
    TIER_TRY(tier_rpc_peer_identity(call, &id, err));
    if (guard.refused && strcmp(id->name, guard.refused) == 0)
        return tier_fail(err, TIER_EIDENTITY, "'%s' may not", id->name);
    return TIER_OK;
}

Test(tier_rpc, a_guard_refuses_a_call_before_its_handler_hears_of_it) {
    struct tier_rpc_tls s = identity("authority", "hub-a", tier_wall_ms() / 1000);
    struct tier_rpc_tls b = identity("authority", "spoke-b", tier_wall_ms() / 1000);
    struct tier_rpc_tls c = identity("authority", "spoke-c", tier_wall_ms() / 1000);
    serve(&s);
    guard.asked = 0;
    guard.refused = "spoke-b";
    tier_rpc_server_guard(server, ask_guard, &guard);
    struct tier_rpc_channel *refused = connect_as(&b, "hub-a"), *taken = connect_as(&c, "hub-a");
    cr_expect(eq(int, call_once(refused, ECHO_PATH), TIER_EIDENTITY));
    cr_expect(eq(str, seen.client_text, "'spoke-b' may not"));
    cr_expect(eq(u32, seen.server_messages, 0));
    cr_expect(eq(u32, seen.server_closed, 0));
    seen.client_closed = 0;
    cr_expect(eq(int, call_once(taken, ECHO_PATH), TIER_OK), "%s", seen.client_text);
    cr_expect(eq(u32, guard.asked, 2));
    tier_rpc_channel_free(refused);
    tier_rpc_channel_free(taken);
    release(&s);
    release(&b);
    release(&c);
}

Test(tier_rpc, a_recheck_ends_the_open_calls_of_those_who_are_refused_by_now) {
    struct tier_rpc_tls s = identity("authority", "hub-a", tier_wall_ms() / 1000);
    struct tier_rpc_tls b = identity("authority", "spoke-b", tier_wall_ms() / 1000);
    serve(&s);
    guard.refused = NULL;
    tier_rpc_server_guard(server, ask_guard, &guard);
    seen.hold = true;
    struct tier_rpc_channel *channel = connect_as(&b, "hub-a");
    struct tier_rpc_call *call = tier_rpc_call_new(channel, ECHO_PATH, &client, NULL, 0);
    tier_rpc_send(call, "hello", 5);
    tier_rpc_read(call);
    cr_assert(tier_loop_run_until(loop, held_one, NULL, TIMEOUT_MS));
    tier_rpc_server_recheck(server); /* nobody is refused */
    tier_rpc_send(call, "more", 4);
    guard.refused = "spoke-b";
    tier_rpc_server_recheck(server);
    cr_assert(tier_loop_run_until(loop, client_is_closed, NULL, TIMEOUT_MS));
    cr_expect(eq(int, seen.client_status, TIER_EIDENTITY));
    cr_expect(eq(str, seen.client_text, "'spoke-b' may not"));
    cr_expect(eq(u32, seen.server_messages, 1), "the second message was received");
    cr_expect(eq(u32, seen.server_closed, 1));
    cr_expect(eq(int, seen.server_status, TIER_EIDENTITY));
    tier_rpc_channel_free(channel);
    release(&s);
    release(&b);
}

Test(tier_rpc, a_reloaded_channel_calls_with_the_new_certificate_while_an_open_call_goes_on) {
    struct tier_rpc_tls s = identity("authority", "hub-a", tier_wall_ms() / 1000);
    struct tier_rpc_tls b = identity("authority", "spoke-b", tier_wall_ms() / 1000);
    struct tier_rpc_tls c = identity("authority", "spoke-c", tier_wall_ms() / 1000);
    struct tier_err err = {0};
    serve(&s);
    struct tier_rpc_channel *channel = connect_as(&b, "hub-a");
    struct tier_rpc_call *open = tier_rpc_call_new(channel, ECHO_PATH, &client, NULL, 0);
    tier_rpc_send(open, "one", 3);
    tier_rpc_read(open);
    cr_assert(tier_loop_run_until(loop, held_one, NULL, TIMEOUT_MS));
    cr_assert(eq(int, tier_rpc_channel_reload(channel, &c, &err), TIER_OK));
    cr_expect(eq(int, call_once(channel, ECHO_PATH), TIER_OK), "%s", seen.client_text);
    cr_expect(eq(str, seen.peer_uri, "spiffe://authority/spoke/spoke-c"));
    unsigned before = seen.client_messages;
    seen.client_closed = 0;
    tier_rpc_send(open, "two", 3);
    tier_rpc_half_close(open);
    tier_rpc_read(open);
    cr_assert(tier_loop_run_until(loop, client_is_closed, NULL, TIMEOUT_MS));
    cr_expect(eq(int, seen.client_status, TIER_OK), "the open call ended: %s", seen.client_text);
    cr_expect(eq(u32, seen.client_messages - before, 1));
    tier_rpc_channel_free(channel);
    struct tier_rpc_channel *plain = NULL;
    cr_assert(eq(int,
                 tier_rpc_channel_new(loop, "127.0.0.1:9", "hub-a", "me", NULL, NULL, &plain, &err),
                 TIER_OK));
    cr_expect(eq(int, tier_rpc_channel_reload(plain, &c, &err), TIER_EARG));
    tier_rpc_channel_free(plain);
    release(&s);
    release(&b);
    release(&c);
}

static struct {
    enum tier_status status;
    size_t bytes;
    unsigned times;
} answer;

static void take_answer(void *arg, const struct tier_err *result, const uint8_t *bytes, size_t n) {
    (void)arg;
    answer.times++;
    answer.status = result->status;
    answer.bytes = result->status == TIER_OK && memcmp(bytes, "ask", 3) == 0 ? n : 0;
}

static bool is_answered(void *arg) {
    return answer.times == *(unsigned *)arg;
}

Test(tier_rpc, a_question_is_answered_once_or_says_why_not) {
    struct tier_rpc_tls s = identity("authority", "hub-a", tier_wall_ms() / 1000);
    struct tier_rpc_tls c = identity("authority", "spoke-b", tier_wall_ms() / 1000);
    unsigned times = 1;
    serve(&s);
    struct tier_rpc_channel *channel = connect_as(&c, "hub-a");
    tier_rpc_ask(channel, ECHO_PATH, "ask", 3, 3, TIMEOUT_MS, take_answer, NULL);
    cr_assert(tier_loop_run_until(loop, is_answered, &times, TIMEOUT_MS));
    cr_expect(eq(int, answer.status, TIER_OK));
    cr_expect(eq(sz, answer.bytes, 3));
    times++;
    tier_rpc_ask(channel, ECHO_PATH, "asks", 4, 3, TIMEOUT_MS, take_answer, NULL);
    cr_assert(tier_loop_run_until(loop, is_answered, &times, TIMEOUT_MS));
    cr_expect(eq(int, answer.status, TIER_ELIMIT));
    times++;
    tier_rpc_ask(channel, "/test.Echo/None", "ask", 3, 3, TIMEOUT_MS, take_answer, NULL);
    cr_assert(tier_loop_run_until(loop, is_answered, &times, TIMEOUT_MS));
    cr_expect(eq(int, answer.status, TIER_EUNIMPLEMENTED));
    tier_rpc_channel_free(channel);
    release(&s);
    release(&c);
}

Test(tier_rpc, an_unknown_method_is_answered_at_once) {
    serve(NULL);
    struct tier_rpc_channel *channel = connect_as(NULL, "");
    cr_expect(eq(int, call_once(channel, "/test.Echo/Nothing"), TIER_EUNIMPLEMENTED));
    tier_rpc_channel_free(channel);
}

Test(tier_rpc, a_servers_refusal_reaches_the_client_with_its_text) {
    serve(NULL);
    seen.finish_after = 1;
    struct tier_rpc_channel *channel = connect_as(NULL, "");
    cr_expect(eq(int, call_once(channel, ECHO_PATH), TIER_EPOLICY));
    cr_expect(eq(str, seen.client_text, "enough"));
    tier_rpc_channel_free(channel);
}

Test(tier_rpc, a_message_beyond_the_limit_is_refused_and_one_at_it_is_not) {
    serve(NULL);
    struct tier_rpc_channel *channel = connect_as(NULL, "");
    char *big = calloc(1, TIER_MESSAGE_BYTES_MAX + 1);
    struct tier_rpc_call *call = tier_rpc_call_new(channel, ECHO_PATH, &client, NULL, TIMEOUT_MS);
    tier_rpc_send(call, big, TIER_MESSAGE_BYTES_MAX);
    tier_rpc_send(call, big, TIER_MESSAGE_BYTES_MAX + 1);
    tier_rpc_half_close(call);
    tier_rpc_read(call);
    cr_assert(tier_loop_run_until(loop, client_is_closed, NULL, TIMEOUT_MS));
    cr_expect(eq(int, seen.client_status, TIER_ELIMIT), "%s", seen.client_text);
    cr_expect(eq(u32, seen.server_messages, 1));
    free(big);
    tier_rpc_channel_free(channel);
}

Test(tier_rpc, nobody_there_fails_with_a_reason) {
    struct tier_rpc_channel *channel = NULL;
    struct tier_err err = {0};
    cr_assert(eq(int, tier_rpc_channel_new(loop, "127.0.0.1:1", "", "", NULL, NULL, &channel, &err),
                 TIER_OK));
    cr_expect(eq(int, call_once(channel, ECHO_PATH), TIER_EUNAVAILABLE));
    cr_expect(gt(sz, strlen(seen.client_text), 0));
    tier_rpc_channel_free(channel);
}

Test(tier_rpc, a_deadline_ends_a_call_that_is_not_answered) {
    serve(NULL);
    seen.hold = true;
    struct tier_rpc_channel *channel = connect_as(NULL, "");
    struct tier_rpc_call *call = tier_rpc_call_new(channel, ECHO_PATH, &client, NULL, 200);
    tier_rpc_send(call, "x", 1);
    tier_rpc_read(call);
    cr_assert(tier_loop_run_until(loop, client_is_closed, NULL, TIMEOUT_MS));
    cr_expect(eq(int, seen.client_status, TIER_ETIMEOUT));
    cr_expect(tier_loop_run_until(loop, server_is_closed, NULL, TIMEOUT_MS));
    cr_expect(eq(int, seen.server_status, TIER_ECANCELLED));
    tier_rpc_channel_free(channel);
}

Test(tier_rpc, a_second_message_waits_for_the_receivers_credit) {
    serve(NULL);
    seen.hold = true;
    struct tier_rpc_channel *channel = connect_as(NULL, "");
    struct tier_rpc_call *call = tier_rpc_call_new(channel, ECHO_PATH, &client, NULL, 500);
    for (int i = 0; i < 3; i++)
        tier_rpc_send(call, "x", 1);
    cr_assert(tier_loop_run_until(loop, held_one, NULL, TIMEOUT_MS));
    tier_rpc_read(call);
    cr_assert(tier_loop_run_until(loop, client_is_closed, NULL, TIMEOUT_MS));
    cr_expect(eq(u32, seen.server_messages, 1), "the server asked for one message only");
    tier_rpc_channel_free(channel);
}

static atomic_int released;

static void count_release(void *arg) {
    (void)arg;
    atomic_fetch_add(&released, 1);
}

Test(tier_rpc, a_borrowed_payload_is_released_once_sent_or_not) {
    static uint8_t payload[100000];
    serve(NULL);
    struct tier_rpc_channel *channel = connect_as(NULL, "");
    struct tier_rpc_call *call = tier_rpc_call_new(channel, ECHO_PATH, &client, NULL, TIMEOUT_MS);
    cr_expect(tier_rpc_send_payload(call, "ab", 2, payload, sizeof payload, count_release, NULL));
    cr_expect(tier_rpc_send_payload(call, "ab", 2, payload, sizeof payload, count_release, NULL));
    tier_rpc_read(call);
    cr_assert(tier_loop_run_until(loop, two_messages, NULL, TIMEOUT_MS));
    tier_rpc_half_close(call);
    cr_expect(not(tier_rpc_send_payload(call, "", 0, payload, 1, count_release, NULL)),
              "nothing is taken after the half-close");
    cr_assert(tier_loop_run_until(loop, client_is_closed, NULL, TIMEOUT_MS));
    cr_expect(eq(sz, seen.bytes, 2 * (2 + sizeof payload)));
    tier_rpc_channel_free(channel);
    cr_expect(eq(int, atomic_load(&released), 3));
}

#define CONNECTIONS 8u
#define ECHOES 6u

static bool all_echoed(void *arg) {
    return seen.client_messages == *(unsigned *)arg;
}

static size_t allocated(void) {
    struct mallinfo2 m = mallinfo2();
    return m.uordblks + m.hblkhd;
}

/* Bytes that so many connections have grown by once each has moved megabytes both ways. */
Test(tier_rpc, what_a_connection_keeps_does_not_grow_with_what_it_moved) {
    struct tier_rpc_channel *channel[CONNECTIONS];
    struct tier_rpc_call *call[CONNECTIONS];
    char *payload = calloc(1, TIER_CHUNK_BYTES);
    unsigned expected = 0;

    cr_assert(payload != NULL);
    serve(NULL);
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        channel[i] = connect_as(NULL, "x");
        call[i] = tier_rpc_call_new(channel[i], ECHO_PATH, &client, NULL, 0);
        tier_rpc_send(call[i], "hello", 5);
        tier_rpc_read(call[i]);
    }
    expected += CONNECTIONS;
    cr_assert(tier_loop_run_until(loop, all_echoed, &expected, TIMEOUT_MS));
    size_t before = allocated();
    for (unsigned n = 0; n < ECHOES; n++) {
        for (unsigned i = 0; i < CONNECTIONS; i++)
            tier_rpc_send(call[i], payload, TIER_CHUNK_BYTES);
        expected += CONNECTIONS;
        cr_assert(tier_loop_run_until(loop, all_echoed, &expected, TIMEOUT_MS));
    }
    size_t after = allocated();
    cr_log_info("%zu bytes before, %zu after", before, after);
    /* Two ends, each with a buffer for its next read. */
    cr_assert(lt(sz, after, before + CONNECTIONS * 2 * (size_t)(128 << 10)));
    for (unsigned i = 0; i < CONNECTIONS; i++)
        tier_rpc_channel_free(channel[i]);
    free(payload);
}

Test(tier_rpc, a_cancelled_call_closes_on_both_sides) {
    serve(NULL);
    seen.hold = true;
    struct tier_rpc_channel *channel = connect_as(NULL, "");
    struct tier_rpc_call *call = tier_rpc_call_new(channel, ECHO_PATH, &client, NULL, 0);
    tier_rpc_send(call, "x", 1);
    cr_assert(tier_loop_run_until(loop, held_one, NULL, TIMEOUT_MS));
    tier_rpc_cancel(call);
    cr_expect(tier_loop_run_until(loop, client_is_closed, NULL, TIMEOUT_MS));
    cr_expect(eq(int, seen.client_status, TIER_ECANCELLED));
    cr_expect(tier_loop_run_until(loop, server_is_closed, NULL, TIMEOUT_MS));
    tier_rpc_channel_free(channel);
}

Test(tier_rpc, a_port_that_is_taken_is_an_error) {
    struct tier_rpc_server *second = NULL;
    struct tier_err err = {0};
    char address[32];
    serve(NULL);
    snprintf(address, sizeof address, "127.0.0.1:%d", tier_rpc_server_port(server));
    cr_expect(eq(int,
                 tier_rpc_server_new(loop, address, NULL, NULL, methods, 1, NULL, &second, &err),
                 TIER_EUNAVAILABLE));
    cr_expect(strstr(err.text, address) != NULL);
    cr_expect(second == NULL);
}
