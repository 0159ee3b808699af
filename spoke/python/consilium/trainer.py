# SPDX-License-Identifier: Apache-2.0
"""A hospital's own trainer: what `consilium-spoke` asks of it at the socket in its trainer.dir."""
from __future__ import annotations

import json
import logging
import math
import os
import queue
import threading
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, Mapping, Optional, Tuple

import grpc
import numpy as np

from . import _protocol as protocol
from .metrics import Sums
from .tensors import MappedTensors, put

PROTOCOL = 1
_RECONNECT_S = 0.2
_RECONNECT_MAX_S = 5.0
_log = logging.getLogger("consilium")


# Values by which a recipe's keys are off; elsewhere that is null, 0, false, "none" or nothing. And
# the keys that are not a trainer's: the spoke divides by the steps (normalise), and declines
# scaffold and curvature by itself; precision allows what nobody has to do.
_OFF = {"accumulate": 1, "schedule.name": "constant", "pos_weight": 1, "ignore_class": 1024,
        "patch.overlap": 0.25}
_SPOKES_OWN = ("seed", "normalise", "normalise_max", "scaffold", "curvature.clip",
               "curvature.lambda", "curvature.rows", "schedule.per", "precision")


def _leaves(keys: Mapping[str, Any], above: str = "") -> Iterator[Tuple[str, Any]]:
    for key, value in keys.items():
        if isinstance(value, dict):
            yield from _leaves(value, above + key + ".")
        else:
            yield above + key, value


class Refused(Exception):
    """The spoke does not take this trainer, or what it said."""


class Failed(Exception):
    """Raised by train or evaluate: the round is declined, and the text travels up the tree, to
    people outside this hospital. It must say nothing of any patient. Of other exceptions only the
    type travels."""


@dataclass(frozen=True)
class Task:
    """What a round asks. `plan` is the plan as it travels, every key there; `seed` is of this run,
    round and site, so that whoever draws from it alone trains the same again."""
    job: int
    run: str
    round: int
    seed: int
    train: bool
    evaluate: bool
    weight_max: int
    plan: Dict[str, Any]
    graph: str
    """Where the spoke keeps the plan's ONNX file."""
    result: Dict[str, np.ndarray] = field(repr=False, default_factory=dict)
    """The tensors to fill, mapped: for train functions that write in place."""
    _over: threading.Event = field(repr=False, default_factory=threading.Event)

    @property
    def recipe(self) -> Dict[str, Any]:
        """The plan's `local`: loss, optimiser, batch, epochs or steps."""
        recipe: Dict[str, Any] = self.plan["local"]
        return recipe

    @property
    def fold(self) -> int:
        """Which of the divisions into training and test patients: the plan's data.fold."""
        fold: int = self.plan.get("data", {}).get("fold", 0)
        return fold

    def check(self, *done: str) -> None:
        """Fails the round where the recipe asks for what is not in `done`: names of its keys, as
        "batch" or "optimiser.momentum". What is off in the plan need not be named; nor what the
        spoke does by itself. Another `data.fold` than 0 divides the patients otherwise, at every
        hospital: "fold" is to be named by who does so, with task.fold."""
        if self.fold and "fold" not in done:
            raise Failed("the plan's data.fold (%d) is nothing that this site's trainer does" %
                         self.fold)
        for name, value in _leaves(self.recipe):
            if name.startswith("dice.") and "dice" not in self.recipe["loss"]:
                continue  # how a loss is worked out that is not this plan's
            off = value == _OFF[name] if name in _OFF else \
                value in (None, 0, False, "none", [], "")
            if name not in done and name not in _SPOKES_OWN and not off:
                raise Failed("the plan's local.%s (%s) is nothing that this site's trainer does" %
                             (name, value))

    @property
    def over(self) -> bool:
        """The round went on without this result: what still trains may stop."""
        return self._over.is_set()


@dataclass
class TrainResult:
    """`rows` trained on are the update's weight; `steps` of the optimiser. `tensors` has every
    tensor of the model by its name, or is None where train filled task.result in place."""
    rows: int
    steps: int
    tensors: Optional[Mapping[str, np.ndarray]] = None


Model = Mapping[str, np.ndarray]
Train = Callable[[Model, Task], TrainResult]
Evaluate = Callable[[Model, Task], Sums]


class Trainer:
    """What to implement, as an alternative to two functions."""

    def train(self, model: Model, task: Task) -> TrainResult:
        """Trains from `model` (read-only views of shared memory) as task.recipe says."""
        raise NotImplementedError

    def evaluate(self, model: Model, task: Task) -> Sums:
        """Sums of consilium.metrics over the test rows of this hospital."""
        raise NotImplementedError


