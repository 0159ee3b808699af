# SPDX-License-Identifier: Apache-2.0
"""The recipe's losses in PyTorch are the native spokes': on the same logits and targets, with the same
options, as tests/unit/spoke/test_loss.c holds the kernels against (tests/golden/loss)."""
import importlib.util
import os
import struct
import unittest

import consilium
import numpy as np
from consilium import metrics

HERE = importlib.util.find_spec("torch") is not None
if HERE:
    import torch
    from consilium import torch as ours

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "tests", "golden",
                      "loss")
NAMES = ("bce", "cross_entropy", "dice", "dice_ce", "mse", "l1", "cox")
RECIPE = {"batch": 2, "epochs": 1, "steps": 0, "seed": 3, "prox_mu": 0.0,
          "optimiser": {"name": "sgd", "lr": 0.1, "momentum": 0.0, "nesterov": False,
                        "weight_decay": 0.0}}


def task(**recipe):
    return consilium.Task(1, "ab", 1, 5, True, True, 100,
                          {"rounds": 20, "local": {**RECIPE, **recipe}}, "")


class Golden:
    """A file of make_loss_golden.py: a recipe, logits and targets as a module has them, and what is
    right."""

    def __init__(self, name):
        with open(os.path.join(GOLDEN, name), "rb") as f:
            raw = f.read()
        kind, rows, spots, outputs, ignore, batch, background, weights = struct.unpack_from("<8i", raw)
        positive, nr, dr, dice, ce = struct.unpack_from("<5f", raw, 32)
        n, at = rows * spots * outputs, 52

        def take(dtype, count):
            nonlocal at
            values = np.frombuffer(raw, dtype, count, at)
            at += values.nbytes
            return values

        self.kind = NAMES[kind]
        self.z = take("<f4", n).reshape(rows, spots, outputs)
        whole = self.kind in ("cross_entropy", "dice", "dice_ce")
        self.y = take("<i4" if whole else "<f4", rows * (2 if self.kind == "cox" else spots))
        listed = take("<f4", weights)
        self.loss, = take("<f8", 1)
        self.gradient = take("<f4", n).reshape(rows, spots, outputs)
        self.y = self.y.reshape(rows, -1)
        if whole:  # [rows, classes, spots], or [rows, classes] where there is but one
            self.z, self.gradient = (a.transpose(0, 2, 1) for a in (self.z, self.gradient))
            if spots == 1:
                self.z, self.gradient, self.y = self.z[..., 0], self.gradient[..., 0], self.y[:, 0]
        self.recipe = {"loss": self.kind, "pos_weight": positive,
                       "ignore_class": ignore if ignore >= 0 else 1024,
                       "class_weights": [str(w) for w in listed],
                       "dice": {"smooth_nr": nr, "smooth_dr": dr, "batch": bool(batch),
                                "include_background": bool(background), "lambda_dice": dice,
                                "lambda_ce": ce}}

    def of(self, **changes):
        """The loss, and its gradient, of a recipe with these changes."""
        z = torch.tensor(self.z, requires_grad=True)
        value = ours.loss_of({**self.recipe, **changes})(z, torch.tensor(self.y))
        value.backward()
        return value.item(), z.grad.numpy()


