#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes model.onnx, which is committed: needs PyTorch and onnx from PyPI.

    export.py [FILE]

What matters for a model that is to be trained: TrainingMode.TRAINING keeps layers as they are trained,
do_constant_folding=False keeps each layer's own weights, and the batch is a dynamic axis.
"""
import sys

import torch
import torch.nn as nn


def layer(a, b):
    return [nn.Conv3d(a, b, 3, padding=1, bias=False), nn.GroupNorm(4, b), nn.ReLU()]


class UNet(nn.Module):
    """Three levels, 8 channels at the finest; skip connections by concatenation."""

    def __init__(self, classes, base=8):
        super().__init__()
        self.pool = nn.MaxPool3d(2)
        self.down1 = nn.Sequential(*layer(1, base))
        self.down2 = nn.Sequential(*layer(base, 2 * base), *layer(2 * base, 2 * base))
        self.bottom = nn.Sequential(*layer(2 * base, 4 * base), *layer(4 * base, 4 * base))
        self.rise2 = nn.ConvTranspose3d(4 * base, 2 * base, 2, stride=2)
        self.up2 = nn.Sequential(*layer(4 * base, 2 * base), *layer(2 * base, 2 * base))
        self.rise1 = nn.ConvTranspose3d(2 * base, base, 2, stride=2)
        self.up1 = nn.Sequential(*layer(2 * base, base))
        self.head = nn.Conv3d(base, classes, 1)

    def forward(self, x):
        fine = self.down1(x)
        middle = self.down2(self.pool(fine))
        y = self.rise2(self.bottom(self.pool(middle)))
        y = self.up2(torch.cat([y, middle], 1))
        y = self.up1(torch.cat([self.rise1(y), fine], 1))
        return self.head(y)


def main():
    torch.manual_seed(20240404)
    torch.onnx.export(UNet(3), (torch.zeros(2, 1, 32, 48, 32),),
                      sys.argv[1] if len(sys.argv) > 1 else "model.onnx", dynamo=False,
                      opset_version=17, training=torch.onnx.TrainingMode.TRAINING,
                      do_constant_folding=False, input_names=["image"], output_names=["logits"],
                      dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}})


if __name__ == "__main__":
    main()
