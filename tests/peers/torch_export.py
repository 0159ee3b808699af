#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A trained model, exported, in onnxruntime: models are exported by PyTorch for training, trained
some steps by the engine, written by `consilium model export` and loaded by onnxruntime, whose
outputs must be the engine's and PyTorch's.

    torch_export.py [--probe build/bin/net_probe] [--consilium build/bin/consilium] [NAME...]

Prints a line for each model and, last, "N passed, N failed, N skipped". The error is
||theirs - ours|| / ||ours|| over all outputs of a batch.
"""
import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn as nn

import torch_models
from torch_net import channels_last, error, export, probe

TOLERANCE = 1e-5
STEPS = 5


class Gated(nn.Module):
    """A vision transformer whose head drops, as those for training do."""

    def __init__(self):
        super().__init__()
        self.body, self.drop = torch_models.Attention(), nn.Dropout(0.1)
        self.last = nn.Linear(2, 3)

    def forward(self, x):
        return self.last(self.drop(self.body(x)))


def cases():
    known = {c.name: c for c in torch_models.CASES}
    mlp = torch_models.Case("mlp-dropout", lambda: nn.Sequential(
        nn.Linear(13, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2)), (13,), rows=8)
    vit = torch_models.Case("vit-dropout", Gated, (1, 28, 28), rows=4)
    names = ["mlp", "resnet18-batch", "resnet18-group", "densenet121", "unet3d-batch", "vit"]
    return [mlp] + [known[n] for n in names] + [vit]


def write_safetensors(path, tensors):
    """[(name, array)], as a hub publishes a model."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, a in tensors:
        header[name] = {"dtype": "F32", "shape": list(a.shape), "data_offsets": [at, at + a.nbytes]}
        at += a.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for _, a in tensors:
            f.write(np.ascontiguousarray(a, np.float32).tobytes())


def in_training(model):
    """What a file for inference must not say."""
    found = []
    for n in model.graph.node:
        if n.op_type == "BatchNormalization" and (len(n.output) > 1 or any(
                a.name == "training_mode" for a in n.attribute)):
            found.append(n.name)
        if n.op_type == "Dropout" and (len(n.output) > 1 or len(n.input) > 2):
            found.append(n.name)
    return found


def run_onnx(path, x):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def make(case, arguments, folder):
    """model.onnx and exported.onnx in the folder; the model, its tensors, a batch and its logits before
    training."""
    torch.manual_seed(case.seed)
    model, x = case.model(), case.input()
    target = case.target(model(x))
    trained, file = os.path.join(folder, "model.onnx"), os.path.join(folder, "exported.onnx")
    model.train()
    export(case, model, x, trained)
    if not in_training(onnx.load(trained)) and any(
            isinstance(m, (nn.Dropout, nn.modules.batchnorm._BatchNorm)) for m in model.modules()):
        raise RuntimeError("PyTorch exported no graph for training: there is nothing to turn back")
    x.numpy().tofile(os.path.join(folder, "x.bin"))
    target.numpy().astype(np.int32).tofile(os.path.join(folder, "target.bin"))
    said = probe(arguments.probe, [trained, case.loss, str(len(x)), folder, "--steps", str(STEPS),
                                   "--lr", "0.01"], folder)
    values = np.fromfile(os.path.join(folder, "params.bin"), np.float32)
    shapes = {n: tuple(t.shape) for n, t in model.state_dict().items()}
    tensors = [(p["name"], values[p["at"]:p["at"] + p["elements"]].reshape(shapes[p["name"]]))
               for p in said["params"]]
    write_safetensors(os.path.join(folder, "model.safetensors"), tensors)
    done = subprocess.run([arguments.consilium, "model", "export", "--graph", trained, "--onnx", file,
                           os.path.join(folder, "model.safetensors")], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    made = onnx.load(file)
    onnx.checker.check_model(made, full_check=True)
    if left := in_training(made):
        raise RuntimeError(f"the exported file still trains in {left}")
    return model, tensors, x, said["logits"]


def compare(case, arguments, folder):
    file = os.path.join(folder, "exported.onnx")
    model, tensors, x, before = make(case, arguments, folder)
    theirs = channels_last(torch.from_numpy(run_onnx(file, x.numpy()))).numpy()
    ours = probe(arguments.probe, [file, case.loss, str(len(x)), folder], folder)["logits"]
    absent = model.load_state_dict({n: torch.from_numpy(a.copy()) for n, a in tensors}, strict=False)
    if absent.unexpected_keys or any("num_batches" not in n for n in absent.missing_keys):
        raise RuntimeError(f"PyTorch does not take the exported tensors: {absent}")
    double = channels_last(model.double().eval()(x.double())).detach().numpy()
    if error(before, ours, 0) < 1e-4:
        raise RuntimeError("training changed nothing: the comparison would show nothing")
    return error(theirs.reshape(-1), ours, 0), error(ours, double, 0)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--probe", default="build/bin/net_probe")
    parser.add_argument("--consilium", default="build/bin/consilium")
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    passed = failed = 0
    for case in cases():
        if arguments.names and not any(n in case.name for n in arguments.names):
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                runtime, torchs = compare(case, arguments, folder)
                fine = runtime <= TOLERANCE and torchs <= TOLERANCE
                print(f"{'ok  ' if fine else 'FAIL'} {case.name}: onnxruntime {runtime:.1e}, "
                      f"PyTorch in float64 {torchs:.1e}", flush=True)
            except Exception as e:  # one model that breaks does not hide the others
                fine = False
                print(f"FAIL {case.name}: {e}", flush=True)
        passed, failed = passed + fine, failed + (not fine)
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
