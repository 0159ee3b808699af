/* SPDX-License-Identifier: Apache-2.0 */
/* What differential privacy costs, before a plan is written: tier/privacy.h at the command line. */
#include "hub/cli.h"
#include "tier/privacy.h"

#include <math.h>
#include <stdio.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* INFINITY is null: JSON has no word for it. */
static json_t *number(double x) {
    return isfinite(x) ? json_real(x) : json_null();
}

/* What both commands are told of the training. */
#define SAMPLING(rate, steps, delta)                                                               \
    {                                                                                              \
        "rate", CLI_REAL, rate, "Q", "chance of a record to be in a step's sample",                \
        NULL,   false,    0,    0},                                                                \
        {"steps",                                                                                  \
         CLI_NUMBER,                                                                               \
         steps,                                                                                    \
         "N",                                                                                      \
         "how often, over all rounds",                                                             \
         NULL,                                                                                     \
         true,                                                                                     \
         1,                                                                                        \
         (int64_t)TIER_PRIVACY_COUNT_MAX},                                                         \
    {                                                                                              \
        "delta", CLI_REAL, delta, "D", "below one over the number of records", NULL, false, 0, 0   \
    }

int cli_privacy_cost(int argc, char **argv) {
    struct tier_privacy_event e = {.rate = 1};
    int64_t steps = 0;
    double delta = 1e-5;
    bool json = false;
    const struct cli_option options[] = {
        {"noise", CLI_REAL, &e.noise, "S", "standard deviation of the noise / clipping bound", NULL,
         true, 0, 0},
        SAMPLING(&e.rate, &steps, &delta),
        {"json", CLI_FLAG, &json, NULL, "one JSON object", NULL, false, 0, 0},
    };
    const struct cli_usage usage = {
        "privacy cost", "",
        "What Gaussian noise on Poisson samples costs: an upper bound of epsilon at delta by the "
        "privacy loss distribution, the lower bound beside it, and the upper bounds by Renyi "
        "accounting and by concentrated privacy"};
    struct tier_privacy_bound bound;
    struct tier_privacy_cost cost;
    struct tier_err err = {0};
    int code = cli_parse(&usage, options, COUNT(options), argc, argv, NULL, 0, 0);

    if (code != CLI_GO)
        return code;
    e.count = (uint64_t)steps;
    if (tier_privacy_cost(&e, 1, delta, &cost, &err) != TIER_OK ||
        tier_privacy_concentrated(&e, 1, delta, &bound, &err) != TIER_OK)
        return cli_failed(&err);
    if (json)
        return cli_print_json(json_pack("{s:o, s:o, s:o, s:f, s:o, s:f, s:f}", "epsilon",
                                        number(cost.tight), "at_least", number(cost.floor), "rdp",
                                        number(cost.rdp), "order", cost.order, "zcdp",
                                        number(bound.epsilon), "rho", bound.rho, "delta", delta));
    if (!isfinite(cost.tight))
        printf("epsilon  above %g: no protection to speak of\n", TIER_PRIVACY_EPSILON_MAX);
    else
        printf("epsilon  %.4f\nat least %.4f\nrdp      %.4f (order %.1f)\n", cost.tight, cost.floor,
               cost.rdp, cost.order);
    if (isfinite(bound.epsilon))
        printf("zcdp     %.4f (rho %.6f), were every record in every sample\n", bound.epsilon,
               bound.rho);
    return cli_done();
}

int cli_privacy_noise(int argc, char **argv) {
    double epsilon = 0, delta = 1e-5, rate = 1, noise;
    int64_t steps = 0;
    bool json = false;
    const struct cli_option options[] = {
        {"epsilon", CLI_REAL, &epsilon, "E", "what may be spent", NULL, true, 0, 0},
        SAMPLING(&rate, &steps, &delta),
        {"json", CLI_FLAG, &json, NULL, "one JSON object", NULL, false, 0, 0},
    };
    const struct cli_usage usage = {
        "privacy noise", "",
        "The least noise multiplier, to three places, with which so many steps cost at most "
        "epsilon at delta"};
    struct tier_err err = {0};
    int code = cli_parse(&usage, options, COUNT(options), argc, argv, NULL, 0, 0);

    if (code != CLI_GO)
        return code;
    if (tier_privacy_noise(epsilon, delta, rate, (uint64_t)steps, &noise, &err) != TIER_OK)
        return cli_failed(&err);
    if (json)
        return cli_print_json(
            json_pack("{s:f, s:f, s:f}", "noise", noise, "epsilon", epsilon, "delta", delta));
    printf("%.3f\n", noise);
    return cli_done();
}
