/* SPDX-License-Identifier: Apache-2.0 */
/*
 * consilium-spoke log: what was done with the data, out of the node's audit log, whose chain is
 * checked on the way. Threads: a process of its own.
 */
#ifndef CONSILIUM_SPOKE_ACCESS_H
#define CONSILIUM_SPOKE_ACCESS_H

#include <stdio.h>

/* argv[0] is "log". Gives the exit status: 1 also where the chain is broken. */
int spoke_access_main(int argc, char **argv, FILE *out, FILE *errors);

#endif
