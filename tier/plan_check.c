/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tables of a plan, and what must hold between its keys. A plan is checked twice with the same
 * code: where it is written, to help the researcher, and wherever it arrives, because the sender
 * may be anyone.
 */
#include "tier/fedcurv.h"
#include "tier/mask.h"
#include "tier/narrow.h"
#include "tier/nova.h"
#include "tier/plan_keys.h"
#include "tier/privacy.h"
#include "tier/scaffold.h"
#include "tier/stale.h"
#include "tier/statistics.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define EXACT_INT_MAX 9007199254740991.0 /* 2^53 - 1: exact in every JSON reader */

#define FIELD(member)                                                                              \
    offsetof(struct tier_plan_draft, member), sizeof(((struct tier_plan_draft *)0)->member)

static const char *const loss_choices[] = {"bce", "cross_entropy", "dice", "dice_ce", "mse",
                                           "l1",  "cox",           NULL};
static const char *const optimiser_choices[] = {"sgd", "adam", "adamw", NULL};
static const char *const precision_choices[] = {"f32", "tf32", "bf16", "f16", NULL};
static const char *const schedule_choices[] = {"constant", "step", "cosine", NULL};
static const char *const per_choices[] = {"round", "step", NULL};
static const char *const weights_choices[] = {"samples", "uniform", NULL};
static const char *const noise_at_choices[] = {"spokes", "top", NULL};
static const char *const metric_choices[] = {"none", "accuracy", "auc",         "loss", "dice",
                                             "mse",  "mae",      "concordance", NULL};
static const char *const rule_choices[] = {
    "mean",       "median",           "trimmed_mean",     "krum",
    "multi_krum", "geometric_median", "centred_clipping", "norm_bound",
    NULL};
static const char *const sync_choices[] = {"rounds", "buffered", NULL};
static const char *const retain_choices[] = {"updates", "sums", NULL};
static const char *const mix_choices[] = {"none", "nearest", NULL};
static const char *const down_choices[] = {"f32", "bf16", "q8", "q4", NULL};
static const char *const codec_choices[] = {"f32", "f16",   "bf16",    "q8",
                                            "q4",  "top_k", "one_bit", NULL};
static const char *const entropy_choices[] = {"none", "zstd", NULL};
static const char *const purpose_choices[] = {"unstated",           "general-research",
                                              "health-research",    "disease-research",
                                              "method-development", "quality",
                                              "public-health",      "care",
                                              "education",          NULL};
static const char *const mode_choices[] = {"trusted", "untrusted", NULL};
static const char *const attest_choices[] = {"none", "tpm", NULL};
static const char *const secure_choices[] = {"none", "region", NULL};
static const char *const bits_choices[] = {"64", "32", NULL};
static const char *const lost_choices[] = {"end", "skip", NULL};
static const char *const server_choices[] = {"none", "momentum", "adam", "yogi", "adagrad", NULL};

/*
 * Bounds of learning rates and the like are those of float32, in which spokes compute: 0.999999 is
 * the last decay that is still below one there. A clip within its bounds has -100 <= f <= 100.
 */
