# SPDX-License-Identifier: Apache-2.0
import math
import unittest

import numpy as np
from consilium import metrics


class Binary(unittest.TestCase):
    def test_the_sums_are_those_of_the_rows(self):
        sums = metrics.binary([2.0, -1.0, 0.5, -3.0], [1, 0, 0, 1])
        self.assertEqual(sums["count"].tolist(), [4])
        self.assertEqual(sums["correct"].tolist(), [2])
        losses = [math.log1p(math.exp(-2)), math.log1p(math.exp(-1)),
                  math.log1p(math.exp(.5)), math.log1p(math.exp(3))]
        self.assertEqual(sums["loss"].tolist(), [sum(round(x * 2 ** 20) for x in losses)])
        for name, rows in (("score_hist_pos", [2.0, -3.0]), ("score_hist_neg", [-1.0, 0.5])):
            bins = sorted(int(4096 / (1 + math.exp(-z))) for z in rows)
            self.assertEqual(np.flatnonzero(sums[name]).tolist(), bins)
            self.assertEqual((sums[name].size, sums[name].sum()), (4096, 2))

    def test_positives_weigh_what_they_are_said_to(self):
        z, y = [2.0, -1.0, 0.5], [1, 0, 1]
        losses = [2 * math.log1p(math.exp(-2)), math.log1p(math.exp(-1)),
                  2 * math.log1p(math.exp(-.5))]
        self.assertEqual(metrics.binary(z, y, pos_weight=2.0)["loss"].tolist(),
                         [sum(round(x * 2 ** 20) for x in losses)])

    def test_sums_of_parts_are_the_sums_of_the_whole(self):
        rng = np.random.default_rng(1)
        z, y = rng.normal(0, 4, 501), rng.integers(0, 2, 501)
        whole = metrics.binary(z, y)
        parts = [metrics.binary(z[at:at + 100], y[at:at + 100]) for at in range(0, 501, 100)]
        for name, values in whole.items():
            np.testing.assert_array_equal(values, sum(p[name] for p in parts))

    def test_scores_at_the_ends_have_the_bins_at_the_ends(self):
        sums = metrics.binary([800.0, -800.0], [1, 1])
        self.assertEqual(np.flatnonzero(sums["score_hist_pos"]).tolist(), [0, 4095])
        self.assertEqual(metrics.binary([-1e9], [1])["loss"].tolist(), [65536 << 20])

    def test_no_rows_are_zero_sums(self):
        self.assertEqual(int(sum(v.sum() for v in metrics.binary([], []).values())), 0)

    def test_what_is_not_finite_or_of_another_length_is_refused(self):
        with self.assertRaisesRegex(ValueError, "not finite"):
            metrics.binary([float("nan")], [1])
        with self.assertRaisesRegex(ValueError, "2 logits for 1 labels"):
            metrics.binary([1.0, 2.0], [1])


class Classes(unittest.TestCase):
    def test_the_first_of_equal_logits_is_predicted(self):
        sums = metrics.classes([[1.0, 1.0, 0.0], [0.0, 0.0, 5.0]], [0, 1])
        self.assertEqual((sums["count"].tolist(), sums["correct"].tolist()), ([2], [1]))
        losses = [math.log(2 * math.e + 1) - 1, math.log(2 + math.exp(5))]
        self.assertEqual(sums["loss"].tolist(), [sum(round(x * 2 ** 20) for x in losses)])

    def test_logits_that_do_not_overflow_exp_are_needed_by_nobody(self):
        self.assertEqual(metrics.classes([[1e5, 0.0]], [0])["loss"].tolist(), [0])

    def test_rows_of_the_ignored_class_count_as_little_as_at_a_native_spoke(self):
        # The same rows and sums as tests/unit/spoke/test_eval.c has.
        sums = metrics.classes([[2, 0], [0, 1], [3, 1], [0, 2], [1, 0]], [0, 2, 1, 1, 2], ignore=2)
        losses = [math.log1p(math.exp(-2)), math.log1p(math.exp(2)), math.log1p(math.exp(-2))]
        self.assertEqual({name: value.tolist() for name, value in sums.items()},
                         {"count": [3], "spots": [3], "correct": [2],
                          "loss": [sum(round(x * 2 ** 20) for x in losses)]})
        with self.assertRaisesRegex(ValueError, "labels from 0 to 2 for 2 classes"):
            metrics.classes([[2, 0], [0, 1]], [0, 2])

    def test_rows_of_nothing_but_the_ignored_class_are_no_rows_of_masks_either(self):
        logits = np.array([[[2.0, 2.0], [0.0, 1.0]]] * 2)  # two rows, two classes, two spots
        sums = metrics.masks(logits, [[2, 1], [2, 2]], [1.0, 7.0], ignore=2)
        self.assertEqual([int(sums[k][0]) for k in ("count", "spots", "correct", "loss")],
                         [1, 1, 0, 1 << 20])

    def test_one_row_of_logits_for_each_label_is_needed(self):
        with self.assertRaisesRegex(ValueError, "for 2 labels"):
            metrics.classes([[1.0, 2.0]], [0, 1])


    def test_weights_and_an_ignored_class_say_which_rows_have_a_loss(self):
        z, y = [[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]], [0, 1, 2]
        plain = metrics.classes(z[:2], y[:2])
        sums = metrics.classes(z, y, ignore=2)
        self.assertEqual((sums["count"][0], sums["spots"][0], sums["correct"][0]), (2, 2, 2))
        self.assertEqual(sums["loss"], plain["loss"])
        self.assertEqual(metrics.classes(z[:2], y[:2], weights=[0.0, 3.0])["loss"],
                         metrics.classes(z[1:2], y[1:2])["loss"])
        self.assertNotIn("spots", plain)


