#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""PyTorch's training of one logistic regression in float64, by each thing that a recipe may have:
writes tests/unit/spoke/recipe_golden.inc. Run with a Python that has PyTorch; the output is kept."""
import math
import pathlib

import torch
from torch.optim.lr_scheduler import (ConstantLR, CosineAnnealingLR, LinearLR, SequentialLR,
                                      StepLR)
from torch.optim.swa_utils import AveragedModel

OUT = pathlib.Path(__file__).resolve().parents[1] / "unit/spoke/recipe_golden.inc"
START = (0.3, -0.2, 0.1)
STEPS = 12


def rows():
    """As tests/unit/spoke/test_recipe.c has them: to six decimals, three of every four."""
    kept = [i for i in range(101) if i % 4]
    x = [[float(f"{math.sin(i * 1.3):.6f}"), float(f"{math.cos(i * 2.1):.6f}")] for i in kept]
    y = [1.0 if math.sin(i * 1.3) > 0 else 0.0 for i in kept]
    return torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64)[:, None]


def model():
    m = torch.nn.Linear(2, 1, dtype=torch.float64)
    with torch.no_grad():
        m.weight.copy_(torch.tensor([START[:2]]))
        m.bias.copy_(torch.tensor(START[2:]))
    return m


def train(optimiser, clip=None, ema=None, schedule=None):
    m, (x, y) = model(), rows()
    opt = optimiser(m.parameters())
    plan = schedule(opt) if schedule else None
    mean = None
    if ema is not None:
        # Weighted by ema^(steps that follow), divided by the weights: no trace of the start.
        def keep(k):
            return ema * (1 - ema ** (k - 1)) / (1 - ema ** k)
        mean = AveragedModel(m, avg_fn=lambda a, w, n: keep(int(n) + 1) * a + (1 - keep(int(n) + 1)) * w)
    for _ in range(STEPS):
        opt.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(m(x), y).backward()
        if clip:
            clip(m.parameters())
        opt.step()
        if mean is not None:
            mean.update_parameters(m)
        if plan is not None:
            plan.step()
    end = mean.module if mean is not None else m
    return [*end.weight.detach()[0].tolist(), *end.bias.detach().tolist()]


def sgd(**more):
    return lambda p: torch.optim.SGD(p, lr=0.5, **more)


def by_norm(most):
    return lambda p: torch.nn.utils.clip_grad_norm_(p, most)


def by_value(most):
    return lambda p: torch.nn.utils.clip_grad_value_(p, most)


def rates(kind, warmup, unit, steps):
    """Learning rates of `steps` steps; warm-up and periods are `unit` steps long."""
    opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.8)
    after = {"constant": lambda: ConstantLR(opt, 1.0),
             "step": lambda: StepLR(opt, 2 * unit, gamma=0.3),
             "cosine": lambda: CosineAnnealingLR(opt, steps - warmup * unit, eta_min=0.05)}[kind]
    if warmup:
        first = LinearLR(opt, start_factor=1 / (warmup + 1), total_iters=warmup * unit)
        plan = SequentialLR(opt, [first, after()], milestones=[warmup * unit])
    else:
        plan = after()
    out = []
    for _ in range(steps):
        out.append(opt.param_groups[0]["lr"])
        opt.step()
        plan.step()
    return out


CASES = {
    "SGD": train(sgd()),
    "MOMENTUM": train(sgd(momentum=0.9)),
    "ADAM": train(lambda p: torch.optim.Adam(p, lr=0.05, weight_decay=0.1)),
    "ADAMW": train(lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.1)),
    "CLIP_NORM": train(sgd(momentum=0.9), clip=by_norm(0.05)),
    "CLIP_VALUE": train(sgd(momentum=0.9), clip=by_value(0.03)),
    "EMA": train(sgd(momentum=0.9), ema=0.8),
    "COSINE": train(sgd(), schedule=lambda o: CosineAnnealingLR(o, STEPS, eta_min=0.05)),
}


def main():
    with OUT.open("w", encoding="ascii") as f:
        f.write("/* SPDX-License-Identifier: Apache-2.0 */\n"
                "/* tests/support/make_recipe_golden.py wrote this, from PyTorch "
                f"{torch.__version__.split('+')[0]}. */\n")
        for name, values in CASES.items():
            f.write(f"static const double {name}[] = {{{', '.join(f'{v:.17g}' for v in values)}}};\n")
        for kind in ("constant", "step", "cosine"):
            for warmup in (0, 3):
                for per, unit in (("ROUND", 1), ("STEP", 4)):
                    values = rates(kind, warmup, unit, 8 * unit)
                    f.write(f"static const double {kind.upper()}_{warmup}_{per}[] = {{\n")
                    for at in range(0, len(values), 4):
                        f.write("    " + ", ".join(f"{v:.17g}" for v in values[at:at + 4]) + ",\n")
                    f.write("};\n")


if __name__ == "__main__":
    main()