/* clang-format off */
#define SHARED_KEYS                                                                                \
    {"plan", TIER_KEYS_INT, FIELD(plan.version), NULL, 1, EXACT_INT_MAX, NULL,                     \
     "version of this format: 1"},                                                                 \
    {"name", TIER_KEYS_NAME, FIELD(plan.name), NULL, 0, 0, NULL, "the plan's name"},               \
    {"purpose", TIER_KEYS_TEXT, FIELD(plan.purpose), NULL, 0, 0, NULL,                             \
     "what the model is for, in words a data steward can decide on"},                              \
    {"mode", TIER_KEYS_CHOICE, FIELD(plan.mode), "trusted", 0, 0, mode_choices,                    \
     "who is trusted: sets the defaults of other keys; untrusted promises what they say"},         \
    {"exceptions", TIER_KEYS_LIST, FIELD(plan.exceptions), "", 0, 0, NULL,                         \
     "with mode: untrusted, which of its promises this plan does not keep"},                       \
    {"governance.purpose", TIER_KEYS_CHOICE, FIELD(plan.governance.purpose), "unstated", 0, 0,     \
     purpose_choices, "what kind of use it is, for policies and consents to go by"},               \
    {"governance.legal_basis", TIER_KEYS_TEXT, FIELD(plan.governance.legal_basis), "", 0, 0, NULL, \
     "the law or agreement under which the data may be used"},                                     \
    {"governance.ethics", TIER_KEYS_TEXT, FIELD(plan.governance.ethics), "", 0, 0, NULL,           \
     "the ethics committee's reference"},                                                          \
    {"governance.author", TIER_KEYS_NAME, FIELD(plan.governance.author), "", 0, 0, NULL,           \
     "who answers for the plan: the name in the certificate that signs it"},                       \
    {"governance.expires", TIER_KEYS_TEXT, FIELD(plan.governance.expires), "", 0, 0, NULL,         \
     "YYYY-MM-DD, UTC: the last day on which a round may open"},                                   \
    {"governance.attest", TIER_KEYS_CHOICE, FIELD(plan.governance.attest), "none", 0, 0,           \
     attest_choices, "tpm: who takes part shows its parent by a TPM quote what program it runs"},  \
    {"governance.attest_allow", TIER_KEYS_LIST, FIELD(plan.governance.attest_allow), "", 0, 0,     \
     NULL, "what it may be: \"binary=SHA256\", and kernels=, config= or pcr0= to pcr15="},         \
    {"data.contract", TIER_KEYS_NAME, FIELD(plan.contract), NULL, 0, 0, NULL,                      \
     "the name a spoke's data schema must carry"},                                                 \
    {"data.fold", TIER_KEYS_INT, FIELD(plan.fold), "0", 0, 999, NULL,                              \
     "which of the schema's hashed train/test splits to use"},                                     \
    {"local.loss", TIER_KEYS_CHOICE, FIELD(plan.loss), NULL, 0, 0, loss_choices,                   \
     "what training minimises"},                                                                   \
    {"local.class_weights", TIER_KEYS_LIST, FIELD(plan.loss_options.class_weights), "", 0, 0, NULL,\
     "for cross_entropy and dice_ce: a number for each class; all the same where it is left out"}, \
    {"local.ignore_class", TIER_KEYS_INT, FIELD(plan.loss_options.ignore_class), "1024", 0,        \
     TIER_PLAN_IGNORE_NONE, NULL,                                                                  \
     "the number of a class whose rows or spots count nothing; 1024 is none"},                     \
    {"local.pos_weight", TIER_KEYS_REAL, FIELD(plan.loss_options.pos_weight), "1.0", 1e-6, 1e6,    \
     NULL, "for bce: how much a positive row counts beside a negative one"},                       \
    {"local.dice.smooth_nr", TIER_KEYS_REAL, FIELD(plan.loss_options.dice.smooth_nr), "1e-5", 0,   \
     1e6, NULL, "for dice and dice_ce: added to the numerator"},                                   \
    {"local.dice.smooth_dr", TIER_KEYS_REAL, FIELD(plan.loss_options.dice.smooth_dr), "1e-5",      \
     1e-12, 1e6, NULL, "for dice and dice_ce: added to the denominator"},                          \
    {"local.dice.batch", TIER_KEYS_BOOL, FIELD(plan.loss_options.dice.batch), "false", 0, 0, NULL, \
     "for dice and dice_ce: sums over the whole batch, where false is a Dice to each row"},        \
    {"local.dice.include_background", TIER_KEYS_BOOL,                                              \
     FIELD(plan.loss_options.dice.include_background), "true", 0, 0, NULL,                         \
     "for dice and dice_ce: class 0 counts in the mean over classes"},                             \
    {"local.dice.lambda_dice", TIER_KEYS_REAL, FIELD(plan.loss_options.dice.lambda_dice), "1.0",   \
     0, 1e6, NULL, "for dice_ce: weight of Dice"},                                                 \
    {"local.dice.lambda_ce", TIER_KEYS_REAL, FIELD(plan.loss_options.dice.lambda_ce), "1.0", 0,    \
     1e6, NULL, "for dice_ce: weight of the cross-entropy"},                                       \
    {"local.optimiser.name", TIER_KEYS_CHOICE, FIELD(plan.optimiser.kind), NULL, 0, 0,             \
     optimiser_choices, "the optimiser spokes train with"},                                        \
    {"local.optimiser.lr", TIER_KEYS_REAL, FIELD(plan.optimiser.lr), NULL, 1e-12, 1000, NULL,      \
     "learning rate"},                                                                             \
    {"local.optimiser.momentum", TIER_KEYS_REAL, FIELD(plan.optimiser.momentum), "", 0, 0.999999,  \
     NULL, "for sgd; 0 where it is left out"},                                                     \
    {"local.optimiser.weight_decay", TIER_KEYS_REAL, FIELD(plan.optimiser.weight_decay), "0.0", 0, \
     1000, NULL, "added to the gradient, times the weight"},                                       \
    {"local.optimiser.nesterov", TIER_KEYS_BOOL, FIELD(plan.optimiser.nesterov), "false", 0, 0,    \
     NULL, "for sgd with momentum"},                                                               \
    {"local.optimiser.beta1", TIER_KEYS_REAL, FIELD(plan.optimiser.beta1), "", 0, 0.999999, NULL,  \
     "for adam and adamw; 0.9 where it is left out"},                                                        \
    {"local.optimiser.beta2", TIER_KEYS_REAL, FIELD(plan.optimiser.beta2), "", 0, 0.999999, NULL,  \
     "for adam and adamw; 0.999 where it is left out"},                                                      \
    {"local.optimiser.eps", TIER_KEYS_REAL, FIELD(plan.optimiser.eps), "", 1e-12, 1, NULL,         \
     "for adam and adamw; 1e-8 where it is left out"},                                                       \
    {"local.schedule.name", TIER_KEYS_CHOICE, FIELD(plan.schedule.kind), "constant", 0, 0,         \
     schedule_choices, "what becomes of the learning rate over the run"},                          \
    {"local.schedule.per", TIER_KEYS_CHOICE, FIELD(plan.schedule.per), "round", 0, 0, per_choices, \
     "whether the rate changes from round to round alone, or from step to step as well"},          \
    {"local.schedule.warmup", TIER_KEYS_INT, FIELD(plan.schedule.warmup), "0", 0,                  \
     TIER_ROUNDS_MAX, NULL, "rounds in which the rate rises to lr first"},                         \
    {"local.schedule.step_size", TIER_KEYS_INT, FIELD(plan.schedule.step_size), "0", 0,            \
     TIER_ROUNDS_MAX, NULL, "for step: rounds after which the rate is multiplied by gamma"},       \
    {"local.schedule.gamma", TIER_KEYS_REAL, FIELD(plan.schedule.gamma), "", 1e-12, 1, NULL,       \
     "for step; 0.1 where it is left out"},                                                        \
    {"local.schedule.lr_min", TIER_KEYS_REAL, FIELD(plan.schedule.lr_min), "", 0, 1000, NULL,      \
     "for cosine: the rate at the end of the run; 0 where it is left out"},                        \
    {"local.clip_norm", TIER_KEYS_REAL, FIELD(plan.clip_norm), "0.0", 0, 1e30, NULL,               \
     "a step's gradient is cut to this norm, of all parameters together; 0 is none"},              \
    {"local.clip_value", TIER_KEYS_REAL, FIELD(plan.clip_value), "0.0", 0, 1e30, NULL,             \
     "each element of a step's gradient is cut at this; 0 is none"},                               \
    {"local.ema", TIER_KEYS_REAL, FIELD(plan.ema), "0.0", 0, 0.999999, NULL,                       \
     "what a hospital sends is a moving average of its steps' parameters; 0 is the last ones"},    \
    {"local.freeze", TIER_KEYS_LIST, FIELD(plan.freeze), "", 0, 0, NULL,                           \
     "patterns of the tensor names that keep the values they begin with"},                         \
    {"local.augment.flip_x", TIER_KEYS_BOOL, FIELD(plan.augment.flip_x), "false", 0, 0, NULL,      \
     "images: mirrored along the last axis in half of the rows, and so with y, z"},                \
    {"local.augment.flip_y", TIER_KEYS_BOOL, FIELD(plan.augment.flip_y), "false", 0, 0, NULL,      \
     "along the last axis but one"},                                                               \
    {"local.augment.flip_z", TIER_KEYS_BOOL, FIELD(plan.augment.flip_z), "false", 0, 0, NULL,      \
     "along the first of three axes"},                                                             \
    {"local.augment.rotate_deg", TIER_KEYS_REAL, FIELD(plan.augment.rotate_deg), "0.0", 0, 180,    \
     NULL, "images: turned by up to so much either way, in the plane of the last two axes"},       \
    {"local.augment.scale", TIER_KEYS_REAL, FIELD(plan.augment.scale), "0.0", 0, 10, NULL,         \
     "images: that plane by a factor from 1 / (1 + scale) to 1 + scale"},                          \
    {"local.augment.contrast", TIER_KEYS_REAL, FIELD(plan.augment.contrast), "0.0", 0, 1, NULL,    \
     "images: each channel times 1 - contrast to 1 + contrast"},                                   \
    {"local.augment.brightness", TIER_KEYS_REAL, FIELD(plan.augment.brightness), "0.0", 0, 1e6,    \
     NULL, "images: each channel plus -brightness to brightness"},                                 \
    {"local.augment.noise", TIER_KEYS_REAL, FIELD(plan.augment.noise), "0.0", 0, 1e6, NULL,        \
     "deviation of normal noise on each value, of images and of tables"},                          \
    {"local.patch.size", TIER_KEYS_LIST, FIELD(plan.patch.size), "", 0, 0, NULL,                   \
     "sides of the windows of an image that the model takes, slowest first; none is whole images"}, \
    {"local.patch.positive", TIER_KEYS_REAL, FIELD(plan.patch.positive), "0.0", 0, 1, NULL,        \
     "share of training's windows that lie around a spot of another class than 0"},                \
    {"local.patch.overlap", TIER_KEYS_REAL, FIELD(plan.patch.overlap), "0.25", 0, 0.9, NULL,       \
     "of neighbouring windows in evaluation, a share of their side"},                              \
    {"local.prox_mu", TIER_KEYS_REAL, FIELD(plan.prox_mu), "0.0", 0, 1000, NULL,                   \
     "FedProx: pulls towards the round's model, mu/2 * |w - w0|^2; 0 is none"},                    \
    {"local.scaffold", TIER_KEYS_BOOL, FIELD(plan.scaffold), "false", 0, 0, NULL,                  \
     "SCAFFOLD: control variates against drift between unlike hospitals; for plain sgd"},          \
    {"local.curvature.lambda", TIER_KEYS_REAL, FIELD(plan.curvature.lambda), "0.0", 0, 1e9, NULL,  \
     "FedCurv: pulls towards the others' parameters, by their Fisher information; 0 is none"},     \
    {"local.curvature.clip", TIER_KEYS_REAL, FIELD(plan.curvature.clip), "1.0", 0, 1e30, NULL, \
     "greatest Fisher information of a parameter; sets the resolution, 2^-30 of it"},              \
    {"local.curvature.rows", TIER_KEYS_INT, FIELD(plan.curvature.rows), "0", 0, 2147483647, NULL,  \
     "rows of a hospital that its Fisher information is worked out on; 0 is all"},                 \
    {"local.normalise", TIER_KEYS_BOOL, FIELD(plan.normalise), "false", 0, 0, NULL,                \
     "FedNova: hospitals that take more steps weigh no more by it; for sgd"},                      \
    {"local.normalise_max", TIER_KEYS_INT, FIELD(plan.normalise_max), "0", 0,                      \
     TIER_NOVA_STEPS_MAX, NULL,                                                                    \
     "with normalise and epochs: the most effective steps a hospital may claim"},                  \
    {"local.precision", TIER_KEYS_CHOICE, FIELD(plan.precision), "f32", 0, 0, precision_choices,   \
     "what products multiply: tf32, rounded by GPUs that can; bf16, f16, rounded by all"},         \
    {"local.batch", TIER_KEYS_INT, FIELD(plan.batch), NULL, 1, 1048576, NULL,                      \
     "rows at once, in memory and in BatchNormalization"},                                         \
    {"local.accumulate", TIER_KEYS_INT, FIELD(plan.accumulate), "1", 1, 65536, NULL,               \
     "batches whose gradients one step is the mean of"},                                           \
    {"local.steps", TIER_KEYS_INT, FIELD(plan.steps), "0", 0, 1000000000, NULL,                    \
     "optimiser steps in a round; either this or epochs"},                                         \
    {"local.epochs", TIER_KEYS_INT, FIELD(plan.epochs), "0", 0, 100000, NULL,                      \
     "passes over the data in a round; either this or steps"},                                     \
    {"local.seed", TIER_KEYS_INT, FIELD(plan.seed), "1", 0, EXACT_INT_MAX, NULL,                   \
     "decides the order of rows"},                                                                 \
    {"share", TIER_KEYS_LIST, FIELD(plan.share), "", 0, 0, NULL,                                   \
     "patterns of the tensor names that are shared; none is all"},                                 \
    {"keep", TIER_KEYS_LIST, FIELD(plan.keep), "", 0, 0, NULL,                                     \
     "patterns of the tensor names that stay at each hospital, shared or not"},                    \
    {"weights", TIER_KEYS_CHOICE, FIELD(plan.weights), "samples", 0, 0, weights_choices,           \
     "how much an update counts: by its rows, or all the same"},                                   \
    {"privacy.patient.clip", TIER_KEYS_REAL, FIELD(plan.patient.clip), "0.0", 0, 1e30, NULL,       \
     "DP-SGD: each row's gradient is cut to this norm; 0 is no differential privacy"},             \
    {"privacy.patient.noise", TIER_KEYS_REAL, FIELD(plan.patient.noise), "0.0", 0,                 \
     TIER_PRIVACY_NOISE_MAX, NULL,                                                                 \
     "standard deviation of the noise on a step's sum of gradients, divided by clip"},             \
    {"privacy.patient.delta", TIER_KEYS_REAL, FIELD(plan.patient.delta), "0.0", 0, 1, NULL,        \
     "at which epsilon is told: below one over the number of patients"},                           \
    {"privacy.patient.epsilon_max", TIER_KEYS_REAL, FIELD(plan.patient.epsilon_max), "0.0", 0,     \
     TIER_PRIVACY_EPSILON_MAX, NULL,                                                               \
     "a hospital where the plan would cost its patients more declines it"},                        \
    {"privacy.site.clip", TIER_KEYS_REAL, FIELD(plan.site.clip), "0.0", 0, 1e30, NULL,             \
     "each site's change in a round is cut to this norm; 0 is no privacy of sites"},               \
    {"privacy.site.noise", TIER_KEYS_REAL, FIELD(plan.site.noise), "0.0", 0,                       \
     TIER_PRIVACY_NOISE_MAX, NULL,                                                                 \
     "standard deviation of the noise on the sum over sites, divided by clip"},                    \
    {"privacy.site.delta", TIER_KEYS_REAL, FIELD(plan.site.delta), "0.0", 0, 1, NULL,              \
     "at which epsilon of a site is told: below one over the number of sites"},                    \
    {"privacy.site.epsilon_max", TIER_KEYS_REAL, FIELD(plan.site.epsilon_max), "0.0", 0,           \
     TIER_PRIVACY_EPSILON_MAX, NULL, "the most that the plan may cost a site"},                    \
    {"privacy.site.noise_at", TIER_KEYS_CHOICE, FIELD(plan.site.at), "spokes", 0, 0,               \
     noise_at_choices, "who draws the noise: each site its share, or the top all of it"},          \
    {"privacy.site.honest_min", TIER_KEYS_INT, FIELD(plan.site.honest), "0", 0, 1000000, NULL,     \
     "with noise_at: spokes, how many sites' shares make the noise; fewer end the run"},           \
    {"privacy.site.adapt.quantile", TIER_KEYS_REAL, FIELD(plan.site.adapt.quantile), "0.0", 0,     \
     0.999, NULL, "share of sites whose change the clip is to leave whole; 0: it stays as it is"}, \
    {"privacy.site.adapt.rate", TIER_KEYS_REAL, FIELD(plan.site.adapt.rate), "0.0", 0, 1, NULL,    \
     "how far the clip moves in a round, as a logarithm, where all sites are on one side"},        \
    {"privacy.site.adapt.noise", TIER_KEYS_REAL, FIELD(plan.site.adapt.noise), "0.0", 0, 64, NULL, \
     "standard deviation of the noise on the count of sites below it, in sites"},                  \
    {"secure.sums", TIER_KEYS_CHOICE, FIELD(plan.secure.sums), "none", 0, 0, secure_choices,       \
     "region: spokes mask their updates, so that their parent learns the sum of all and no single one"}, \
    {"secure.cohort_min", TIER_KEYS_INT, FIELD(plan.secure.cohort_min), "3", 0,                    \
     TIER_MASK_COHORT_MOST, NULL, "the fewest spokes that a sum may be over; 2 at least"},         \
    {"secure.threshold", TIER_KEYS_REAL, FIELD(plan.secure.threshold), "0.67", 0, 1, NULL,         \
     "of those who hold shares of a spoke's secrets, the part that it takes to learn one"},        \
    {"secure.step_s", TIER_KEYS_INT, FIELD(plan.secure.step_s), "30", 0, 86400, NULL,              \
     "seconds that spokes have to answer in a step of the masking, before and after training"},    \
    {"secure.lost_round", TIER_KEYS_CHOICE, FIELD(plan.secure.lost), "end", 0, 0, lost_choices,    \
     "when a round gives no sum at the top: end the run, or skip to the next from the same model"}, \
    {"secure.norm_max", TIER_KEYS_REAL, FIELD(plan.secure.norm_max), "0.0", 0, 1e30, NULL,         \
     "the norm to which a hospital cuts its change of the parameters, and that no sum's mean may pass"}, \
    {"secure.bits", TIER_KEYS_CHOICE, FIELD(plan.secure.bits), "64", 0, 0, bits_choices,           \
     "64 or 32: of an element that is summed; in 32 it is rounded to what so many sites leave room for"}, \
    {"secure.pseudonyms", TIER_KEYS_BOOL, FIELD(plan.secure.pseudonyms), "true", 0, 0, NULL,       \
     "spokes of a sum know each other under pseudonyms that the authority beside the top gives out"}, \
    {"exact.clip", TIER_KEYS_REAL, FIELD(plan.clip), "8.0", 1e-20, 1e30, NULL,                     \
     "largest change of a parameter in a round; sets the resolution, 2^-30 of it"},                \
    {"exact.clips", TIER_KEYS_LIST, FIELD(plan.clips), "", 0, 0, NULL,                             \
     "clips of their own for some tensors, as \"PATTERN=CLIP\"; the first that matches counts"},   \
    {"exact.wide", TIER_KEYS_LIST, FIELD(plan.wide), "", 0, 0, NULL,                               \
     "patterns of tensor names that carry a second limb; running statistics if left out"},                                         \
    {"exact.saturate", TIER_KEYS_BOOL, FIELD(plan.saturate), "false", 0, 0, NULL,                  \
     "cut changes beyond the clip, and count them, instead of refusing the update"},               \
    {"exact.weight_total_max", TIER_KEYS_INT, FIELD(plan.weight_total_max), "4294967296", 1,       \
     EXACT_INT_MAX, NULL, "largest sum of all weights, at most 2^32"},                             \
    {"codec.name", TIER_KEYS_CHOICE, FIELD(plan.codec.name), "f32", 0, 0, codec_choices,           \
     "the form in which spokes send their changes; f32 is always taken too"},                      \
    {"codec.error_feedback", TIER_KEYS_BOOL, FIELD(plan.codec.error_feedback), "false", 0, 0,      \
     NULL, "what the form drops is added to the next round's; true for top_k, one_bit if left out"},        \
    {"codec.share", TIER_KEYS_REAL, FIELD(plan.codec.share), "0.0", 0, 1, NULL,                    \
     "for top_k: of the elements that are sent; 0.01 where it is left out"},                       \
    {"codec.down", TIER_KEYS_CHOICE, FIELD(plan.codec.down), "f32", 0, 0, down_choices,            \
     "the form in which a model's difference to the one before travels down; f32: whole models"},  \
    {"codec.entropy", TIER_KEYS_CHOICE, FIELD(plan.codec.entropy), "none", 0, 0, entropy_choices,  \
     "zstd: what spokes send is compressed without loss; for slow lines and the mean"},            \
    {"rounds", TIER_KEYS_INT, FIELD(plan.rounds), NULL, 1, TIER_ROUNDS_MAX, NULL,                  \
     "rounds at most"},                                                                            \
    {"evaluate.every", TIER_KEYS_INT, FIELD(plan.evaluate_every), "1", 0, TIER_ROUNDS_MAX, NULL,   \
     "rounds between evaluations; 0 is never"},                                                    \
    {"stop.metric", TIER_KEYS_CHOICE, FIELD(plan.stop.metric), "none", 0, 0, metric_choices,       \
     "what decides an early stop"},                                                                \
    {"stop.target", TIER_KEYS_REAL, FIELD(plan.stop.target), "", 0, 1e30, NULL,                    \
     "stop once the metric is as good as this"},                                                   \
    {"stop.patience", TIER_KEYS_INT, FIELD(plan.stop.patience), "0", 0, TIER_ROUNDS_MAX, NULL,     \
     "stop after so many evaluations without improvement"},                                        \
    {"server.optimiser.name", TIER_KEYS_CHOICE, FIELD(plan.server.kind), "none", 0, 0,             \
     server_choices, "what the top makes of the mean"},                                            \
    {"server.optimiser.lr", TIER_KEYS_REAL, FIELD(plan.server.lr), "", 1e-12, 1000, NULL,          \
     "step of the top; 1 for momentum where it is left out"},                                      \
    {"server.optimiser.momentum", TIER_KEYS_REAL, FIELD(plan.server.momentum), "", 0, 0.999999,    \
     NULL, "for momentum; 0.9 where it is left out"},                                              \
    {"server.optimiser.beta1", TIER_KEYS_REAL, FIELD(plan.server.beta1), "", 0, 0.999999, NULL,    \
     "for adam and yogi, 0.9 where it is left out; for adagrad, 0"},                               \
    {"server.optimiser.beta2", TIER_KEYS_REAL, FIELD(plan.server.beta2), "", 0, 0.999999, NULL,    \
     "for adam and yogi; 0.99 where it is left out"},                                              \
    {"server.optimiser.tau", TIER_KEYS_REAL, FIELD(plan.server.tau), "", 1e-12, 1, NULL,           \
     "for adam, yogi and adagrad: how adaptive; 0.001 where it is left out"},                      \
    {"statistics.columns", TIER_KEYS_LIST, FIELD(plan.statistics.columns), "", 0, 0, NULL,         \
     "instead of training: what hospitals count, as \"NAME=LOW:HIGH:CELLS\" or \"NAME=CATEGORIES\""}, \
    {"statistics.cells_min", TIER_KEYS_INT, FIELD(plan.statistics.cells_min), "5", 0, 1000000,     \
     NULL, "the smallest count above 0 that a hospital tells of any cell"}

