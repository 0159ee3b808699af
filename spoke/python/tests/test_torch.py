# SPDX-License-Identifier: Apache-2.0
import importlib.util
import unittest

import consilium
import numpy as np

HERE = importlib.util.find_spec("torch") is not None
if HERE:
    import torch
    from consilium import torch as ours

RECIPE = {"loss": "bce", "batch": 4, "epochs": 2, "steps": 0, "seed": 3, "prox_mu": 0.0,
          "optimiser": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True,
                        "weight_decay": 0.01}}
X = np.arange(20, dtype=np.float32).reshape(10, 2) / 10 - 1
Y = (X.sum(axis=1) > 0).astype(np.float32)


def task(number=1, **changes):
    plan = {"rounds": 20, "local": {**RECIPE, **changes}}
    return consilium.Task(1, "ab", number, 5, True, True, 100, plan, "")


@unittest.skipUnless(HERE, "PyTorch is not installed here")
class Modules(unittest.TestCase):
    def setUp(self):
        self.module = torch.nn.Linear(2, 1)
        self.model = {"weight": np.array([[.5, -.25]], np.float32),
                      "bias": np.zeros(1, np.float32)}
        self.trainer = ours.TorchTrainer(self.module, (X, Y), (X[:4], Y[:4]))

    def test_a_round_is_torchs_own_loop(self):
        result = self.trainer.train(self.model, task())
        module = torch.nn.Linear(2, 1)
        module.load_state_dict({n: torch.tensor(v) for n, v in self.model.items()})
        step = torch.optim.SGD(module.parameters(), 0.1, momentum=.9, nesterov=True,
                               weight_decay=.01)
        for rows in consilium.batches(10, RECIPE, 5):
            step.zero_grad()
            torch.nn.functional.binary_cross_entropy_with_logits(
                module(torch.tensor(X[rows]))[:, 0], torch.tensor(Y[rows])).backward()
            step.step()
        self.assertEqual((result.rows, result.steps), (10, 6))
        for name, value in module.state_dict().items():
            np.testing.assert_array_equal(result.tensors[name], value.numpy())
        np.testing.assert_array_equal(self.model["weight"], [[.5, -.25]])

    def test_fedprox_pulls_to_the_model_of_the_round(self):
        free, held = (np.abs(self.trainer.train(self.model, task(prox_mu=mu)).tensors["weight"] -
                             self.model["weight"]).sum() for mu in (0.0, 5.0))
        self.assertLess(held, free / 2)

    def test_losses_have_the_names_that_plans_have(self):
        z, y = torch.tensor([[1.0, 2.0, 0.5]]), torch.tensor([2])
        self.assertAlmostEqual(ours.loss_of({"loss": "cross_entropy"})(z, y).item(),
                               torch.nn.functional.cross_entropy(z, y).item())
        with self.assertRaisesRegex(consilium.Failed, "the plan.s loss focal is none"):
            ours.loss_of({"loss": "focal"})
        for name in ("cross_entropy", "dice", "dice_ce"):
            with self.assertRaisesRegex(consilium.Failed, name + " takes an output for each class"):
                ours.loss_of({"loss": name})(z[:, :1], y)

    def test_what_is_frozen_stays(self):
        self.module.bias.requires_grad_(False)
        result = self.trainer.train(self.model, task())
        np.testing.assert_array_equal(result.tensors["bias"], self.model["bias"])

    def test_evaluation_is_of_the_model_that_came(self):
        self.trainer.train(self.model, task())
        sums = self.trainer.evaluate(self.model, task())
        logits = X[:4] @ self.model["weight"][0]
        for name, values in consilium.metrics.binary(logits, Y[:4]).items():
            np.testing.assert_array_equal(sums[name], values)

    def test_tensors_of_other_names_or_shapes_are_refused(self):
        with self.assertRaisesRegex(ValueError, "has no tensor gamma"):
            ours.load(self.module, {"gamma": np.zeros(1, np.float32)})
        with self.assertRaisesRegex(ValueError, r"tensor bias has shape \(1,\)"):
            ours.load(self.module, {"bias": np.zeros(2, np.float32)})

    def test_a_recipe_that_is_not_done_declines_the_round(self):
        for changes, words in (({"loss": "focal"}, "focal"), ({"unheard_of": 2}, "unheard_of"),
                               ({"optimiser": {"name": "lion", "lr": 1}}, "lion")):
            with self.assertRaisesRegex(consilium.Failed, words):
                self.trainer.train(self.model, task(**changes))

    def plain(self, **changes):
        """Trained by plain SGD; copies, for the module's own go on."""
        o = {"name": "sgd", "lr": 0.1, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
        got = self.trainer.train(self.model, task(optimiser=o, **changes)).tensors
        return {name: values.copy() for name, values in got.items()}

    def test_accumulated_batches_are_one_batch_of_all_their_rows(self):
        one, several = self.plain(batch=8), self.plain(batch=2, accumulate=4)
        for name, values in one.items():
            np.testing.assert_allclose(several[name], values, rtol=1e-5, atol=1e-7)

    def test_an_average_is_sent_without_the_model_that_it_began_with(self):
        first = self.plain(batch=5, epochs=0, steps=1)
        second = self.plain(batch=5, epochs=0, steps=2)
        sent = self.plain(batch=5, epochs=0, steps=2, ema=0.75)
        for name in first:
            np.testing.assert_allclose(sent[name], (.75 * first[name] + second[name]) / 1.75,
                                       rtol=1e-5, atol=1e-7)

    def test_patterns_of_the_plan_freeze(self):
        got = self.plain(freeze=["b*"])
        np.testing.assert_array_equal(got["bias"], self.model["bias"])
        self.assertGreater(np.abs(got["weight"] - self.model["weight"]).max(), 0)

    def test_the_rate_follows_the_schedules_of_torch(self):
        def ours_of(**schedule):
            s = {"per": "round", "warmup": 0, "step_size": 0, "gamma": None, "lr_min": None}
            return [consilium.learning_rate(task(number, schedule={**s, **schedule}), 0, 1)
                    for number in range(1, 21)]

        def theirs(make):
            step = torch.optim.SGD([torch.zeros(1)], lr=RECIPE["optimiser"]["lr"])
            schedule, rates = make(step), []
            for _ in range(20):
                rates.append(step.param_groups[0]["lr"])
                step.step()
                schedule.step()
            return rates

        lr = torch.optim.lr_scheduler
        for got, want in (
                (ours_of(name="step", step_size=6, gamma=.3), lambda o: lr.StepLR(o, 6, .3)),
                (ours_of(name="cosine", lr_min=.01), lambda o: lr.CosineAnnealingLR(o, 20, .01)),
                (ours_of(name="constant", warmup=4), lambda o: lr.LinearLR(o, 1 / 5, 1, 4))):
            np.testing.assert_allclose(got, theirs(want), rtol=1e-12)

    def test_a_rate_that_changes_within_a_round_is_used(self):
        s = {"name": "step", "per": "step", "warmup": 0, "step_size": 1, "gamma": 1e-9,
             "lr_min": None}
        self.assertEqual(consilium.learning_rate(task(2, schedule=s), 0, 4), 0.1 * 1e-9)
        still = self.plain(number=3, schedule=s)
        np.testing.assert_allclose(still["weight"], self.model["weight"], atol=1e-7)

    def test_losses_are_torchs_and_have_their_figures(self):
        self.assertLess(self.plain(pos_weight=9.0)["bias"] * -1, self.plain()["bias"] * -1)
        for loss in ("mse", "l1"):
            sums = self.trainer.evaluate(self.model, task(loss=loss))
            want = consilium.metrics.values(X[:4] @ self.model["weight"][0], Y[:4], loss)
            np.testing.assert_array_equal(sums["loss"], want["loss"])
            self.assertTrue(np.isfinite(self.plain(loss=loss)["weight"]).all())
        labels = Y.astype(np.int64)
        several = ours.TorchTrainer(torch.nn.Linear(2, 3), (X, labels), (X[:4], labels[:4]))
        model = {"weight": np.eye(3, 2, dtype=np.float32), "bias": np.zeros(3, np.float32)}
        sums = several.evaluate(model, task(loss="cross_entropy"))
        want = consilium.metrics.classes(X[:4] @ model["weight"].T, labels[:4])
        np.testing.assert_array_equal(sums["loss"], want["loss"])
        self.assertEqual(several.train(model, task(loss="cross_entropy")).steps, 6)
        nobody = ours.TorchTrainer(torch.nn.Linear(2, 3), (X, labels), (X[:0], labels[:0]))
        self.assertEqual(nobody.evaluate(model, task(loss="cross_entropy"))["count"], [0])

    def test_a_loss_of_ones_own_may_do_more_of_a_recipe(self):
        recipe = dict(loss="dice_ce", dice={"lambda_ce": 2.0})
        own = ours.TorchTrainer(self.module, (X, Y), (X, Y), loss=lambda z, y: (z[:, 0] - y).sum())
        with self.assertRaisesRegex(consilium.Failed, "local.dice.lambda_ce"):
            own.train(self.model, task(**recipe))
        own = ours.TorchTrainer(self.module, (X, Y), (X, Y), done=["dice.lambda_ce"],
                                loss=lambda z, y: 2 * (z[:, 0] - y).square().mean())
        self.assertEqual(own.train(self.model, task(**recipe)).steps, 6)

    def test_gradients_are_clipped_as_the_recipe_says(self):
        for key in ("clip_norm", "clip_value"):
            result = self.trainer.train(self.model, task(**{key: 1e-9}, optimiser={
                "name": "sgd", "lr": 0.1, "momentum": 0.0, "nesterov": False,
                "weight_decay": 0.0}))
            np.testing.assert_allclose(result.tensors["weight"], self.model["weight"], atol=1e-8)


if __name__ == "__main__":
    unittest.main()
