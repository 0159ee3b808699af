# SPDX-License-Identifier: Apache-2.0
"""An operator's client: submit a plan, watch its run, pull its model (proto/console.proto)."""
from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Optional, Union

import grpc
import numpy as np

from . import _protocol as protocol
from .tensors import MappedTensors

_CHUNK = 1 << 20
_CALL_S = 60.0


class RunFailed(Exception):
    """The run was stopped or failed; the text says why."""


@dataclass(frozen=True)
class Round:
    """A round that is over. `metrics` are of the model after it; with number 0, of the model that
    the run started from. `updates` of `weight` in all count in it."""
    run: str
    number: int
    metrics: Dict[str, float]
    model: str
    updates: int
    weight: int
    opened_ms: int
    closed_ms: int


@dataclass(frozen=True)
class Run:
    """A run as a hub tells of it. `state` is open, completed, stopped or failed."""
    id: str
    name: str
    state: str
    round: int
    rounds: int
    model: str
    reason: str


def _run_of(info: Any) -> Run:
    return Run(info.run, info.name, info.state, info.round, info.rounds, info.model, info.reason)


class Operator:
    """A connection to a hub. `identity` is the data directory in which the operator is enrolled
    (`consilium enroll`); without it the hub must run with tls: off.

        with Operator("top.example:7400", "national", identity="/home/me/operator") as hub:
            run = hub.submit("plan.yaml")
            for r in hub.watch(run.id):
                print(r.number, r.metrics)
            tensors = hub.pull(run.id)
    """

    def __init__(self, address: str, name: str, identity: Optional[str] = None) -> None:
        options = [("grpc.use_local_subchannel_pool", 1),
                   ("grpc.max_receive_message_length", 4 * _CHUNK)]
        if identity is None:
            self._channel = grpc.insecure_channel(address, options)
        else:
            parts = [_read(identity, "identity", n) for n in ("ca.pem", "key.pem", "cert.pem")]
            self._channel = grpc.secure_channel(
                address, grpc.ssl_channel_credentials(*parts),
                [("grpc.ssl_target_name_override", name), *options])

    def __enter__(self) -> "Operator":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()

    def _method(self, kind: str, name: str, answer: Any) -> Any:
        return getattr(self._channel, kind)(
            "/consilium.console.Console/" + name,
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=answer.FromString)

    # -- runs

    def submit(self, plan: str, program: str = "consilium") -> Run:
        """Starts a run of the plan file, at the top, and returns it. The plan is checked and made
        canonical by the `consilium` program, which must be installed; ValueError says what is
        wrong with it."""
        text = plan_text(plan, program)
        return self.start(text, _model_path(plan, text))

    def start(self, plan: Union[str, bytes], model_path: str) -> Run:
        """Starts a run of a plan's canonical text with the ONNX file that it names."""
        raw = plan.encode() if isinstance(plan, str) else plan

        def parts() -> Iterator[Any]:
            yield protocol.StartRunPart(plan=raw)
            with open(model_path, "rb") as f:
                for piece in iter(lambda: f.read(_CHUNK), b""):
                    yield protocol.StartRunPart(graph=piece)

        start = self._method("stream_unary", "StartRun", protocol.RunInfo)
        return _run_of(start(parts(), timeout=_CALL_S))

    def stop(self, run: str) -> Run:
        stop = self._method("unary_unary", "StopRun", protocol.RunInfo)
        return _run_of(stop(protocol.RunRequest(run=run), timeout=_CALL_S))

    def runs(self) -> List[Run]:
        """Newest first."""
        listed = self._method("unary_unary", "ListRuns", protocol.RunList)
        return [_run_of(r) for r in listed(protocol.Empty(), timeout=_CALL_S).runs]

    def nodes(self) -> Any:
        """The hub and its children, as the protocol's NodeList."""
        return self._method("unary_unary", "ListNodes", protocol.NodeList)(
            protocol.Empty(), timeout=_CALL_S)

    def watch(self, run: str = "") -> Iterator[Round]:
        """Every round that is over, from the first one on, as it ends; returns when the run has
        completed and raises RunFailed where it ended otherwise. Without an id, the newest run."""
        told: Dict[int, Round] = {}
        number, last = 0, None
        calls = self._method("unary_stream", "WatchRun", protocol.RunInfo)(
            protocol.RunRequest(run=run))
        for last in calls:
            for h in last.history:
                told[h.round] = Round(last.run, h.round, {m.name: m.value for m in h.metrics},
                                      h.model, h.updates, h.weight, h.opened_ms, h.closed_ms)
            # A round's metrics come with the updates of the next one.
            while number in told and (told[number].metrics or
                                      number + 1 in told and told[number + 1].closed_ms):
                yield told.pop(number)
                number += 1
        for number in sorted(n for n in told if n >= number and told[n].closed_ms):
            yield told[number]
        if last is not None and last.state in ("stopped", "failed"):
            raise RunFailed("run %.12s %s: %s" % (last.run, last.state, last.reason))

    def wait(self, run: str = "") -> Run:
        """Until the run has ended; RunFailed unless it completed."""
        for _ in self.watch(run):
            pass
        return next(r for r in self.runs() if r.id.startswith(run))

    # -- models

    def pull_file(self, path: str, run: str = "", sha256: str = "", graph: bool = False) -> str:
        """Writes a run's published model (.safetensors), or with `graph` its ONNX file, or the
        file of that SHA-256, and returns its SHA-256. The bytes are checked against it. The signed
        card of a released model comes too, into the file `path`.card.json."""
        kind = protocol.PullRequest.GRAPH if graph else protocol.PullRequest.MODEL
        got = self._pull(path, protocol.PullRequest(run=run, sha256=sha256,
                                                    kind=0 if sha256 else kind))
        if not graph:
            try:
                self.pull_card(path + ".card.json", sha256=got)
            except grpc.RpcError as error:  # not released, or a hub that knows no cards
                if error.code() not in (grpc.StatusCode.NOT_FOUND,
                                        grpc.StatusCode.INVALID_ARGUMENT):
                    raise
        return got

    def _pull(self, path: str, request: Any) -> str:
        digest, wanted = hashlib.sha256(), b""
        folder = os.path.dirname(os.path.abspath(path))
        handle, temporary = tempfile.mkstemp(prefix=".consilium-", dir=folder)
        try:
            with os.fdopen(handle, "wb") as f:
                for piece in self._method("unary_stream", "PullModel", protocol.Piece)(request):
                    wanted = wanted or piece.id
                    digest.update(piece.data)
                    f.write(piece.data)
            if digest.digest() != wanted:
                raise ValueError("the hub sent a file of SHA-256 %s and calls it %s" %
                                 (digest.hexdigest(), wanted.hex()))
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        return digest.hexdigest()

    def card(self, run: str = "", sha256: str = "") -> Dict[str, Any]:
        """What the signed card of a released model says, by its run or its own SHA-256: purpose,
        data contract, who counted, metrics and their spread over children, privacy spent, lineage.
        grpc.RpcError NOT_FOUND where two operators have not released it. Its signature is checked
        by `consilium model verify`, with the file of pull_card."""
        with tempfile.TemporaryDirectory(prefix="consilium-") as folder:
            path = os.path.join(folder, "card.json")
            self.pull_card(path, run, sha256)
            with open(path, encoding="utf-8") as f:
                return dict(json.load(f)["card"])

    def pull_card(self, path: str, run: str = "", sha256: str = "") -> str:
        """Writes the signed card of a released model and returns the SHA-256 of the model that it
        is of. Beside a model in FILE it belongs into FILE.card.json."""
        self._pull(path, protocol.PullRequest(run=run, sha256=sha256,
                                              kind=protocol.PullRequest.CARD))
        with open(path, encoding="utf-8") as f:
            model = str(json.load(f)["card"]["model"]["sha256"])
        if sha256 and model != sha256:
            os.unlink(path)
            raise ValueError("the hub sent the card of %s for the model %s" % (model, sha256))
        return model

    def pull(self, run: str = "", sha256: str = "") -> Dict[str, np.ndarray]:
        """A published model as name -> array."""
        with tempfile.TemporaryDirectory(prefix="consilium-") as folder:
            path = os.path.join(folder, "model.safetensors")
            self.pull_file(path, run, sha256)
            return MappedTensors(path).tensors