@unittest.skipUnless(HERE, "PyTorch is not installed here")
class Losses(unittest.TestCase):
    def test_losses_and_their_gradients_are_the_native_ones(self):
        seen = set()
        for name in sorted(os.listdir(GOLDEN)):
            g = Golden(name)
            loss, gradient = g.of()
            self.assertAlmostEqual(loss, g.loss, delta=1e-5 * abs(g.loss), msg=name)
            off = np.linalg.norm(gradient - g.gradient) / np.linalg.norm(g.gradient)
            self.assertLess(off, 1e-5, name)
            seen.add(g.kind)
        self.assertEqual(seen, set(NAMES))

    def test_every_option_changes_what_it_is_an_option_of(self):
        ce, dice = Golden("ce-ignore.bin"), Golden("dice-ce.bin")
        for g, changes in ((Golden("bce.bin"), {"pos_weight": 1.0}),
                           (Golden("ce-weights.bin"), {"class_weights": []}),
                           (ce, {"ignore_class": 1024}), (dice, {"ignore_class": 1}),
                           (dice, {"class_weights": []})):
            self.assertGreater(abs(g.of(**changes)[0] - g.loss), 1e-4 * abs(g.loss), changes)
        for key, value in (("smooth_nr", 9.0), ("smooth_dr", 9.0), ("batch", True),
                           ("include_background", False), ("lambda_dice", 3.0), ("lambda_ce", 3.0)):
            changed = dice.of(dice={**dice.recipe["dice"], key: value})[0]
            self.assertGreater(abs(changed - dice.loss), 1e-4 * dice.loss, key)

    def test_what_counts_nothing_has_a_loss_of_0_and_no_gradient(self):
        z = torch.randn(2, 3, 4, requires_grad=True)
        ours.loss_of({"loss": "cross_entropy", "ignore_class": 1})(z, torch.ones(2, 4)).backward()
        self.assertEqual(z.grad.abs().sum().item(), 0)
        hazard = torch.randn(3, 1, requires_grad=True)
        loss = ours.loss_of({"loss": "cox"})(hazard, torch.tensor([[1.0, 0], [2, 0], [3, 0]]))
        loss.backward()
        self.assertEqual((loss.item(), hazard.grad.abs().sum().item()), (0, 0))

    def test_weights_for_other_classes_than_the_models_are_refused(self):
        g = Golden("ce-weights.bin")
        with self.assertRaisesRegex(consilium.Failed, "has 2 numbers, this site's model 4 classes"):
            g.of(class_weights=["1", "2"])

    def test_a_segmenter_trains_and_is_evaluated_by_the_plan(self):
        torch.manual_seed(1)
        x = torch.randn(6, 1, 4, 4)
        y = (x[:, 0] > 0).long() + (x[:, 0] > 1).long()
        module = torch.nn.Conv2d(1, 3, 1)
        model = {n: v.numpy().copy() for n, v in module.state_dict().items()}
        trainer = ours.TorchTrainer(module, (x, y), (x, y))
        wanted = task(loss="dice_ce", ignore_class=1024, class_weights=["1", "2", "1"], epochs=20,
                      dice={"smooth_nr": 1e-5, "smooth_dr": 1e-5, "batch": False,
                            "include_background": True, "lambda_dice": 1.0, "lambda_ce": 1.0})
        before = trainer.evaluate(model, wanted)
        after = trainer.evaluate(trainer.train(model, wanted).tensors, wanted)
        self.assertLess(after["loss"][0], 0.9 * before["loss"][0])
        self.assertEqual((after["spots"][0], after["count"][0]), (96, 6))
        with torch.no_grad():
            z = torch.nn.functional.conv2d(x, *(torch.tensor(model[n]) for n in ("weight", "bias")))
        loss = ours.loss_of(wanted.recipe)
        alone = [loss(z[i:i + 1].double(), y[i:i + 1]).item() for i in range(6)]
        want = metrics.masks(z.numpy(), y.numpy(), np.array(alone))
        for name, values in want.items():
            np.testing.assert_allclose(before[name], values, atol=8)

    def test_survival_trains_and_is_evaluated_by_the_plan(self):
        torch.manual_seed(1)
        x = torch.randn(40, 2)
        y = torch.stack([torch.exp(-2 * x[:, 0]), (torch.arange(40) % 3 > 0).float()], 1)
        module = torch.nn.Linear(2, 1)
        model = {"weight": np.array([[-.1, .1]], np.float32), "bias": np.zeros(1, np.float32)}
        trainer = ours.TorchTrainer(module, (x, y), (x, y))
        wanted = task(loss="cox", batch=20, epochs=30)
        before = trainer.evaluate(model, wanted)
        after = trainer.evaluate(trainer.train(model, wanted).tensors, wanted)
        self.assertLess(before["concordant"][0], after["concordant"][0])
        self.assertGreater(after["concordant"][0], 1.9 * after["comparable"][0])


if __name__ == "__main__":
    unittest.main()
