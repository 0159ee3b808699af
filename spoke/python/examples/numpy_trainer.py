# SPDX-License-Identifier: Apache-2.0
"""A trainer in numpy alone: the perceptron of deploy/examples/breast-cancer, by plain SGD.

    python numpy_trainer.py TRAINER_DIR patients.csv schema.yaml
"""
import logging
import sys

import consilium
import numpy as np

from breast_cancer import Table


DONE = ("loss", "optimiser.name", "optimiser.lr", "batch", "epochs", "steps")  # of a recipe


def forward(model, x):
    """Activations of every layer; the last is the logit."""
    layers = len(model) // 2
    out = [x]
    for i in range(1, layers + 1):
        z = out[-1] @ model["fc%d.weight" % i].T + model["fc%d.bias" % i]
        out.append(np.maximum(z, 0) if i < layers else z)
    return out


def step(model, x, y, lr):
    """One step of SGD on the mean binary cross-entropy, in place."""
    out = forward(model, x)
    grad = (1 / (1 + np.exp(-out[-1])) - y[:, None]) / len(y)
    for i in range(len(model) // 2, 0, -1):
        weight, bias = model["fc%d.weight" % i], model["fc%d.bias" % i]
        below = (grad @ weight) * (out[i - 1] > 0)
        weight -= lr * (grad.T @ out[i - 1])
        bias -= lr * grad.sum(axis=0)
        grad = below


class NumpyTrainer(consilium.Trainer):
    def __init__(self, table):
        self.table = table

    def train(self, model, task):
        task.check(*DONE)
        table, recipe = self.table, task.recipe
        if recipe["optimiser"]["name"] != "sgd" or recipe["loss"] != "bce":
            raise consilium.Failed("this trainer does sgd on bce")
        mine = {name: values.copy() for name, values in model.items()}
        steps = 0
        for rows in consilium.batches(len(table.train_y), recipe, task.seed):
            step(mine, table.train_x[rows], table.train_y[rows], recipe["optimiser"]["lr"])
            steps += 1
        return consilium.TrainResult(len(table.train_y), steps, mine)

    def evaluate(self, model, task):
        task.check(*DONE)
        return consilium.metrics.binary(forward(model, self.table.test_x)[-1], self.table.test_y)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    consilium.serve(sys.argv[1], NumpyTrainer(Table(sys.argv[2], sys.argv[3])),
                    contract="breast-cancer",
                    verdict=lambda v: print("round %d: %s" % (
                        v.round, "taken" if v.taken else v.reason), flush=True))
