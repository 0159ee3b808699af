/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stops and starts nodes of a tree at random moments while a run goes on. What a process does not
 * take along when it stops is what kill -9 takes: everything but files and the journal.
 *
 * Threads: the test's own.
 */
#ifndef CONSILIUM_TESTS_STOPS_H
#define CONSILIUM_TESTS_STOPS_H

#include "tests/support/wdbc.h"

/* After so many questions to the top, or once the run has ended. */
static inline bool asked_enough(struct hub *hub, void *arg) {
    unsigned *left = arg;
    if (hub->runs->state != HUB_RUN_OPEN)
        return true;
    return (*left)-- == 0;
}

static inline bool ended(struct hub *hub, void *arg) {
    (void)arg;
    return hub->runs->state != HUB_RUN_OPEN;
}

static inline uint32_t draw(uint32_t *state, uint32_t below) {
    *state = *state * 1664525u + 1013904223u;
    return (*state >> 8) % below;
}

/* Until the run has ended or `most` nodes were stopped and started; how many were. */
static inline unsigned stop_at_random(struct tree_node *top, struct tree_node **nodes, size_t count,
                                      unsigned most, uint32_t seed) {
    unsigned stops = 0;
    for (; stops < most; stops++) {
        unsigned left = draw(&seed, 12);
        cr_assert(tree_until(top, asked_enough, &left, TIMEOUT_MS));
        if (tree_until(top, ended, NULL, 0))
            break;
        struct tree_node *node = nodes[draw(&seed, (uint32_t)count)];
        tree_stop(node);
        tree_start(node);
    }
    return stops;
}

#endif
