#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Loss curves: a ResNet-18 with GroupNorm and with BatchNorm on chest X-rays and a 3D U-Net on the
hippocampus, 100 steps of SGD with momentum, by the engine and by PyTorch from the same start on the
same batches.

    torch_curves.py [--probe build/bin/net_probe] [--data ../shared/data] [--steps 100] [--copies 8] [NAME...]

Training magnifies rounding: no two programs in float32 stay together for 100 steps, nor does PyTorch
with itself where a weight begins one unit in the last place away, or with another number of threads.
So the engine is judged by PyTorch's own scatter: COPIES runs of PyTorch in float32, all but two
from weights that are each one such unit off, with one thread and with two in turn. Their scatter at a
step is the largest deviation of any of them from PyTorch in float64 up to there, relative to the loss.
The engine passes where at every step its deviation is at most FACTOR times the scatter, and so is the
mean over WINDOW steps of its signed deviation beside theirs, in which what is only noise is smaller;
what is below FLOOR passes. Now and then a single run, of whomever, comes down on the other side of a
rectifier and leaves all others by orders of magnitude: the engine's deviation is the middle one of
three runs, two of them from weights one unit off. That the rule sees errors is part of each case: the
engine with a learning rate, and so gradients, of WRONG times what they should be must not pass.

Where the data are absent batches are drawn at random by a seed, and the line says so.
"""
import argparse
import copy
import gzip
import os
import sys
import tempfile

import numpy as np
import torch
import torch.nn as nn

import torch_models
from torch_net import export, probe

STEPS, COPIES, FACTOR, WINDOW, FLOOR, WRONG = 100, 8, 3, 10, 1e-5, 1.01


def xrays(folder, rng, batches, rows):
    """[batches * rows, 1, 28, 28] and classes; or None."""
    path = os.path.join(folder, "pneumoniamnist", "pneumoniamnist_28_content.npz")
    if not os.path.exists(path):
        return None
    with np.load(path) as z:
        order = rng.permutation(len(z["train_images"]))[:batches * rows]
        x, y = z["train_images"][order], z["train_labels"][order]
    return (x[:, None].astype(np.float32) / 255 - 0.5) / 0.25, y.reshape(-1).astype(np.int64)


def volume(path):
    """A NIfTI volume: the header says the shape, the type and where the voxels begin."""
    with gzip.open(path) as f:
        raw = f.read()
    shape = np.frombuffer(raw, "<i2", 8, 40)
    kind = {2: "u1", 4: "<i2", 8: "<i4", 16: "<f4", 64: "<f8"}[int(np.frombuffer(raw, "<i2", 1, 70)[0])]
    begin = int(np.frombuffer(raw, "<f4", 1, 108)[0])
    dims = [int(d) for d in shape[1:4]]
    return np.frombuffer(raw, kind, int(np.prod(dims)), begin).reshape(dims[::-1])


def to_grid(v, side):
    """Cropped around the middle, or zeros around it."""
    out = np.zeros((side,) * 3, v.dtype)
    have = [max((d - side) // 2, 0) for d in v.shape]
    want = [max((side - d) // 2, 0) for d in v.shape]
    size = [min(d, side) for d in v.shape]
    out[tuple(slice(a, a + n) for a, n in zip(want, size))] = v[tuple(slice(a, a + n) for a, n in zip(have, size))]
    return out


def hippocampi(folder, rng, batches, rows, side=24):
    images = os.path.join(folder, "msd-hippocampus", "imagesTr")
    if not os.path.isdir(images):
        return None
    names = sorted(os.listdir(images))
    x, y = [], []
    for i in rng.permutation(len(names))[np.arange(batches * rows) % len(names)]:
        v = volume(os.path.join(images, names[i])).astype(np.float32)
        x.append(to_grid((v - v.mean()) / v.std(), side)[None])
        y.append(to_grid(volume(os.path.join(images.replace("imagesTr", "labelsTr"), names[i])), side))
    return np.stack(x), np.stack(y).astype(np.int64)


# A case, its data and how many batches of it.
CURVES = [
    (torch_models.Case("resnet18-group", lambda: torch_models.resnet18(lambda c: nn.GroupNorm(8, c)), (1, 28, 28),
                       rows=8, lr=0.0005), xrays, STEPS),
    (torch_models.Case("resnet18-batch", torch_models.resnet18, (1, 28, 28), rows=16, lr=0.0005), xrays, STEPS),
    (torch_models.Case("unet3d", lambda: torch_models.UNet3d(nn.BatchNorm3d), (1, 24, 24, 24), rows=2, lr=0.05),
     hippocampi, STEPS),
]


def train(model, x, y, rows, lr, momentum, steps):
    """The loss before each step, and after the last."""
    optimiser = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    losses = []
    model.train()
    for step in range(steps + 1):
        at = step % (len(x) // rows) * rows
        loss = nn.functional.cross_entropy(model(x[at:at + rows]), y[at:at + rows])
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return np.array(losses)


def one_unit_off(model, seed):
    """A copy whose trained weights are each the next float32 above or below."""
    copied, rng = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in copied.parameters():
            up = torch.randint(0, 2, p.shape, generator=rng) > 0
            p.copy_(torch.where(up, torch.nextafter(p, torch.tensor(np.inf)), torch.nextafter(p, torch.tensor(-np.inf))))
    return copied


def themselves(model, x, y, copies, *how):
    """PyTorch in float64, and in float32 so many times."""
    exact = train(copy.deepcopy(model).double(), x.double(), y, *how)
    runs = []
    for i in range(copies):
        torch.set_num_threads(1 + i % 2)
        runs.append(train(one_unit_off(model, i) if i >= 2 else copy.deepcopy(model), x, y, *how))
    torch.set_num_threads(2)
    return exact, np.array(runs)


def deviation(losses, exact):
    """Of each step, with its sign, relative to the loss; losses below a hundredth of the first count as
    that."""
    return (losses - exact) / np.maximum(np.abs(exact), 0.01 * exact[0])


def smooth(d):
    """Means over WINDOW steps, and over as many as there are before."""
    total = np.cumsum(np.concatenate([np.zeros((*d.shape[:-1], WINDOW)), d], -1), -1)
    return (total[..., WINDOW:] - total[..., :-WINDOW]) / np.minimum(np.arange(d.shape[-1]) + 1, WINDOW)


def beyond(d, theirs):
    """The largest of |d|, of several runs the middle one, over what the scatter of `theirs`, [copies, steps],
    allows; and its step."""
    worst = 0, 0
    for view in (lambda v: v, smooth):
        scatter = np.maximum.accumulate(np.abs(view(theirs)).max(0))
        ratio = np.median(np.abs(view(d)), 0) / np.maximum(FLOOR, FACTOR * scatter)
        worst = max(worst, (ratio.max(), int(ratio.argmax())))
    return worst


def line(name, d, theirs):
    ratio, step = beyond(d, theirs)
    d = np.median(np.abs(d), 0)
    print(f"    {name:34}{d[:10].max():10.1e}{d.mean():10.1e}{d.max():10.1e}{ratio:10.2f} at {step:3}", flush=True)
    return ratio <= 1


def compare(case, data, batches, arguments, folder):
    rng = np.random.default_rng(case.seed)
    found = data(arguments.data, rng, batches, case.rows)
    drawn = "" if found else " (random batches: no data)"
    if not found:
        x = rng.standard_normal((batches * case.rows, *case.shape), np.float32)
        spots = case.shape[1:] if data is hippocampi else ()
        found = x, rng.integers(0, 3 if data is hippocampi else 2, (len(x), *spots))
    x, y = torch.from_numpy(found[0]), torch.from_numpy(found[1])
    torch.manual_seed(case.seed)
    model = case.model()
    x.numpy().tofile(os.path.join(folder, "x.bin"))
    y.numpy().astype(np.int32).tofile(os.path.join(folder, "target.bin"))

    def engine(model, lr):
        file = os.path.join(folder, "model.onnx")
        export(case, copy.deepcopy(model).train(), x[:case.rows], file)
        said = probe(arguments.probe, [file, "ce", str(case.rows), folder, "--steps", str(arguments.steps), "--lr",
                                       str(lr), "--momentum", "0.9", "--batches", str(batches)], folder)
        return said["losses"]

    exact, runs = themselves(model, x, y, arguments.copies, case.rows, case.lr, 0.9, arguments.steps)
    print(f"{case.name}{drawn}: the loss goes from {exact[0]:.4f} to {exact[-10:].mean():.4f} (mean of the last 10)")
    print(f"    {'deviation from float64':34}{'first 10':>10}{'mean':>10}{'largest':>10}{'of what is allowed':>20}")
    theirs = deviation(runs, exact)
    for i, d in enumerate(theirs):
        line(f"PyTorch {i}, beside the other copies", d[None], np.delete(theirs, i, 0))
    ours = np.array([engine(m, case.lr) for m in (model, *(one_unit_off(model, 100 + i) for i in range(2)))])
    fine = line("the engine", deviation(ours, exact), theirs)
    wrong = np.array([engine(model, case.lr * WRONG)])
    blind = line(f"the engine, gradients x {WRONG}", deviation(wrong, exact), theirs)
    if np.ptp(exact) < 0.1 * exact[0]:
        raise RuntimeError("the loss stays where it is: there is no curve to follow")
    if blind:
        print(f"    gradients that are {WRONG} times too large pass: the rule is blind here")
    return fine and not blind


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser()
    parser.add_argument("--probe", default="build/bin/net_probe")
    parser.add_argument("--data", default=os.environ.get("CONSILIUM_TEST_DATA") or
                        os.path.join(here, "..", "..", "..", "shared", "data"))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--copies", type=int, default=COPIES)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    passed = failed = 0
    for case, data, batches in CURVES:
        if arguments.names and not any(n in case.name for n in arguments.names):
            continue
        with tempfile.TemporaryDirectory() as folder:
            fine = compare(case, data, batches, arguments, folder)
        print(f"{'ok  ' if fine else 'FAIL'} {case.name}")
        passed, failed = passed + fine, failed + (not fine)
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
