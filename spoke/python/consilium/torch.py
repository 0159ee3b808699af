# SPDX-License-Identifier: Apache-2.0
"""PyTorch modules as trainers. Needs torch; the names of a module's state are those of the plan's
ONNX file where that was exported from the same module."""
from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Tuple

import numpy as np

try:
    import torch
except ImportError:
    raise ImportError("consilium.torch needs PyTorch: `pip install torch`") from None

from . import metrics
from .trainer import Failed, Model, Task, Trainer, TrainResult, batches, learning_rate, steps_of

# What TorchTrainer does of a recipe.
DONE = ("loss", "pos_weight", "batch", "accumulate", "epochs", "steps", "prox_mu", "clip_norm",
        "clip_value", "ema", "freeze", "schedule.name", "schedule.warmup", "schedule.step_size",
        "schedule.gamma", "schedule.lr_min", "optimiser.name", "optimiser.lr",
        "optimiser.momentum", "optimiser.nesterov", "optimiser.weight_decay", "optimiser.beta1",
        "optimiser.beta2", "optimiser.eps")
# And of a loss, where it is loss_of's.
LOSS_DONE = ("class_weights", "ignore_class", "dice.smooth_nr", "dice.smooth_dr", "dice.batch",
             "dice.include_background", "dice.lambda_dice", "dice.lambda_ce")
_IGNORE_NONE = 1024  # of the plan's ignore_class

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
    """The recipe's optimiser: sgd with momentum, adam or adamw, with weight decay."""
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


def _counting(z: "torch.Tensor", y: "torch.Tensor",
              ignore: int) -> Tuple["torch.Tensor", "torch.Tensor"]:
    """Classes, 0 where a spot counts nothing, and whether it counts."""
    counts = (y >= 0) & (y < z.shape[1]) & (y != ignore)
    return torch.where(counts, y, torch.zeros_like(y)).long(), counts.to(z.dtype)


def _cross_entropy(z: "torch.Tensor", y: "torch.Tensor", recipe: Mapping[str, Any]) -> "torch.Tensor":
    """The mean over spots by their classes' weights; 0 where these add up to 0."""
    f, listed = torch.nn.functional, recipe.get("class_weights") or ()
    ignore = recipe.get("ignore_class", _IGNORE_NONE)
    if not listed and ignore == _IGNORE_NONE:
        return f.cross_entropy(z, y.long())
    classes, weights = _counting(z, y, ignore)
    if listed:
        if len(listed) != z.shape[1]:
            raise Failed("the plan's local.class_weights has %d numbers, this site's model %d "
                         "classes" % (len(listed), z.shape[1]))
        weights = weights * torch.tensor([float(w) for w in listed]).to(z)[classes]
    losses = f.cross_entropy(z, classes, reduction="none")
    return (losses * weights).sum() / weights.sum().clamp_min(torch.finfo(z.dtype).tiny)


def _dice(z: "torch.Tensor", y: "torch.Tensor", recipe: Mapping[str, Any]) -> "torch.Tensor":
    """Soft Dice of softmax(z), as MONAI's DiceLoss: of each row, or of the whole batch."""
    o = {"smooth_nr": 1e-5, "smooth_dr": 1e-5, "batch": False, "include_background": True,
         **recipe.get("dice", {})}
    classes, counts = _counting(z, y, recipe.get("ignore_class", _IGNORE_NONE))
    one_hot = torch.nn.functional.one_hot(classes.flatten(1), z.shape[1]).transpose(1, 2)
    weight = counts.flatten(1)[:, None]
    p, t = z.softmax(1).flatten(2) * weight, one_hot.to(z.dtype) * weight
    axes = (0, 2) if o["batch"] else (2,)
    both, sizes = (p * t).sum(axes), (p + t).sum(axes)
    each: torch.Tensor = 1 - (2 * both + o["smooth_nr"]) / (sizes + o["smooth_dr"])
    return each[..., 0 if o["include_background"] else 1:].mean()


