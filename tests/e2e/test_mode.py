# SPDX-License-Identifier: Apache-2.0
"""mode: untrusted, over real processes: what it sets holds on the wire, and who asks for it gets it."""
import json
import unittest

from federation import Federation

SPOKES = ["north-1", "north-2", "north-3", "centre-1", "centre-2"]
PRIVATE = {"patient": {"clip": 1.0, "noise": 1.0, "delta": 1e-3, "epsilon_max": 20.0}}
UNTRUSTED = {"mode": "untrusted", "secure": {"norm_max": 2.0}, "privacy": PRIVATE}


class Untrusted(unittest.TestCase):
    def test_a_plan_of_one_word_is_signed_masked_noised_and_completes(self):
        with Federation() as f:
            top = f.top_with_authority(children_min=1)
            hub = f.hub("hub-a", top, children_min=5)
            spokes = [f.spoke(name, hub, policy={"accept": "all", "mode": "untrusted"})
                      for name in SPOKES]
            plan = f.plan(rounds=2, **UNTRUSTED)
            told = json.loads(f.cli("plan", "check", "--json", plan).stdout)["mode"]
            self.assertEqual(told["name"], "untrusted")
            self.assertEqual(told["set"]["secure.sums"], "region")
            self.assertEqual((told["written"], told["exceptions"]), ({}, []))
            refused = f.cli("run", "start", plan, *f.at_top(), check=False)
            self.assertNotEqual(refused.returncode, 0)
            self.assertIn("mode: untrusted wants a signed plan", refused.stderr)
            f.cli("plan", "sign", plan, "--identity", f.operator)
            run = f.run(plan)
            run.finish()
            sums = [e["data"]["spokes"] for e in hub.audit("round.unmasked")]
            self.assertEqual(sums, [5, 5])
            for spoke in spokes:
                self.assertEqual(len(spoke.audit("update.masked")), 2)
                self.assertEqual(len(spoke.audit("privacy.charged")), 2)
            self.assertEqual({e["data"]["author"] for s in spokes for e in s.audit("plan.accepted")},
                             {"operator"})

    def test_a_site_that_asks_for_it_declines_what_is_less(self):
        with Federation() as f:
            top = f.top_with_authority(children_min=1)
            spoke = f.spoke("north-1", top, policy={"accept": "all", "mode": "untrusted"})
            top.wait_log("child north-1 attends")
            less = dict(UNTRUSTED, privacy=None, exceptions="[privacy]")
            for changes, why in (({}, "this one has mode: trusted"),
                                 (less, "this one does without privacy")):
                plan = f.plan(rounds=1, **changes)
                f.cli("plan", "sign", plan, "--identity", f.operator)
                run = f.run(plan)
                spoke.wait_log("declined: .*%s" % why)
                f.cli("run", "stop", run.id, *f.at_top())

    def test_fewer_than_the_cohort_wait_and_nothing_of_them_leaves(self):
        with Federation() as f:
            top = f.top_with_authority(children_min=4)
            spokes = [f.spoke(name, top) for name in SPOKES[:4]]
            plan = f.plan(rounds=1, mode="untrusted", exceptions="[privacy]",
                          secure={"norm_max": 2.0, "step_s": 1})
            f.cli("plan", "sign", plan, "--identity", f.operator)
            mark = top.mark()
            run = f.run(plan)
            top.wait_log("4 of 4 spokes have answered in step 'advert' after 1 s; at least 5", mark)
            self.assertFalse([e for s in spokes for e in s.audit("update.masked")])
            f.spoke(SPOKES[4], top)
            run.finish()
            self.assertEqual([e["data"]["spokes"] for e in top.audit("round.unmasked")], [5])


if __name__ == "__main__":
    unittest.main()
