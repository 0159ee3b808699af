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

    def test_one_row_of_logits_for_each_label_is_needed(self):
        with self.assertRaisesRegex(ValueError, "for 2 labels"):
            metrics.classes([[1.0, 2.0]], [0, 1])


if __name__ == "__main__":
    unittest.main()
