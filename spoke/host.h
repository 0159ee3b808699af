/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several spokes in one process: practices that are too small for a server each, or the sites of a
 * simulated federation (consilium-sim). Each is a whole spoke with its own identity, data
 * directory, journal, policy and connection, from a configuration file of its own; they share one
 * loop, the threads that take in what comes, and a few workers, on which they train one after the
 * other. Whoever runs the process can read what all of them hold.
 *
 * Threads: the loop's. Ownership: owns the spokes and what they share; the loop is borrowed.
 */
#ifndef CONSILIUM_SPOKE_HOST_H
#define CONSILIUM_SPOKE_HOST_H

#include "tier/config.h"
#include "tier/loop.h"

#include <stddef.h>

#define SPOKE_HOST_SPOKES_MAX 4096u

struct spoke_host;

/*
 * A spoke for each of files[count]. What belongs to the process is the first one's and must be the
 * same in all: threads, device, log_level, key_passphrase_file. TIER_ECONFIG with the file and what
 * would be right, also where two share a name or a data directory, or one has its own trainer or
 * further servers; else what spoke_open says. The loop must be run afterwards.
 */
enum tier_status spoke_host_open(char *const *files, size_t count, struct tier_loop *loop,
                                 struct spoke_host **out, struct tier_err *err);
/* Whether one of them had to stop, which stops all. */
bool spoke_host_failed(const struct spoke_host *host);
/* NULL is fine. */
void spoke_host_close(struct spoke_host *host);

/* consilium-spoke host FILE...; argv[0] is "host". Returns the exit status. */
int spoke_host_main(int argc, char **argv, FILE *out, FILE *errors);

#endif
