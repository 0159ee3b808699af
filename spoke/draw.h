/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random numbers that are no secret, each a function of a seed: the order of rows, crops,
 * augmentation. splitmix64 (Steele, Lea and Flood 2014): a counter and a mixer, no other state.
 * Noise that protects somebody is tier/noise.h's.
 *
 * Threads: pure functions of the state that is passed.
 */
#ifndef CONSILIUM_SPOKE_DRAW_H
#define CONSILIUM_SPOKE_DRAW_H

#include <math.h>
#include <stdint.h>

/* Of equal numbers equal ones, of others others. */
static inline uint64_t spoke_draw_mix(uint64_t z) {
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static inline uint64_t spoke_draw(uint64_t *state) {
    *state += UINT64_C(0x9e3779b97f4a7c15);
    return spoke_draw_mix(*state);
}

/* In [0, 1). */
static inline double spoke_draw_uniform(uint64_t *state) {
    return ldexp((double)(spoke_draw(state) >> 11), -53);
}

#endif
