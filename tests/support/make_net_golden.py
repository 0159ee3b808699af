#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/net: small models as PyTorch exports them, each with one batch and what
PyTorch makes of it in float64, so that the training engine is held against PyTorch where there is
none. Run by hand, with PyTorch, after a change of the cases: make_net_golden.py FOLDER

NAME.bin, little-endian: int32 loss (0 bce, 1 ce), rows, floats of x, targets, floats of the logits,
parameters; x; targets (float32 or int32); float64 loss; logits; and for each parameter int32 bytes
of its name, its name, int32 floats, its gradient. Floats are float32.
"""
import os
import struct
import sys

import numpy as np
import torch

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "peers"))
import torch_models  # noqa: E402
import torch_net  # noqa: E402

NAMES = ["mlp", "mlp-bce", "conv1d", "conv2d", "conv2d-groups", "conv2d-uncovered", "conv3d",
         "conv-transpose2d", "conv-transpose3d", "max-pool2d-ceil", "avg-pool2d",
         "avg-pool2d-inside", "batch-norm1d", "batch-norm2d-relu", "instance-norm2d", "group-norm2d",
         "layer-norm-2", "prelu", "leaky-relu", "elu", "gelu", "gelu-tanh", "hard-sigmoid", "clip",
         "pow", "softmax-channels", "log-softmax", "add-spots", "add-twice", "sub", "mul-image",
         "mul-gate", "div", "matmul-batch", "matmul-heads", "concat", "split", "slice", "flip",
         "pad-value", "pad-reflect", "squeeze", "expand", "mean-rows", "sum-channels",
         "upsample-linear", "upsample-aligned", "segmentation", "embedding"]


def floats(a):
    return np.ascontiguousarray(a, np.float32).tobytes()


def write(case, folder):
    torch.manual_seed(case.seed)
    model, x = case.model(), case.input()
    target = case.target(model(x))
    model.train()
    torch_net.export(case, model, x, os.path.join(folder, case.name + ".onnx"))
    bce = case.loss == "bce"
    model, xd = model.double(), x.double()
    model.eval()
    logits = torch_net.channels_last(model(xd)).detach().numpy()
    model.train()
    loss = torch_net.loss_of(case, model(xd), target.double() if bce else target)
    loss.backward()
    params = list(model.named_parameters())
    with open(os.path.join(folder, case.name + ".bin"), "wb") as f:
        f.write(struct.pack("<6i", 0 if bce else 1, len(x), x.numel(), target.numel(), logits.size,
                            len(params)))
        f.write(floats(x.numpy()))
        f.write(np.ascontiguousarray(target.numpy(), np.float32 if bce else np.int32).tobytes())
        f.write(struct.pack("<d", loss.item()))
        f.write(floats(logits))
        for name, p in params:
            f.write(struct.pack("<i", len(name)) + name.encode())
            f.write(struct.pack("<i", p.numel()) + floats(p.grad.numpy()))


def main():
    folder = sys.argv[1]
    os.makedirs(folder, exist_ok=True)
    cases = {c.name: c for c in torch_models.CASES}
    for name in NAMES:
        write(cases[name], folder)


if __name__ == "__main__":
    main()
