#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The training engine against PyTorch: every model is exported to ONNX as PyTorch does it, and its
logits, loss and gradients are compared with PyTorch's own in float64.

    torch_net.py [--probe build/bin/net_probe] [NAME...]

Prints a line for each case and, last, "N passed, N failed, N skipped". The error of a tensor is
||ours - theirs|| / ||theirs|| over all its elements; a gradient that is zero but for rounding (a
bias before a normalisation) is measured against the largest of its model. Beside it stand the errors
of all gradients as one vector, ours and that of PyTorch's own float32 in the same run.
"""
import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import warnings

import numpy as np
import torch

from torch_models import CASES

TOLERANCE = 1e-5


def export(case, model, x, path):
    warnings.simplefilter("ignore")
    torch.onnx.export(model, (x,), path, dynamo=False, opset_version=case.opset,
                      training=torch.onnx.TrainingMode.TRAINING, do_constant_folding=False,
                      input_names=["x"], output_names=["y"],
                      dynamic_axes={"x": {0: "N"}, "y": {0: "N"}})


def loss_of(case, y, target):
    if case.loss == "bce":
        return torch.nn.functional.binary_cross_entropy_with_logits(y.reshape(-1), target)
    ce = torch.nn.functional.cross_entropy(y, target)
    return ce + soft_dice(y, target) if case.loss == "dice_ce" else ce


def soft_dice(y, target):
    """MONAI's DiceLoss(to_onehot_y=True, softmax=True) with what it has by default."""
    p = y.softmax(1).flatten(2)
    t = torch.nn.functional.one_hot(target.flatten(1), y.shape[1]).movedim(2, 1).to(y.dtype)
    return (1 - (2 * (p * t).sum(2) + 1e-5) / ((p + t).sum(2) + 1e-5)).mean()


def channels_last(y):
    """[N, C, ...] as the engine gives logits: [N, ..., C]."""
    return y if y.dim() < 3 else y.movedim(1, -1)


def probe(path, arguments, folder):
    run = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise RuntimeError(run.stderr.strip() or f"net_probe ended with {run.returncode}")
    said = json.loads(run.stdout)
    for name in ("logits", "grads"):
        said[name] = np.fromfile(os.path.join(folder, name + ".bin"), np.float32)
    return said


def error(ours, theirs, floor):
    theirs = np.asarray(theirs, np.float64).reshape(-1)
    size = max(np.linalg.norm(theirs), floor)
    return np.linalg.norm(ours.astype(np.float64) - theirs) / size if size else 0.0


def gradients(case, model, x, target):
    """{name: gradient} in training mode, and the loss."""
    model.train()
    model.zero_grad()
    loss = loss_of(case, model(x), target)
    loss.backward()
    return {n: p.grad.numpy().astype(np.float64) for n, p in model.named_parameters()}, loss.item()


def together(errors, exact):
    """Of all gradients as one vector."""
    size = np.sqrt(sum(np.linalg.norm(g) ** 2 for g in exact.values()))
    return np.sqrt(sum(e ** 2 for e in errors)) / size if size else 0.0


def sgd_losses(case, model, x, target, steps, lr):
    losses = []
    for _ in range(steps + 1):
        model.zero_grad()
        loss = loss_of(case, model(x), target)
        loss.backward()
        losses.append(loss.item())
        with torch.no_grad():
            for p in model.parameters():
                p -= lr * p.grad
    return losses


def compare(case, path, folder):
    torch.manual_seed(case.seed)
    model, x = case.model(), case.input()
    for p in model.parameters():  # nothing starts at 0 or 1, where an error would not show
        torch.nn.init.normal_(p, std=0.3) if p.dim() < 2 else None
    target = case.target(model(x))
    file = os.path.join(folder, "model.onnx")
    model.train()
    export(case, model, x, file)
    x.numpy().tofile(os.path.join(folder, "x.bin"))
    kind = np.float32 if case.loss == "bce" else np.int32
    target.numpy().astype(kind).tofile(os.path.join(folder, "target.bin"))

    single, double = copy.deepcopy(model), model.double()
    xd = x.double()
    target_d = target.double() if case.loss == "bce" else target
    double.eval()
    logits = channels_last(double(xd)).detach().numpy()
    double.train()
    said = probe(path, [file, case.loss, str(len(x)), folder, "--steps", str(case.steps), "--lr",
                        str(case.lr)], folder)
    grads, loss = gradients(case, double, xd, target_d)
    theirs, _ = gradients(case, single, x, target)
    largest = max(np.linalg.norm(g) for g in grads.values())
    worst = [("logits", error(said["logits"], logits, 0)),
             ("loss", abs(said["losses"][0] - loss) / abs(loss))]
    seen, off = set(), []
    for p in said["params"]:
        if not p["trained"]:
            continue
        if p["name"] not in grads:
            raise RuntimeError(f"PyTorch has no parameter '{p['name']}'")
        seen.add(p["name"])
        ours = said["grads"][p["at"]:p["at"] + p["elements"]]
        size = np.linalg.norm(grads[p["name"]])
        floor = largest if size < 1e-9 * largest else 0
        worst.append((p["name"], error(ours, grads[p["name"]], floor)))
        off.append(np.linalg.norm(ours.astype(np.float64) - grads[p["name"]].reshape(-1)))
    if missing := set(grads) - seen:
        raise RuntimeError(f"the engine does not train {sorted(missing)}")
    if case.steps:
        losses = sgd_losses(case, double, xd, target_d, case.steps, case.lr)
        curve = max(abs(a - b) / max(abs(b), 1e-2) for a, b in zip(said["losses"], losses))
        if curve > case.curve:
            raise RuntimeError(f"the loss leaves PyTorch's by {curve:.2e} in {case.steps} steps")
    return (*max(worst, key=lambda w: w[1]), together(off, grads),
            together([np.linalg.norm(theirs[n] - grads[n]) for n in grads], grads))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--probe", default="build/bin/net_probe")
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    passed = failed = 0
    for case in CASES:
        if arguments.names and not any(n in case.name for n in arguments.names):
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                name, worst, all_of_it, theirs = compare(case, arguments.probe, folder)
                fine = worst <= TOLERANCE
                print(f"{'ok  ' if fine else 'FAIL'} {case.name}: worst {worst:.1e} in {name}; all "
                      f"gradients {all_of_it:.1e}, PyTorch's float32 {theirs:.1e}", flush=True)
            except Exception as e:  # one case that breaks does not hide the others
                fine = False
                print(f"FAIL {case.name}: {e}")
        passed, failed = passed + fine, failed + (not fine)
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