@dataclass
class Verdict:
    """What became of a round at the spoke: sealed and pushed, or why not."""
    run: str
    round: int
    taken: bool
    reason: str


class _Attendance:
    """One connection: messages in a queue, the task under way told when it is over."""

    def __init__(self, folder: str, software: str) -> None:
        self.folder = folder
        self.messages: "queue.Queue[Any]" = queue.Queue()
        self.task: Optional[Task] = None
        self.job_over = 0  # jobs count up: this one is over, and all before
        self._out: "queue.Queue[Any]" = queue.Queue()
        self._channel = grpc.insecure_channel(
            "unix:" + os.path.join(folder, "socket"),
            [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0),
             ("grpc.max_receive_message_length", 4 << 20)])
        attend: Any = self._channel.stream_stream(
            "/consilium.trainer.Trainer/Attend",
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=protocol.ToTrainer.FromString)
        hello = protocol.ToSpoke()
        hello.hello.protocol = PROTOCOL
        hello.hello.software = software[:63]
        self._out.put(hello)
        self._call = attend(iter(self._out.get, None))
        threading.Thread(target=self._receive, daemon=True).start()

    def _receive(self) -> None:
        try:
            for message in self._call:
                if message.WhichOneof("kind") == "over":
                    self.job_over = message.over.job
                    task = self.task
                    if task and task.job <= self.job_over:
                        task._over.set()
                self.messages.put(message)
            self.messages.put(ConnectionError("the spoke has ended"))
        except grpc.RpcError as e:
            self.messages.put(e)
        if self.task:
            self.task._over.set()

    def send(self, message: Any) -> None:
        self._out.put(message)

    def wake(self) -> None:
        self.messages.put(None)

    def close(self) -> None:
        self._out.put(None)
        self._call.cancel()
        self._channel.close()


class Server:
    """Serves the spoke of a folder until `stop()` is called. `run()` blocks; losing the spoke, or
    its not being there yet, is waited out. Refused where the spoke says why."""

    def __init__(self, folder: str, train: Train, evaluate: Optional[Evaluate] = None,
                 contract: Optional[str] = None,
                 verdict: Optional[Callable[[Verdict], None]] = None,
                 software: str = "consilium for Python") -> None:
        self._folder, self._train, self._evaluate = folder, train, evaluate
        self._contract, self._verdict, self._software = contract, verdict, software
        self._stopped = threading.Event()
        self._at: Optional[_Attendance] = None
        self._last: Optional[Task] = None  # whose Over is awaited

    def stop(self) -> None:
        """From any thread or a signal handler: run() returns after the task under way."""
        self._stopped.set()
        at = self._at
        if at:
            at.wake()

    def run(self) -> None:
        pause = _RECONNECT_S
        while not self._stopped.is_set():
            self._check_folder()
            self._at = _Attendance(self._folder, self._software)
            try:
                if self._attend(self._at):
                    pause = _RECONNECT_S
            finally:
                self._at.close()
                self._at = None
            self._stopped.wait(pause)
            pause = min(2 * pause, _RECONNECT_MAX_S)

    def _check_folder(self) -> None:
        try:
            os.stat(os.path.join(self._folder, "socket"))
        except PermissionError:
            raise Refused("%s is another user's: a trainer runs as the user of its spoke" %
                          self._folder) from None
        except FileNotFoundError:
            pass  # the spoke is not up yet

    def _attend(self, at: _Attendance) -> bool:
        """Until the connection ends; true where the spoke has welcomed us."""
        welcomed = False
        while True:
            message = at.messages.get()
            if self._stopped.is_set():
                return welcomed
            if isinstance(message, grpc.RpcError):
                if message.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                    return welcomed
                raise Refused(message.details())
            if isinstance(message, ConnectionError):
                return welcomed
            kind = message.WhichOneof("kind") if message is not None else None
            if kind == "welcome":
                welcomed = True
                self._welcomed(message.welcome)
            elif kind == "round":
                self._round(at, message.round)
            elif kind == "over":
                self._over(message.over)

    def _welcomed(self, welcome: Any) -> None:
        if self._contract is not None and welcome.contract != self._contract:
            raise Refused("spoke %s is for data '%s', this trainer has '%s'" %
                          (welcome.spoke, welcome.contract, self._contract))
        _log.info("attending spoke %s for data '%s'", welcome.spoke, welcome.contract)

    def _over(self, over: Any) -> None:
        task, self._last = self._last, None
        if task is None or task.job != over.job:
            return
        if not over.taken:
            _log.warning("run %.12s round %d: not taken: %s", task.run, task.round, over.reason)
        if self._verdict:
            self._verdict(Verdict(task.run, task.round, over.taken, over.reason))

    def _round(self, at: _Attendance, asked: Any) -> None:
        if asked.job <= at.job_over:
            return  # it went on while the one before was trained
        reply = protocol.ToSpoke()
        reply.result.job = asked.job
        try:
            task = self._task_of(at, asked)
            at.task = self._last = task
            if task.job <= at.job_over:
                task._over.set()
            self._work(task, MappedTensors(os.path.join(at.folder, asked.model)).tensors,
                       reply.result)
        except Failed as e:
            _decline(reply.result, str(e))
        except Exception as e:  # whatever a hospital's code raises must not end its spoke's part
            _log.exception("run %.12s round %d", asked.run.hex(), asked.round)
            _decline(reply.result, "%s in the trainer; its own log has the details" %
                     type(e).__name__)
        finally:
            at.task = None
            over = asked.job <= at.job_over
        if not over:
            at.send(reply)

    @staticmethod
    def _task_of(at: _Attendance, asked: Any) -> Task:
        result: Dict[str, np.ndarray] = {}
        if asked.result:
            result = MappedTensors(os.path.join(at.folder, asked.result), writable=True).tensors
        return Task(asked.job, asked.run.hex(), asked.round, asked.seed, asked.train,
                    asked.evaluate, asked.weight_max, json.loads(asked.plan), asked.graph, result)

    def _work(self, task: Task, model: Model, out: Any) -> None:
        if task.evaluate:
            if self._evaluate is None:
                raise Failed("the plan evaluates, and this trainer does not")
            for name, values in self._evaluate(model, task).items():
                out.metrics.add(name=name, values=np.asarray(values, np.int64).reshape(-1).tolist())
        if not task.train:
            return
        trained = self._train(model, task)
        if trained.tensors is not None:
            put(task.result, trained.tensors)
        out.weight, out.steps = trained.rows, trained.steps


