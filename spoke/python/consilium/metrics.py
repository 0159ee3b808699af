# SPDX-License-Identifier: Apache-2.0
"""Evaluation as exact integer sums, the same that native spokes make (tier/score.h): numerators and
denominators, which add up over any tree to the figures of the pooled rows."""
from __future__ import annotations

from typing import Dict

import numpy as np

SCORE_BINS = 4096
_LOSS_ONE = 2.0 ** 20
_LOSS_MAX = 65536.0

Sums = Dict[str, np.ndarray]


def _loss_sum(losses: np.ndarray) -> np.ndarray:
    capped = np.where(losses < _LOSS_MAX, np.maximum(losses, 0.0), _LOSS_MAX)  # NaN: the cap
    return np.rint(capped * _LOSS_ONE).astype(np.int64).sum(keepdims=True)


def _one(value: int) -> np.ndarray:
    return np.array([value], np.int64)


def _bins(scores: np.ndarray) -> np.ndarray:
    at = np.clip((scores * SCORE_BINS).astype(np.int64), 0, SCORE_BINS - 1)
    return np.bincount(at, minlength=SCORE_BINS).astype(np.int64)


def binary(logits: np.ndarray, labels: np.ndarray) -> Sums:
    """Of one logit for each row (before the sigmoid) and labels 0 or 1: rows, rows predicted right,
    binary cross-entropy, and histograms of the score, from which the AUC is read."""
    z = np.asarray(logits, np.float64).reshape(-1)
    y = np.asarray(labels).reshape(-1).astype(np.int64)
    if z.shape != y.shape:
        raise ValueError("%d logits for %d labels" % (z.size, y.size))
    _check_finite(z)
    losses = np.maximum(z, 0.0) - z * y + np.log1p(np.exp(-np.abs(z)))
    small = np.exp(-np.abs(z))
    scores = np.where(z >= 0.0, 1.0, small) / (1.0 + small)
    return {"count": _one(z.size), "correct": _one(int(((z > 0.0) == (y == 1)).sum())),
            "loss": _loss_sum(losses), "score_hist_pos": _bins(scores[y == 1]),
            "score_hist_neg": _bins(scores[y != 1])}


def classes(logits: np.ndarray, labels: np.ndarray) -> Sums:
    """Of logits [rows, classes] and labels from 0: rows, rows predicted right, cross-entropy."""
    z = np.asarray(logits, np.float64)
    y = np.asarray(labels).reshape(-1).astype(np.int64)
    if z.ndim != 2 or z.shape[0] != y.size:
        raise ValueError("logits of shape %s for %d labels" % (z.shape, y.size))
    _check_finite(z)
    best = z.max(axis=1, keepdims=True, initial=-np.inf)
    losses = np.log(np.exp(z - best).sum(axis=1)) + best[:, 0] - z[np.arange(y.size), y]
    right = int((z.argmax(axis=1) == y).sum()) if y.size else 0
    return {"count": _one(y.size), "correct": _one(right), "loss": _loss_sum(losses)}


def _check_finite(logits: np.ndarray) -> None:
    if not np.isfinite(logits).all():
        raise ValueError("an output of the model is not finite: its training diverged")
