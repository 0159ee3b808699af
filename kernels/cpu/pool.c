/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A plain pool: a generation counter tells workers that there is a new job, an atomic counter deals
 * its tasks. Where a thread cannot be started the pool has one fewer and results are the same.
 */
#include "kernels/cpu/pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

struct kern_pool {
    int threads, started;
    pthread_t *worker;
    pthread_mutex_t lock; /* guards generation, busy, stop and the job */
    pthread_cond_t work, done;
    uint64_t generation;
    int busy;
    bool stop, tried;
    bool omp; /* OpenMP has the threads */
    kern_task_fn fn;
    const void *job;
    size_t tasks;
    atomic_size_t next;
};

static void take_tasks(struct kern_pool *pool) {
    for (;;) {
        size_t task = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed);
        if (task >= pool->tasks) {
            return;
        }
        pool->fn(pool->job, task);
    }
}

static void *work(void *arg) {
    struct kern_pool *pool = arg;
    uint64_t seen = 0;
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        while (!pool->stop && pool->generation == seen) {
            pthread_cond_wait(&pool->work, &pool->lock);
        }
        if (pool->stop) {
            break;
        }
        seen = pool->generation;
        pthread_mutex_unlock(&pool->lock);
        take_tasks(pool);
        pthread_mutex_lock(&pool->lock);
        if (--pool->busy == 0) {
            pthread_cond_signal(&pool->done);
        }
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

static void start_workers(struct kern_pool *pool) {
    pool->tried = true;
    while (pool->started < pool->threads - 1 &&
           pthread_create(&pool->worker[pool->started], NULL, work, pool) == 0) {
        pool->started++;
    }
}

struct kern_pool *kern_pool_new(int threads) {
    struct kern_pool *pool = calloc(1, sizeof *pool);
    if (pool == NULL) {
        return NULL;
    }
    pool->threads = threads;
    pool->worker = calloc((size_t)threads, sizeof *pool->worker);
    if (pool->worker == NULL) {
        free(pool);
        return NULL;
    }
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->done, NULL);
    return pool;
}

struct kern_pool *kern_pool_new_device(int threads) {
    struct kern_pool *pool = kern_pool_new(threads);
    if (pool != NULL) {
        pool->omp = kern_omp_there();
    }
    return pool;
}

void kern_pool_free(struct kern_pool *pool) {
    if (pool == NULL) {
        return;
    }
    pthread_mutex_lock(&pool->lock);
    pool->stop = true;
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i < pool->started; i++) {
        pthread_join(pool->worker[i], NULL);
    }
    pthread_cond_destroy(&pool->work);
    pthread_cond_destroy(&pool->done);
    pthread_mutex_destroy(&pool->lock);
    free(pool->worker);
    free(pool);
}

bool kern_pool_start(struct kern_pool *pool) {
    if (!pool->tried) {
        start_workers(pool);
    }
    return pool->started == pool->threads - 1;
}

int kern_pool_threads(const struct kern_pool *pool) {
    return pool->threads;
}

void kern_pool_run(struct kern_pool *pool, kern_task_fn fn, const void *job, size_t tasks) {
    if (pool->omp && pool->threads > 1 && tasks > 1) {
        kern_omp_run(pool->threads, fn, job, tasks);
        return;
    }
    if (pool->threads > 1 && tasks > 1 && !pool->tried) {
        start_workers(pool);
    }
    if (pool->started == 0 || tasks <= 1) {
        for (size_t task = 0; task < tasks; task++) {
            fn(job, task);
        }
        return;
    }
    pthread_mutex_lock(&pool->lock);
    pool->fn = fn;
    pool->job = job;
    pool->tasks = tasks;
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    pool->busy = pool->started;
    pool->generation++;
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    take_tasks(pool);
    pthread_mutex_lock(&pool->lock);
    while (pool->busy > 0) {
        pthread_cond_wait(&pool->done, &pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
}
