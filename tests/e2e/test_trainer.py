# SPDX-License-Identifier: Apache-2.0
"""A hospital's own trainer behind its spoke, in one run with native spokes: what it gives, and what
becomes of one that dies, is late or lies."""
import json
import os
import queue
import subprocess
import sys
import threading
import unittest

import grpc

import package
from federation import EXAMPLE, Federation, program

SCHEMA = os.path.join(EXAMPLE, "schema.yaml")
NUMPY = os.path.join(package.EXAMPLES, "numpy_trainer.py")
WAIT_S = 30


def trainer_spoke(f, name, parent, wait_s=600, **changes):
    """A spoke without data of its own; its trainer's folder is node.trainer_dir."""
    keys = {"dir": os.path.join(f.dir, name + "-trainer"), "contract": "breast-cancer",
            "wait_s": wait_s}
    node = f.spoke(name, parent, data=None, trainer=keys, **changes)
    node.trainer_dir = keys["dir"]
    return node


def numpy_trainer(f, node, site, name="trainer"):
    return package.Program(f, name, [NUMPY, node.trainer_dir, f.table(site), SCHEMA])


def module(name):
    """One of the package's, in this process."""
    if package.folder() not in sys.path:
        sys.path.insert(0, package.folder())
    return __import__("consilium." + name, fromlist=[name])


def operator(f):
    return module("operator").Operator("127.0.0.1:%d" % f.root.port, f.root.name,
                                       f.operator if f.tls else None)


class Raw:
    """A trainer that says what it likes, message by message."""

    def __init__(self, node, hello=True):
        self.protocol = module("_protocol")
        self.folder = node.trainer_dir
        self.came, self._out = queue.Queue(), queue.Queue()
        self.channel = grpc.insecure_channel("unix:%s/socket" % node.trainer_dir,
                                             [("grpc.use_local_subchannel_pool", 1)])
        attend = self.channel.stream_stream(
            "/consilium.trainer.Trainer/Attend", request_serializer=bytes,
            response_deserializer=self.protocol.ToTrainer.FromString)
        self.call = attend(iter(self._out.get, None))
        threading.Thread(target=self._read, daemon=True).start()
        if hello:
            self.send(hello={"protocol": 1, "software": "raw"})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._out.put(None)
        self.call.cancel()
        self.channel.close()

    def _read(self):
        try:
            for message in self.call:
                self.came.put(message)
            self.came.put(None)
        except grpc.RpcError as e:
            self.came.put(e)

    def send_bytes(self, data):
        self._out.put(data)

    def send(self, **fields):
        self.send_bytes(self.protocol.ToSpoke(**fields).SerializeToString())

    def wait(self, kind):
        """The next message, which must be of that kind."""
        message = self.came.get(timeout=WAIT_S)
        if isinstance(message, grpc.RpcError) or message is None:
            raise AssertionError("the stream ended: %s" % message)
        if message.WhichOneof("kind") != kind:
            raise AssertionError("not %s: %s" % (kind, message))
        return getattr(message, kind)

    def wait_end(self):
        """How the spoke ended the stream."""
        while True:
            message = self.came.get(timeout=WAIT_S)
            if isinstance(message, grpc.RpcError):
                return message

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, asked, change=0.001):
        """A result as it should be: the model, every element moved by `change` but for tensors that
        the plan freezes by name."""
        frozen = json.loads(asked.plan)["local"]["freeze"]
        tensors = module("tensors")
        model = tensors.MappedTensors(self.path(asked.model)).tensors
        result = tensors.MappedTensors(self.path(asked.result), writable=True).tensors
        for name, values in model.items():
            result[name][...] = values if name in frozen else values + change
        return result


