# SPDX-License-Identifier: Apache-2.0
"""What counts has its receipt and its line in the audit log, wherever between them a kill came.

A hub journals that an update is sealed, then its receipt, then writes the audit line. The moments
between are too short to be hit at will, so a killed hub's directory is taken back to what it was
there: by a line of its audit log, and by a receipt of its journal.
"""
import os
import sqlite3
import unittest

from federation import Federation


class Receipt(unittest.TestCase):
    def killed_between(self, take_back):
        with Federation() as f:
            n = f.tree({"hub-a": {"north-1": None, "north-2": None}})
            hub, north_1, north_2 = n["hub-a"], n["north-1"], n["north-2"]
            # Long enough that one can be stopped while the other goes on to the end.
            plan = f.plan(rounds=1, local={"steps": 3000, "optimiser": {"lr": 0.001}},
                          evaluate={"every": 0})
            reference = f.run(plan).finish().model
            run = f.run(plan)
            counted = lambda: [e["data"]["child"] for e in hub.audit("update.counted")
                               if e["data"]["run"] == run.id]
            run.wait_round(1, hub)
            north_2.kill()
            f.wait(counted, 60, "north-1 is counted")
            hub.kill()
            north_1.kill()
            self.assertEqual(counted(), ["north-1"])
            self.assertEqual(hub.audit()[-1]["event"], "update.counted")
            take_back(hub, run)
            self.assertEqual(counted(), [])
            hub.start()
            north_2.start()
            # Without north-1, which might have asked for its receipt.
            self.assertEqual(run.finish().model, reference)
            self.assertEqual(sorted(counted()), ["north-1", "north-2"])
            f.cli("audit", "verify", hub.dir)
            hub.kill()
            self.assertEqual([r for r in self.receipts(hub, run) if not r], [])

    @staticmethod
    def journal(hub):
        return sqlite3.connect(os.path.join(hub.dir, "journal.db"))

    def receipts(self, hub, run):
        with self.journal(hub) as db:
            rows = db.execute("SELECT receipt FROM updates WHERE run = ?", (run.id,)).fetchall()
        db.close()
        self.assertEqual(len(rows), 2)
        return [r[0] for r in rows]

    @staticmethod
    def cut_audit(hub, _run):
        path = os.path.join(hub.dir, "audit", "audit.log")
        with open(path, "rb+") as log:
            text = log.read()
            log.truncate(text.rindex(b"\n", 0, len(text) - 1) + 1)
        hub.reread_audit()

    def cut_both(self, hub, run):
        self.cut_audit(hub, run)
        with self.journal(hub) as db:
            db.execute("UPDATE updates SET receipt = x'' WHERE run = ?", (run.id,))
            db.execute("DELETE FROM kv")
        db.close()

    def test_a_hub_killed_before_it_journalled_the_receipt(self):
        self.killed_between(self.cut_both)

    def test_a_hub_killed_between_the_receipt_and_the_audit_line(self):
        self.killed_between(self.cut_audit)

    def test_a_hub_killed_after_the_audit_line_writes_it_once(self):
        with Federation() as f:
            n = f.tree({"hub-a": {"north-1": None, "north-2": None}})
            run = f.run(f.plan(rounds=1))
            run.finish()
            for _ in range(2):
                n["hub-a"].kill()
                n["hub-a"].start()
            counted = [e["data"]["child"] for e in n["hub-a"].audit("update.counted")
                       if e["data"]["run"] == run.id and e["data"]["round"] == 1]
            self.assertEqual(sorted(counted), ["north-1", "north-2"])


if __name__ == "__main__":
    unittest.main()
