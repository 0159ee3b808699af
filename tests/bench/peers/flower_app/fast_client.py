# SPDX-License-Identifier: Apache-2.0
"""Flower's start_client, without training."""
import flwr

from updates import Updates, settings


class Client(flwr.client.NumPyClient):
    def __init__(self, asked):
        self.elements = asked["elements"]
        self.updates = Updates(asked["client"], self.elements, asked["rounds"])

    def fit(self, parameters, config):
        if parameters[0].size != self.elements:
            raise ValueError(f"a model of {parameters[0].size} elements")
        return [self.updates.of(config["round"])], 1, {}


def main():
    asked = settings()
    flwr.client.start_client(
        server_address=asked["address"],
        client=Client(asked).to_client(),
        grpc_max_message_length=asked["message_bytes"],
        insecure=True,
        max_wait_time=60,
    )


main()