class Together(unittest.TestCase):
    def rounds_of(self, f, plan):
        """Runs a plan to its end through the package's client."""
        with operator(f) as hub:
            run = hub.submit(plan, program("consilium"))
            return run, list(hub.watch(run.id)), hub.pull(run.id)

    def pair(self, f):
        """A native spoke and one with a trainer, which is returned."""
        top = f.top(children_min=2)
        f.spoke("north-1", top)
        node = trainer_spoke(f, "centre-1", top)
        numpy_trainer(f, node, "centre-1")
        return node

    def receipts(self, node, run):
        return [e["data"]["round"] for e in node.audit("receipt") if e["data"]["run"] == run.id]

    def test_native_spokes_and_a_numpy_trainer_train_one_model(self):
        sites = ["north-1", "north-2", "centre-1"]
        plan = dict(rounds=8, local={"steps": None, "epochs": 2})
        with Federation() as f:
            top = f.top(children_min=3)
            for site in sites:
                f.spoke(site, top)
            _, native, _ = self.rounds_of(f, f.plan(**plan))
        with Federation() as f:
            top = f.top(children_min=3)
            nodes = [f.spoke(site, top) for site in sites[:2]]
            nodes.append(trainer_spoke(f, sites[2], top))
            trainer = numpy_trainer(f, nodes[2], sites[2])
            run, mixed, model = self.rounds_of(f, f.plan(**plan))
            for node in nodes:
                f.wait(lambda n=node: self.receipts(n, run) == list(range(1, 10)), WAIT_S,
                       "%s has all receipts" % node.name)
            trainer.wait_log("round 9: taken")
            self.assertEqual([r.updates for r in mixed[1:]], [3] * 9)
            self.assertEqual(os.listdir(nodes[2].trainer_dir), ["socket"])
        self.assertEqual([r.number for r in mixed], list(range(10)))  # the last one evaluates
        self.assertEqual(sum(a.size for a in model.values()), 24449)
        # The first model is the same, and so are its figures, whoever evaluates it.
        first, same = native[0].metrics, mixed[0].metrics
        self.assertEqual(first["accuracy"], same["accuracy"])
        self.assertEqual(first["count"], same["count"])
        self.assertAlmostEqual(first["loss"], same["loss"], places=5)
        self.assertAlmostEqual(first["auc"], same["auc"], places=3)
        # Weights are rows, and the same rows train: only the order of the batches differs.
        self.assertEqual([r.weight for r in native], [r.weight for r in mixed])
        self.assertGreater(mixed[8].metrics["accuracy"], 0.9)
        self.assertAlmostEqual(native[8].metrics["accuracy"], mixed[8].metrics["accuracy"],
                               delta=0.05)

    def test_tensors_that_stay_stay_with_a_trainer_too(self):
        with Federation() as f:
            node = self.pair(f)
            run, _, model = self.rounds_of(f, f.plan(rounds=2, keep='["fc3.*"]'))
            self.assertNotIn("fc3.weight", model)
            private = os.path.join(node.dir, "private", run.id + ".safetensors")
            f.wait(lambda: os.path.exists(private), WAIT_S, "the private head is kept")
            own = module("tensors").load(private)
            self.assertEqual(sorted(own), ["fc3.bias", "fc3.weight"])

    def test_changes_are_divided_by_the_steps_that_a_trainer_reports(self):
        with Federation() as f:
            self.pair(f)
            _, rounds, _ = self.rounds_of(f, f.plan(rounds=6, local={"normalise": "true"}))
            self.assertEqual([r.updates for r in rounds[1:]], [2] * 7)
            self.assertGreater(rounds[6].metrics["accuracy"], rounds[0].metrics["accuracy"])
            self.assertGreater(rounds[6].metrics["accuracy"], 0.88)

    def test_a_plan_for_other_data_or_for_native_training_alone_is_declined(self):
        with Federation() as f:
            top = f.top(children_min=1)
            node = trainer_spoke(f, "centre-1", top)
            for changes, reason in (
                    ({"data": {"contract": "heart"}}, "this site's trainer has 'breast-cancer'"),
                    ({"local": {"scaffold": "true"}}, "local.scaffold changes every step"),
                    ({"local": {"curvature": {"lambda": 1.0, "clip": 4.0}}}, "local.curvature")):
                f.run(f.plan(**changes))
                node.wait_log("declined: .*" + reason)


FEWER = """
import sys
import consilium
from breast_cancer import Table
from numpy_trainer import NumpyTrainer

class Fewer(NumpyTrainer):
    def train(self, model, task):  # at once: it is the first to be done
        return consilium.TrainResult(9, 1, model)
    def evaluate(self, model, task):
        sums = super().evaluate(model, task)
        return {name: sums[name] for name in ("count", "correct", "loss")}

consilium.serve(sys.argv[1], Fewer(Table(sys.argv[2], sys.argv[3])), contract="breast-cancer")
"""


