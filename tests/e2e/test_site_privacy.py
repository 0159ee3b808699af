# SPDX-License-Identifier: Apache-2.0
"""What is told of a whole site: changes that are cut and noised before they are sealed, or noised at
the top; charged to a ledger of their own, drawn once, and computed again by an auditor."""
import json
import os
import sqlite3
import subprocess
import unittest

from federation import Federation, clean_environment, program
from test_privacy import safetensors

DELTA = 1e-3


def site(epsilon_max=30.0, **more):
    """What turns the tests' plan into one with privacy of sites."""
    keys = {"clip": 1.0, "noise": 2.0, "delta": DELTA, "epsilon_max": epsilon_max}
    return {"weights": "uniform", "evaluate": {"every": 0}, "exact": {"clip": 128.0},
            "privacy": {"site": dict(keys, **more)}}


def budget(node):
    done = subprocess.run([program("consilium-spoke"), "budget", "--json", "--config",
                           node.config_path], capture_output=True, text=True, check=True,
                          env=clean_environment())
    return json.loads(done.stdout)


def charges(node):
    """(book, round, whether the key is still there) of the ledger; book 1 is the sites'."""
    db = sqlite3.connect(os.path.join(node.dir, "ledger.db"))
    try:
        return db.execute(
            "SELECT book, round, key IS NOT NULL FROM charges ORDER BY round").fetchall()
    finally:
        db.close()


def metadata(path):
    with open(path, "rb") as file:
        raw = file.read()
    return json.loads(raw[8:8 + int.from_bytes(raw[:8], "little")])["__metadata__"]


class SitePrivacy(unittest.TestCase):
    def test_sites_noise_their_own_changes_and_pay_in_a_book_of_their_own(self):
        with Federation() as f:
            top = f.top(children_min=2)
            hub = f.hub("hub-a", top, children_min=2)
            sites = [f.spoke(n, p, policy={"delta": DELTA, "site_epsilon_max": 20.0})
                     for n, p in (("north-1", hub), ("north-2", hub), ("south-1", top))]
            plan = f.plan(rounds=3, **site(honest_min=3))
            self.assertEqual(f.run(plan).finish().state, "completed")
            told = json.loads(f.cli("plan", "check", "--json", plan).stdout)["privacy"]
            self.assertNotIn("patient", told)
            self.assertLess(told["site"]["epsilon"], told["site"]["parent"])
            self.assertAlmostEqual(told["site"]["rho"], 3 / 8, places=12)
            for node in sites:
                spent = budget(node)
                self.assertAlmostEqual(spent["site"]["epsilon"], told["site"]["epsilon"], places=9)
                self.assertEqual(spent["patient"]["epsilon"], 0)
                self.assertEqual([c["rounds"] for c in spent["site"]["charges"]], [3])
            for node in sites:
                node.stop()
                self.assertEqual(charges(node), [(1, 1, 0), (1, 2, 0), (1, 3, 0)])
                order = [e["event"] for e in node.audit()
                         if e["event"] in ("privacy.charged", "update.sealed")]
                self.assertEqual(order, ["privacy.charged", "update.sealed"] * 3)
                self.assertEqual({e["data"]["protects"] for e in node.audit("privacy.charged")},
                                 {"site"})

    def test_a_killed_site_draws_the_same_noise_and_a_spent_one_declines(self):
        with Federation() as f:
            top = f.top(children_min=1)
            node = f.spoke("north-1", top, policy={"delta": DELTA, "site_epsilon_max": 3.0})
            run = f.run(f.plan(rounds=2, local={"steps": 3000}, **site(honest_min=1)))
            f.wait(lambda: node.audit("data.read"), 30, "the first round is trained")
            before = node.audit("privacy.charged")
            node.kill()
            node.start()
            self.assertEqual(run.finish().state, "completed")
            self.assertEqual([e["data"]["key"] for e in node.audit("privacy.resumed")],
                             [before[0]["data"]["key"]])
            self.assertEqual([e["data"]["round"] for e in node.audit("privacy.charged")], [1, 2])
            spent = budget(node)["site"]["epsilon"]
            for changes, why in ((site(honest_min=1), r"this site has spent epsilon %.3f .*"
                                                      r"policy\.site_epsilon_max is 3" % spent),
                                 ({}, r"no privacy\.site, .*policy\.site_epsilon_max is 3")):
                mark = top.mark()
                f.run(f.plan(rounds=2, **changes))
                top.wait_log(r"north-1 declines.*" + why, mark)
            self.assertEqual(budget(node)["site"]["epsilon"], spent)

    def test_a_round_of_too_few_sites_is_not_published(self):
        with Federation() as f:
            top = f.top(children_min=2)
            for name in ("north-1", "north-2"):
                f.spoke(name, top)
            end = f.run(f.plan(rounds=2, **site(honest_min=3))).wait()
            self.assertEqual(end.state, "failed")
            self.assertRegex(end.reason, "2 sites, and their noise is that of .*honest_min, 3")

    def test_the_top_draws_noise_once_the_clip_follows_and_an_auditor_computes_it_again(self):
        with Federation() as f:
            top = f.top(children_min=2, retention={"updates_days": 30, "models_days": 30})
            for name in ("north-1", "north-2"):
                f.spoke(name, top)
            adapt = {"quantile": 0.5, "rate": 0.2, "noise": 2.0}
            run = f.run(f.plan(rounds=4, **site(noise_at="top", adapt=adapt)))
            run.wait_round(2)
            top.kill()
            top.start()
            run.finish()
            charged = top.audit("privacy.charged")
            self.assertEqual([e["data"]["round"] for e in charged], [1, 2, 3, 4])
            self.assertEqual(len({e["data"]["key"] for e in charged}), 4)
            out = os.path.join(f.dir, "model.safetensors")
            f.cli("model", "pull", *f.at_top(), "--out", out)
            clip = float(metadata(out)["consilium.site_clip"])
            self.assertNotEqual(clip, 1.0)
            self.assertTrue(0.44 < clip < 2.3, clip)  # four times exp(+-0.2) at most
            bias = safetensors(out)["fc1.bias"]
            self.assertNotEqual(bias, b"\0" * len(bias))
            top.stop()
            replay = ["audit", "replay", run.id[:12], "--data-dir", top.dir, "--json"]
            said = json.loads(f.cli(*replay).stdout)
            self.assertEqual([r["result"] for r in said["rounds"]], ["same"] * 4)
            # A key that is not the one of the log, and one that is gone.
            db = sqlite3.connect(os.path.join(top.dir, "ledger.db"))
            db.execute("UPDATE charges SET key = zeroblob(32) WHERE round = 3")
            db.commit()
            said = json.loads(f.cli(*replay, check=False).stdout)
            self.assertIn(("DIFFERS", 3), [(r["result"], r["round"]) for r in said["rounds"]])
            db.execute("UPDATE charges SET key = NULL WHERE round = 3")
            db.commit()
            db.close()
            said = json.loads(f.cli(*replay, check=False).stdout)
            self.assertIn(("not kept", 3), [(r["result"], r["round"]) for r in said["rounds"]])


if __name__ == "__main__":
    unittest.main()
