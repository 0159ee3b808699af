#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes model.onnx, or with --private model-private.onnx, which are committed: needs PyTorch and onnx
from PyPI.

    export.py [--private] [FILE]

What matters for a model that is to be trained: TrainingMode.TRAINING keeps BatchNorm and Dropout,
do_constant_folding=False keeps each layer's own weights, and the batch is a dynamic axis.

What matters for training with differential privacy: no BatchNorm, through which a row's gradient would
depend on the rows beside it; bounded activations and few parameters, each of which gets noise (Papernot
and others 2021).
"""
import sys

import torch
import torch.nn as nn


def block(a, b):
    return [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]


def usual():
    return nn.Sequential(*block(1, 16), *block(16, 16), nn.MaxPool2d(2), *block(16, 32),
                         nn.MaxPool2d(2), *block(32, 64), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Dropout(0.2), nn.Linear(64, 1), nn.Sigmoid())


def private():
    return nn.Sequential(nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.Tanh(), nn.MaxPool2d(2),
                         nn.Conv2d(16, 32, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(),
                         nn.Linear(288, 32), nn.Tanh(), nn.Linear(32, 1), nn.Sigmoid())


def main():
    files = [a for a in sys.argv[1:] if a != "--private"]
    is_private = len(files) < len(sys.argv) - 1
    torch.manual_seed(20240303)
    model = private() if is_private else usual()
    torch.onnx.export(model, (torch.zeros(2, 1, 28, 28),),
                      files[0] if files else "model-private.onnx" if is_private else "model.onnx",
                      dynamo=False, opset_version=17,
                      training=torch.onnx.TrainingMode.TRAINING, do_constant_folding=False,
                      input_names=["image"], output_names=["score"],
                      dynamic_axes={"image": {0: "N"}, "score": {0: "N"}})


if __name__ == "__main__":
    main()