#define ROUND_KEYS(path, member, quorum_default, deadline_default)                                 \
    {path ".sync", TIER_KEYS_CHOICE, FIELD(member.sync), "rounds", 0, 0, sync_choices,             \
     "rounds, or buffered: late updates count, damped, in the round that they arrive in"},         \
    {path ".quorum", TIER_KEYS_QUORUM, FIELD(member.quorum), quorum_default, 0, 0, NULL,           \
     "children that must answer: all, a number, or a fraction; with buffered, the buffer"},        \
    {path ".staleness_max", TIER_KEYS_INT, FIELD(member.staleness_max), "0", 0,                    \
     TIER_STALENESS_LIMIT, NULL,                                                                   \
     "with buffered: rounds that an update may be behind; 8 where it is left out"},                \
    {path ".deadline_s", TIER_KEYS_INT, FIELD(member.deadline_s), deadline_default, 0, 2592000,    \
     NULL, "seconds after which a round closes with what it has; 0 is none"},                      \
    {path ".retain", TIER_KEYS_CHOICE, FIELD(member.retain), "sums", 0, 0, retain_choices,         \
     "until the commit: sums of updates, so that disk is bounded, or each (which rules need)"},    \
    {path ".merge.rule", TIER_KEYS_RULE, FIELD(member.merge.rule), "mean", 0, 0, rule_choices,     \
     "how the children's updates become one: mean, a robust rule, or a hub's own x-..."},          \
    {path ".merge.mix", TIER_KEYS_CHOICE, FIELD(member.merge.mix), "none", 0, 0, mix_choices,      \
     "nearest: each update becomes the mean of those nearest to it, before a robust rule"},        \
    {path ".merge.byzantine", TIER_KEYS_REAL, FIELD(member.merge.byzantine), "0.0", 0,             \
     TIER_CHILDREN_MAX, NULL,                                                                      \
     "updates that may be an attacker's: a share below 1, or a number; 0.2 where it is left out"}, \
    {path ".merge.select", TIER_KEYS_INT, FIELD(member.merge.select), "0", 0, TIER_CHILDREN_MAX,   \
     NULL, "for multi_krum: updates it takes the mean of; 0 is all that it can vouch for"},        \
    {path ".merge.radius", TIER_KEYS_REAL, FIELD(member.merge.radius), "0.0", 0, 1e30, NULL,       \
     "for norm_bound, centred_clipping: the norm to cut at; 0 is the median of the round's"},      \
    {path ".merge.iterations", TIER_KEYS_INT, FIELD(member.merge.iterations), "0", 0, 10000, NULL, \
     "for geometric_median (64 where it is left out), centred_clipping (3)"},                      \
    {path ".merge.smoothing", TIER_KEYS_REAL, FIELD(member.merge.smoothing), "0.0", 0, 1e30, NULL, \
     "for geometric_median: distances below it count as it; 1e-6 where it is left out"},           \
    {path ".screen.norm", TIER_KEYS_REAL, FIELD(member.screen.norm), "0.0", 0, 1e6, NULL,          \
     "an update longer than so many times the median goes into quarantine; 0 is no limit"},        \
    {path ".screen.cosine_distance", TIER_KEYS_REAL, FIELD(member.screen.cosine_distance), "0.0",  \
     0, 2, NULL,                                                                                   \
     "so does one whose 1 - cosine with the updates' median is above this; 1 is a right angle"},   \
    {path ".screen.loss", TIER_KEYS_REAL, FIELD(member.screen.loss), "0.0", 0, 1e6, NULL,          \
     "so does one with which the loss on the hub's own data is so many times what it was; 0: none"}, \
    {path ".screen.strikes", TIER_KEYS_INT, FIELD(member.screen.strikes), "0", 0, TIER_ROUNDS_MAX, \
     NULL, "after so many rounds in a row a child stays out until pardoned; 3 where left out"},    \
    {path ".contribution.permutations", TIER_KEYS_INT, FIELD(member.contribution.permutations),    \
     "0", 0, 100000, NULL,                                                                         \
     "orders of children that their contributions (Shapley values) are sampled from; 0 is none"}

