# SPDX-License-Identifier: Apache-2.0
"""Evaluation as exact integer sums, the same that native spokes make (tier/score.h): numerators and
denominators, which add up over any tree to the figures of the pooled rows."""
from __future__ import annotations

from typing import Dict, Optional, Sequence

import numpy as np

SCORE_BINS = 4096
_LOSS_ONE = 2.0 ** 20
_LOSS_MAX = 65536.0
_ERROR_MAX = float(1 << 24)

Sums = Dict[str, np.ndarray]


def _fixed(values: np.ndarray, most: float = _LOSS_MAX) -> np.ndarray:
    capped = np.where(values < most, np.maximum(values, 0.0), most)  # NaN: the cap
    return np.rint(capped * _LOSS_ONE).astype(np.int64)


def _loss_sum(losses: np.ndarray, most: float = _LOSS_MAX) -> np.ndarray:
    total: np.ndarray = _fixed(losses, most).sum(keepdims=True)
    return total


def _one(value: int) -> np.ndarray:
    return np.array([value], np.int64)


def _bins(scores: np.ndarray) -> np.ndarray:
    at = np.clip((scores * SCORE_BINS).astype(np.int64), 0, SCORE_BINS - 1)
    return np.bincount(at, minlength=SCORE_BINS).astype(np.int64)


def binary(logits: np.ndarray, labels: np.ndarray, pos_weight: float = 1.0) -> Sums:
    """Of one logit for each row (before the sigmoid) and labels 0 or 1: rows, rows predicted right,
    binary cross-entropy, and histograms of the score, from which the AUC is read."""
    z = np.asarray(logits, np.float64).reshape(-1)
    y = np.asarray(labels).reshape(-1).astype(np.int64)
    if z.shape != y.shape:
        raise ValueError("%d logits for %d labels" % (z.size, y.size))
    _check_finite(z)
    losses = np.maximum(z, 0.0) - z * y + np.log1p(np.exp(-np.abs(z)))
    losses = np.where(y == 1, pos_weight * losses, losses)
    small = np.exp(-np.abs(z))
    scores = np.where(z >= 0.0, 1.0, small) / (1.0 + small)
    return {"count": _one(z.size), "correct": _one(int(((z > 0.0) == (y == 1)).sum())),
            "loss": _loss_sum(losses), "score_hist_pos": _bins(scores[y == 1]),
            "score_hist_neg": _bins(scores[y != 1])}


def classes(logits: np.ndarray, labels: np.ndarray, weights: Optional[Sequence[float]] = None,
            ignore: Optional[int] = None) -> Sums:
    """Of logits [rows, classes] and labels from 0: rows, rows predicted right, cross-entropy. Rows of the
    class `ignore` (the plan's local.ignore_class), of which there need be no logit, do not count; those
    whose class weighs 0 have no loss."""
    z = np.asarray(logits, np.float64)
    y = np.asarray(labels).reshape(-1).astype(np.int64)
    if z.ndim != 2 or z.shape[0] != y.size:
        raise ValueError("logits of shape %s for %d labels" % (z.shape, y.size))
    _check_finite(z)
    if ignore is not None:
        z, y = z[y != ignore], y[y != ignore]
    if y.size and (y.min() < 0 or y.max() >= z.shape[1]):
        raise ValueError("labels from %d to %d for %d classes" % (y.min(), y.max(), z.shape[1]))
    best = z.max(axis=1, keepdims=True, initial=-np.inf)
    losses = np.log(np.exp(z - best).sum(axis=1)) + best[:, 0] - z[np.arange(y.size), y]
    if weights is not None:
        losses = np.where(np.asarray(weights)[y] > 0, losses, 0.0)
    right = int((z.argmax(axis=1) == y).sum()) if y.size else 0
    sums = {"count": _one(y.size), "correct": _one(right), "loss": _loss_sum(losses)}
    return sums if ignore is None else dict(sums, spots=_one(y.size))


