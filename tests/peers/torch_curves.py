#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Loss curves: a ResNet-18 on chest X-rays and a 3D U-Net on the hippocampus, 100 steps of SGD with
momentum, by the engine and by PyTorch from the same start on the same batches.

    torch_curves.py [--probe build/bin/net_probe] [--data ../shared/data] [--steps 100] [NAME...]

Training magnifies rounding, so no two programs in float32 stay together for 100 steps; what they may
differ by is what PyTorch in float32, with one thread and with two, differs from PyTorch in float64. The
engine passes where its largest deviation in the first EARLY steps is at most EARLY_LIMIT, or FACTOR times
that of the PyTorch run that strays farther, and so are its largest and its mean deviation over the steps
that it is judged for. Where the data are absent batches are drawn at random by a seed, and the
line says so.
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

STEPS, EARLY, EARLY_LIMIT, FACTOR = 100, 10, 1e-3, 3


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


# A case, its data, how many batches, and for how many steps it is judged. In step 36 of the ResNet an
# input of a rectifier behind layer3.0.bn1 is 6e-7 in float64, where the next is 5e-5: which side float32
# comes down on is rounding, and the curves part from there.
CURVES = [
    (torch_models.Case("resnet18-group", lambda: torch_models.resnet18(lambda c: nn.GroupNorm(8, c)), (1, 28, 28),
                       rows=8, lr=0.0005), xrays, STEPS, 30),
    (torch_models.Case("unet3d", lambda: torch_models.UNet3d(nn.BatchNorm3d), (1, 24, 24, 24), rows=2, lr=0.05),
     hippocampi, STEPS, STEPS),
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


def themselves(model, x, y, *how):
    """PyTorch in float64, and in float32 in every way in which it may round differently."""
    fresh = lambda: copy.deepcopy(model)
    torch.set_num_threads(2)
    exact = train(fresh().double(), x.double(), y, *how)
    runs = {"2 threads": train(fresh(), x, y, *how)}
    torch.set_num_threads(1)
    runs["1 thread"] = train(fresh(), x, y, *how)
    torch.set_num_threads(2)
    return exact, runs


def deviation(losses, exact):
    """Of each step, relative to the loss; losses below a hundredth of the first count as that."""
    return np.abs(losses - exact) / np.maximum(np.abs(exact), 0.01 * exact[0])


def compare(case, data, batches, judged, arguments, folder):
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
    file = os.path.join(folder, "model.onnx")
    export(case, copy.deepcopy(model).train(), x[:case.rows], file)
    x.numpy().tofile(os.path.join(folder, "x.bin"))
    y.numpy().astype(np.int32).tofile(os.path.join(folder, "target.bin"))
    said = probe(arguments.probe, [file, "ce", str(case.rows), folder, "--steps", str(arguments.steps), "--lr", str(case.lr),
                                   "--momentum", "0.9", "--batches", str(batches)], folder)
    exact, runs = themselves(model, x, y, case.rows, case.lr, 0.9, arguments.steps)
    print(f"{case.name}{drawn}: the loss goes from {exact[0]:.4f} to {exact[-10:].mean():.4f} (mean of the last 10)")
    print(f"    {'against PyTorch in float64':28}{'first ' + str(EARLY):>10}{'mean':>10}{'largest':>10}")
    theirs = {name: deviation(r, exact) for name, r in runs.items()}
    ours = deviation(np.array(said["losses"]), exact)
    for name, d in [*[("PyTorch, " + n, d) for n, d in theirs.items()], ("the engine", ours)]:
        print(f"    {name:28}{d[:EARLY].max():10.1e}{d.mean():10.1e}{d.max():10.1e}", flush=True)
    ours, theirs = ours[:judged], {name: d[:judged] for name, d in theirs.items()}
    if np.ptp(exact) < 0.1 * exact[0]:
        raise RuntimeError("the loss stays where it is: there is no curve to follow")
    early = max(EARLY_LIMIT, FACTOR * max(d[:EARLY].max() for d in theirs.values()))
    mean, most = (max(EARLY_LIMIT, FACTOR * max(f(d) for d in theirs.values())) for f in (np.mean, np.max))
    return ours[:EARLY].max() <= early and ours.mean() <= mean and ours.max() <= most


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser()
    parser.add_argument("--probe", default="build/bin/net_probe")
    parser.add_argument("--data", default=os.environ.get("CONSILIUM_TEST_DATA") or
                        os.path.join(here, "..", "..", "..", "shared", "data"))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    passed = failed = 0
    for case, data, batches, judged in CURVES:
        if arguments.names and not any(n in case.name for n in arguments.names):
            continue
        with tempfile.TemporaryDirectory() as folder:
            fine = compare(case, data, batches, judged, arguments, folder)
        print(f"{'ok  ' if fine else 'FAIL'} {case.name}")
        passed, failed = passed + fine, failed + (not fine)
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