def _cox(z: "torch.Tensor", y: "torch.Tensor") -> "torch.Tensor":
    """Of [rows, 2], times and events: the mean negative log partial likelihood of an event, with
    Breslow's ties; 0 without events."""
    hazard, time, event = z.reshape(-1), y[:, 0], y[:, 1] > 0
    if not bool(event.any()):
        return hazard.sum() * 0
    at_risk = time[None, :] >= time[:, None]
    log_risk = hazard[None, :].masked_fill(~at_risk, -torch.inf).logsumexp(1)
    return (log_risk - hazard)[event].mean()


def _by_class(z: "torch.Tensor", name: str) -> None:
    if z.dim() < 2 or z.shape[1] < 2:
        raise Failed("the plan's loss %s takes an output for each class: this site's model gives "
                     "one" % name)


def loss_of(recipe: Mapping[str, Any]) -> Loss:
    """The recipe's loss with its options, of logits. Of several classes logits are [rows, classes,
    sides...] and targets classes [rows, sides...]; targets of `cox` are [rows, 2], time and
    event; of the others both have one number a row. A loss sees one batch: class weights, Dice over a
    batch and risk sets are of that, as at native spokes."""
    f, name = torch.nn.functional, recipe["loss"]
    if name == "bce":
        positive = torch.tensor(float(recipe.get("pos_weight", 1.0)))
        return lambda z, y: f.binary_cross_entropy_with_logits(
            z.reshape(-1), y.to(z.dtype).reshape(-1), pos_weight=positive.to(z))
    if name in ("mse", "l1"):
        error = f.mse_loss if name == "mse" else f.l1_loss
        return lambda z, y: error(z.reshape(-1), y.to(z.dtype).reshape(-1))
    if name == "cox":
        return _cox
    if name not in ("cross_entropy", "dice", "dice_ce"):
        raise Failed("the plan's loss %s is none that this site's trainer was told how to do" % name)
    lambdas = recipe.get("dice", {})

    def by_class(z: "torch.Tensor", y: "torch.Tensor") -> "torch.Tensor":
        _by_class(z, name)
        if name == "cross_entropy":
            return _cross_entropy(z, y, recipe)
        if name == "dice":
            return _dice(z, y, recipe)
        both: torch.Tensor = lambdas.get("lambda_dice", 1.0) * _dice(z, y, recipe) + \
            lambdas.get("lambda_ce", 1.0) * _cross_entropy(z, y, recipe)
        return both
    return by_class


def _clip(parameters: Any, recipe: Mapping[str, Any]) -> None:
    if recipe.get("clip_value"):
        torch.nn.utils.clip_grad_value_(parameters, recipe["clip_value"])
    if recipe.get("clip_norm"):
        torch.nn.utils.clip_grad_norm_(parameters, recipe["clip_norm"])