def _decline(out: Any, reason: str) -> None:
    job = out.job
    out.Clear()
    text = "".join(c if c.isprintable() else " " for c in reason) or "no reason given"
    out.job, out.failed, out.reason = job, True, text.encode()[:255].decode(errors="ignore")


def serve(folder: str, train: Any, evaluate: Optional[Evaluate] = None,
          contract: Optional[str] = None,
          verdict: Optional[Callable[[Verdict], None]] = None) -> None:
    """Attends the spoke whose trainer.dir is `folder` and answers its rounds, for good. `train` is
    a function, or a Trainer. `contract` is checked against the spoke's where it is given."""
    if isinstance(train, Trainer):
        train, evaluate = train.train, train.evaluate
    Server(folder, train, evaluate, contract, verdict).run()


def steps_of(rows: int, recipe: Mapping[str, Any]) -> int:
    """Steps of the optimiser in a round, as the recipe's steps or epochs ask for."""
    group: int = recipe["batch"] * recipe.get("accumulate", 1)
    steps: int = recipe["steps"] or recipe["epochs"] * -(-rows // group)
    return steps


def batches(rows: int, recipe: Mapping[str, Any], seed: int) -> Iterator[np.ndarray]:
    """The rows of one step after another, `batch` times `accumulate` of them, in an order drawn
    from the seed. The last step of an epoch may have fewer."""
    rng = np.random.default_rng(seed)
    group = recipe["batch"] * recipe.get("accumulate", 1)
    steps = steps_of(rows, recipe)
    while rows and steps > 0:
        order = rng.permutation(rows)
        for at in range(0, rows, group):
            if steps == 0:
                return
            steps -= 1
            yield order[at:at + group]


def learning_rate(task: Task, step: int, steps: int) -> float:
    """The rate of step `step` (from 0) of `steps` in the task's round: the plan's schedule runs
    over the rounds of the run, as PyTorch's LinearLR (warm-up), StepLR and CosineAnnealingLR do."""
    rate: float = task.recipe["optimiser"]["lr"]
    s = task.recipe.get("schedule")
    if not s:
        return rate
    t = task.round - 1 + step / steps if s["per"] == "step" else float(task.round - 1)
    if t < s["warmup"]:
        rate = rate * (t + 1) / (s["warmup"] + 1)
        return rate
    t -= s["warmup"]
    if s["name"] == "step":
        rate = rate * s["gamma"] ** (t // s["step_size"])
    elif s["name"] == "cosine":
        least: float = s["lr_min"]
        part = min(1.0, t / (task.plan["rounds"] - s["warmup"]))
        rate = least + (rate - least) * (1 + math.cos(math.pi * part)) / 2
    return rate
