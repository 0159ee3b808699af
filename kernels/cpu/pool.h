/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The threads of one CPU device: numbered tasks are handed to whoever is free, so that no result
 * may depend on which thread ran a task, and none does: callers cut work by its size alone.
 *
 * Threads: one caller at a time runs a pool. kern_pool_run returns when every task is done.
 * Ownership: workers are started by the first run that has something for them, joined by free.
 */
#ifndef CONSILIUM_KERN_CPU_POOL_H
#define CONSILIUM_KERN_CPU_POOL_H

#include <stdbool.h>
#include <stddef.h>

typedef void (*kern_task_fn)(const void *job, size_t task);

struct kern_pool;
/* `threads` counts the caller; at least 1. NULL where memory is exhausted. */
struct kern_pool *kern_pool_new(int threads);
/* The same on OpenMP's threads where oneDNN is linked in, which brings them; else kern_pool_new.
 * Its tasks may not wait for one another: there may be fewer threads than it says. */
struct kern_pool *kern_pool_new_device(int threads);
void kern_pool_free(struct kern_pool *pool);
/* Starts the threads that a run would start; false where one could not be had. */
bool kern_pool_start(struct kern_pool *pool);
int kern_pool_threads(const struct kern_pool *pool);
void kern_pool_run(struct kern_pool *pool, kern_task_fn fn, const void *job, size_t tasks);

/* pool_omp.c, or pool_none.c: no task may be left to it there. */
bool kern_omp_there(void);
void kern_omp_run(int threads, kern_task_fn fn, const void *job, size_t tasks);

#endif
