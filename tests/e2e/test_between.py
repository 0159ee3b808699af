# SPDX-License-Identifier: Apache-2.0
"""Where two promises meet: consents that change while patients' privacy is paid for, an update
that is taken back while its noise is known, files that are broken for a moment."""
import unittest

from federation import Federation
from test_budget import DELTA, private
from test_steward import USE, Withdrawn, patients, write


class Between(unittest.TestCase):
    def test_noise_that_served_one_set_of_rows_serves_no_other(self):
        """Two updates under one noise would tell what they differ by: who has gone."""
        with Federation() as f:
            opt_out = write(f, "opt-out.txt", "")
            top = f.top(children_min=2)
            one = f.spoke("north-1", top, consent={"opt_out": opt_out}, policy={"delta": DELTA})
            two = f.spoke("north-2", top)
            keys = private(noise=40.0, steps=20, epsilon_max=100.0)
            keys["local"]["batch"] = 512  # every row is in every sample, whoever is left
            run = f.run(f.plan(rounds=1, **dict(keys, **USE)))
            run.wait_round(1)
            two.freeze()
            try:
                f.wait(lambda: one.audit("receipt"), 60, "the update is delivered")
                write(f, "opt-out.txt", "\n".join(patients(f, "north-1")[:20]) + "\n")
                f.wait(lambda: one.audit("withdrawal.done"), 20, "the update is taken back")
                f.wait(lambda: one.audit("round.declined"), 20, "no other is made")
            finally:
                two.thaw()
            run.finish()
            self.assertEqual(len(one.audit("update.sealed")), 1)
            self.assertEqual(one.audit("privacy.resumed"), [])

    def test_fewer_rows_that_cost_more_than_was_accepted_end_a_sites_part(self):
        with Federation() as f:
            opt_out = write(f, "opt-out.txt", "")
            top = f.top(children_min=1)
            one = f.spoke("north-1", top, consent={"opt_out": opt_out},
                          policy={"delta": DELTA, "epsilon_max": 6.0})
            keys = private(noise=5.0, steps=4000, epsilon_max=6.0)
            keys["local"]["batch"] = 1
            names = patients(f, "north-1")
            run = f.run(f.plan(rounds=6, **dict(keys, **USE)))
            f.wait(lambda: one.audit("receipt") or one.audit("plan.declined"), 60, "round 1")
            self.assertEqual(one.audit("plan.declined"), [])
            write(f, "opt-out.txt", "\n".join(names[:20]) + "\n")
            f.wait(lambda: one.audit("round.declined"), 60, "a round is declined")
            self.assertIn("epsilon", one.audit("round.declined")[0]["data"]["reason"])
            run.wait()
            self.assertLess(len(one.audit("privacy.charged")), 6)

    def test_consents_that_are_broken_for_a_moment_lose_no_opt_out(self):
        with Federation() as f:
            top, one, two, run = Withdrawn().held_open(f)
            try:
                gone = patients(f, "north-1")[:20]
                write(f, "opt-out.txt", gone[0] + ",x,y\n")
                f.wait(lambda: one.audit("consent.broken"), 20, "the file is found broken")
                write(f, "opt-out.txt", "\n".join(gone) + "\n")
                f.wait(lambda: top.audit("update.withdrawn"), 20, "the update is taken back")
            finally:
                two.thaw()
            run.finish()
            reasons = [e["data"]["reason"] for e in top.audit("round.declined")]
            self.assertEqual([r for r in reasons if "opt-out.txt" in r], [])


class Counts(unittest.TestCase):
    def test_what_counts_exactly_is_no_plan_of_privacy(self):
        with Federation() as f:
            keys = private(noise=100.0, steps=1, epsilon_max=1.0)
            done = f.cli("plan", "check", f.plan(rounds=1, **dict(
                keys, statistics={"columns": '["diagnosis=2"]'})), check=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn("privacy.patient exclude each other", done.stderr)
