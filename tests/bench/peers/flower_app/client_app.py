# SPDX-License-Identifier: Apache-2.0
"""Flower's ClientApp, without training.

A ClientApp's process lives for one message only, so it draws its numbers again each round; they
come from a file instead, which the SuperNode's environment names, so that it is read, not drawn.
"""
import numpy
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from consilium_peers.updates import SHIFT, settings

app = ClientApp()


@app.train()
def train(message, context):
    asked = settings()
    n = asked["elements"]
    got = next(iter(message.content["arrays"].values()))
    if got.numpy().size != n:
        raise ValueError(f"a model of {got.shape}")
    round_number = message.content["config"]["server-round"]
    name = f"{asked['out']}/updates-{context.node_config['partition-id']}.f32"
    update = numpy.fromfile(name, dtype=numpy.float32, count=n, offset=4 * SHIFT * round_number)
    content = {
        "arrays": ArrayRecord([update]),
        "metrics": MetricRecord({"num-examples": 1}),
    }
    return Message(content=RecordDict(content), reply_to=message)