static const struct tier_keys_item written_keys[] = {
    SHARED_KEYS,
    {"model", TIER_KEYS_PATH, FIELD(model), NULL, 0, 0, NULL,
     "path of the ONNX file, relative to the plan"},
    ROUND_KEYS("tiers.default", fallback, "all", "0"),
    ROUND_KEYS("tiers.top", top, "all", "0"),
    ROUND_KEYS("tiers.hub", hub, "all", "0"),
};

static const struct tier_keys_item travelling_keys[] = {
    SHARED_KEYS,
    {"model.sha256", TIER_KEYS_HASH, FIELD(plan.model_sha256), NULL, 0, 0, NULL,
     "SHA-256 of the ONNX file"},
    {"model.bytes", TIER_KEYS_INT, FIELD(plan.model_bytes), NULL, 1, TIER_GRAPH_BYTES_MAX, NULL,
     "size of the ONNX file"},
    ROUND_KEYS("tiers.top", plan.top, NULL, NULL),
    ROUND_KEYS("tiers.hub", plan.hub, NULL, NULL),
};
/* clang-format on */

_Static_assert(offsetof(struct tier_plan_draft, plan) == 0, "one table serves plan and draft");
_Static_assert(sizeof written_keys / sizeof written_keys[0] <= TIER_KEYS_MAX, "too many keys");
_Static_assert(sizeof travelling_keys / sizeof travelling_keys[0] <= TIER_KEYS_MAX,
               "too many keys");

