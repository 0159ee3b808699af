/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every bound of the federation library in one place. A number that comes from outside (a peer, a
 * file, a person) is compared with one of these before anything is allocated for it.
 */
#ifndef CONSILIUM_TIER_LIMITS_H
#define CONSILIUM_TIER_LIMITS_H

#include <stdint.h>

/* Names: nodes, tensors, runs. Bytes, without the terminator. */
#define TIER_NAME_LEN_MAX 63
#define TIER_TENSOR_NAME_LEN_MAX 255

/* Models. 2^36 elements is 256 GiB of f32: larger than any hospital's GPU, small enough for int64
 * offsets. */
#define TIER_TENSORS_MAX 65536
#define TIER_DIMS_MAX 8
#define TIER_ELEMENTS_MAX (UINT64_C(1) << 36)
#define TIER_MANIFEST_BYTES_MAX (32u << 20)
#define TIER_GRAPH_BYTES_MAX (UINT64_C(1) << 36)
#define TIER_GRAPH_NODES_MAX 65536
#define TIER_GRAPH_COLS_MAX (UINT64_C(1) << 28) /* elements of a row of input or output */

/* Updates: 64 KiB Merkle leaves, 16 to a 1 MiB transfer chunk; a segment is one chunk of f32. */
#define TIER_LEAF_BYTES (64u << 10)
#define TIER_CHUNK_BYTES (1u << 20)
#define TIER_SEGMENT_ELEMENTS (256u << 10)
#define TIER_BLOCK_ELEMENTS 256u
/* A fold goes over a segment in pieces whose sums stay in a core's second-level cache. */
#define TIER_FOLD_BLOCK (16u << 10)
#define TIER_UPDATE_HEADER_BYTES_MAX (256u << 10)
#define TIER_METRICS_MAX 256
#define TIER_METRIC_BINS_MAX (1u << 20)

/* Exact arithmetic: |q| <= 2^30, weights below 2^31, total weight at most 2^32. */
#define TIER_Q_MAX (INT32_C(1) << 30)
#define TIER_WEIGHT_MAX ((UINT64_C(1) << 31) - 1)
#define TIER_WEIGHT_TOTAL_MAX (UINT64_C(1) << 32)
#define TIER_FRAC_BITS_MIN (-100)
#define TIER_FRAC_BITS_MAX 100

/* The tree. */
#define TIER_CHILDREN_MAX 16384
#define TIER_PLAN_BYTES_MAX (1u << 20)
#define TIER_SIGNED_BYTES_MAX 4096u /* a plan's signature with its certificate */
#define TIER_MESSAGE_BYTES_MAX (TIER_CHUNK_BYTES + TIER_UPDATE_HEADER_BYTES_MAX + 4096u)
#define TIER_ROUNDS_MAX 1000000

/* What one child may have under way at its parent: calls of a kind, offers, and the transfers it
 * holds of those that all children share. A transfer that stands still that long while others wait
 * is ended. */
#define TIER_CHILD_CALLS_MAX 64u
#define TIER_CHILD_OFFERS_MAX 64u
#define TIER_CHILD_TRANSFERS_MAX 4u
#define TIER_STALL_MS 60000u

/* Children that lost their parent come back over so many milliseconds each, in all at most the
 * second: a hub on two cores shakes hands with some hundreds in a second. */
#define TIER_RETURN_MS_PER_CHILD 5u
#define TIER_RETURN_MS_MAX 60000u

/* What a parent may have under way at its child. Every refused, repeated or contradictory message
 * is a fault, one a second is forgiven; a parent with more is left alone for a while. A child has
 * so many runs open at a time, and a spoke remembers so many in all. */
#define TIER_PARENT_FAULTS_MAX 256u
#define TIER_PARENT_PAUSE_MS 10000u
#define TIER_WELCOME_MS 15000u
#define TIER_RUNS_OPEN_MAX 64u
#define TIER_RUNS_KEPT_MAX 1024u

/* Certificates: how many may be on the authority's list of revoked ones, and its bytes. The list
 * travels as one message. A certificate is renewed so often before the next one must be. */
#define TIER_REVOKED_MAX 16384u
#define TIER_REVOCATIONS_BYTES_MAX (1u << 20)
#define TIER_PSEUDONYMS_MAX 4096
#define TIER_RENEWALS_MAX 16

/* Receive credit: chunks in flight over all streams of a node. */
#define TIER_CREDIT_CHUNKS 24

#endif
