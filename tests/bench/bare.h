/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What our transport is compared with: the same bytes over bare gRPC C core streams to a server
 * that throws every message away (with the same mutual TLS, where TLS is on), and over plain TCP.
 * This is the second module that speaks gRPC, on purpose: a reference built on tier/rpc.h would
 * share its faults.
 *
 * Threads: one; servers are processes of their own, started before this one starts gRPC.
 */
#ifndef CONSILIUM_BENCH_BARE_H
#define CONSILIUM_BENCH_BARE_H

#include "tests/bench/nodes.h"

/* ---- gRPC ---- */

/* Identities of its two ends: enrolled by bench_nodes_config as kind SPOKE; without TLS unused. */
enum tier_status bench_bare_serve(const struct tier_config *server, struct bench_process *out,
                                  struct tier_err *err);
struct bench_bare; /* `streams` connections */
enum tier_status bench_bare_open(const struct tier_config *client, const char *server_name,
                                 int port, size_t streams, struct bench_bare **out,
                                 struct tier_err *err);
void bench_bare_close(struct bench_bare *bare);
/* Sends `bytes` on each connection in messages of 1 MiB and waits
 * for the server's status; seconds. */
enum tier_status bench_bare_push(struct bench_bare *bare, uint64_t bytes, double *seconds_out,
                                 struct tier_err *err);

/* ---- TCP ---- */

enum tier_status bench_tcp_serve(struct bench_process *out, struct tier_err *err);
/* The same over `streams` plain connections, each from a thread of its own. */
enum tier_status bench_tcp_push(int port, size_t streams, uint64_t bytes, double *seconds_out,
                                struct tier_err *err);

#endif