const struct tier_keys_item *tier_plan_written_keys(size_t *count_out) {
    *count_out = sizeof written_keys / sizeof written_keys[0];
    return written_keys;
}

const struct tier_keys_item *tier_plan_keys(size_t *count_out) {
    *count_out = sizeof travelling_keys / sizeof travelling_keys[0];
    return travelling_keys;
}

int tier_plan_frac_bits(double clip) {
    int exponent;
    /* clip = m * 2^exponent, 0.5 <= m < 1: ceil(log2) exactly, with no logarithm rounding */
    double m = frexp(clip, &exponent);

    return 30 - (m == 0.5 ? exponent - 1 : exponent);
}

#define complain tier_plan_complain
void tier_plan_complain(const struct tier_plan_checker *c, const char *path, const char *fmt, ...) {
    char reason[300];
    int key = tier_keys_find(c->keys, c->count, path);
    va_list args;

    va_start(args, fmt);
    vsnprintf(reason, sizeof reason, fmt, args);
    va_end(args);
    tier_problems_add(c->problems, c->name, c->lines && key >= 0 ? c->lines[key] : 0, "%s %s", path,
                      reason);
}

const char *tier_plan_tier_path(const struct tier_plan_checker *c, const char *tier,
                                const char *leaf, char *path, size_t bytes) {
    snprintf(path, bytes, "%s.%s", tier, leaf);
    if (c->lines) {
        char above[64];
        int own = tier_keys_find(c->keys, c->count, path);
        snprintf(above, sizeof above, "tiers.default.%s", leaf);
        int fallback = tier_keys_find(c->keys, c->count, above);
        if (own >= 0 && fallback >= 0 && !c->lines[own] && c->lines[fallback])
            snprintf(path, bytes, "%s", above);
    }
    return path;
}

