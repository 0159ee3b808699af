/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/hash_aside.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define STACK_BYTES (256u << 10)

struct tier_hash_aside {
    pthread_t thread;
    bool threaded;
    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t turn;
    bool busy, over; /* busy: the blocks are being hashed, or are about to be */
    struct tier_hash_aside_block blocks[TIER_HASH_ASIDE_BLOCKS];
};

static void hash(const struct tier_hash_aside_block *blocks) {
    for (int i = 0; i < TIER_HASH_ASIDE_BLOCKS; i++)
        tier_hasher_add(blocks[i].hasher, blocks[i].data, blocks[i].bytes);
}

static void *work(void *arg) {
    struct tier_hash_aside *a = arg;

    pthread_mutex_lock(&a->lock);
    while (!a->over || a->busy) {
        if (!a->busy) {
            pthread_cond_wait(&a->turn, &a->lock);
            continue;
        }
        pthread_mutex_unlock(&a->lock);
        hash(a->blocks); /* its owner leaves them alone while busy */
        pthread_mutex_lock(&a->lock);
        a->busy = false;
        pthread_cond_signal(&a->turn);
    }
    pthread_mutex_unlock(&a->lock);
    return NULL;
}

struct tier_hash_aside *tier_hash_aside_begin(void) {
    struct tier_hash_aside *a = calloc(1, sizeof *a);
    pthread_attr_t attr;

    if (!a)
        return NULL;
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->turn, NULL);
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    a->threaded = pthread_create(&a->thread, &attr, work, a) == 0;
    pthread_attr_destroy(&attr);
    return a;
}

void tier_hash_aside_give(struct tier_hash_aside *a,
                          const struct tier_hash_aside_block blocks[TIER_HASH_ASIDE_BLOCKS]) {
    if (!a->threaded) {
        hash(blocks);
        return;
    }
    pthread_mutex_lock(&a->lock);
    while (a->busy)
        pthread_cond_wait(&a->turn, &a->lock);
    memcpy(a->blocks, blocks, sizeof a->blocks);
    a->busy = true;
    pthread_cond_signal(&a->turn);
    pthread_mutex_unlock(&a->lock);
}

void tier_hash_aside_end(struct tier_hash_aside *a) {
    if (!a)
        return;
    if (a->threaded) {
        pthread_mutex_lock(&a->lock);
        a->over = true;
        pthread_cond_signal(&a->turn);
        pthread_mutex_unlock(&a->lock);
        pthread_join(a->thread, NULL);
    }
    pthread_mutex_destroy(&a->lock);
    pthread_cond_destroy(&a->turn);
    free(a);
}
