# SPDX-License-Identifier: Apache-2.0
"""A hospital that has mixed up who is ill: into quarantine, out, pardoned; and what is told of it."""
import hashlib
import json
import os
import re
import shutil
import tempfile
import unittest

from federation import Federation
from test_audit import KEPT, files_of, stop_all

SITES = ("north-1", "north-2", "north-3", "centre-1", "centre-2")
BAD = "south-1"
SCREEN = {"tiers": {"default": {
    "screen": {"norm": 4.0, "cosine_distance": 1.3, "strikes": 2},
    "contribution": {"permutations": 20}}}}


def exchanged(f, site):
    """The site's table with ill and healthy exchanged."""
    with open(f.table(site), encoding="utf-8") as file:
        text = file.read()
    path = os.path.join(f.dir, site + "-exchanged.csv")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text.replace("malignant", "x").replace("benign", "malignant")
                   .replace("x\n", "benign\n"))
    return path


def rechained(lines):
    """The lines of a log with numbers and hashes made to fit; all else stays as it was written."""
    out, before = [], bytes(32)
    for number, line in enumerate(lines, 1):
        was = json.loads(line)["hash"].encode()
        line = re.sub(rb'"prev":"[0-9a-f]{64}","seq":\d+',
                      b'"prev":"%s","seq":%d' % (before.hex().encode(), number), line)
        before = hashlib.sha256(before + line.replace(b'"hash":"%s",' % was, b"", 1)).digest()
        out.append(line.replace(was, before.hex().encode(), 1))
    return out


