# SPDX-License-Identifier: Apache-2.0
"""A hub that would see a patient's X-ray: gradient inversion on what spokes really send.

Eight hospitals train one step of SGD on one chest X-ray each, the worst case for them. The first
layer of the model is fully connected with a bias, so the gradient of unit h's weights is the image
times that of its bias, and one is the image where it is divided by the other (Geiping and others
2020, proposition 3.1). The attacker holds what a hub holds: the updates in its folder, or under
secure.sums the masked ones, and the change of the model, which is their sum. It knows how images are
standardised. What is found is compared with every hospital's image, the best of all units counting,
which is more than the attacker can know.

The pictures are left in build/logs/inversion, the hospitals' and what was found of them.
"""
import glob
import importlib.util
import math
import os
import struct
import unittest
import zipfile

import edge
from federation import ROOT, Federation
from onnx_file import write_mlp

DATA = os.environ.get("CONSILIUM_TEST_DATA", os.path.join(ROOT, "..", "shared", "data"))
EXAMPLE = os.path.join(ROOT, "deploy", "examples", "pneumonia")
PICTURES = os.path.join(ROOT, "build", "logs", "inversion")
SIDE, UNITS, SITES, MASKED = 28, 64, 8, 9
PIXELS = SIDE * SIDE
MEAN, STD = 146.0, 43.0  # of schema-private.yaml
# The best of 64 pictures of noise: grey alone is within 17 dB of an X-ray, and where the mean is taken
# off grey, what is left is a negative of the mean.
NOISE_PSNR, NOISE_CORRELATION = 20, 0.6
SECURE = {"sums": "region", "cohort_min": SITES, "threshold": 0.51, "step_s": 20}


