# SPDX-License-Identifier: Apache-2.0
"""Flower's ServerApp with its FedAvg."""
import numpy
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

from consilium_peers.updates import Log, floats_of_npy

app = ServerApp()


class Watched(FedAvg):
    def __init__(self, log, **options):
        super().__init__(**options)
        self.log, self.asked = log, log.asked

    def configure_train(self, server_round, arrays, config, grid):
        self.log.begin()
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        arrays, metrics = super().aggregate_train(server_round, replies)
        if arrays is None:
            raise RuntimeError(f"round {server_round}: nothing to aggregate")
        data = next(iter(arrays.values())).data
        self.log.aggregated(floats_of_npy(data, self.asked["elements"]))
        return arrays, metrics

    def configure_evaluate(self, server_round, arrays, config, grid):
        if server_round == self.asked["rounds"]:
            self.log.end()
        return []


@app.main()
def main(grid, context):
    log = Log()
    n = log.asked["children"]
    strategy = Watched(
        log, fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=n, min_available_nodes=n
    )
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord([numpy.zeros(log.asked["elements"], dtype=numpy.float32)]),
        num_rounds=log.asked["rounds"],
    )
