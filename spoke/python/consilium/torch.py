# SPDX-License-Identifier: Apache-2.0
"""PyTorch modules as trainers. Needs torch; the names of a module's state are those of the plan's
ONNX file where that was exported from the same module."""
from __future__ import annotations

from typing import Any, Callable, Dict, Mapping, Optional, Tuple

import numpy as np

try:
    import torch
except ImportError:
    raise ImportError("consilium.torch needs PyTorch: `pip install torch`") from None

from . import metrics
from .trainer import Failed, Model, Task, Trainer, TrainResult, batches

# What TorchTrainer does of a recipe.
DONE = ("loss", "batch", "epochs", "steps", "prox_mu", "clip_norm", "clip_value", "optimiser.name",
        "optimiser.lr", "optimiser.momentum", "optimiser.nesterov", "optimiser.weight_decay",
        "optimiser.beta1", "optimiser.beta2", "optimiser.eps")

Loss = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]


def load(module: "torch.nn.Module", model: Model) -> None:
    """Copies a federation's model into the module by name. The module may have more (what stays a
    hospital's own, counters); a tensor that the module lacks is an error, by its name."""
    state = module.state_dict()
    for name, values in model.items():
        if name not in state:
            raise ValueError("the module has no tensor %s: it has %s" %
                             (name, ", ".join(list(state)[:8])))
        if tuple(state[name].shape) != values.shape:
            raise ValueError("tensor %s has shape %s in the module, %s in the model" %
                             (name, tuple(state[name].shape), values.shape))
        with torch.no_grad():
            state[name].copy_(torch.from_numpy(np.array(values)))


def state(module: "torch.nn.Module", model: Model) -> Dict[str, np.ndarray]:
    """The module's tensors of the model's names: on a CPU views, which change with the module."""
    own = module.state_dict()
    return {name: own[name].detach().cpu().numpy() for name in model}


def optimiser(parameters: Any, recipe: Mapping[str, Any]) -> "torch.optim.Optimizer":
    """The recipe's optimiser: sgd with momentum and Nesterov's, adam or adamw, with weight decay."""
    o = recipe["optimiser"]
    if o["name"] == "sgd":
        return torch.optim.SGD(parameters, lr=o["lr"], momentum=o["momentum"] or 0.0,
                               nesterov=bool(o["nesterov"]), weight_decay=o["weight_decay"] or 0.0)
    if o["name"] in ("adam", "adamw"):
        betas = (0.9 if o["beta1"] is None else o["beta1"],
                 0.999 if o["beta2"] is None else o["beta2"])
        kind = torch.optim.Adam if o["name"] == "adam" else torch.optim.AdamW
        return kind(parameters, lr=o["lr"], betas=betas,
                    eps=1e-8 if o["eps"] is None else o["eps"],
                    weight_decay=o["weight_decay"] or 0.0)
    raise Failed("this site's trainer knows sgd, adam and adamw, the plan wants " + o["name"])


def loss_of(recipe: Mapping[str, Any]) -> Loss:
    """The recipe's loss, of logits."""
    if recipe["loss"] == "bce":
        return lambda z, y: torch.nn.functional.binary_cross_entropy_with_logits(
            z.reshape(-1), y.to(z.dtype).reshape(-1))
    if recipe["loss"] == "ce":
        return lambda z, y: torch.nn.functional.cross_entropy(z, y.long())
    raise Failed("this site's trainer knows the losses bce and ce, the plan wants " +
                 recipe["loss"])


def _clip(parameters: Any, recipe: Mapping[str, Any]) -> None:
    if recipe.get("clip_value"):
        torch.nn.utils.clip_grad_value_(parameters, recipe["clip_value"])
    if recipe.get("clip_norm"):
        torch.nn.utils.clip_grad_norm_(parameters, recipe["clip_norm"])


class TorchTrainer(Trainer):
    """Trains a module that gives logits by the plan's recipe, on arrays held in memory.

    `train` and `test` are (x, y). Only parameters that require gradients are trained, so that a
    frozen part stays as it is; all tensors of the federation's model are sent. Subclass it for
    another loop: `load`, `state`, `optimiser` and `loss_of` are there to be used alone.
    """

    def __init__(self, module: "torch.nn.Module", train: Tuple[Any, Any], test: Tuple[Any, Any],
                 device: str = "cpu", loss: Optional[Loss] = None) -> None:
        self.module = module.to(device)
        self.device, self.loss = device, loss
        self.train_x, self.train_y = (torch.as_tensor(a).to(device) for a in train)
        self.test_x, self.test_y = (torch.as_tensor(a).to(device) for a in test)

    def train(self, model: Model, task: Task) -> TrainResult:
        recipe = task.recipe
        task.check(*DONE)
        loss = self.loss or loss_of(recipe)
        torch.manual_seed(task.seed & (2 ** 63 - 1))
        load(self.module, model)
        self.module.train()
        trained = [p for p in self.module.parameters() if p.requires_grad]
        start = [p.detach().clone() for p in trained] if recipe["prox_mu"] else []
        step = optimiser(trained, recipe)
        steps, rows = 0, len(self.train_y)
        for chosen in batches(rows, recipe["batch"], recipe, task.seed):
            if task.over:
                break
            at = torch.from_numpy(chosen).to(self.device)
            step.zero_grad()
            value = loss(self.module(self.train_x[at]), self.train_y[at])
            for p, p0 in zip(trained, start):  # FedProx
                value = value + recipe["prox_mu"] / 2 * (p - p0).square().sum()
            value.backward()
            _clip(trained, recipe)
            step.step()
            steps += 1
        return TrainResult(rows, steps, state(self.module, model))

    def evaluate(self, model: Model, task: Task) -> metrics.Sums:
        load(self.module, model)
        self.module.eval()
        parts, batch = [], task.recipe["batch"]
        with torch.no_grad():
            for at in range(0, len(self.test_y), batch):
                parts.append(self.module(self.test_x[at:at + batch]).cpu().numpy())
        labels = self.test_y.cpu().numpy()
        if task.recipe["loss"] == "bce":
            return metrics.binary(np.concatenate(parts) if parts else np.empty(0), labels)
        return metrics.classes(np.concatenate(parts), labels)