def prepare():
    """The example's own reader and writer of .npz files."""
    spec = importlib.util.spec_from_file_location("prepare", os.path.join(EXAMPLE, "prepare.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def images_of_units(change):
    """What the units of the first layer show, as grey values, of {tensor: elements} of a change."""
    weights, biases = change["fc1.weight"], change["fc1.bias"]
    shown = []
    for unit, bias in enumerate(biases):
        if bias != 0:  # a unit that did not fire
            row = weights[unit * PIXELS:(unit + 1) * PIXELS]
            shown.append([min(255.0, max(0.0, MEAN + STD * w / bias)) for w in row])
    return shown


def psnr(image, other):
    """Peak signal to noise ratio in dB; 99 is the most that is told apart."""
    error = sum((a - b) ** 2 for a, b in zip(image, other)) / PIXELS
    return 99.0 if error < 255 ** 2 / 10 ** 9.9 else 10 * math.log10(255 ** 2 / error)


def correlation(image, other, public):
    """Pearson's, of what is left of both when the mean of other patients' X-rays is taken off; 0
    where nothing is."""
    a, b = ([x - p for x, p in zip(picture, public)] for picture in (image, other))
    mean_a, mean_b = sum(a) / PIXELS, sum(b) / PIXELS
    a, b = [x - mean_a for x in a], [x - mean_b for x in b]
    norms = sum(x * x for x in a) * sum(y * y for y in b)
    return sum(x * y for x, y in zip(a, b)) / math.sqrt(norms) if norms > 0 else 0.0


def write_picture(name, image):
    os.makedirs(PICTURES, exist_ok=True)
    with open(os.path.join(PICTURES, name + ".pgm"), "wb") as file:
        file.write(b"P5 %d %d 255\n" % (SIDE, SIDE) + bytes(round(x) for x in image))


class Inversion(unittest.TestCase):
    def setUp(self):
        original = os.path.join(DATA, "pneumoniamnist", "pneumoniamnist_28_content.npz")
        if not os.path.exists(original):
            self.skipTest("no chest X-rays at %s" % original)
        self.npz = prepare()
        with zipfile.ZipFile(original) as archive:
            rows = self.npz.images_of(archive, "train")
        self.rows = rows[:SITES]
        self.images = [[float(x) for x in image] for image, _ in self.rows]
        others = rows[SITES:SITES + 1000]
        self.public = [sum(image[i] for image, _ in others) / len(others) for i in range(PIXELS)]

    def start(self, f):
        """A top that keeps what comes to it, and hospitals of one X-ray."""
        self.top = f.top_with_authority(children_min=SITES, retention={"updates_days": 30, "models_days": 30})
        self.spokes = {}
        for site, (image, label) in enumerate(self.rows):
            name = "hospital-%d" % site
            path = os.path.join(f.dir, name + ".npz")
            with zipfile.ZipFile(path, "w") as out:
                for part in ("train", "val", "test"):
                    self.npz.write_array(out, part + "_images", (1, SIDE, SIDE), image)
                    self.npz.write_array(out, part + "_labels", (1, 1), bytes([label]))
            f.spoke(name, self.top, csv=path, schema=os.path.join(EXAMPLE, "schema-private.yaml"))
            self.spokes[name] = site

    def train(self, f, between, **changes):
        """One step at every hospital, and the change of the model that came of it."""
        model = os.path.join(f.dir, between + ".onnx")
        write_mlp(model, [PIXELS, UNITS, 1], between=between, image=(1, SIDE, SIDE))
        plan = f.plan(**dict({"rounds": 1, "model": model, "data": {"contract": "pneumonia"},
                              "local": {"optimiser": {"name": "sgd", "lr": 1.0}, "batch": 1,
                                        "steps": 1},
                              "exact": {"clip": 8.0}, "evaluate": {"every": 0}}, **changes))
        run = f.run(plan)
        ended = run.finish()
        base = [e["data"]["base"] for e in self.top.audit("round.opened")
                if e["data"]["run"] == run.id][0]
        after = edge.Model(edge.read_file(self.top.dir, "models", ended.model + ".safetensors"))
        where = glob.glob(os.path.join(self.top.dir, "*", base + ".safetensors"))[0]
        before = edge.Model(edge.read_file(where))
        self.tensors = after.tensors
        return run, self.by_tensor([a - b for a, b in zip(after.values, before.values)])

    def by_tensor(self, values):
        out, at = {}, 0
        for name, shape in self.tensors:
            count = math.prod(shape)
            out[name] = values[at:at + count]
            at += count
        self.assertEqual(at, len(values))
        return out

    def updates(self, run, encoding):
        """{site: update} of the run's updates in the hub's own folder."""
        ids = {e["data"]["update"]: self.spokes[e["data"]["child"]]
               for e in self.top.audit("update.counted") if e["data"]["run"] == run.id}
        found = {}
        for path in glob.glob(os.path.join(self.top.dir, "retained", "*.upd")):
            update = edge.UpdateFile(edge.read_file(path))
            if update.id.hex() in ids:
                self.assertEqual(update.encoding, encoding)
                found[ids[update.id.hex()]] = update
        self.assertEqual(len(found), SITES)
        return found

    def best(self, shown, what):
        """How near the nearest of what is shown comes to each hospital's image."""
        ratios, alike = [], []
        for site, image in enumerate(self.images):
            near = max(shown, key=lambda s, to=image: psnr(s, to))
            ratios.append(psnr(near, image))
            alike.append(max(correlation(s, image, self.public) for s in shown))
            write_picture("%d-%s" % (site, what), near)
        print("%-15s PSNR %s dB, correlation %s" %
              (what, " ".join("%.0f" % r for r in ratios), " ".join("%.2f" % c for c in alike)))
        return ratios, alike

    def test_an_open_update_shows_the_x_ray_and_the_secure_sum_of_eight_does_not(self):
        with Federation() as f:
            self.start(f)
            for site, image in enumerate(self.images):
                write_picture("%d-hospital" % site, image)
            run, change = self.train(f, "Sigmoid")
            for site, update in self.updates(run, edge.F32).items():
                shown = images_of_units(self.by_tensor(update.floats()))
                self.assertEqual(len(shown), UNITS)
                write_picture("%d-open" % site, shown[0])
                for image in (shown[0], shown[-1]):  # not the best one: any
                    self.assertGreater(psnr(image, self.images[site]), 50)
                    self.assertGreater(correlation(image, self.images[site], self.public), 0.999)
            run, masked = self.train(f, "Sigmoid", secure=SECURE)
            self.assertEqual(masked, change)  # what is published is the same, bit for bit
            ratios, alike = self.best(images_of_units(masked), "sum")
            self.assertLess(max(ratios), 26)
            self.assertLess(max(alike), 0.95)
            self.best([self.public], "mean-x-ray")  # what anybody knows
            for site, update in self.updates(run, MASKED).items():
                words = struct.unpack("<%dq" % (len(update.payload) // 8), update.payload)
                count = sum(math.prod(shape) for _, shape in self.tensors)
                shown = images_of_units(self.by_tensor([float(w) for w in words[:count]]))
                write_picture("%d-masked" % site, shown[0])
                self.assertLess(max(psnr(s, self.images[site]) for s in shown), NOISE_PSNR)
                self.assertLess(max(correlation(s, self.images[site], self.public)
                                    for s in shown), NOISE_CORRELATION)

    def test_a_unit_that_fires_for_one_x_ray_shows_it_in_the_sum_too_unless_sites_are_noised(self):
        """What secure sums are not: a sum over so few patients tells of one where the model does."""
        with Federation() as f:
            self.start(f)
            _, change = self.train(f, "Relu", secure=SECURE)
            ratios, _ = self.best(images_of_units(change), "sum-relu")
            self.assertGreater(max(ratios), 50)
            self.assertLess(min(ratios), 28)
            _, change = self.train(
                f, "Relu", secure=SECURE, weights="uniform", exact={"clip": 128.0},
                privacy={"site": {"clip": 1.0, "noise": 2.0, "delta": 1e-3, "epsilon_max": 30.0,
                                  "honest_min": SITES}})
            ratios, alike = self.best(images_of_units(change), "sum-relu-noised")
            self.assertLess(max(ratios), NOISE_PSNR)
            self.assertLess(max(alike), NOISE_CORRELATION)


if __name__ == "__main__":
    unittest.main()
