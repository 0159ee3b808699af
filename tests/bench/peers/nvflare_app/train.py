# SPDX-License-Identifier: Apache-2.0
"""NVFlare's Client API, as its NumPy recipe runs it, without training."""
import nvflare.client as flare
from nvflare.app_common.np.constants import NPConstants
from updates import Updates, settings


def main():
    asked = settings()
    flare.init()
    updates = Updates(asked["client"], asked["elements"], asked["rounds"])
    while flare.is_running():
        model = flare.receive()
        if model is None:
            break
        if model.params[NPConstants.NUMPY_KEY].size != asked["elements"]:
            raise ValueError("a model of another size")
        update = updates.of(model.current_round + 1)
        flare.send(flare.FLModel(params={NPConstants.NUMPY_KEY: update}))


main()
