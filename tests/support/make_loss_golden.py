#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/loss: logits, targets and options, with what PyTorch makes of them in float64,
so that the losses of the training engine are held against PyTorch's where there is none. Dice is
MONAI's DiceLoss and DiceCELoss where that package is there, else the same formula in PyTorch (both
wrote the committed files alike); Cox's loss is written down here. Run by hand, with PyTorch:
make_loss_golden.py FOLDER

NAME.bin, little-endian: int32 loss (enum spoke_loss), rows, spots, outputs, ignored class (-1 none),
batch, background, class weights; float32 pos_weight, smooth_nr, smooth_dr, weight of Dice, of CE;
logits float32[rows, spots, outputs]; targets float32 or int32[rows, spots], float32[rows, 2] for Cox;
class weights float32; float64 loss; its gradient float32, as logits.
"""
import os
import struct
import sys

import numpy as np
import torch
import torch.nn.functional as F

try:
    from monai.losses import DiceLoss
except ImportError:
    DiceLoss = None

BCE, CE, DICE, DICE_CE, MSE, L1, COX = range(7)
KEYS = {"rows": 4, "spots": 1, "outputs": 1, "ignore": -1, "batch": False, "background": True,
        "weights": None, "pos_weight": 1.0, "smooth_nr": 1e-5, "smooth_dr": 1e-5, "dice": 1.0,
        "ce": 1.0}
CASES = {
    "bce": (BCE, {"rows": 9, "pos_weight": 3.0}),
    "ce-weights": (CE, {"rows": 7, "outputs": 4, "weights": [0.5, 2.0, 1.0, 0.25]}),
    "ce-ignore": (CE, {"spots": 12, "outputs": 3, "ignore": 1, "weights": [1.0, 1.0, 4.0]}),
    "dice": (DICE, {"rows": 3, "spots": 40, "outputs": 3}),
    "dice-batch": (DICE, {"rows": 3, "spots": 40, "outputs": 4, "batch": True, "background": False,
                          "smooth_nr": 0.0, "smooth_dr": 1.0}),
    "dice-ignore": (DICE, {"rows": 3, "spots": 40, "outputs": 3, "ignore": 2}),
    "dice-ce": (DICE_CE, {"rows": 3, "spots": 40, "outputs": 3, "dice": 0.7, "ce": 1.3,
                          "weights": [0.3, 1.0, 2.0]}),
    "mse": (MSE, {"rows": 9}),
    "l1": (L1, {"rows": 9}),
    "cox": (COX, {"rows": 24}),
}


def dice(z, target, o):
    """Of z[N, C, spots]."""
    known = (target != o["ignore"]).to(z.dtype)[:, None]
    p = z.softmax(1) * known
    t = F.one_hot(target, z.shape[1]).permute(0, 2, 1).to(z.dtype) * known
    if DiceLoss is not None:
        loss = DiceLoss(include_background=o["background"], smooth_nr=o["smooth_nr"],
                        smooth_dr=o["smooth_dr"], batch=o["batch"])
        return loss(p, t)
    axes = (0, 2) if o["batch"] else (2,)
    both, sizes = (p * t).sum(axes), (p + t).sum(axes)
    loss = 1 - (2 * both + o["smooth_nr"]) / (sizes + o["smooth_dr"])
    return loss[..., 0 if o["background"] else 1:].mean()


def cox(z, target):
    """Breslow's ties, risk sets within the batch."""
    time, event = target[:, 0], target[:, 1] > 0
    at_risk = time[None, :] >= time[:, None]
    log_risk = torch.where(at_risk, z[None, :], -torch.inf).logsumexp(1)
    return (log_risk - z)[event].mean()


def loss_of(kind, z, target, weights, o):
    """z is float64[rows, spots, outputs]."""
    if kind == BCE:
        return F.binary_cross_entropy_with_logits(z.flatten(), target.double().flatten(),
                                                  pos_weight=torch.tensor(o["pos_weight"]))
    if kind == MSE:
        return F.mse_loss(z.flatten(), target.double().flatten())
    if kind == L1:
        return F.l1_loss(z.flatten(), target.double().flatten())
    if kind == COX:
        return cox(z.flatten(), target.double())
    z = z.permute(0, 2, 1)
    ce = F.cross_entropy(z, target, weight=weights, ignore_index=o["ignore"])
    if kind == CE:
        return ce
    if kind == DICE:
        return dice(z, target, o)
    return o["ce"] * ce + o["dice"] * dice(z, target, o)


def write(name, kind, options, folder):
    o = {**KEYS, **options}
    rng = torch.Generator().manual_seed(sum(name.encode()))
    shape = (o["rows"], o["spots"], o["outputs"])
    z = (torch.randn(shape, generator=rng) * 2).float()
    if kind in (CE, DICE, DICE_CE):
        target = torch.randint(0, o["outputs"], shape[:2], generator=rng)
    elif kind == COX: # whole days, so that some are the same
        target = torch.stack([torch.randint(1, 12, shape[:1], generator=rng).float(),
                              (torch.rand(shape[:1], generator=rng) < 0.5).float()], 1)
    else:
        target = torch.randn(shape[:2], generator=rng)
        target = (target > 0).float() if kind == BCE else target
    weights = torch.tensor(o["weights"]).double() if o["weights"] else None
    zd = z.double().requires_grad_()
    loss = loss_of(kind, zd, target, weights, o)
    loss.backward()
    with open(os.path.join(folder, name + ".bin"), "wb") as f:
        f.write(struct.pack("<8i", kind, *shape, o["ignore"], o["batch"], o["background"],
                            len(o["weights"] or [])))
        f.write(struct.pack("<5f", o["pos_weight"], o["smooth_nr"], o["smooth_dr"], o["dice"],
                            o["ce"]))
        f.write(z.numpy().tobytes())
        whole = target.dtype == torch.int64
        f.write(target.numpy().astype(np.int32 if whole else np.float32).tobytes())
        f.write(np.array(o["weights"] or [], np.float32).tobytes())
        f.write(struct.pack("<d", loss.item()))
        f.write(zd.grad.numpy().astype(np.float32).tobytes())
    print("%-12s %.6f" % (name, loss.item()))


def main():
    folder = sys.argv[1]
    os.makedirs(folder, exist_ok=True)
    for name, (kind, options) in CASES.items():
        write(name, kind, options, folder)


if __name__ == "__main__":
    main()
