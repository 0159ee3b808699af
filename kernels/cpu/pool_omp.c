/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The threads of a device where oneDNN is: its threads are OpenMP's, so ours are too. Two sets of
 * threads would get in each other's way, for OpenMP's wait for work by spinning.
 */
#include "kernels/cpu/pool.h"

#include <stdatomic.h>

bool kern_omp_there(void) {
    return true;
}

void kern_omp_run(int threads, kern_task_fn fn, const void *job, size_t tasks) {
    atomic_size_t next = 0;
#pragma omp parallel num_threads(threads)
    for (;;) {
        size_t task = atomic_fetch_add_explicit(&next, 1, memory_order_relaxed);
        if (task >= tasks) {
            break;
        }
        fn(job, task);
    }
}