def _allow_tf32(allowed: bool) -> None:
    """PyTorch itself lets GPUs convolve in TF32 unless it is told not to."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed


class _Average:
    """A moving average of parameters, divided by its weights: the start has no part in it."""

    def __init__(self, parameters: Any, keep: float) -> None:
        self.parameters, self.keep, self.weight = parameters, keep, 0.0
        self.sums = [torch.zeros_like(p) for p in parameters]

    def add(self) -> None:
        self.weight = self.keep * self.weight + 1
        for total, p in zip(self.sums, self.parameters):
            total.mul_(self.keep).add_(p.detach())

    def put(self) -> None:
        with torch.no_grad():
            for total, p in zip(self.sums, self.parameters):
                p.copy_(total / self.weight)


class TorchTrainer(Trainer):
    """Trains a module that gives logits by the plan's recipe, on arrays held in memory.

    `train` and `test` are (x, y). Trained is what requires gradients and the plan does not freeze;
    all tensors of the federation's model are sent. A `loss` of one's own, of (logits, targets), may
    do more of a recipe than loss_of: `done` names those keys. Subclass it for another loop or
    another evaluation: `load`, `state`, `optimiser`, `loss_of` and consilium.learning_rate are
    there to be used alone.
    """

    def __init__(self, module: "torch.nn.Module", train: Tuple[Any, Any], test: Tuple[Any, Any],
                 device: str = "cpu", loss: Optional[Loss] = None,
                 done: Sequence[str] = ()) -> None:
        self.module = module.to(device)
        self.device, self.loss = device, loss
        self.done = (*DONE, *(LOSS_DONE if loss is None else ()), *done)
        self.train_x, self.train_y = (torch.as_tensor(a).to(device) for a in train)
        self.test_x, self.test_y = (torch.as_tensor(a).to(device) for a in test)

    def train(self, model: Model, task: Task) -> TrainResult:
        recipe = task.recipe
        task.check(*self.done)
        _allow_tf32(recipe.get("precision") == "tf32")
        torch.manual_seed(task.seed & (2 ** 63 - 1))
        load(self.module, model)
        self.module.train()
        trained = [p for name, p in self.module.named_parameters() if p.requires_grad and
                   not any(fnmatchcase(name, f) for f in recipe.get("freeze") or ())]
        start = [p.detach().clone() for p in trained] if recipe["prox_mu"] else []
        average = _Average(trained, recipe["ema"]) if recipe.get("ema") else None
        step = optimiser(trained, recipe)
        done, rows = 0, len(self.train_y)
        steps = steps_of(rows, recipe)
        for chosen in batches(rows, recipe, task.seed):
            if task.over:
                break
            for group in step.param_groups:
                group["lr"] = learning_rate(task, done, steps)
            self._gradient(chosen, recipe)
            for p, p0 in zip(trained, start):  # FedProx
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                p.grad.add_(p.detach() - p0, alpha=recipe["prox_mu"])
            _clip(trained, recipe)
            step.step()
            done += 1
            if average:
                average.add()
        if average and done:
            average.put()
        return TrainResult(rows, done, state(self.module, model))

    def _gradient(self, chosen: np.ndarray, recipe: Mapping[str, Any]) -> None:
        """Of the mean loss over the chosen rows, batch by batch."""
        loss = self.loss or loss_of(recipe)
        self.module.zero_grad()
        for at in range(0, len(chosen), recipe["batch"]):
            part = torch.from_numpy(chosen[at:at + recipe["batch"]]).to(self.device)
            value = loss(self.module(self.train_x[part]), self.train_y[part])
            torch.autograd.backward(value * (len(part) / len(chosen)))

    def evaluate(self, model: Model, task: Task) -> metrics.Sums:
        task.check(*self.done)
        _allow_tf32(False)
        load(self.module, model)
        self.module.eval()
        parts, batch = [], task.recipe["batch"]
        with torch.no_grad():
            for at in range(0, len(self.test_y), batch):
                parts.append(self.module(self.test_x[at:at + batch]).cpu().numpy())
        labels = self.test_y.cpu().numpy()
        logits = np.concatenate(parts) if parts else np.empty((0, 1))
        return self._sums(logits, labels, task.recipe)

    def _sums(self, logits: np.ndarray, labels: np.ndarray, recipe: Mapping[str, Any]) -> metrics.Sums:
        name, ignore = recipe["loss"], recipe.get("ignore_class", _IGNORE_NONE)
        ignored = None if ignore == _IGNORE_NONE else ignore
        if name == "bce":
            return metrics.binary(logits, labels, float(recipe.get("pos_weight", 1.0)))
        if name == "cross_entropy" and logits.ndim == 2:
            weights = [float(w) for w in recipe.get("class_weights") or ()]
            return metrics.classes(logits, labels, weights or None, ignored)
        if name in ("mse", "l1"):
            return metrics.values(logits, labels, name)
        if name == "cox":
            return metrics.survival(logits, labels)
        if name in ("cross_entropy", "dice", "dice_ce") and logits.ndim > 2:
            loss = self.loss or loss_of(recipe)
            z, y = torch.from_numpy(logits).double(), torch.from_numpy(labels)
            alone = np.array([loss(z[i:i + 1], y[i:i + 1]).item() for i in range(len(y))])
            return metrics.masks(logits, labels, alone, ignored)
        raise Failed("this site's trainer does not evaluate models of this kind")