static void check_normalise(const struct tier_plan_checker *c) {
    const struct tier_plan *p = c->plan;
    double a = p->optimiser.lr * p->prox_mu;
    const char *path = "local.normalise";

    if (p->normalise_max && (!p->normalise || p->steps))
        complain(c, "local.normalise_max", "is for local.normalise with local.epochs");
    if (!p->normalise || p->optimiser.kind < 0)
        return;
    if (p->optimiser.kind != TIER_PLAN_SGD)
        complain(c, path, "is defined for sgd: adam's steps have no weights to divide by");
    else if (p->prox_mu > 0 && p->optimiser.momentum > 0)
        complain(c, path, "is defined for momentum or for prox_mu, not for both together");
    else if (!(a < 1))
        complain(c, path, "needs local.prox_mu times lr below 1: it is %g", a);
    else if (p->steps && tier_nova_tau(p, p->steps) > TIER_NOVA_STEPS_MAX)
        complain(c, path, "needs at most %" PRIu64 " effective steps in a round: there are %g",
                 TIER_NOVA_STEPS_MAX, tier_nova_tau(p, p->steps));
    if (!p->steps && p->epochs && !p->normalise_max)
        complain(c, "local.normalise_max",
                 "must be above 0 with local.epochs: it bounds what a hospital that lies can do");
}

static bool is_plain_mean(const struct tier_plan_tier *tier) {
    return !*tier->merge.rule.own && tier->merge.rule.choice == TIER_PLAN_MEAN;
}

/* What SCAFFOLD's equations do not hold for. */
static void check_scaffold(const struct tier_plan_checker *c) {
    const struct tier_plan *p = c->plan;
    const char *path = "local.scaffold";

    if (!p->scaffold || p->optimiser.kind < 0 || !(p->clip > 0) || !(p->optimiser.lr > 0))
        return;
    if (p->optimiser.kind != TIER_PLAN_SGD || p->optimiser.momentum > 0 || p->prox_mu > 0)
        complain(c, path, "is defined for sgd without momentum and without local.prox_mu");
    if (p->normalise)
        complain(c, path, "and local.normalise exclude each other: keep one");
    if (p->codec.name != TIER_PLAN_F32)
        complain(c, path, "needs codec.name: f32, for changes and controls differ in scale");
    if (p->server.kind != TIER_PLAN_SERVER_NONE)
        complain(c, path, "needs server.optimiser.name: none, which would take controls for steps");
    if (!is_plain_mean(&p->top) || !is_plain_mean(&p->hub))
        complain(c, path, "needs the rule mean at every tier: a control is a mean of gradients");
    int f = tier_scaffold_frac_bits(p);
    if (f < TIER_FRAC_BITS_MIN || f > TIER_FRAC_BITS_MAX)
        complain(c, path, "has controls of up to 4 * exact.clip / lr = %g, which cannot be summed",
                 4 * p->clip / p->optimiser.lr);
}

/* A step of sgd on a quadratic of curvature h leaves it no further than before while lr h is below
 * 2; with Nesterov's momentum p, (2 + 2p) / (1 + 2p). The penalty's h is 2 lambda F at most. */
static void check_stiffness(const struct tier_plan_checker *c) {
    const struct tier_plan *p = c->plan;
    double m = p->optimiser.nesterov ? p->optimiser.momentum : 0;
    double most = (1 + m) / (1 + 2 * m), clip = ldexp(1, 30 - tier_fedcurv_fisher_bits(p));
    double got = p->curvature.lambda * p->optimiser.lr * clip;

    if (p->optimiser.kind == TIER_PLAN_SGD && !(got < most))
        complain(c, "local.curvature.lambda",
                 "times lr times local.curvature.clip (as a power of two, %g) is %g: below %g a "
                 "step cannot overshoot, so that a lower clip would be right, or a lower lambda",
                 clip, got, most);
}

/* What the two means of FedCurv would not be true for. */
static void check_curvature(const struct tier_plan_checker *c) {
    const struct tier_plan *p = c->plan;
    const char *path = "local.curvature.lambda";

    if (!tier_fedcurv_on(p) || p->optimiser.kind < 0 || !(p->clip > 0))
        return;
    if (!(p->curvature.clip >= 1e-20)) {
        complain(c, "local.curvature.clip", "must be at least 1e-20 with local.curvature.lambda");
        return;
    }
    if (p->scaffold)
        complain(c, path, "and local.scaffold exclude each other: keep one");
    if (p->normalise)
        complain(c, path, "and local.normalise exclude each other: only changes are to be divided");
    if (p->codec.name != TIER_PLAN_F32)
        complain(c, path, "needs codec.name: f32, for changes and curvatures differ in scale");
    if (p->codec.down > TIER_PLAN_DOWN_F32)
        complain(c, path, "needs codec.down: f32, for a hospital takes its own part out of a sum");
    if (p->server.kind != TIER_PLAN_SERVER_NONE)
        complain(c, path, "needs server.optimiser.name: none, which would take it for a step");
    if (!is_plain_mean(&p->top) || !is_plain_mean(&p->hub))
        complain(c, path,
                 "needs the rule mean at every tier: a hospital takes its own part out of a sum");
    int fisher = tier_fedcurv_fisher_bits(p), pull = tier_fedcurv_pull_bits(p);
    if (pull < TIER_FRAC_BITS_MIN || pull > TIER_FRAC_BITS_MAX || fisher < TIER_FRAC_BITS_MIN ||
        fisher > TIER_FRAC_BITS_MAX)
        complain(c, path, "has sums of up to %g, which cannot be summed",
                 2 * p->curvature.clip * tier_fedcurv_reach(p));
    check_stiffness(c);
}

