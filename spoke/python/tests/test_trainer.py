# SPDX-License-Identifier: Apache-2.0
"""The trainer's end of the socket, against a spoke that is played here."""
import json
import logging
import os
import queue
import tempfile
import threading
import time
import unittest
from concurrent import futures

import consilium
import grpc
import numpy as np
from consilium import _protocol as protocol
from consilium import tensors

RECIPE = {"loss": "bce", "batch": 4, "epochs": 1, "steps": 0, "seed": 3, "normalise": True,
          "optimiser": {"name": "sgd", "lr": 0.1, "momentum": 0.0}, "accumulate": 1,
          "curvature": {"lambda": 0.0, "clip": 1.0}, "pos_weight": 1.0, "ignore_class": 1024,
          "class_weights": [], "dice": {"lambda_ce": 1.0}, "augment": {"flip_x": False},
          "precision": "f32"}
WAIT_S = 20


class Spoke:
    """Takes one trainer at a time: `tell` sends, `heard` has what it said."""

    def __init__(self, folder):
        self.folder, self.heard, self._out = folder, queue.Queue(), queue.Queue()
        self.server = grpc.server(futures.ThreadPoolExecutor(2))
        handler = grpc.stream_stream_rpc_method_handler(
            self._attend, request_deserializer=protocol.ToSpoke.FromString,
            response_serializer=lambda m: m.SerializeToString())
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(
            "consilium.trainer.Trainer", {"Attend": handler}),))
        self.server.add_insecure_port("unix:" + os.path.join(folder, "socket"))
        self.server.start()

    def _attend(self, messages, context):
        threading.Thread(target=self._hear, args=(messages,), daemon=True).start()
        while True:
            message = self._out.get()
            if message is None:
                return
            if isinstance(message, tuple):
                context.abort(*message)
            yield message

    def _hear(self, messages):
        try:
            for message in messages:
                self.heard.put(message)
        except Exception:  # the stream ends as it likes
            pass

    def tell(self, **fields):
        self._out.put(protocol.ToTrainer(**fields))

    def refuse(self, code, text):
        self._out.put((code, text))

    def end(self):
        self._out.put(None)

    def hear(self, kind):
        message = self.heard.get(timeout=WAIT_S)
        if message.WhichOneof("kind") != kind:
            raise AssertionError("not %s: %s" % (kind, message))
        return getattr(message, kind)

    def ask(self, job, train=True, evaluate=False, model=None, recipe=None):
        """A round with its files; the path of the result."""
        model = model or {"w": np.arange(4, dtype=np.float32)}
        names = {"model": "m%d" % job, "result": "r%d" % job if train else ""}
        for name in filter(None, names.values()):
            tensors.save(os.path.join(self.folder, name), model)
        self.tell(round=dict(job=job, run=bytes(32), round=job, seed=9, train=train,
                             evaluate=evaluate, weight_max=100, bytes=1, graph="/g.onnx",
                             plan=json.dumps({"local": recipe or RECIPE}).encode(), **names))
        return os.path.join(self.folder, names["result"])

    def close(self):
        self.end()
        self.server.stop(None).wait()


def add_one(model, task):
    return consilium.TrainResult(7, 3, {n: v + 1 for n, v in model.items()})


