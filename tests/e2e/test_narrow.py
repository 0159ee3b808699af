# SPDX-License-Identifier: Apache-2.0
"""Sums of 32 bits (secure.bits: 32): an update behind masks is as long as one in the open.

Elements are rounded by a secret of each site, for a plan with masks and for its visible twin alike,
so that the two give one model: byte for byte, but for the plan's hash that each names.
"""
import glob
import json
import os
import unittest

from federation import Federation
from test_secure import SECURE, SLOW, SPOKES, counted, model_of, values_of

SITES = {"weights": "uniform", "exact": {"clip": 1.0, "weight_total_max": 9}}


def plan(f, rounds=1, masked=True, **changes):
    secure = dict(SECURE if masked else {}, bits=32)
    secure.update(changes.pop("secure", {}))
    if rounds == 1:
        changes = dict({"evaluate": {"every": 0}, "local": SLOW}, **changes)
    return f.plan(rounds=rounds, secure=secure, **SITES, **changes)


def last_update(node, run):
    """The size of the first update that the hub counted in the run."""
    update = [e["data"]["update"] for e in node.audit("update.counted")
              if e["data"]["run"] == run.id][0]
    return os.path.getsize(os.path.join(node.dir, "retained", update + ".upd"))


class Narrow(unittest.TestCase):
    def test_the_model_is_that_of_the_visible_twin_over_a_tree(self):
        shape = {"hub-a": {"north-1": None, "north-2": None, "north-3": None},
                 "hub-b": {"centre-1": None, "centre-2": None}}
        with Federation() as f:
            nodes = f.tree(shape, top=f.top_with_authority)
            masked = f.run(plan(f, 3)).finish()
            twin = f.run(plan(f, 3, masked=False)).finish()
            self.assertEqual(model_of(f, masked), model_of(f, twin))
            for hub, children in shape.items():
                spokes = [e["data"]["spokes"] for e in nodes[hub].audit("round.unmasked")]
                self.assertEqual(spokes, [len(children)] * 4)
            # It is rounded: in 64 bits it is another model.
            wide = f.run(f.plan(rounds=3, secure=SECURE, **SITES)).finish()
            self.assertNotEqual(model_of(f, wide), model_of(f, twin))
            checked = f.cli("plan", "check", plan(f, 3)).stdout
            self.assertIn("|R| = |sum of r| <= 9 * 2^26 = 603979776 <= 2^30 < 2^31", checked)

    def test_an_update_is_half_as_long_and_an_audit_makes_the_sums_again(self):
        kept = {"retention": {"updates_days": 30, "models_days": 30}}
        with Federation() as f:
            top = f.top_with_authority(children_min=3, **kept)
            hub = f.hub("hub-a", top, children_min=2, **kept)
            for site, parent in (("north-1", hub), ("north-2", hub), ("centre-1", top),
                                 ("centre-2", top)):
                f.spoke(site, parent)
            run = f.run(plan(f, 2))
            run.finish()
            wide = f.run(f.plan(rounds=1, secure=SECURE, **SITES))
            ended = wide.finish()
            for node in (top, hub):
                done = f.cli("audit", "replay", run.id, "--data-dir", node.dir, "--json",
                             check=False)
                self.assertEqual([r["result"] for r in json.loads(done.stdout)["rounds"]],
                                 ["same"] * 3, node.name)
            # Both tell of as many figures, in words of 64 bits.
            sizes = [last_update(hub, r) for r in (run, wide)]
            elements = len(values_of(f, ended.model))
            self.assertEqual(sizes[1] - sizes[0], 4 * elements)
            self.assertLess(sizes[0], 4 * elements + 70000)  # and figures, two of 4096 bins
            masks = glob.glob(os.path.join(hub.dir, "retained", "*.terms"))
            for path in masks:
                os.unlink(path)
            done = f.cli("audit", "replay", run.id, "--data-dir", hub.dir, "--json", check=False)
            self.assertEqual([r["result"] for r in json.loads(done.stdout)["rounds"]],
                             ["not kept"] * 3)

    def test_whoever_is_lost_and_restarted_rounds_as_before(self):
        with Federation() as f:
            top = f.top_with_authority(children_min=len(SPOKES))
            spokes = {site: f.spoke(site, top) for site in SPOKES}
            all_four = model_of(f, f.run(plan(f, masked=False)).finish())

            # Killed after its push: the others take its masks off.
            mark = top.mark()
            run = f.run(plan(f, secure={"step_s": 2}))
            top.wait_log("round 1: secure sum: 'deliver'", mark)
            spokes["north-1"].freeze()
            f.wait(lambda: "north-2" in counted(top, run), 60, "north-2 has pushed")
            spokes["north-2"].kill()
            spokes["north-1"].thaw()
            self.assertEqual(model_of(f, run.finish()), all_four)
            spokes["north-2"].start()
            top.wait_log("child north-2 attends", mark)

            # Killed before it: the rest is unmasked, and is another model.
            mark = top.mark()
            run = f.run(plan(f))
            top.wait_log("round 1: secure sum: 'deliver'", mark)
            spokes["north-2"].kill()
            spokes["north-2"].start()
            self.assertNotEqual(model_of(f, run.finish()), all_four)
            self.assertEqual(sorted(counted(top, run)), ["centre-1", "north-1", "north-3"])

            # All of them started anew draw what they drew before.
            for spoke in spokes.values():
                mark = top.mark()
                spoke.kill()
                spoke.start()
                top.wait_log("child %s attends" % spoke.name, mark)
            self.assertEqual(model_of(f, f.run(plan(f)).finish()), all_four)


if __name__ == "__main__":
    unittest.main()
