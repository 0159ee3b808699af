#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes model-private.onnx, which is committed: needs PyTorch and onnx from PyPI.

    export_private.py [FILE]

For training with differential privacy: no BatchNorm, through which a row's gradient would depend on
the rows beside it; bounded activations and few parameters, each of which gets noise (Papernot and
others 2021).
"""
import sys

import torch
import torch.nn as nn


def main():
    torch.manual_seed(20240303)
    model = nn.Sequential(nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.Tanh(), nn.MaxPool2d(2),
                          nn.Conv2d(16, 32, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(),
                          nn.Linear(288, 32), nn.Tanh(), nn.Linear(32, 1), nn.Sigmoid())
    torch.onnx.export(model, (torch.zeros(2, 1, 28, 28),),
                      sys.argv[1] if len(sys.argv) > 1 else "model-private.onnx", dynamo=False,
                      opset_version=17, training=torch.onnx.TrainingMode.TRAINING,
                      do_constant_folding=False, input_names=["image"], output_names=["score"],
                      dynamic_axes={"image": {0: "N"}, "score": {0: "N"}})


if __name__ == "__main__":
    main()
