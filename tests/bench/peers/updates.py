# SPDX-License-Identifier: Apache-2.0
"""What every peer sends, what its server writes down, and the check of both afterwards.

A client's update of a round is a window into random numbers it drew before the first round, moved
on every round: different for every client and round at no cost within a round, and anybody can
draw it again. The server keeps times and a few thousand values in memory, and writes them only
when the last round is over; the check is another process, so that it costs the server nothing.

Needs numpy alone: it runs inside the peers' environments.
"""
import json
import os
import sys
import time

import numpy

SHIFT = 16  # elements; a cache line, so that every window is aligned alike
SAMPLES = 4096
# A mean of float32 in [-0.5, 0.5), summed in any order by any number of clients up to 256.
TOLERANCE = 2e-6


def settings():
    """What the runner asked for: of this process, by its environment."""
    return json.loads(os.environ["CONSILIUM_PEERS"])


class Updates:
    """One client's updates, float32 [elements]. Client and round count from 0 and from 1."""

    def __init__(self, client, elements, rounds):
        draw = numpy.random.default_rng([client, elements])
        self._all = draw.random(elements + SHIFT * (rounds + 1), dtype=numpy.float32)
        self._all -= numpy.float32(0.5)
        self._elements = elements

    def of(self, round_number):
        return self._all[SHIFT * round_number :][: self._elements]

    def write(self, path):
        """For a client that does not live long enough to draw: see flower_app/client_app.py."""
        self._all.tofile(path)


class Log:
    """The server's: a round lasts from its begin() to the next one's, the last one to end()."""

    def __init__(self, asked=None):
        self.asked = asked or settings()
        self.begun, self.samples, self.last = [], [], None
        self.stride = max(1, self.asked["elements"] // SAMPLES)

    def begin(self):
        self.begun.append(time.monotonic())

    def aggregated(self, model):
        """Borrows the model, float32, flat or not, until the next call or end()."""
        self.last = model.reshape(-1)
        self.samples.append(self.last[:: self.stride].copy())

    def end(self):
        if not self.asked:  # said twice
            return
        over, folder = time.monotonic(), self.asked["out"]
        self.asked = None
        self.last.tofile(os.path.join(folder, "last.f32"))
        numpy.save(os.path.join(folder, "samples.npy"), numpy.stack(self.samples))
        with open(os.path.join(folder, "log.tmp"), "w", encoding="utf-8") as f:
            json.dump({"times": self.begun + [over], "stride": self.stride}, f)
        os.rename(os.path.join(folder, "log.tmp"), os.path.join(folder, "log.json"))


def floats_of_npy(data, elements):
    """The values at the end of an array in numpy's own format, without a copy."""
    return numpy.frombuffer(data, dtype=numpy.float32, offset=len(data) - 4 * elements)


def check(asked):
    """Seconds a round. Raises ValueError where what was aggregated is not the mean."""
    with open(os.path.join(asked["out"], "log.json"), encoding="utf-8") as f:
        log = json.load(f)
    samples = numpy.load(os.path.join(asked["out"], "samples.npy"))
    last = numpy.fromfile(os.path.join(asked["out"], "last.f32"), dtype=numpy.float32)
    children, elements, rounds = asked["children"], asked["elements"], asked["rounds"]

    if len(log["times"]) != rounds + 1 or len(samples) != rounds:
        raise ValueError(f"{len(samples)} rounds aggregated, {rounds} asked for")
    if last.size != elements:
        raise ValueError(f"the aggregate has {last.size} elements, not {elements}")
    want_last = numpy.zeros(elements)
    want = numpy.zeros(samples.shape)
    for client in range(children):
        updates = Updates(client, elements, rounds)
        want_last += updates.of(rounds)
        for i in range(rounds):
            want[i] += updates.of(i + 1)[:: log["stride"]]
    for i in range(rounds):
        off = float(numpy.abs(samples[i] - want[i] / children).max())
        if not off <= TOLERANCE:
            raise ValueError(f"round {i + 1} is not the mean: off by {off:g}")
    want_last /= children
    want_last -= last
    off = float(numpy.abs(want_last).max())
    if not off <= TOLERANCE:
        raise ValueError(f"the last model is not the mean: off by {off:g}")
    times = log["times"]
    return [b - a for a, b in zip(times, times[1:])]


def main(verb):
    asked = settings()
    out, elements = asked["out"], asked["elements"]
    if verb == "write":
        for i in range(asked["children"]):
            Updates(i, elements, asked["rounds"]).write(os.path.join(out, f"updates-{i}.f32"))
    elif verb == "zeros":
        numpy.save(os.path.join(out, "zeros.npy"), numpy.zeros(elements, dtype=numpy.float32))
    elif verb == "check":
        try:
            print(json.dumps({"round_s": check(asked)}))
        except (OSError, ValueError) as e:
            print(json.dumps({"wrong": str(e)}))
    else:
        sys.exit("updates.py: write, zeros or check")


if __name__ == "__main__":
    main(sys.argv[1])