static void check_list(const struct tier_plan_checker *c, const struct tier_keys_list *list,
                       const char *path) {
    for (size_t i = 0; i < list->count; i++)
        for (size_t j = 0; j < i; j++)
            if (strcmp(tier_keys_list_item(list, i), tier_keys_list_item(list, j)) == 0)
                complain(c, path, "lists '%.80s' twice", tier_keys_list_item(list, i));
}

static void check_exact(const struct tier_plan_checker *c) {
    struct tier_plan *p = c->plan;

    if (p->clip > 0)
        p->frac_bits = tier_plan_frac_bits(p->clip);
    /* |S| <= sum of w * |q| <= weight_total_max * 2^30, and int64 holds that up to 2^62 with room
     * for a sign and one more addition. */
    if (p->weight_total_max > TIER_WEIGHT_TOTAL_MAX)
        complain(c, "exact.weight_total_max",
                 "must be at most 4294967296 (2^32): with |q| <= 2^30 the sums would pass 2^62 and "
                 "might overflow 64 bits, and it is %" PRIu64,
                 p->weight_total_max);
    tier_plan_check_clips(c);
    check_list(c, &p->clips, "exact.clips");
    check_list(c, &p->wide, "exact.wide");
    check_list(c, &p->share, "share");
    check_list(c, &p->keep, "keep");
    check_list(c, &p->freeze, "local.freeze");
}

/* Rules other than the mean read blocks of all updates side by side, and would hold a segment of
 * each in memory. */
static void check_entropy(const struct tier_plan_checker *c) {
    const struct tier_plan *p = c->plan;

    if (p->codec.entropy <= TIER_PLAN_ENTROPY_NONE)
        return;
    if (p->codec.name == TIER_PLAN_ONE_BIT)
        complain(c, "codec.entropy",
                 "must be none for one_bit: its bits are as good as random, and nothing is gained");
    if (tier_plan_looks_at_updates(&p->top) || tier_plan_looks_at_updates(&p->hub))
        complain(c, "codec.entropy",
                 "must be none where a tier merges by another rule than the mean, screens or works "
                 "out contributions: it reads all updates side by side, and would hold a part of "
                 "each in memory");
}

static void check_codec(const struct tier_plan_checker *c) {
    const struct tier_plan_codec *codec = &c->plan->codec;

    if (codec->down > TIER_PLAN_DOWN_F32 && c->plan->wide.count > 0)
        complain(c, "codec.down",
                 "must be f32 where exact.wide lists tensors: they travel at full precision");
    check_entropy(c);
    if (codec->name < 0)
        return;
    if (codec->name == TIER_PLAN_F32 && codec->error_feedback)
        complain(c, "codec.error_feedback", "is for the shorter forms: f32 drops nothing");
    if (codec->name == TIER_PLAN_TOP_K && !(codec->share > 0))
        complain(c, "codec.share", "must be above 0 for top_k");
    if (codec->name != TIER_PLAN_TOP_K && codec->share != 0)
        complain(c, "codec.share", "is for top_k; codec.name is %s", codec_choices[codec->name]);
    /* It rotates 256 neighbours together: what stands still among what moves moves too. */
    if (codec->name == TIER_PLAN_ONE_BIT && c->plan->freeze.count > 0)
        complain(c, "codec.name",
                 "must not be one_bit with local.freeze: it mixes neighbours, and what is frozen "
                 "would move with them");
    /* A second limb is there for what float32 has no room for: a shorter form has less. */
    if (codec->name != TIER_PLAN_F32 && c->plan->wide.count > 0)
        complain(c, "codec.name",
                 "must be f32 where exact.wide lists tensors: they travel at full precision");
}

static void check_stop(const struct tier_plan_checker *c) {
    const struct tier_plan *p = c->plan;
    bool has_target = !isnan(p->stop.target);

    if (p->rounds && p->evaluate_every > p->rounds)
        complain(c, "evaluate.every", "is %" PRIu64 " but there are only %" PRIu64 " rounds",
                 p->evaluate_every, p->rounds);
    if (p->stop.metric <= TIER_PLAN_METRIC_NONE) {
        if (has_target)
            complain(c, "stop.target", "needs stop.metric, which says of what");
        if (p->stop.patience)
            complain(c, "stop.patience", "needs stop.metric, which says of what");
        return;
    }
    if (!has_target && !p->stop.patience)
        complain(c, "stop.metric", "needs stop.target or stop.patience");
    if (p->evaluate_every == 0)
        complain(c, "stop.metric", "needs evaluations, and evaluate.every is 0");
    if (!tier_plan_metric_falls(p->stop.metric) && has_target && p->stop.target > 1)
        complain(c, "stop.target", "must be at most 1.0 for %s", metric_choices[p->stop.metric]);
    tier_plan_check_stop_metric(c);
}

/* What staleness weights do not hold for. */
static void check_sync(const struct tier_plan_checker *c, const struct tier_plan_tier *tier,
                       const char *name) {
    const struct tier_plan *p = c->plan;
    char sync[64], quorum[64], most[64];

    if (tier == &p->hub && tier->sync == p->top.sync && tier->quorum.kind == p->top.quorum.kind &&
        tier->staleness_max == p->top.staleness_max &&
        is_plain_mean(tier) == is_plain_mean(&p->top))
        return; /* said once */
    tier_plan_tier_path(c, name, "sync", sync, sizeof sync);
    tier_plan_tier_path(c, name, "quorum", quorum, sizeof quorum);
    tier_plan_tier_path(c, name, "staleness_max", most, sizeof most);
    if (!tier_stale_buffers(tier)) {
        if (tier->sync == TIER_PLAN_ROUNDS && tier->staleness_max)
            complain(c, most, "is for sync: buffered");
        return;
    }
    if (tier->quorum.kind == TIER_QUORUM_ALL)
        complain(c, quorum,
                 "must be a number or a fraction with sync: buffered: how many updates "
                 "make a new model; to wait for all is sync: rounds");
    if (tier->staleness_max == 0)
        complain(c, most, "must be above 0 with sync: buffered; 0 would be sync: rounds");
    if (!is_plain_mean(tier))
        complain(c, sync,
                 "buffered needs the rule mean: a robust rule compares updates of one "
                 "model, and these are of several");
    if (p->scaffold)
        complain(c, sync,
                 "buffered and local.scaffold exclude each other: controls are of one "
                 "round's model");
    if (tier_fedcurv_on(p))
        complain(c, sync,
                 "buffered and local.curvature exclude each other: a hospital takes its own part "
                 "out of the sums of one round");
    if (p->normalise)
        complain(c, sync,
                 "buffered and local.normalise exclude each other: both set the step at "
                 "the root");
    if (p->stop.metric > TIER_PLAN_METRIC_NONE)
        complain(c, "stop.metric",
                 "needs sync: rounds: with buffered, a model is evaluated by those who began with "
                 "it and were in time, which are not the same hospitals twice");
}

