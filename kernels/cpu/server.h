/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The root's optimisers, one table for each instruction set. All are compiled from the one scalar
 * definition of server.c: IEEE addition, multiplication, division and square root are exact in
 * every lane as they are alone, and nothing is contracted, so the tables give the same bits.
 *
 * Threads: any; tables are constant.
 */
#ifndef CONSILIUM_KERN_CPU_SERVER_H
#define CONSILIUM_KERN_CPU_SERVER_H

#include "kernels/cpu/fold.h"
#include "kernels/kern.h"

struct kern_server_ops {
    void (*step)(float *y, const float *x, const double *delta, double *m, double *v, size_t n,
                 const struct kern_server *opt);
};

/* NULL where this processor, or this build, does not have it. */
const struct kern_server_ops *kern_server_ops_for(enum kern_isa isa);

#endif