def values(outputs: np.ndarray, targets: np.ndarray, loss: str = "mse") -> Sums:
    """Of one number for each row and its target: rows, squared and absolute errors, and the loss,
    which is either of them ("mse" or "l1")."""
    z = np.asarray(outputs, np.float64).reshape(-1)
    y = np.asarray(targets, np.float64).reshape(-1)
    if z.shape != y.shape:
        raise ValueError("%d outputs for %d targets" % (z.size, y.size))
    _check_finite(z)
    squared = _loss_sum((z - y) ** 2, _ERROR_MAX)
    absolute = _loss_sum(np.abs(z - y), _ERROR_MAX)
    return {"count": _one(z.size), "loss": squared if loss == "mse" else absolute,
            "squared_error": squared, "absolute_error": absolute}


def masks(logits: np.ndarray, labels: np.ndarray, losses: np.ndarray,
          ignore: Optional[int] = None) -> Sums:
    """Of logits [rows, classes, sides...] and masks of classes [rows, sides...]: spots, those that
    are right, and for each class the spots that Dice coefficients are made of, of all rows
    together and row by row. `losses` has a row's loss as it was trained; spots of the class
    `ignore` do not count, nor rows of nothing else. Sums of several calls are added."""
    z, y = np.asarray(logits, np.float64), np.asarray(labels).astype(np.int64)
    if z.ndim < 3 or z.shape[:1] + z.shape[2:] != y.shape or np.shape(losses) != y.shape[:1]:
        raise ValueError("logits of shape %s for masks of shape %s and %d losses" %
                         (z.shape, y.shape, np.size(losses)))
    _check_finite(z)
    rows, count = z.shape[:2]
    said, real = z.argmax(axis=1).reshape(rows, -1), y.reshape(rows, -1)
    counts = (real >= 0) & (real < count) & (real != (-1 if ignore is None else ignore))

    def spots(which: np.ndarray, where: np.ndarray) -> np.ndarray:  # [rows, classes]
        return np.stack([((which == c) & where).sum(axis=1) for c in range(count)], axis=1)

    both = spots(real, counts & (said == real))
    sizes = spots(real, counts) + spots(said, counts)
    dice = _fixed(2.0 * both / np.maximum(sizes, 1)) * (sizes > 0)
    scored = np.full(rows, True) if ignore is None else counts.any(axis=1)
    return {"count": _one(int(scored.sum())),
            "loss": _loss_sum(np.asarray(losses, np.float64)[scored]),
            "correct": _one(int(both.sum())), "spots": _one(int(counts.sum())),
            "dice_overlap": both.sum(axis=0), "dice_sizes": sizes.sum(axis=0),
            "case_dice": dice.sum(axis=0), "dice_cases": (sizes > 0).sum(axis=0)}


def survival(hazards: np.ndarray, targets: np.ndarray) -> Sums:
    """Of one log hazard for each row and [rows, 2] of times and events (above 0: it happened then,
    else last seen then): rows, events, pairs that can be compared and twice those that are in order
    (ties are half of it), and the partial likelihood of all rows as one batch. Calls cannot be split
    and added: pairs are of the same call."""
    z = np.asarray(hazards, np.float64).reshape(-1)
    t = np.asarray(targets, np.float64)
    if t.shape != (z.size, 2):
        raise ValueError("%d hazards for targets of shape %s: [rows, 2] would be right" %
                         (z.size, t.shape))
    _check_finite(z)
    comparable = concordant = 0
    losses = []
    for i in np.flatnonzero(t[:, 1] > 0):
        at_risk = z[t[:, 0] >= t[i, 0]]
        losses.append(np.log(np.exp(at_risk - at_risk.max()).sum()) + at_risk.max() - z[i])
        later = z[(t[:, 0] > t[i, 0]) | ((t[:, 0] == t[i, 0]) & (t[:, 1] <= 0))]
        comparable += later.size
        concordant += int(2 * (later < z[i]).sum() + (later == z[i]).sum())
    return {"count": _one(z.size), "loss": _loss_sum(np.array(losses)), "events": _one(len(losses)),
            "comparable": _one(comparable), "concordant": _one(concordant)}


def add(*parts: Sums) -> Sums:
    """The sums of all parts."""
    whole: Sums = {}
    for part in parts:
        for name, more in part.items():
            whole[name] = whole[name] + more if name in whole else more
    return whole


def _check_finite(logits: np.ndarray) -> None:
    if not np.isfinite(logits).all():
        raise ValueError("an output of the model is not finite: its training diverged")
