# SPDX-License-Identifier: Apache-2.0
"""What a hub knew besides its updates when it was killed: who had declined, and until when."""
import unittest

from federation import Federation

SLOW = {"steps": 6000, "optimiser": {"lr": 0.0001}}  # a round that lasts some seconds


class Restart(unittest.TestCase):
    def test_a_child_that_declined_is_not_waited_for_after_a_restart(self):
        with Federation() as f:
            top = f.top(children_min=1)
            hub = f.hub("hub-a", top)
            f.spoke("north-1", hub)
            hub.wait_log("child north-1 attends")
            run = f.run(f.plan(rounds=3, local=SLOW, evaluate={"every": 0}))
            run.wait_round(1, hub)
            gone = f.spoke("north-2", hub, policy={"accept": "none"})
            hub.wait_log("north-2 declines")
            gone.kill()
            hub.wait_log("child north-2 left")
            hub.kill()
            hub.start()
            self.assertEqual(run.finish().state, "completed")
            self.assertEqual([e["data"]["round"] for e in top.audit("round.committed")], [1, 2, 3])

    def test_a_regional_hub_keeps_its_parents_deadline_over_a_restart(self):
        with Federation() as f:
            nodes = f.tree({"hub-a": {"north-1": None, "north-2": None}, "centre-1": None})
            hub, top = nodes["hub-a"], nodes["top"]
            hub.wait_log("child north-2 attends")
            run = f.run(f.plan(rounds=2, local=SLOW, evaluate={"every": 0},
                               tiers={"default": {"quorum": "all"},
                                      "top": {"quorum": "all", "deadline_s": 12}}))
            run.wait_round(1, hub)
            nodes["north-2"].freeze()
            hub.kill()
            hub.start()
            try:
                f.wait(lambda: [e for e in top.audit("round.closed") if e["data"]["round"] == 1],
                       60, "the top closes round 1")
                closed = [e["data"]["by"] for e in hub.audit("round.closed")]
                counted = {e["data"]["child"] for e in top.audit("update.counted")}
            finally:
                nodes["north-2"].thaw()
            self.assertEqual(closed[:1], ["deadline"])
            self.assertEqual(counted, {"centre-1", "hub-a"})


if __name__ == "__main__":
    unittest.main()