class Screened(unittest.TestCase):
    """The run of the first test, stopped: the others read what it has left."""

    @classmethod
    def setUpClass(cls):
        cls.f = f = Federation()
        try:
            cls.top = f.top(children_min=len(SITES) + 1, **KEPT)
            for site in SITES:
                f.spoke(site, cls.top)
            cls.bad = f.spoke(BAD, cls.top, csv=exchanged(f, BAD))
            cls.make_run()
            stop_all(f)
        except BaseException:
            f.close()
            raise

    @classmethod
    def tearDownClass(cls):
        cls.f.close()

    @classmethod
    def make_run(cls):
        f, top = cls.f, cls.top
        run = f.run(f.plan(rounds=40, **SCREEN))

        def events(name):
            return [e["data"] for e in top.audit(name)]

        f.wait(lambda: events("update.quarantined"), 60, "the bad one is in quarantine")
        top.kill()
        top.start()
        f.wait(lambda: any(e["out"] for e in events("update.quarantined")), 60, "it is kept out")
        cls.listed = json.loads(f.cli("quarantine", "list", run.id[:12], "--json",
                                      *f.at_top()).stdout)
        cls.pardoned = f.cli("quarantine", "pardon", BAD, "--run", run.id[:12], *f.at_top())
        cls.again = f.cli("quarantine", "pardon", "north-9", *f.at_top(), check=False)
        f.wait(lambda: len({e["round"] for e in events("update.quarantined")}) > 2, 60,
               "the pardoned one has failed again")
        run.finish()
        cls.shown = json.loads(f.cli("contribution", run.id, "--json", *f.at_top()).stdout)
        cls.text = f.cli("contribution", *f.at_top()).stdout
        top.stop()
        top.start()
        cls.later = json.loads(f.cli("contribution", run.id, "--json", *f.at_top()).stdout)
        cls.run_id = run.id

    def replay(self, folder, *more):
        done = self.f.cli("audit", "replay", self.run_id[:12], *more, "--data-dir", folder,
                          "--json", check=False)
        return json.loads(done.stdout)

    def test_the_operator_is_told_why_and_takes_it_back(self):
        self.assertEqual([c["child"] for c in self.listed["children"]], [BAD])
        self.assertTrue(self.listed["children"][0]["out"])
        self.assertIn("until an operator pardons it", self.listed["children"][0]["reason"])
        self.assertIn(BAD, self.pardoned.stdout)
        self.assertEqual(len(self.top.audit("child.pardoned")), 1)
        self.assertEqual(self.again.returncode, 1)
        self.assertIn("has no child 'north-9'", self.again.stderr)

    def test_the_child_is_told_and_what_it_gave_counts_in_no_round(self):
        quarantined = {e["data"]["update"] for e in self.top.audit("update.quarantined")}
        refused = {e["data"]["update"] for e in self.bad.audit("refused")}
        # The top was killed, and what it then says first may find the child not back yet: such a
        # child hears by the commit that it missed.
        restarted = self.top.audit("node.started")[1]["seq"]
        again = [e["data"] for e in self.top.audit("update.quarantined") if e["seq"] > restarted]
        after = {e["update"] for e in again if e["round"] > again[0]["round"]}
        self.assertTrue(after)
        self.assertTrue(after <= refused <= quarantined, (after, refused, quarantined))
        kept = {os.path.basename(p)[:64] for p in files_of(self.top, "quarantine", ".upd")}
        self.assertEqual(kept, quarantined)
        retained = {os.path.basename(p)[:64] for p in files_of(self.top, "retained", ".upd")}
        self.assertFalse(retained & quarantined)

    def test_shares_of_those_that_counted_add_up(self):
        rows = {c["child"]: c for c in self.shown["children"]}
        self.assertEqual(rows[BAD]["updates"], 0)
        self.assertGreater(rows[BAD]["quarantined"], 2)
        shares = [rows[s]["share"] for s in SITES]
        self.assertEqual({rows[s]["rounds"] for s in SITES}, {40})
        self.assertAlmostEqual(sum(shares), 40, places=6)
        self.assertIn("distance-to-mean", self.text)
        self.assertEqual(sorted(self.later["children"], key=lambda c: c["child"]),
                         sorted(self.shown["children"], key=lambda c: c["child"]))

    def test_verify_finds_nothing_and_replay_gives_the_same_verdicts_and_shares(self):
        self.f.cli("audit", "verify", *[node.dir for node in self.f.nodes])
        said = self.replay(self.top.dir)
        self.assertTrue(said["same"], [r for r in said["rounds"] if r["result"] != "same"])
        self.assertEqual({r["why"] for r in said["rounds"]}, {""})

    def altered(self, change):
        """A copy of the top's folder, in whose log each line went through `change`."""
        out = tempfile.mkdtemp(prefix="consilium-screen-")
        self.addCleanup(shutil.rmtree, out)
        folder = os.path.join(out, "top")
        shutil.copytree(self.top.dir, folder)
        log = os.path.join(folder, "audit", "audit.log")
        with open(log, "rb") as file:
            lines = [line for line in map(change, file.read().split(b"\n")[:-1]) if line]
        with open(log, "wb") as file:
            file.write(b"\n".join(rechained(lines)) + b"\n")
        return folder

    def test_a_log_that_lies_about_a_share_or_a_verdict_differs(self):
        def more(line):
            if b'"event":"update.contributed"' in line and b'"round":2,' in line:
                return re.sub(rb'"share":[-0-9.e]+', b'"share":0.5', line)
            return line

        first = self.top.audit("update.quarantined")[0]["data"]["round"]

        def acquitted(line):
            return line if b'"event":"update.quarantined"' not in line else b""

        rounds = self.replay(self.altered(more), "2")["rounds"]
        self.assertEqual(rounds[-1]["result"], "DIFFERS")
        self.assertIn("contributed", rounds[-1]["why"])
        rounds = self.replay(self.altered(acquitted), str(first))["rounds"]
        self.assertEqual(rounds[-1]["result"], "DIFFERS")

    def test_without_its_file_a_verdict_is_not_checked_and_the_model_still_is(self):
        folder = self.altered(lambda line: line)
        for name in os.listdir(os.path.join(folder, "quarantine")):
            os.unlink(os.path.join(folder, "quarantine", name))
        first = self.top.audit("update.quarantined")[0]["data"]["round"]
        rounds = self.replay(folder, str(first))["rounds"]
        self.assertEqual(rounds[-1]["result"], "same")
        self.assertIn("in quarantine is kept no more", rounds[-1]["why"])

    def test_the_export_tells_what_each_child_gave(self):
        with tempfile.TemporaryDirectory(prefix="consilium-screen-") as out:
            path = os.path.join(out, "export")
            self.f.cli("audit", "export", self.top.dir, "--out", path)
            self.assertEqual(len(files_of(self.top, "quarantine", ".upd")),
                             len(os.listdir(os.path.join(path, "quarantine"))))
            with open(os.path.join(path, "report.json"), encoding="utf-8") as file:
                run = json.load(file)["runs"][self.run_id]
            with open(os.path.join(path, "report.md"), encoding="utf-8") as file:
                text = file.read()
        shown = {c["child"]: c for c in self.shown["children"]}
        for site in SITES:
            row = run["children"][site]
            self.assertEqual((row["weight"], row["bytes"], row["shares"]),
                             (shown[site]["weight"], shown[site]["bytes"], 40))
            self.assertAlmostEqual(row["share"], shown[site]["share"], places=9)
            self.assertGreater(row["seconds"], 0)
        self.assertEqual(run["children"][BAD]["quarantined"], shown[BAD]["quarantined"])
        self.assertIn("It says who moved the model, not whether to the better.", text)


if __name__ == "__main__":
    unittest.main()
