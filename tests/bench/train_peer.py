#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""PyTorch's part in `consilium-bench train` (train.c).

    train_peer.py export NAME FOLDER   model.onnx, and one batch: x.bin (float32), target.bin
    train_peer.py run NAME FOLDER      says "loaded", and from then on answers one line with one:
        model      -> "ready": the same model with the same parameters, and the batch, are there
        step N     -> seconds that N steps took, and the loss before the last of them
"""
import os
import sys
import time
import warnings

import numpy as np
import torch
import torch.nn as nn

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "peers"))
import torch_models  # noqa: E402

THREADS = 2
LR, MOMENTUM = 0.001, 0.9


def perceptron():
    return nn.Sequential(nn.Linear(13, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(),
                         nn.Linear(32, 1))


def unet3d():
    return torch_models.UNet3d(nn.InstanceNorm3d, width=16)


# The model, a row's shape, rows of a batch, the loss: as in train.c.
CASES = {
    "mlp-heart": torch_models.Case("", perceptron, (13,), rows=32, loss="bce"),
    "resnet18-28": torch_models.Case("", torch_models.resnet18, (1, 28, 28), rows=32),
    "resnet18-64": torch_models.Case("", torch_models.resnet18, (1, 64, 64), rows=32),
    "unet3d-48": torch_models.Case("", unet3d, (1, 48, 48, 48), rows=1),
    "densenet121-64": torch_models.Case("", torch_models.densenet121, (1, 64, 64), rows=16),
}


def make(case):
    torch.manual_seed(1)
    return case.model().train()


def export(case, folder):
    model, x = make(case), case.input()
    warnings.simplefilter("ignore")
    torch.onnx.export(model, (x,), os.path.join(folder, "model.onnx"), dynamo=False,
                      opset_version=case.opset, training=torch.onnx.TrainingMode.TRAINING,
                      do_constant_folding=False, input_names=["x"], output_names=["y"],
                      dynamic_axes={"x": {0: "N"}, "y": {0: "N"}})
    target = case.target(model(x))
    x.numpy().tofile(os.path.join(folder, "x.bin"))
    target.numpy().astype(np.float32 if case.loss == "bce" else np.int32).tofile(
        os.path.join(folder, "target.bin"))


class Run:
    def __init__(self, case, folder):
        self.model = make(case)
        x = np.fromfile(os.path.join(folder, "x.bin"), np.float32)
        self.x = torch.from_numpy(x.reshape(case.rows, *case.shape))
        bce = case.loss == "bce"
        target = np.fromfile(os.path.join(folder, "target.bin"), np.float32 if bce else np.int32)
        target = torch.from_numpy(target)
        if bce:
            self.target, self.loss = target.reshape(-1, 1), nn.BCEWithLogitsLoss()
        else:  # one class a row, or one at each spot of it
            spots = case.shape[1:] if target.numel() > case.rows else ()
            self.target, self.loss = target.long().reshape(case.rows, *spots), nn.CrossEntropyLoss()
        self.optimiser = torch.optim.SGD(self.model.parameters(), lr=LR, momentum=MOMENTUM)

    def step(self):
        self.optimiser.zero_grad()
        loss = self.loss(self.model(self.x), self.target)
        loss.backward()
        self.optimiser.step()
        return loss

    def steps(self, count):
        begin = time.perf_counter()
        for _ in range(count):
            loss = self.step()
        return time.perf_counter() - begin, loss.item()


def answer(case, folder):
    run = None
    print("loaded", flush=True)
    for line in sys.stdin:
        words = line.split()
        if words[0] == "model":
            run = Run(case, folder)
            print("ready", flush=True)
        else:
            print("%.9f %.9g" % run.steps(int(words[1])), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    {"export": export, "run": answer}[sys.argv[1]](CASES[sys.argv[2]], sys.argv[3])