class Served(unittest.TestCase):
    def setUp(self):
        logging.getLogger("consilium").setLevel(logging.CRITICAL)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.spoke = Spoke(folder.name)
        self.addCleanup(self.spoke.close)

    def serve(self, train=add_one, evaluate=None, **options):
        """A Server in a thread, welcomed; what its run() raised is in `self.raised`."""
        self.server = consilium.Server(self.folder, train, evaluate, **options)
        self.raised = []

        def run():
            try:
                self.server.run()
            except Exception as e:
                self.raised.append(e)

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()
        self.addCleanup(self.stop)
        self.assertEqual(self.spoke.hear("hello").protocol, 1)
        self.spoke.tell(welcome={"spoke": "north", "contract": "heart"})

    def stop(self):
        self.server.stop()
        self.ended()

    def ended(self):
        self.thread.join(WAIT_S)
        self.assertFalse(self.thread.is_alive())

    def test_a_round_is_trained_into_the_spokes_file(self):
        self.serve()
        path = self.spoke.ask(1)
        result = self.spoke.hear("result")
        self.assertEqual((result.job, result.weight, result.steps, result.failed),
                         (1, 7, 3, False))
        np.testing.assert_array_equal(tensors.load(path)["w"], [1, 2, 3, 4])

    def test_a_result_may_be_written_in_place(self):
        def train(model, task):
            np.add(model["w"], task.seed, out=task.result["w"])
            return consilium.TrainResult(1, 1)

        self.serve(train)
        path = self.spoke.ask(1)
        self.spoke.hear("result")
        np.testing.assert_array_equal(tensors.load(path)["w"], [9, 10, 11, 12])

    def test_metrics_go_along_where_the_round_evaluates(self):
        self.serve(evaluate=lambda model, task: consilium.metrics.binary([1.0], [1]))
        self.spoke.ask(1, train=False, evaluate=True)
        result = self.spoke.hear("result")
        self.assertEqual((result.weight, result.failed), (0, False))
        sums = {m.name: list(m.values) for m in result.metrics}
        self.assertEqual((sums["count"], sums["correct"], sum(sums["score_hist_pos"])),
                         ([1], [1], 1))

    def test_a_plan_that_evaluates_needs_a_trainer_that_does(self):
        self.serve()
        self.spoke.ask(1, evaluate=True)
        result = self.spoke.hear("result")
        self.assertTrue(result.failed)
        self.assertIn("this trainer does not", result.reason)

    def test_what_a_trainer_raises_stays_here_but_for_its_type(self):
        def train(model, task):
            raise KeyError("patient 4711")

        self.serve(train)
        self.spoke.ask(1)
        result = self.spoke.hear("result")
        self.assertTrue(result.failed)
        self.assertEqual(result.reason, "KeyError in the trainer; its own log has the details")
        self.assertEqual((result.weight, list(result.metrics)), (0, []))

    def test_what_it_gives_as_its_reason_travels_cleaned_and_bounded(self):
        def train(model, task):
            raise consilium.Failed("no\nroom " + "\u00e4" * 400)

        self.serve(train)
        self.spoke.ask(1)
        reason = self.spoke.hear("result").reason
        self.assertTrue(reason.startswith("no room \u00e4"))
        self.assertLessEqual(len(reason.encode()), 255)

    def test_a_tensor_that_is_missing_declines_the_round(self):
        self.serve(lambda model, task: consilium.TrainResult(1, 1, {}))
        self.spoke.ask(1)
        self.assertIn("ValueError", self.spoke.hear("result").reason)

    def test_a_recipe_that_asks_for_more_is_declined_by_key(self):
        def train(model, task):
            task.check("loss", "batch", "epochs", "optimiser.name", "optimiser.lr")
            return add_one(model, task)

        self.serve(train)
        self.spoke.ask(1)
        self.assertFalse(self.spoke.hear("result").failed)
        for job, change, key in ((2, {"prox_mu": 0.1}, "local.prox_mu (0.1)"),
                                 (3, {"accumulate": 2}, "local.accumulate (2)"),
                                 (5, {"loss": "dice_ce"}, "local.dice.lambda_ce"),
                                 (6, {"augment": {"flip_x": True}}, "local.augment.flip_x"),
                                 (7, {"pos_weight": 2.0}, "local.pos_weight (2.0)"),
                                 (8, {"ignore_class": 0}, "local.ignore_class (0)"),
                                 (4, {"optimiser": {"momentum": 0.9}}, "optimiser.momentum")):
            self.spoke.ask(job, recipe={**RECIPE, **change})
            self.assertIn(key, self.spoke.hear("result").reason)

    def test_another_division_of_the_patients_is_declined_by_who_has_one(self):
        def task(fold):
            plan = {"data": {"fold": fold}, "local": RECIPE}
            return consilium.Task(1, "ab", 1, 5, True, True, 100, plan, "")

        does = ("loss", "batch", "epochs", "optimiser.name", "optimiser.lr")
        task(0).check(*does)
        task(2).check(*does, "fold")
        with self.assertRaisesRegex(consilium.Failed, "data.fold .2."):
            task(2).check(*does)

    def test_a_task_is_over_when_the_round_went_on_and_nothing_is_sent(self):
        begun = threading.Event()

        def train(model, task):
            if task.job == 1:
                begun.set()
                task._over.wait(WAIT_S)
                self.assertTrue(task.over)
            return add_one(model, task)

        verdicts = queue.Queue()
        self.serve(train, verdict=verdicts.put)
        self.spoke.ask(1)
        self.assertTrue(begun.wait(WAIT_S))
        self.spoke.tell(over={"job": 1, "reason": "the round is over"})
        self.spoke.ask(2)
        self.assertEqual(self.spoke.hear("result").job, 2)
        self.spoke.tell(over={"job": 2, "taken": True})
        said = [verdicts.get(timeout=WAIT_S) for _ in range(2)]
        self.assertEqual([(v.round, v.taken, v.reason) for v in said],
                         [(1, False, "the round is over"), (2, True, "")])

    def test_rounds_that_went_on_meanwhile_are_passed_over(self):
        begun, go = threading.Event(), threading.Event()

        def train(model, task):
            begun.set()
            go.wait(WAIT_S)
            return add_one(model, task)

        self.serve(train)
        self.spoke.ask(1)
        self.assertTrue(begun.wait(WAIT_S))
        for job in (2, 3, 4):
            self.spoke.tell(over={"job": job - 1, "reason": "the round is over"})
            path = self.spoke.ask(job)
            if job < 4:
                os.unlink(path)
        until = time.monotonic() + WAIT_S
        while self.server._at.job_over < 3 and time.monotonic() < until:
            time.sleep(0.01)
        go.set()
        result = self.spoke.hear("result")
        self.assertEqual((result.job, result.failed), (4, False))

    def test_another_contract_ends_the_trainer(self):
        self.serve(contract="lungs")
        self.ended()
        self.assertIsInstance(self.raised[0], consilium.Refused)
        self.assertIn("'heart'", str(self.raised[0]))

    def test_a_refusal_ends_the_trainer_with_its_words(self):
        self.serve()
        self.spoke.refuse(grpc.StatusCode.ALREADY_EXISTS, "another trainer is here")
        self.ended()
        self.assertEqual(str(self.raised[0]), "another trainer is here")

    def test_a_spoke_that_goes_away_is_waited_for(self):
        self.serve()
        self.spoke.end()
        self.assertEqual(self.spoke.hear("hello").protocol, 1)
        self.spoke.tell(welcome={"spoke": "north", "contract": "heart"})
        self.spoke.ask(1)
        self.assertEqual(self.spoke.hear("result").job, 1)


