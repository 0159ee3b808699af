# SPDX-License-Identifier: Apache-2.0
"""A lost stream is noticed within five seconds, at both ends, and comes back by itself."""
import time
import unittest

from federation import Federation

NOTICED_S = 5.0


class Loss(unittest.TestCase):
    def assert_noticed(self, watcher, pattern, deed):
        mark = watcher.mark()
        deed()
        began = time.monotonic()
        watcher.wait_log(pattern, mark, timeout_s=NOTICED_S + 2)
        took = time.monotonic() - began
        self.assertLess(took, NOTICED_S, "%s noticed after %.2f s" % (watcher.name, took))

    def test_a_killed_child_and_a_frozen_one_are_noticed_by_their_parent(self):
        with Federation() as f:
            n = f.tree({"hub-a": {"north-1": None, "north-2": None}})
            for spoke in ("north-1", "north-2"):
                n["hub-a"].wait_log("child %s attends" % spoke)
            self.assert_noticed(n["hub-a"], "child north-1 left", n["north-1"].kill)
            self.assert_noticed(n["hub-a"], "child north-2 left", n["north-2"].freeze)
            mark = n["hub-a"].mark()
            n["north-2"].thaw()
            n["hub-a"].wait_log("child north-2 attends", mark)
            self.assert_noticed(n["top"], "child hub-a left", n["hub-a"].freeze)

    def test_a_killed_parent_and_a_frozen_one_are_noticed_by_their_child(self):
        with Federation() as f:
            n = f.tree({"hub-a": {"north-1": None}})
            n["hub-a"].wait_log("child north-1 attends")
            n["north-1"].wait_log("attending parent hub-a")
            self.assert_noticed(n["north-1"], "no stream to parent hub-a", n["hub-a"].freeze)
            mark = n["north-1"].mark()
            n["hub-a"].thaw()
            n["north-1"].wait_log("attending parent hub-a", mark)
            self.assert_noticed(n["north-1"], "no stream to parent hub-a", n["hub-a"].kill)

    def test_a_frozen_spoke_does_not_lose_its_round(self):
        with Federation() as f:
            n = f.tree({"north-1": None, "south-1": None})
            reference = f.run(f.plan(rounds=2)).finish().model
            n["north-1"].freeze()
            n["top"].wait_log("child north-1 left")
            run = f.run(f.plan(rounds=2))
            n["north-1"].thaw()
            end = run.finish()
            counted = [(e["data"]["round"], e["data"]["child"])
                       for e in n["top"].audit("update.counted") if e["data"]["run"] == run.id]
        self.assertEqual(len(counted), len(set(counted)))
        # It joined after the run had begun: whether it was in round 1 depends on who was first.
        self.assertIn((2, "north-1"), counted)
        if (1, "north-1") in counted:
            self.assertEqual(end.model, reference)


class Reconnect(unittest.TestCase):
    def test_a_hub_that_restarts_while_its_spokes_are_idle_gets_them_back(self):
        with Federation() as f:
            n = f.tree({"hub-a": {"north-1": None, "north-2": None}, "centre-1": None})
            reference = f.run(f.plan(rounds=2)).finish().model
            for victim, waits in (("hub-a", [("hub-a", "north-1"), ("hub-a", "north-2"),
                                             ("top", "hub-a")]),
                                  ("top", [("top", "hub-a"), ("top", "centre-1")])):
                marks = {name: node.mark() for name, node in n.items()}
                n[victim].kill()
                n[victim].start()
                for parent, child in waits:
                    n[parent].wait_log("child %s attends" % child, marks[parent])
                self.assertEqual(f.run(f.plan(rounds=2)).finish().model, reference)
            for node in n.values():
                self.assertTrue(node.running())

    def test_a_hub_that_stops_on_sigterm_exits_0_and_comes_back(self):
        with Federation() as f:
            n = f.tree({"hub-a": {"north-1": None}})
            reference = f.run(f.plan(rounds=1)).finish().model
            self.assertEqual(n["hub-a"].stop(), 0)
            self.assertEqual(n["north-1"].stop(), 0)
            n["hub-a"].start()
            n["north-1"].start()
            n["hub-a"].wait_log("child north-1 attends")
            self.assertEqual(f.run(f.plan(rounds=1)).finish().model, reference)

    def test_a_hospital_that_enrolls_during_a_run_joins_the_next_round(self):
        with Federation() as f:
            authority = {"enroll_listen": "127.0.0.1:0", "authority_dir": f.authority}
            top = f.top(children_min=2, **authority)
            hub = f.hub("hub-a", top)
            f.spoke("north-1", hub)
            f.spoke("centre-1", top)
            started = {node.name: node.process.pid for node in f.nodes}
            run = f.run(f.plan(rounds=400, evaluate={"every": 0}))
            run.wait_round(1, hub)

            token = f.cli("token", "create", "--dir", f.authority, "--name", "north-2", "--role",
                          "spoke").stdout.strip()
            late = f.spoke("north-2", hub, start=False, enroll=False)
            port = top.wait_log(r"enrollment on port (\d+)").group(1)
            arguments = ["enroll", "--address", "127.0.0.1:" + port, "--token", token, "--role",
                         "spoke", "--data-dir", late.dir, "--name"]
            refused = f.cli(*arguments, "north-3", check=False)
            self.assertEqual(refused.returncode, 1)
            self.assertIn("north-2", refused.stderr)
            f.cli(*arguments, "north-2")
            again = f.cli(*arguments, "north-2", check=False)
            self.assertEqual(again.returncode, 1, "a token is good once")
            late.start()
            rounds = f.wait(lambda: [e["data"]["round"] for e in hub.audit("update.counted")
                                     if e["data"]["child"] == "north-2"], 60,
                            "north-2 is counted")
            self.assertGreater(rounds[0], 1)
            f.cli("run", "stop", run.id, *f.at_top())
            self.assertEqual(run.wait().state, "stopped")
            for node in f.nodes:
                if node is not late:
                    self.assertEqual(node.process.pid, started[node.name])
                    self.assertTrue(node.running())


if __name__ == "__main__":
    unittest.main()
