#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes model.onnx, which is committed: needs PyTorch and onnx from PyPI.

    export.py [FILE]

What matters for a model that is to be trained: TrainingMode.TRAINING keeps BatchNorm and Dropout,
do_constant_folding=False keeps each layer's own weights, and the batch is a dynamic axis.
"""
import sys

import torch
import torch.nn as nn


def block(a, b):
    return [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]


def main():
    torch.manual_seed(20240303)
    model = nn.Sequential(*block(1, 16), *block(16, 16), nn.MaxPool2d(2), *block(16, 32),
                          nn.MaxPool2d(2), *block(32, 64), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                          nn.Dropout(0.2), nn.Linear(64, 1), nn.Sigmoid())
    torch.onnx.export(model, (torch.zeros(2, 1, 28, 28),),
                      sys.argv[1] if len(sys.argv) > 1 else "model.onnx", dynamo=False,
                      opset_version=17, training=torch.onnx.TrainingMode.TRAINING,
                      do_constant_folding=False, input_names=["image"], output_names=["score"],
                      dynamic_axes={"image": {0: "N"}, "score": {0: "N"}})


if __name__ == "__main__":
    main()