class Batches(unittest.TestCase):
    def test_epochs_read_every_row_once_each(self):
        got = list(consilium.batches(10, {"batch": 4, "epochs": 2, "steps": 0}, 1))
        self.assertEqual([len(b) for b in got], [4, 4, 2, 4, 4, 2])
        self.assertEqual(sorted(np.concatenate(got[:3]).tolist()), list(range(10)))
        self.assertNotEqual(got[0].tolist(), got[3].tolist())

    def test_steps_are_counted_over_epochs(self):
        recipe = {"batch": 4, "epochs": 0, "steps": 7}
        self.assertEqual(len(list(consilium.batches(10, recipe, 1))), 7)

    def test_a_seed_gives_one_order(self):
        def order(seed):
            recipe = {"batch": 7, "epochs": 1, "steps": 0}
            return np.concatenate(list(consilium.batches(50, recipe, seed)))

        np.testing.assert_array_equal(order(5), order(5))
        self.assertNotEqual(order(5).tolist(), order(6).tolist())

    def test_no_rows_have_no_batches(self):
        for amount in ({"epochs": 1, "steps": 0}, {"epochs": 0, "steps": 3}):
            self.assertEqual(list(consilium.batches(0, {"batch": 4, **amount}, 1)), [])

    def test_a_step_takes_as_many_batches_as_are_accumulated(self):
        recipe = {"batch": 4, "accumulate": 2, "epochs": 2, "steps": 0}
        got = list(consilium.batches(10, recipe, 1))
        self.assertEqual([len(b) for b in got], [8, 2, 8, 2])
        self.assertEqual(consilium.steps_of(10, recipe), 4)


if __name__ == "__main__":
    unittest.main()
