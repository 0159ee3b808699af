/* SPDX-License-Identifier: Apache-2.0 */
#include "spoke/annotators.h"

#include <math.h>
#include <stdlib.h>

int32_t spoke_majority(const int32_t *votes, size_t n, size_t stride) {
    int32_t best = -1;
    size_t most = 0;

    for (size_t i = 0; i < n; i++) {
        int32_t class = votes[i * stride];
        size_t count = 0;
        for (size_t k = i; k < n && class >= 0; k++)
            count += votes[k * stride] == class;
        if (count > most) {
            most = count;
            best = class;
        }
    }
    return best;
}

#define PACKED_MAX (1u << 24)

bool spoke_votes_fit(size_t readers, size_t classes) {
    uint64_t n = 1;

    for (size_t i = 0; i < readers && n <= PACKED_MAX; i++)
        n *= classes + 1;
    return n <= PACKED_MAX;
}

int32_t spoke_votes_pack(const int32_t *votes, size_t n, size_t stride, size_t classes) {
    size_t packed = 0;

    for (size_t i = n; i-- > 0;)
        packed = packed * (classes + 1) + (size_t)(votes[i * stride] + 1);
    return (int32_t)packed;
}

int32_t spoke_votes_majority(int32_t packed, size_t classes) {
    int32_t votes[SPOKE_READERS_MAX], base = (int32_t)classes + 1;
    size_t n = 0;

    for (; packed > 0 && n < SPOKE_READERS_MAX; packed /= base)
        votes[n++] = packed % base - 1;
    return spoke_majority(votes, n, 1);
}

void spoke_votes_shares(int32_t packed, size_t classes, float *shares_out) {
    int32_t base = (int32_t)classes + 1;
    size_t said = 0;

    for (size_t c = 0; c < classes; c++)
        shares_out[c] = 0;
    for (; packed > 0; packed /= base) {
        if (packed % base == 0)
            continue;
        shares_out[packed % base - 1]++;
        said++;
    }
    for (size_t c = 0; c < classes && said > 1; c++)
        shares_out[c] /= (float)said;
}

enum tier_status spoke_agreement_init(struct spoke_agreement *a, size_t readers, size_t classes,
                                      struct tier_err *err) {
    *a = (struct spoke_agreement){.readers = readers, .classes = classes};
    a->votes = calloc(classes, sizeof *a->votes);
    a->table = calloc(classes, classes * sizeof *a->table);
    a->dice = calloc(classes, sizeof *a->dice);
    a->dice_pairs = calloc(classes, sizeof *a->dice_pairs);
    if (a->votes && a->table && a->dice && a->dice_pairs)
        return TIER_OK;
    spoke_agreement_release(a);
    return tier_fail(err, TIER_ENOMEM, "no memory for an agreement");
}

void spoke_agreement_release(struct spoke_agreement *a) {
    free(a->votes);
    free(a->table);
    free(a->dice);
    free(a->dice_pairs);
    *a = (struct spoke_agreement){0};
}

void spoke_agreement_add(struct spoke_agreement *a, const int32_t *votes) {
    uint64_t equal = 0;
    bool all = true;

    for (size_t i = 0; i < a->readers; i++) {
        all = all && votes[i] >= 0;
        for (size_t k = i + 1; k < a->readers && votes[i] >= 0; k++) {
            if (votes[k] < 0)
                continue;
            a->pairs++;
            equal += votes[i] == votes[k];
        }
    }
    a->equal += equal;
    if (!all)
        return;
    a->rows++;
    a->agreeing += 2 * equal;
    for (size_t i = 0; i < a->readers; i++)
        a->votes[votes[i]]++;
    if (a->readers == 2)
        a->table[(size_t)votes[0] * a->classes + (size_t)votes[1]]++;
}

enum tier_status spoke_agreement_add_masks(struct spoke_agreement *a, const int32_t *x,
                                           const int32_t *y, size_t n, struct tier_err *err) {
    uint64_t *count = calloc(a->classes, 2 * sizeof *count), *both = count + a->classes;

    if (!count)
        return tier_fail(err, TIER_ENOMEM, "no memory for an agreement");
    for (size_t i = 0; i < n; i++) {
        count[x[i]]++;
        count[y[i]]++;
        if (x[i] == y[i])
            both[x[i]]++;
    }
    for (size_t c = 0; c < a->classes; c++) {
        if (count[c] == 0)
            continue;
        a->dice[c] += 2.0 * (double)both[c] / (double)count[c];
        a->dice_pairs[c]++;
    }
    free(count);
    return TIER_OK;
}

/* Cohen: by what each of the two says of rows; Fleiss: by what all say together. */
double spoke_agreement_kappa(const struct spoke_agreement *a) {
    double n = (double)a->rows, readers = (double)a->readers, chance = 0.0;

    if (a->rows == 0)
        return NAN;
    for (size_t c = 0; c < a->classes; c++) {
        double first = 0.0, second = 0.0, share = (double)a->votes[c] / (n * readers);
        for (size_t k = 0; k < a->classes; k++) {
            first += (double)a->table[c * a->classes + k];
            second += (double)a->table[k * a->classes + c];
        }
        chance += a->readers == 2 ? first * second / (n * n) : share * share;
    }
    double seen = (double)a->agreeing / (n * readers * (readers - 1.0));
    return chance < 1.0 ? (seen - chance) / (1.0 - chance) : NAN;
}

double spoke_agreement_dice(const struct spoke_agreement *a, size_t class) {
    return a->dice_pairs[class] ? a->dice[class] / (double)a->dice_pairs[class] : NAN;
}
