#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes NAME.samples beside some models of tests/golden/net: PyTorch's gradient of each row of the
batch alone (torch.func, vmap of grad, in float64), their norms, and the sum of what is left of them
when each is cut to the median of these norms. Run by hand after make_net_golden.py, with PyTorch
and onnx: make_sample_golden.py FOLDER

Little-endian: int32 rows, int32 parameters; float64 clipping norm, float64 norms; for each parameter
int32 bytes of its name, its name, int32 floats, the sum in float32.
"""
import os
import struct
import sys

import numpy as np
import onnx
import torch
from torch.func import functional_call, grad, vmap

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "peers"))
import torch_models  # noqa: E402
import torch_net  # noqa: E402

NAMES = ["mlp", "mlp-bce", "conv2d-groups", "conv3d", "group-norm2d", "layer-norm-2", "gelu",
         "matmul-heads", "max-pool2d-ceil", "segmentation"]


def as_exported(case, folder):
    """The model with the weights of its file, and the batch that stands beside it."""
    model, x = case.model(), case.input()
    target = case.target(model(x))
    stored = {t.name: onnx.numpy_helper.to_array(t)
              for t in onnx.load(os.path.join(folder, case.name + ".onnx")).graph.initializer}
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.from_numpy(stored[name].copy()).reshape(p.shape))
    with open(os.path.join(folder, case.name + ".bin"), "rb") as f:
        loss, rows, floats, targets, _, _ = struct.unpack("<6i", f.read(24))
        x = torch.from_numpy(np.frombuffer(f.read(4 * floats), "<f4").copy()).reshape(x.shape)
        kind = "<f4" if loss == 0 else "<i4"
        target = torch.from_numpy(np.frombuffer(f.read(4 * targets), kind).copy()).reshape(
            target.shape)
    assert rows == len(x)
    return model, x, target.double() if loss == 0 else target.long()


def write(case, folder):
    model, x, target = as_exported(case, folder)
    model, x = model.double().train(), x.double()
    params = {k: v.detach() for k, v in model.named_parameters()}

    def loss(p, row, t):
        return torch_net.loss_of(case, functional_call(model, p, (row[None],)), t[None])

    rows = vmap(grad(loss), in_dims=(None, 0, 0))(params, x, target)
    norms = torch.sqrt(sum(g.flatten(1).pow(2).sum(1) for g in rows.values()))
    clip = norms.median().item()
    share = torch.clamp(clip / (norms + 1e-6), max=1)
    with open(os.path.join(folder, case.name + ".samples"), "wb") as f:
        f.write(struct.pack("<2i", len(x), len(params)))
        f.write(struct.pack("<d", clip) + norms.numpy().astype("<f8").tobytes())
        for name, g in rows.items():
            total = (g.flatten(1) * share[:, None]).sum(0).numpy().astype("<f4")
            f.write(struct.pack("<i", len(name)) + name.encode())
            f.write(struct.pack("<i", total.size) + total.tobytes())


def main():
    folder = sys.argv[1]
    cases = {c.name: c for c in torch_models.CASES}
    for name in NAMES:
        write(cases[name], folder)


if __name__ == "__main__":
    main()