class Masked(unittest.TestCase):
    """Behind masks all tell of the metrics that the plan has, whoever is the first."""

    def run_with(self, f, start_trainer):
        top = f.top_with_authority(children_min=3)
        for site in ("north-1", "north-2"):
            f.spoke(site, top)
        node = trainer_spoke(f, "centre-1", top)
        start_trainer(node)
        f.run(f.plan(rounds=1, local={"steps": 600},
                     secure={"sums": "region", "cohort_min": 2, "threshold": 0.51})).finish()
        counted = [(e["data"]["round"], e["data"]["child"]) for e in top.audit("update.counted")]
        return node, sorted(counted)

    def test_a_trainer_takes_part_in_masked_rounds(self):
        with Federation() as f:
            node, counted = self.run_with(f, lambda n: numpy_trainer(f, n, "centre-1"))
            self.assertEqual(counted, [(r, s) for r in (1, 2)
                                       for s in ("centre-1", "north-1", "north-2")])
            self.assertFalse(node.audit("round.declined"))

    def test_one_that_tells_of_fewer_figures_shuts_nobody_out(self):
        with Federation() as f:
            path = os.path.join(f.dir, "fewer.py")
            with open(path, "w", encoding="utf-8") as out:
                out.write(FEWER)
            node, counted = self.run_with(f, lambda n: package.Program(
                f, "fewer", [path, n.trainer_dir, f.table("centre-1"), SCHEMA]))
            self.assertEqual(counted, [(r, s) for r in (1, 2) for s in ("north-1", "north-2")])
            reasons = [e["data"]["reason"] for e in node.audit("round.declined")]
            self.assertEqual(len(reasons), 2)
            self.assertTrue(all("does not tell of metric score_hist_neg in 4096 bins" in r
                                for r in reasons), reasons)


COMPARE = """
import sys, onnx, numpy
from onnx import numpy_helper
import consilium
own = consilium.tensors.load(sys.argv[2])
graph = {t.name: numpy_helper.to_array(t) for t in onnx.load(sys.argv[1]).graph.initializer}
for name, values in own.items():
    print(name, "same" if numpy.array_equal(values, graph[name]) else "moved")
"""


class Torch(unittest.TestCase):
    def started(self, f, sites, script, *arguments):
        """A top, native spokes and, last of the sites, one with that trainer."""
        python = package.python_with_torch()
        top = f.top(children_min=len(sites))
        for site in sites[:-1]:
            f.spoke(site, top)
        node = trainer_spoke(f, sites[-1], top)
        trainer = package.Program(
            f, "torch", [os.path.join(package.EXAMPLES, script), *arguments, node.trainer_dir,
                         f.table(sites[-1]), SCHEMA], python=python)
        trainer.wait_log("attending spoke", 120)
        return node, python

    def test_native_spokes_and_pytorch_train_one_model(self):
        package.python_with_torch()
        with Federation() as f:
            node, _ = self.started(f, ["north-1", "north-2", "centre-1"], "torch_trainer.py")
            with operator(f) as hub:
                run = hub.submit(f.plan(rounds=8, local={"steps": None, "epochs": 2}),
                                 program("consilium"))
                rounds = list(hub.watch(run.id))
            self.assertEqual([r.updates for r in rounds[1:]], [3] * 9)
            self.assertGreater(rounds[8].metrics["accuracy"], 0.9)
            f.wait(lambda: len(node.audit("receipt")) == 9, WAIT_S, "all receipts are here")

    def test_adapters_travel_and_a_frozen_base_stays_as_it_was(self):
        python = package.python_with_torch()
        with Federation() as f:
            onnx = os.path.join(f.dir, "lora.onnx")
            package.Program(f, "export", [os.path.join(package.EXAMPLES, "lora.py"), "export",
                                          onnx], python=python).process.wait(120)
            node, _ = self.started(f, ["north-1", "north-2", "centre-1"], "lora.py", "serve")
            plan = f.plan(rounds=10, model=onnx, share='["*.lora_*"]',
                          local={"steps": None, "epochs": 2, "optimiser": {"lr": 0.2}})
            with operator(f) as hub:
                run = hub.submit(plan, program("consilium"))
                rounds = list(hub.watch(run.id))
                model = hub.pull(run.id)
            self.assertEqual(sorted(model), ["fc%d.lora_%s" % (i, m) for i in (1, 2, 3)
                                             for m in "ab"])
            self.assertEqual([r.updates for r in rounds[1:]], [3] * 11)
            self.assertGreater(rounds[10].metrics["accuracy"], 0.88)
            private = os.path.join(node.dir, "private", run.id + ".safetensors")
            f.wait(lambda: os.path.exists(private), WAIT_S, "the base is kept")
            script = os.path.join(f.dir, "compare.py")
            with open(script, "w", encoding="utf-8") as out:
                out.write(COMPARE)
            compare = package.Program(f, "compare", [script, onnx, private], python=python)
            self.assertEqual(compare.process.wait(120), 0, compare.log())
            self.assertEqual(compare.log().split(),
                             " ".join("fc%d.%s same" % (i, n) for i in (1, 2, 3)
                                      for n in ("weight", "bias")).split())


