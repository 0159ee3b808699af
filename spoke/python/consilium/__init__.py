# SPDX-License-Identifier: Apache-2.0
"""Consilium in Python: a hospital's own trainer behind its spoke, and an operator's client.

    import consilium

    def train(model, task):            # name -> numpy array, mapped; what the plan asks
        tensors, rows, steps = my_training(model, task.recipe, task.seed)
        return consilium.TrainResult(rows, steps, tensors)

    def evaluate(model, task):
        return consilium.metrics.binary(my_logits(model), my_labels)

    consilium.serve("/var/lib/consilium/trainer", train, evaluate)

`consilium.torch` does this for a torch module; `consilium.operator` submits, watches and pulls;
`consilium.logs` writes a run's metrics to TensorBoard or MLflow.
"""
import os

# Workers that read data (PyTorch's DataLoader) are forked and speak no gRPC: its handlers of a fork
# have nothing to do there, and say so each time. Read when grpc is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

from . import metrics, tensors  # noqa: E402
from .trainer import (Failed, Refused, Server, Task, Trainer,  # noqa: E402
                      TrainResult, Verdict, batches, learning_rate, serve, steps_of)

__all__ = ["Failed", "Refused", "Server", "Task", "Trainer", "TrainResult", "Verdict", "batches",
           "learning_rate", "metrics", "serve", "steps_of", "tensors"]
__version__ = "0.1.0"
