# SPDX-License-Identifier: Apache-2.0
"""What a site lets its patients' privacy cost: DP-SGD in a federation, charged round by round to a
ledger that outlives runs and kills, and refused where it is spent."""
import json
import os
import sqlite3
import subprocess
import unittest

from federation import Federation, clean_environment, program

DELTA = 1e-4
EXACT = {"clip": 8.0, "saturate": "true"}


def private(noise=2.0, epsilon_max=20.0, steps=5, **local):
    """What turns the tests' plan into one with differential privacy."""
    return {"weights": "uniform", "evaluate": {"every": 0}, "exact": EXACT,
            "local": dict({"steps": steps}, **local),
            "privacy": {"patient": {"clip": 1.0, "noise": noise, "delta": DELTA,
                                    "epsilon_max": epsilon_max}}}


def budget(node):
    """`consilium-spoke budget --json` of a spoke, which may be running."""
    done = subprocess.run([program("consilium-spoke"), "budget", "--json", "--config",
                           node.config_path], capture_output=True, text=True, check=True,
                          env=clean_environment())
    return json.loads(done.stdout)["patient"]


def keys(node):
    """(round, whether the key is still there) of the ledger."""
    db = sqlite3.connect(os.path.join(node.dir, "ledger.db"))
    try:
        return db.execute("SELECT round, key IS NOT NULL FROM charges ORDER BY round").fetchall()
    finally:
        db.close()