BLOCKS_ONCE = """
import os, sys, threading
import consilium
from breast_cancer import Table
from numpy_trainer import NumpyTrainer

flag = sys.argv[4]

class Blocks(NumpyTrainer):
    def train(self, model, task):
        if task.round == 2 and not os.path.exists(flag):
            open(flag, "w").close()
            if len(sys.argv) > 5:          # until the round has gone on
                task._over.wait()
                print("over is", task.over, flush=True)
            else:                          # for good
                threading.Event().wait()
        return super().train(model, task)

consilium.serve(sys.argv[1], Blocks(Table(sys.argv[2], sys.argv[3])),
                verdict=lambda v: print("round", v.round, v.taken, v.reason, flush=True))
"""


class Lost(unittest.TestCase):
    def blocking(self, f, node, *more):
        path, flag = os.path.join(f.dir, "blocks.py"), os.path.join(f.dir, "flag")
        with open(path, "w", encoding="utf-8") as out:
            out.write(BLOCKS_ONCE)
        trainer = package.Program(f, "blocks", [path, node.trainer_dir, f.table("centre-1"),
                                                SCHEMA, flag, *more])
        return trainer, lambda: os.path.exists(flag)

    def test_a_trainer_killed_in_a_round_is_asked_again_when_it_is_back(self):
        with Federation() as f:
            top = f.top(children_min=2)
            f.spoke("north-1", top)
            node = trainer_spoke(f, "centre-1", top)
            trainer, blocked = self.blocking(f, node)
            run = f.run(f.plan(rounds=3))
            f.wait(blocked, WAIT_S, "round 2 is being trained")
            mark = node.mark()
            trainer.kill()
            node.wait_log("the trainer has gone", mark)
            numpy_trainer(f, node, "centre-1")
            run.finish()
            self.assertEqual(node.audit("round.declined"), [])
            sealed = [e["data"]["round"] for e in node.audit("update.sealed")]
            self.assertEqual(sealed, [1, 2, 3, 4])

    def trained(self, killed):
        """The model of a run in which the trainer, and then the spoke, was killed or not."""
        with Federation() as f:
            top = f.top(children_min=2)
            f.spoke("north-1", top)
            node = trainer_spoke(f, "centre-1", top)
            trainer, blocked = None, None
            if killed:
                trainer, blocked = self.blocking(f, node)
            else:
                numpy_trainer(f, node, "centre-1")
            run = f.run(f.plan(rounds=4))
            if killed:
                f.wait(blocked, WAIT_S, "round 2 is being trained")
                trainer.kill()
                numpy_trainer(f, node, "centre-1")
                run.wait_round(3)
                node.kill()
                node.start()
            return run.finish().model

    def test_the_model_is_the_same_whoever_was_killed(self):
        self.assertEqual(self.trained(False), self.trained(True))

    def test_a_spoke_killed_in_a_round_has_its_trainer_back(self):
        with Federation() as f:
            top = f.top(children_min=2)
            f.spoke("north-1", top)
            node = trainer_spoke(f, "centre-1", top)
            trainer, blocked = self.blocking(f, node, "over")
            run = f.run(f.plan(rounds=3))
            f.wait(blocked, WAIT_S, "round 2 is being trained")
            node.kill()
            node.start()
            trainer.wait_log("over is True")
            run.finish()
            sealed = [e["data"]["round"] for e in node.audit("update.sealed")]
            self.assertEqual(sealed, [1, 2, 3, 4])

    def test_a_spoke_stops_while_its_trainer_trains_or_is_awaited(self):
        with Federation() as f:
            top = f.top(children_min=1)
            node = trainer_spoke(f, "centre-1", top)
            f.run(f.plan(rounds=2))
            node.wait_log("'wdbc' accepted")
            f.wait(lambda: node.audit("data.read"), WAIT_S, "the round has begun")
            self.assertEqual(node.stop(), 0)
            trainer, blocked = self.blocking(f, node, "over")
            node.start()
            f.wait(blocked, WAIT_S, "round 2 is being trained")
            self.assertEqual(node.stop(), 0)
            trainer.wait_log("over is True")
            self.assertEqual(os.listdir(node.trainer_dir), [])

    def test_a_round_that_goes_on_without_the_trainer_tells_it(self):
        with Federation() as f:
            top = f.top(children_min=2)
            f.spoke("north-1", top)
            node = trainer_spoke(f, "centre-1", top)
            trainer, blocked = self.blocking(f, node, "over")
            node.wait_log("a trainer is here")
            run = f.run(f.plan(rounds=3, tiers={"top": {"deadline_s": 3}}))
            f.wait(blocked, WAIT_S, "round 2 is being trained")
            trainer.wait_log("over is True")
            run.finish()
            sealed = [e["data"]["round"] for e in node.audit("update.sealed")]
            self.assertNotIn(2, sealed)
            self.assertIn(3, sealed)

    def test_a_round_that_was_over_before_its_turn_is_asked_of_nobody(self):
        with Federation() as f:
            top = f.top(children_min=2)
            f.spoke("north-1", top)
            node = trainer_spoke(f, "centre-1", top)
            with Raw(node) as raw:
                raw.wait("welcome")
                plan = dict(rounds=1, evaluate={"every": 0})
                run = f.run(f.plan(**plan))
                asked = raw.wait("round")
                f.run(f.plan(**plan, local={"seed": 8}, tiers={"top": {"deadline_s": 2}})).finish()
                f.wait(lambda: node.audit("run.ended"), WAIT_S, "the spoke knows that it has ended")
                raw.write(asked)
                raw.send(result={"job": asked.job, "weight": 5, "steps": 1})
                self.assertTrue(raw.wait("over").taken)
                run.finish()
                third = f.run(f.plan(**plan, local={"seed": 9}))
                self.assertEqual(raw.wait("over").taken, False)  # of what was not asked
                asked = raw.wait("round")
                self.assertEqual(asked.run.hex()[:12], third.id[:12])
                raw.write(asked)
                raw.send(result={"job": asked.job, "weight": 5, "steps": 1})
                third.finish()

    def test_a_trainer_that_does_not_come_declines_the_round_after_the_wait(self):
        with Federation() as f:
            top = f.top(children_min=2)
            f.spoke("north-1", top)
            node = trainer_spoke(f, "centre-1", top, wait_s=1)
            f.run(f.plan(rounds=1))
            node.wait_log("trainer has not been there for 1 s")
            f.wait(lambda: [e for e in top.audit("round.declined")
                            if "has not been there" in e["data"]["reason"]], WAIT_S,
                   "the reason is at the top")

    def test_a_trainer_that_is_lost_again_and_again_declines_the_round(self):
        with Federation() as f:
            top = f.top(children_min=1)
            node = trainer_spoke(f, "centre-1", top)
            f.run(f.plan(rounds=1))
            for _ in range(5):
                with Raw(node) as raw:
                    raw.wait("welcome")
                    raw.wait("round")
            node.wait_log("the trainer was lost 5 times in this round")


