/* SPDX-License-Identifier: Apache-2.0 */
/* Where nothing else of OpenMP is in the process: a device's threads are our own. */
#include "kernels/cpu/pool.h"

bool kern_omp_there(void) {
    return false;
}

void kern_omp_run(int threads, kern_task_fn fn, const void *job, size_t tasks) {
    (void)threads;
    for (size_t task = 0; task < tasks; task++) {
        fn(job, task);
    }
}
