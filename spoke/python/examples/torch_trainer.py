# SPDX-License-Identifier: Apache-2.0
"""A trainer in PyTorch: the perceptron of deploy/examples/breast-cancer, by the plan's recipe.

    python torch_trainer.py TRAINER_DIR patients.csv schema.yaml
"""
import logging
import sys

import consilium
from consilium.torch import TorchTrainer
from torch import nn

from breast_cancer import Table


class Perceptron(nn.Module):
    """Its layers have the names of the model's tensors: fc1.weight, fc1.bias, ..."""

    def __init__(self, widths=(30, 256, 64, 1)):
        super().__init__()
        self.depth = len(widths) - 1
        for i, (wide, out) in enumerate(zip(widths, widths[1:]), 1):
            self.add_module("fc%d" % i, nn.Linear(wide, out))

    def forward(self, x):
        for i in range(1, self.depth):
            x = getattr(self, "fc%d" % i)(x).relu()
        return getattr(self, "fc%d" % self.depth)(x)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    table = Table(sys.argv[2], sys.argv[3])
    consilium.serve(sys.argv[1], TorchTrainer(Perceptron(), (table.train_x, table.train_y),
                                              (table.test_x, table.test_y)),
                    contract="breast-cancer")