class Lies(unittest.TestCase):
    """One run: in every round the trainer does one thing wrong, and the round is declined with the
    reason, here, at the trainer and at the top; native spokes make the rounds count."""

    def one_lie(self, raw, tell, **fields):
        """Does `tell` to the round's files and sends the result; what the spoke says to it."""
        asked = raw.wait("round")
        result = {"job": asked.job, "weight": 10, "steps": 1}
        if asked.evaluate:
            result["metrics"] = [{"name": "count", "values": [5]},
                                 {"name": "correct", "values": [3]},
                                 {"name": "loss", "values": [1 << 20]}]
        result.update(fields)
        tell(asked, raw.write(asked))
        raw.send(result=result)
        over = raw.wait("over")
        self.assertEqual(over.job, asked.job)
        return over

    @staticmethod
    def nothing(asked, result):
        pass

    def lies(self, raw):
        """What is done, the fields that are sent, and the words of the refusal."""
        def poke(value, name="fc2.bias"):
            def change(asked, result):
                result[name][3] = value
            return change

        def resize(by):
            def change(asked, result):
                os.truncate(raw.path(asked.result), asked.bytes + by)
            return change

        def replace(asked, result):
            os.unlink(raw.path(asked.result))
            with open(raw.path(asked.result), "wb") as f:
                f.truncate(asked.bytes)

        def header(asked, result):
            with open(raw.path(asked.result), "r+b") as f:
                f.write(b"\xff" * 64)

        name = {"name": "nova_tau", "values": [1]}
        count = {"name": "count", "values": [5]}
        return [(poke(float("nan")), {}, "fc2.bias"),
                (poke(float("inf")), {}, "fc2.bias"),
                (poke(1e6), {}, "fc2.bias"),
                (poke(0.5, "fc1.bias"), {}, "tensor fc1.bias, element 3: the plan's local.freeze"),
                (resize(-4), {}, "its size must stay"),
                (resize(4), {}, "its size must stay"),
                (resize(-(1 << 16)), {}, "its size must stay"),
                (self.nothing, {"weight": 2001}, "weight_total_max is 2000"),
                (self.nothing, {"steps": 0}, "no step of training"),
                (self.nothing, {"metrics": []}, "has not evaluated"),
                (self.nothing, {"metrics": [name, count]}, "no scores"),
                (self.nothing, {"metrics": [{"name": "count", "values": [5, 6]}]}, "has 2 bins"),
                (self.nothing, {"metrics": [{"name": "count", "values": [-1]}]}, "bin 0, is -1"),
                (self.nothing, {"metrics": [count, {"name": "dice", "values": [1]}]}, "dice"),
                (self.nothing, {"metrics": [count, {"name": "dice_sizes", "values": [1, 2]}]},
                 "dice_sizes has 2 bins; 1, the classes that the model gives"),
                (self.nothing, {"failed": True, "reason": "out of memory"},
                 "has failed: out of memory"),
                # Another file of the name, or another header, changes nothing.
                (replace, {}, ""),
                (header, {}, "")]

    def test_what_a_trainer_gets_wrong_is_refused_by_name(self):
        with Federation() as f:
            top = f.top(children_min=2)
            f.spoke("north-1", top)
            node = trainer_spoke(f, "centre-1", top)
            with Raw(node) as raw:
                lies = self.lies(raw)
                run = f.run(f.plan(rounds=len(lies) + 1, exact={"weight_total_max": 2000},
                                   local={"freeze": ["fc1.bias"]}))
                self.assertEqual(raw.wait("welcome").contract, "breast-cancer")
                for tell, fields, words in lies:
                    over = self.one_lie(raw, tell, **fields)
                    self.assertEqual(over.taken, not words, over.reason)
                    self.assertIn(words, over.reason)
                self.assertTrue(self.one_lie(raw, self.nothing).taken)
                declined = [e["data"]["reason"] for e in node.audit("round.declined")]
                told = [words for _, _, words in lies if words]
                self.assertEqual(len(declined), len(told))
                for reason, words in zip(declined, told):
                    self.assertIn(words, reason)
                asked = raw.wait("round")
                self.assertFalse(asked.train)
                self.assertEqual(asked.result, "")
                raw.send(result={"job": asked.job, "metrics": [{"name": "count", "values": [1]}]})
                self.assertTrue(raw.wait("over").taken)
            run.finish()

    def refused(self, raw, words, code):
        end = raw.wait_end()
        self.assertIn(words, end.details())
        self.assertEqual(end.code(), code)

    def test_who_breaks_the_protocol_is_shown_the_door_and_the_round_is_asked_again(self):
        invalid = grpc.StatusCode.INVALID_ARGUMENT
        with Federation() as f:
            top = f.top(children_min=1)
            node = trainer_spoke(f, "centre-1", top)
            with Raw(node, hello=False) as raw:
                raw.send(result={"job": 1})
                self.refused(raw, "it must say Hello first", invalid)
            with Raw(node, hello=False) as raw:
                raw.send(hello={"protocol": 2})
                self.refused(raw, "it speaks protocol 2", grpc.StatusCode.PERMISSION_DENIED)
            with Raw(node) as raw:
                raw.wait("welcome")
                raw.send_bytes(bytes(300 << 10))
                self.refused(raw, "its message is too long", invalid)
            with Raw(node) as raw:
                raw.wait("welcome")
                raw.send(hello={"protocol": 1})
                self.refused(raw, "it must say Hello first", invalid)
            run = f.run(f.plan(rounds=1, evaluate={"every": 0}))
            for say, words in ((lambda raw, job: raw.send(result={"job": job + 1, "weight": 1}),
                                "a result for job"),
                               (lambda raw, job: raw.send(result={"job": job - 1, "weight": 1}),
                                "a result for job"),
                               (lambda raw, job: raw.send_bytes(b"\x12\xff"), "not a valid"),
                               (lambda raw, job: raw.send(result={"job": job, "weight": 1 << 31}),
                                "result.weight")):
                with Raw(node) as raw:
                    raw.wait("welcome")
                    say(raw, raw.wait("round").job)
                    self.refused(raw, words, invalid)
            with Raw(node) as raw:
                raw.wait("welcome")
                asked = raw.wait("round")
                raw.write(asked)
                raw.send(result={"job": asked.job, "weight": 7, "steps": 1})
                self.assertTrue(raw.wait("over").taken)
            run.finish()
            self.assertEqual(node.audit("round.declined"), [])


