# SPDX-License-Identifier: Apache-2.0
"""LoRA (Hu et al. 2022): a base that is frozen, and beside each layer a product of two thin
matrices, which alone is trained and alone travels, by the plan's `share: ["*.lora_*"]`.

    python lora.py export model.onnx                               # for the plan
    python lora.py serve TRAINER_DIR patients.csv schema.yaml      # at a hospital

The base comes with the plan's ONNX file. At this hospital it stays as it came; a native spoke,
which freezes nothing by `share` alone, trains a copy that never leaves it.
"""
import logging
import sys

import consilium
import torch
from consilium.torch import TorchTrainer
from torch import nn

from breast_cancer import Table


class LoraLinear(nn.Module):
    """y = x W^T + b + scale (x A^T) B^T, with W and b frozen. B begins at zero: so does the
    difference to the base."""

    def __init__(self, wide, out, rank, scale=2.0):
        super().__init__()
        base = nn.Linear(wide, out)
        self.weight = nn.Parameter(base.weight.detach(), requires_grad=False)
        self.bias = nn.Parameter(base.bias.detach(), requires_grad=False)
        self.lora_a = nn.Parameter(torch.randn(rank, wide) / wide ** 0.5)
        self.lora_b = nn.Parameter(torch.zeros(out, rank))
        self.scale = scale

    def forward(self, x):
        change = nn.functional.linear(nn.functional.linear(x, self.lora_a), self.lora_b)
        return nn.functional.linear(x, self.weight, self.bias) + self.scale * change


class LoraPerceptron(nn.Module):
    def __init__(self, rank=4, seed=20240303):
        super().__init__()
        torch.manual_seed(seed)
        self.fc1 = LoraLinear(30, 64, rank)
        self.fc2 = LoraLinear(64, 64, rank)
        self.fc3 = LoraLinear(64, 1, rank)

    def forward(self, x):
        return self.fc3(self.fc2(self.fc1(x).relu()).relu())


class Scored(LoraPerceptron):
    """As the plan's file has it: a score, for which natively trained spokes know the loss."""

    def forward(self, x):
        return super().forward(x).sigmoid()


def export(path):
    torch.onnx.export(Scored(), (torch.zeros(2, 30),), path, dynamo=False, opset_version=17,
                      training=torch.onnx.TrainingMode.TRAINING, do_constant_folding=False,
                      input_names=["x"], output_names=["score"],
                      dynamic_axes={"x": {0: "N"}, "score": {0: "N"}})


def serve(folder, csv_path, schema_path):
    table = Table(csv_path, schema_path)
    consilium.serve(folder, TorchTrainer(LoraPerceptron(), (table.train_x, table.train_y),
                                         (table.test_x, table.test_y)), contract="breast-cancer")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    {"export": export, "serve": serve}[sys.argv[1]](*sys.argv[2:])
