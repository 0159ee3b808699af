# SPDX-License-Identifier: Apache-2.0
"""The operator's client and the logs it feeds, against a hub that is played here."""
import hashlib
import os
import sys
import tempfile
import types
import unittest
from concurrent import futures
from unittest import mock

import grpc
from consilium import _protocol as protocol
from consilium import logs, operator


def told(number, closed=True, **metrics):
    return {"round": number, "closed_ms": 1000 * closed, "updates": 2, "weight": 9, "model": "ab",
            "metrics": [{"name": n, "value": v} for n, v in metrics.items()]}


def info(*history, state="open", reason=""):
    return protocol.RunInfo(run="ab" * 32, name="n", state=state, reason=reason,
                            history=list(history))


class Hub:
    def __init__(self):
        self.infos, self.pieces, self.card, self.parts = [], [], [], []
        self.server = grpc.server(futures.ThreadPoolExecutor(2))

        def streamed(request, answers):
            return grpc.unary_stream_rpc_method_handler(
                answers, request_deserializer=request.FromString,
                response_serializer=lambda m: m.SerializeToString())

        handlers = {
            "WatchRun": streamed(protocol.RunRequest, lambda message, context: iter(self.infos)),
            "PullModel": streamed(protocol.PullRequest, self._pull),
            "StartRun": grpc.stream_unary_rpc_method_handler(
                self._start, request_deserializer=protocol.StartRunPart.FromString,
                response_serializer=lambda m: m.SerializeToString())}
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(
            "consilium.console.Console", handlers),))
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def _pull(self, message, context):
        if message.kind == protocol.PullRequest.CARD and not self.card:
            context.abort(grpc.StatusCode.NOT_FOUND, "the model is not released")
        yield from self.card if message.kind == protocol.PullRequest.CARD else self.pieces

    def _start(self, parts, _context):
        self.parts = list(parts)
        return info()


class Console(unittest.TestCase):
    def setUp(self):
        self.hub = Hub()
        self.addCleanup(lambda: self.hub.server.stop(None).wait())
        self.at = operator.Operator("127.0.0.1:%d" % self.hub.port, "top")
        self.addCleanup(self.at.close)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def watched(self):
        return [(r.number, r.metrics.get("accuracy")) for r in self.at.watch()]

    def test_rounds_are_told_once_in_order_when_their_metrics_are_here(self):
        self.hub.infos = [info(told(0, accuracy=.5)), info(told(1)),
                          info(told(1, accuracy=.6), told(2, closed=False)),
                          info(told(2)), info(told(2, accuracy=.7), told(3)),
                          info(state="completed")]
        self.assertEqual(self.watched(), [(0, .5), (1, .6), (2, .7), (3, None)])

    def test_a_round_without_metrics_is_told_when_the_next_one_is_over(self):
        self.hub.infos = [info(told(0, accuracy=.5), told(1)), info(told(2)),
                          info(told(2, accuracy=.7)), info(state="completed")]
        self.assertEqual(self.watched(), [(0, .5), (1, None), (2, .7)])

    def test_a_run_that_failed_is_an_error_after_its_rounds(self):
        self.hub.infos = [info(told(0, accuracy=.5)), info(state="failed", reason="no updates")]
        rounds = self.at.watch()
        self.assertEqual(next(rounds).number, 0)
        with self.assertRaisesRegex(operator.RunFailed, "failed: no updates"):
            next(rounds)

    def test_a_model_is_pulled_and_checked(self):
        data = [b"some", b"bytes"]
        digest = hashlib.sha256(b"".join(data)).digest()
        self.hub.pieces = [protocol.Piece(id=digest, data=data[0]), protocol.Piece(data=data[1])]
        path = os.path.join(self.folder, "model")
        self.assertEqual(self.at.pull_file(path), digest.hex())
        with open(path, "rb") as f:
            self.assertEqual(f.read(), b"somebytes")

    def test_the_card_of_a_released_model_comes_with_it_and_another_models_is_refused(self):
        digest = hashlib.sha256(b"bytes").digest()
        self.hub.pieces = [protocol.Piece(id=digest, data=b"bytes")]
        path = os.path.join(self.folder, "model")
        for of, right in ((digest.hex(), True), ("ab" * 32, False)):
            card = b'{"card":{"model":{"sha256":"%s"}}}' % of.encode()
            self.hub.card = [protocol.Piece(id=hashlib.sha256(card).digest(), data=card)]
            if right:
                self.at.pull_file(path)
                with open(path + ".card.json", "rb") as f:
                    self.assertEqual(f.read(), card)
            else:
                with self.assertRaisesRegex(ValueError, "the card of abab"):
                    self.at.pull_file(path)
                self.assertFalse(os.path.exists(path + ".card.json"))

    def test_a_model_of_another_hash_is_refused_and_leaves_nothing(self):
        self.hub.pieces = [protocol.Piece(id=bytes(32), data=b"some")]
        with self.assertRaisesRegex(ValueError, "calls it 0000"):
            self.at.pull_file(os.path.join(self.folder, "model"))
        self.assertEqual(os.listdir(self.folder), [])

    def test_a_plan_goes_first_and_its_graph_in_pieces(self):
        path = os.path.join(self.folder, "g.onnx")
        with open(path, "wb") as f:
            f.write(bytes(2 << 20) + b"end")
        self.assertEqual(self.at.start("{}", path).id, "ab" * 32)
        self.assertEqual(self.hub.parts[0].plan, b"{}")
        self.assertEqual(b"".join(p.graph for p in self.hub.parts[1:]), bytes(2 << 20) + b"end")

    def test_a_program_that_is_missing_is_said(self):
        with self.assertRaisesRegex(ValueError, "is not installed here"):
            operator.plan_text("plan.yaml", os.path.join(self.folder, "consilium"))


class Logs(unittest.TestCase):
    rounds = [operator.Round("ab", n, {"accuracy": n / 10}, "", 2, 9, 0, 5000) for n in (1, 2)]

    def test_without_the_libraries_what_to_install_is_said(self):
        missing = {"torch.utils.tensorboard": None, "tensorboardX": None, "mlflow": None}
        with mock.patch.dict(sys.modules, missing):
            with self.assertRaisesRegex(ImportError, "pip install tensorboard"):
                logs.tensorboard(self.rounds, "x")
            with self.assertRaisesRegex(ImportError, "pip install mlflow"):
                logs.mlflow(self.rounds)

    def test_tensorboard_gets_every_metric_of_every_round(self):
        writer = mock.MagicMock()
        writer.__enter__.return_value = writer
        library = types.SimpleNamespace(SummaryWriter=mock.Mock(return_value=writer))
        with mock.patch.dict(sys.modules, {"torch.utils.tensorboard": None,
                                           "tensorboardX": library}):
            self.assertEqual(logs.tensorboard(iter(self.rounds), "folder"), 2)
        library.SummaryWriter.assert_called_once_with("folder")
        self.assertEqual([c.args for c in writer.add_scalar.call_args_list
                          if c.args[0] == "accuracy"],
                         [("accuracy", .1, 1, 5.0), ("accuracy", .2, 2, 5.0)])

    def test_mlflow_gets_every_metric_of_every_round(self):
        library = mock.MagicMock()
        with mock.patch.dict(sys.modules, {"mlflow": library}):
            self.assertEqual(logs.mlflow(iter(self.rounds), "hearts"), 2)
        library.set_experiment.assert_called_once_with("hearts")
        self.assertEqual([c.kwargs["step"] for c in library.log_metrics.call_args_list], [1, 2])


if __name__ == "__main__":
    unittest.main()