class Others(unittest.TestCase):
    def test_a_second_trainer_is_refused_and_the_first_goes_on(self):
        with Federation() as f:
            top = f.top(children_min=1)
            node = trainer_spoke(f, "centre-1", top)
            first = numpy_trainer(f, node, "centre-1")
            first.wait_log("attending spoke")
            second = numpy_trainer(f, node, "centre-1", "second")
            second.wait_log("another trainer is here")
            self.assertNotEqual(second.process.wait(WAIT_S), 0)
            f.run(f.plan(rounds=2)).finish()
            first.wait_log("round 3: taken")

    def test_another_user_cannot_reach_the_socket(self):
        if os.geteuid() != 0:
            self.skipTest("becoming another user takes root")
        with Federation() as f:
            top = f.top(children_min=1)
            node = trainer_spoke(f, "centre-1", top)
            os.chmod(f.dir, 0o755)
            connect = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
            path = os.path.join(node.trainer_dir, "socket")

            def as_user(uid):
                return subprocess.run(["/usr/bin/python3", "-c", connect, path],
                                      capture_output=True, text=True, check=False, cwd="/",
                                      preexec_fn=lambda: os.setuid(uid))

            self.assertEqual(as_user(0).returncode, 0)
            done = as_user(65534)
            self.assertEqual(done.returncode, 1)
            self.assertIn("Permission denied", done.stderr)

    def test_a_folder_that_is_open_to_others_is_refused(self):
        with Federation() as f:
            top = f.top(children_min=1)
            folder = os.path.join(f.dir, "open")
            os.mkdir(folder, 0o755)
            node = f.spoke("centre-1", top, data=None, start=False,
                           trainer={"dir": folder, "contract": "breast-cancer"})
            node.may_end = True
            node.spawn()
            self.assertEqual(node.process.wait(WAIT_S), 1)
            self.assertIn("is open to other users", node.log())


if __name__ == "__main__":
    unittest.main()