static void check_retain(const struct tier_plan_checker *c, const struct tier_plan_tier *tier,
                         const char *name) {
    char path[64];

    if (tier->retain == TIER_PLAN_RETAIN_SUMS && tier_plan_needs_updates(&tier->merge))
        complain(c, tier_plan_tier_path(c, name, "retain", path, sizeof path),
                 "must be updates: the rule %s looks at each update, and sums of some hide them",
                 tier_plan_rule_text(&tier->merge));
}

#define KIND(k) (1u << TIER_PLAN_SERVER_##k)
#define ADAPTIVE (KIND(ADAM) | KIND(YOGI) | KIND(ADAGRAD))

static void check_server(const struct tier_plan_checker *c) {
    const struct tier_plan_server *s = &c->plan->server;
    const struct {
        const char *path;
        double value;
        unsigned kinds;
        const char *owners;
    } keys[] = {
        {"server.optimiser.lr", s->lr, ADAPTIVE | KIND(MOMENTUM),
         "momentum, adam, yogi and adagrad"},
        {"server.optimiser.momentum", s->momentum, KIND(MOMENTUM), "momentum"},
        {"server.optimiser.beta1", s->beta1, ADAPTIVE, "adam, yogi and adagrad"},
        {"server.optimiser.beta2", s->beta2, KIND(ADAM) | KIND(YOGI), "adam and yogi"},
        {"server.optimiser.tau", s->tau, ADAPTIVE, "adam, yogi and adagrad"},
    };

    for (size_t i = 0; s->kind >= 0 && i < sizeof keys / sizeof keys[0]; i++) {
        bool wanted = keys[i].kinds >> s->kind & 1;
        if (wanted && isnan(keys[i].value))
            complain(c, keys[i].path, "must be a number for %s", server_choices[s->kind]);
        if (!wanted && !isnan(keys[i].value))
            complain(c, keys[i].path, "is for %s; server.optimiser.name is %s", keys[i].owners,
                     server_choices[s->kind]);
    }
}

static void check_statistics(const struct tier_plan_checker *c) {
    const struct tier_plan *p = c->plan;
    struct tier_statistic one, other;

    for (size_t i = 0; i < p->statistics.columns.count; i++) {
        if (!tier_statistic_at(p, i, &one)) {
            complain(c, "statistics.columns",
                     "must be NAME=LOW:HIGH:CELLS with LOW < HIGH, or NAME=CATEGORIES, and at most "
                     "%d cells, not '%.80s'",
                     TIER_STATISTIC_CELLS_MAX, tier_keys_list_item(&p->statistics.columns, i));
            continue;
        }
        for (size_t j = 0; j < i; j++)
            if (tier_statistic_at(p, j, &other) && strcmp(one.name, other.name) == 0)
                complain(c, "statistics.columns", "has column %s twice", one.name);
    }
    if (tier_statistics_on(p) && p->patient.clip > 0)
        complain(c, "statistics.columns",
                 "and privacy.patient exclude each other: counts leave a hospital without noise");
    if (tier_statistics_on(p) && p->rounds && (p->rounds != 1 || p->evaluate_every))
        complain(c, "statistics.columns",
                 "needs rounds: 1 and evaluate.every: 0: its one round counts and trains nothing");
}

void tier_plan_check(const struct tier_plan_checker *c) {
    /* Where it is missing or refused, that has been said. */
    if (c->plan->version != TIER_PLAN_VERSION && (!c->lines || c->plan->version != 0))
        complain(c, "plan", "must be %d, the version of the format read here", TIER_PLAN_VERSION);
    tier_plan_check_governance(c);
    tier_plan_check_mode(c);
    tier_plan_check_recipe(c);
    tier_plan_check_loss(c);
    tier_plan_check_patch(c);
    tier_plan_check_privacy(c);
    tier_plan_check_secure(c);
    check_normalise(c);
    check_scaffold(c);
    check_exact(c);
    tier_plan_check_site(c); /* which needs frac_bits, as does */
    check_curvature(c);
    check_codec(c);
    check_stop(c);
    check_server(c);
    check_statistics(c);
    check_sync(c, &c->plan->top, "tiers.top");
    check_sync(c, &c->plan->hub, "tiers.hub");
    check_retain(c, &c->plan->top, "tiers.top");
    check_retain(c, &c->plan->hub, "tiers.hub");
    tier_plan_check_merge(c, &c->plan->top.merge, "tiers.top");
    tier_plan_check_merge(c, &c->plan->hub.merge, "tiers.hub");
    tier_plan_check_screen(c, &c->plan->top, "tiers.top");
    tier_plan_check_screen(c, &c->plan->hub, "tiers.hub");
}

const char *tier_plan_rule_text(const struct tier_plan_merge *merge) {
    return *merge->rule.own ? merge->rule.own : rule_choices[merge->rule.choice];
}

const char *tier_plan_proof(const struct tier_plan *plan, char *buf, size_t bytes) {
    char clip[32], site[160];
    unsigned s = tier_narrow_shift(plan);

    int used = snprintf(
        buf, bytes,
        "no sum can overflow: |x| <= clip = %s and f = %d give |q| = |round(x * 2^f)| <= 2^30%s%s; "
        "all weights together%s are at most %" PRIu64 " <= 2^32; so |S| = |sum of w * q| <= "
        "%" PRIu64 " * 2^30 <= 2^62 < 2^63",
        tier_real_text(plan->clip, clip, sizeof clip), plan->frac_bits,
        plan->clips.count > 0 ? ", as do the clips of exact.clips and their f" : "",
        tier_plan_site_proof(plan, site, sizeof site),
        tier_stale_in(plan) ? ", times what staleness makes of them (64 and less)," : "",
        plan->weight_total_max, plan->weight_total_max);
    if (s > 0 && used > 0 && (size_t)used < bytes)
        snprintf(buf + used, bytes - (size_t)used,
                 "; in 32 bits: weights are 1, and r = q rounded to whole 2^%u has |r| <= 2^%u; so "
                 "|R| = |sum of r| <= %" PRIu64 " * 2^%u = %" PRIu64 " <= 2^30 < 2^31",
                 s, 30 - s, plan->weight_total_max, 30 - s, plan->weight_total_max << (30 - s));
    return buf;
}

const char *tier_plan_purpose_text(int purpose) {
    const int count = (int)(sizeof purpose_choices / sizeof purpose_choices[0]) - 1;
    return purpose >= 0 && purpose < count ? purpose_choices[purpose] : NULL;
}

const struct tier_plan_tier *tier_plan_tier_of(const struct tier_plan *plan, bool is_top) {
    return is_top ? &plan->top : &plan->hub;
}