class Survival(unittest.TestCase):
    def test_pairs_and_risk_sets_are_those_of_the_definition(self):
        sums = metrics.survival([2.0, 1.0, 1.0, 0.0], [[1, 1], [2, 1], [2, 0], [3, 1]])
        # Patient 0 before 1, 2, 3, all in order; 1 before 2, who was last seen then (a tie), and 3.
        self.assertEqual((sums["events"][0], sums["comparable"][0], sums["concordant"][0]),
                         (3, 5, 2 * 3 + 1 + 2))
        risks = [math.log(sum(map(math.exp, z))) - z[0]
                 for z in ([2, 1, 1, 0], [1, 1, 0], [0])]
        self.assertEqual(sums["loss"].tolist(), [sum(round(r * 2 ** 20) for r in risks)])

    def test_without_events_there_is_nothing_to_compare(self):
        sums = metrics.survival([1.0, 2.0], [[1, 0], [2, 0]])
        self.assertEqual({n: int(v[0]) for n, v in sums.items()},
                         {"count": 2, "loss": 0, "events": 0, "comparable": 0, "concordant": 0})

    def test_a_time_and_an_event_for_each_hazard_are_needed(self):
        with self.assertRaisesRegex(ValueError, "2 hazards for targets of shape"):
            metrics.survival([1.0, 2.0], [1.0, 2.0])


class Values(unittest.TestCase):
    def test_errors_are_summed_in_fixed_point(self):
        sums = metrics.values([1.0, 2.5], [0.5, 4.0])
        self.assertEqual({n: int(v[0]) for n, v in sums.items()},
                         {"count": 2, "loss": 2.5 * 2 ** 20, "squared_error": 2.5 * 2 ** 20,
                          "absolute_error": 2 * 2 ** 20})
        self.assertEqual(metrics.values([1.0], [3.0], "l1")["loss"].tolist(), [2 << 20])
        self.assertEqual(metrics.values([1e30], [0.0])["loss"].tolist(), [1 << 44])

    def test_one_output_for_each_target_is_needed(self):
        with self.assertRaisesRegex(ValueError, "2 outputs for 1 targets"):
            metrics.values([1.0, 2.0], [1.0])


class Masks(unittest.TestCase):
    labels = np.array([[[0, 1], [1, 2]], [[0, 0], [0, 9]]])

    def logits(self, said):
        z = np.zeros((2, 3, 2, 2))
        for at, c in np.ndenumerate(np.array(said)):
            z[at[0], c, at[1], at[2]] = 1
        return z

    def test_spots_are_counted_by_class_and_case(self):
        said = [[[0, 1], [2, 2]], [[0, 0], [1, 0]]]
        sums = metrics.masks(self.logits(said), self.labels, [0.5, 0.25])
        self.assertEqual((sums["count"][0], sums["spots"][0], sums["correct"][0]), (2, 7, 5))
        self.assertEqual(sums["loss"].tolist(), [0.75 * 2 ** 20])
        self.assertEqual(sums["dice_overlap"].tolist(), [1 + 2, 1, 1])
        self.assertEqual(sums["dice_sizes"].tolist(), [2 + 5, 3 + 1, 3])
        self.assertEqual(sums["dice_cases"].tolist(), [2, 2, 1])
        fixed = [round(x * 2 ** 20) for x in (1, 4 / 5, 2 / 3, 2 / 3)]
        self.assertEqual(sums["case_dice"].tolist(), [fixed[0] + fixed[1], fixed[2], fixed[3]])

    def test_a_class_that_is_ignored_counts_nowhere(self):
        sums = metrics.masks(self.logits(np.where(self.labels > 2, 0, self.labels)), self.labels,
                             [0, 0], ignore=0)
        self.assertEqual((sums["spots"][0], sums["correct"][0]), (3, 3))
        self.assertEqual(sums["dice_sizes"].tolist(), [0, 4, 2])

    def test_sums_of_parts_are_added(self):
        z = self.logits(np.minimum(self.labels, 2))
        whole = metrics.masks(z, self.labels, [1, 2])
        parts = metrics.add(*(metrics.masks(z[i:i + 1], self.labels[i:i + 1], [i + 1])
                              for i in (0, 1)))
        self.assertEqual(sorted(whole), sorted(parts))
        for name, values in whole.items():
            np.testing.assert_array_equal(parts[name], values)

    def test_other_shapes_are_refused(self):
        with self.assertRaisesRegex(ValueError, "for masks of shape"):
            metrics.masks(np.zeros((2, 3, 2, 2)), self.labels[:1], [0, 0])


if __name__ == "__main__":
    unittest.main()