def plan_text(plan: str, program: str = "consilium") -> str:
    """A plan file's canonical text, by `consilium plan show --json`."""
    try:
        done = subprocess.run([program, "plan", "show", "--json", plan], capture_output=True,
                              text=True, check=False)
    except FileNotFoundError:
        raise ValueError("the program '%s' is not installed here: it checks plans. Give its path, "
                         "or start() a text that it made elsewhere" % program) from None
    if done.returncode != 0:
        raise ValueError(done.stderr.strip())
    return done.stdout.rstrip("\n")


def _model_path(plan: str, text: str) -> str:
    """Where the plan file says its model is: the file of the hash in its canonical text."""
    wanted = json.loads(text)["model"]["sha256"]
    folder = os.path.dirname(os.path.abspath(plan))
    with open(plan, encoding="utf-8") as f:
        named = [line.split(":", 1)[1] for line in f if line.startswith("model:")]
    for name in named:
        path = os.path.join(folder, name.split(" #")[0].strip().strip("\"'"))
        if os.path.isfile(path) and hashlib.sha256(_read(path)).hexdigest() == wanted:
            return path
    raise ValueError("%s: its model's file is not found: start() takes the path" % plan)


def _read(*path: str) -> bytes:
    with open(os.path.join(*path), "rb") as f:
        return f.read()
