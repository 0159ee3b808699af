#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/export: small models as PyTorch exports them for training (NAME.train.onnx), what
`consilium model export` makes of them with trained values (NAME.safetensors; NAME.onnx), and what onnxruntime makes of
one batch with that (NAME.bin: int32 rows, floats of x and of the output; x; the output). Run by hand,
with PyTorch and onnxruntime, after a change: make_export_golden.py FOLDER [--probe ... --consilium ...]
"""
import argparse
import os
import shutil
import struct
import sys
import tempfile

import numpy as np
import torch.nn as nn

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "peers"))
import torch_export  # noqa: E402
from torch_models import Case  # noqa: E402

CASES = [
    Case("mlp-dropout", lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.3),
                                              nn.Linear(5, 2)), (6,), rows=4),
    Case("conv-norms", lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.GroupNorm(2, 4), nn.Dropout(0.2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)), (2, 6, 5), rows=3),
    Case("volume", lambda: nn.Sequential(
        nn.Conv3d(1, 3, 3, padding=1), nn.BatchNorm3d(3), nn.LeakyReLU(0.1), nn.ConvTranspose3d(3, 2, 2, 2)),
         (1, 4, 3, 4), rows=2),
]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--probe", default="build/bin/net_probe")
    parser.add_argument("--consilium", default="build/bin/consilium")
    arguments = parser.parse_args()
    os.makedirs(arguments.folder, exist_ok=True)
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            _, _, x, _ = torch_export.make(case, arguments, folder)
            file = os.path.join(folder, "exported.onnx")
            y = torch_export.run_onnx(file, x.numpy())
            place = os.path.join(arguments.folder, case.name)
            shutil.copy(os.path.join(folder, "model.onnx"), place + ".train.onnx")
            shutil.copy(file, place + ".onnx")
            shutil.copy(os.path.join(folder, "model.safetensors"), place + ".safetensors")
            with open(place + ".bin", "wb") as f:
                f.write(struct.pack("<3i", len(x), x.numel(), y.size))
                f.write(np.ascontiguousarray(x.numpy(), np.float32).tobytes())
                f.write(np.ascontiguousarray(np.moveaxis(y, 1, -1), np.float32).tobytes())


if __name__ == "__main__":
    main()