class Budget(unittest.TestCase):
    def test_a_run_costs_what_plan_check_says_and_its_keys_are_forgotten(self):
        with Federation() as f:
            top = f.top(children_min=2)
            sites = [f.spoke(name, top, policy={"delta": DELTA}) for name in ("north-1", "north-2")]
            plan = f.plan(rounds=4, **private())
            run = f.run(plan)
            self.assertEqual(run.finish().state, "completed")
            for site in sites:
                rows = site.audit("data.opened")[0]["data"]["train_rows"]
                told = json.loads(f.cli("plan", "check", "--json", "--rows", str(rows), plan)
                                  .stdout)["privacy"]["patient"]
                spent = budget(site)
                self.assertAlmostEqual(spent["epsilon"], told["costs"][0]["epsilon"], places=9)
                self.assertEqual([(c["rounds"], c["steps"], c["noise"]) for c in spent["charges"]],
                                 [(4, 20, 2.0)])
                site.stop()
                self.assertEqual(keys(site), [(1, 0), (2, 0), (3, 0), (4, 0)])
                # Each key's hash was written down before its round was trained.
                order = [e["event"] for e in site.audit()
                         if e["event"] in ("privacy.charged", "update.sealed")]
                self.assertEqual(order, ["privacy.charged", "update.sealed"] * 4)
                hashes = {e["data"]["key"] for e in site.audit("privacy.charged")}
                self.assertEqual(len(hashes), 4)

    def test_a_killed_round_is_charged_once_and_its_noise_is_drawn_again(self):
        with Federation() as f:
            top = f.top(children_min=1)
            site = f.spoke("north-1", top, policy={"delta": DELTA})
            run = f.run(f.plan(rounds=2, **private(noise=40.0, steps=1200)))
            f.wait(lambda: site.audit("data.read"), 30, "the first round is trained")
            before = site.audit("privacy.charged")
            site.kill()
            site.start()
            self.assertEqual(run.finish().state, "completed")
            resumed = site.audit("privacy.resumed")
            self.assertEqual([e["data"]["round"] for e in before], [1])
            self.assertEqual([e["data"]["key"] for e in resumed],
                             [before[0]["data"]["key"]])
            self.assertEqual([e["data"]["round"] for e in site.audit("privacy.charged")], [1, 2])
            self.assertEqual([c["rounds"] for c in budget(site)["charges"]], [2])

    def test_a_plan_is_refused_where_it_or_all_plans_together_cost_too_much(self):
        with Federation() as f:
            top = f.top(children_min=1)
            site = f.spoke("north-1", top, policy={"delta": DELTA, "epsilon_max": 6.0})
            first = f.run(f.plan(rounds=3, **private()))
            self.assertEqual(first.finish().state, "completed")
            spent = budget(site)["epsilon"]
            self.assertTrue(2 < spent < 6, spent)

            # Its own promise; then what is left here; then no promise at all.
            for changes, why in ((private(epsilon_max=1.0), r"privacy\.patient\.epsilon_max is 1\b"),
                                 (private(noise=1.0, steps=8),
                                  r"have spent epsilon %.3f .* policy\.epsilon_max is 6" % spent),
                                 ({}, r"no privacy\.patient, .* policy\.epsilon_max is 6")):
                mark = top.mark()
                f.run(f.plan(rounds=3, **changes))
                top.wait_log(r"north-1 declines.*" + why, mark)
            self.assertEqual(budget(site)["epsilon"], spent)
            self.assertEqual(len(site.audit("plan.declined")), 3)

    def test_a_run_goes_no_further_where_its_site_lowers_what_may_be_spent(self):
        with Federation() as f:
            top = f.top(children_min=1)
            site = f.spoke("north-1", top, policy={"delta": DELTA, "epsilon_max": 6.0})
            f.run(f.plan(rounds=3, **private(steps=5, optimiser={"lr": 0.05})))
            site.wait_log("round 1: 5 steps")
            site.kill()
            charged = len(keys(site))
            site.keys["policy"]["epsilon_max"] = 0.5
            mark = top.mark()
            site.start()
            top.wait_log(r"north-1 declines.*policy\.epsilon_max is 0\.5", mark)
            self.assertEqual(len(keys(site)), charged)

    def test_spokes_of_two_authorities_have_one_budget_for_one_set_of_patients(self):
        """What one authority's run costs, or may still cost, the other's cannot: in both orders, and
        over kills. Each federation has an authority, a top and a policy of its own."""
        for first in (0, 1):
            with Federation() as a, Federation() as b:
                shared = {"ledger": {"file": os.path.join(a.dir, "patients.db")}}
                feds = (a, b) if first == 0 else (b, a)
                sites, tops = [], []
                for f in feds:
                    tops.append(f.top(children_min=1))
                    sites.append(f.spoke("north-1", tops[-1],
                                         policy={"delta": DELTA, "epsilon_max": 6.0}, **shared))
                little = private(noise=60.0, steps=2)
                self.assertEqual(feds[0].run(feds[0].plan(rounds=1, **little)).finish().state,
                                 "completed")
                rows = sites[0].audit("data.opened")[0]["data"]["train_rows"]
                noise = feds[0].cli("privacy", "noise", "--epsilon", "4.6", "--delta", str(DELTA),
                                    "--rate", repr(16 / rows), "--steps", "600", "--json").stdout
                costly = private(noise=json.loads(noise)["noise"], steps=300)  # once, not twice

                def refused(words):
                    mark = tops[1].mark()
                    feds[1].run(feds[1].plan(rounds=2, **costly))
                    tops[1].wait_log(r"north-1 declines.*have spent epsilon .*" + words, mark)

                run = feds[0].run(feds[0].plan(rounds=2, **costly))
                feds[0].wait(lambda: sites[0].audit("privacy.charged"), 30, "its first is charged")
                # What it may still cost counts, while it runs and while it is dead.
                refused(r"with what open runs may still spend")
                sites[0].kill()
                refused(r"with what open runs may still spend")
                sites[0].start()
                self.assertEqual(run.finish().state, "completed")
                self.assertEqual([c["rounds"] for c in budget(sites[0])["charges"]], [1, 2])
                # Both tell the same of these patients.
                spent = [budget(s)["epsilon"] for s in sites]
                self.assertEqual(spent[0], spent[1])
                self.assertGreater(spent[0], 3)
                self.assertFalse(os.path.exists(os.path.join(sites[1].dir, "ledger.db")))
                refused("")
                sites[1].kill()
                sites[1].start()
                refused("")
                # What is little is taken still.
                last = feds[1].run(feds[1].plan(rounds=2, **little))
                self.assertEqual(last.finish().state, "completed")


if __name__ == "__main__":
    unittest.main()
