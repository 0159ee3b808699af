# SPDX-License-Identifier: Apache-2.0
"""A run's metrics to TensorBoard or MLflow, where they are installed.

    with Operator(...) as hub:
        consilium.logs.tensorboard(hub.watch(run.id), "runs/first")
"""
from __future__ import annotations

import importlib
from typing import Any, Callable, Iterable, Optional

from .operator import Round

Event = Callable[[Round], Any]


def _each(rounds: Iterable[Round], write: Event) -> int:
    count = 0
    for r in rounds:
        write(r)
        count += 1
    return count


def _summary_writer() -> Any:
    for module in ("torch.utils.tensorboard", "tensorboardX"):
        try:
            return importlib.import_module(module).SummaryWriter
        except ImportError:
            pass
    raise ImportError("TensorBoard is not installed here: `pip install tensorboard torch`, or "
                      "`pip install tensorboardX`")


def tensorboard(rounds: Iterable[Round], folder: str) -> int:
    """Writes every metric of every round as a scalar; returns how many rounds there were."""
    with _summary_writer()(folder) as writer:
        def write(r: Round) -> None:
            for name, value in {**r.metrics, "updates": r.updates, "weight": r.weight}.items():
                writer.add_scalar(name, value, r.number, r.closed_ms / 1000 or None)
            writer.flush()

        return _each(rounds, write)


def mlflow(rounds: Iterable[Round], experiment: Optional[str] = None) -> int:
    """Logs every metric of every round to a run of MLflow; returns how many rounds there were."""
    try:
        import mlflow as library
    except ImportError:
        raise ImportError("MLflow is not installed here: `pip install mlflow`") from None
    if experiment is not None:
        library.set_experiment(experiment)

    with library.start_run():
        def write(r: Round) -> None:
            library.set_tag("consilium.run", r.run)
            library.log_metrics({**r.metrics, "updates": r.updates}, step=r.number)

        return _each(rounds, write)
