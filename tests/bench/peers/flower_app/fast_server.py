# SPDX-License-Identifier: Apache-2.0
"""Flower's start_server: one process, one gRPC stream a client, no TLS."""
import flwr
import numpy
from flwr.common import ndarrays_to_parameters
from flwr.server.strategy import FedAvg

from updates import Log, floats_of_npy


class Watched(FedAvg):
    def __init__(self, log, **options):
        super().__init__(**options)
        self.log, self.asked = log, log.asked

    def configure_fit(self, server_round, parameters, client_manager):
        self.log.begin()
        return super().configure_fit(server_round, parameters, client_manager)

    def aggregate_fit(self, server_round, results, failures):
        parameters, metrics = super().aggregate_fit(server_round, results, failures)
        if failures or parameters is None:
            raise RuntimeError(f"round {server_round}: {failures[:1]}")
        self.log.aggregated(floats_of_npy(parameters.tensors[0], self.asked["elements"]))
        return parameters, metrics

    def configure_evaluate(self, server_round, parameters, client_manager):
        if server_round == self.asked["rounds"]:
            self.log.end()
        return []


def main():
    log = Log()
    n = log.asked["children"]
    zeros = [numpy.zeros(log.asked["elements"], dtype=numpy.float32)]
    strategy = Watched(
        log,
        fraction_fit=1.0,
        fraction_evaluate=0.0,
        min_fit_clients=n,
        min_available_clients=n,
        accept_failures=False,
        on_fit_config_fn=lambda server_round: {"round": server_round},
        initial_parameters=ndarrays_to_parameters(zeros),
    )
    del zeros
    flwr.server.start_server(
        server_address=log.asked["address"],
        config=flwr.server.ServerConfig(num_rounds=log.asked["rounds"]),
        strategy=strategy,
        grpc_max_message_length=log.asked["message_bytes"],
    )


main()
