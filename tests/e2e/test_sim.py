# SPDX-License-Identifier: Apache-2.0
"""consilium sim: what it computes is what the same tables give where they are deployed."""
import glob
import json
import os
import shutil
import signal
import subprocess
import tempfile
import unittest

import federation
from federation import EXAMPLE, SITES, Federation

USED = SITES[:4]
TREE = """name: national
hubs:
  - {name: inland, spokes: [%s, %s]}
  - {name: rest, spokes: [%s], hubs: [{name: coast, spokes: [%s]}]}
""" % tuple(USED)
STAR = "spokes: [%s]\n" % ", ".join(reversed(USED))


class Sim(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.f = Federation()
        cls.folder = tempfile.mkdtemp(prefix="consilium-sim-test-")
        cls.all = os.path.join(cls.folder, "all.csv")
        cls.schema = os.path.join(cls.folder, "schema.yaml")
        with open(cls.all, "w", encoding="utf-8") as out:
            for i, site in enumerate(USED):
                with open(cls.f.table(site), encoding="utf-8") as f:
                    header, *rows = f.read().splitlines()
                if i == 0:
                    out.write(header + ",hospital\n")
                out.writelines("%s,%s\n" % (row, site) for row in rows)
        with open(os.path.join(EXAMPLE, "schema.yaml"), encoding="utf-8") as f:
            text = f.read()
        with open(cls.schema, "w", encoding="utf-8") as f:
            f.write(text.replace("columns:\n", "columns:\n  - {name: hospital, type: ignore}\n", 1))
        cls.tree = os.path.join(cls.folder, "tree.yaml")
        cls.star = os.path.join(cls.folder, "star.yaml")
        for path, text in ((cls.tree, TREE), (cls.star, STAR)):
            with open(path, "w", encoding="utf-8") as f:
                f.write(text)
        cls.plan = cls.f.plan(rounds=3)

    @classmethod
    def tearDownClass(cls):
        cls.f.close()
        shutil.rmtree(cls.folder, True)

    def command(self, *options, schema=None, data=None):
        return [federation.program("consilium"), "sim", self.plan, "--schema",
                schema or self.schema, "--data", data or self.all, *options]

    def sim(self, *options, status=0, **inputs):
        done = subprocess.run(self.command(*options, **inputs), capture_output=True, text=True,
                              timeout=240, check=False, env=dict(federation.clean_environment(),
                                                                TMPDIR=self.folder))
        self.assertEqual(done.returncode, status, done.stderr)
        return done

    def left_behind(self):
        return glob.glob(os.path.join(self.folder, "consilium-sim-*"))

    def model(self, *options):
        return json.loads(self.sim("--json", *options).stdout)["run"]["model"]

    def test_its_model_is_that_of_the_deployed_federation_whatever_the_tree(self):
        top = self.f.top(children_min=len(USED))
        for site in USED:
            table = os.path.join(self.folder, site + ".csv")
            with open(self.all, encoding="utf-8") as f:
                header, *rows = f.readlines()
            with open(table, "w", encoding="utf-8") as f:
                f.writelines([header] + [r for r in rows if r.endswith("," + site + "\n")])
            self.f.spoke(site, top, csv=table, schema=self.schema)
        deployed = self.f.run(self.plan).finish().model
        by_site = ("--split", "column:hospital")
        self.assertEqual(self.model("--tree", self.tree, *by_site), deployed)
        self.assertEqual(self.model("--tree", self.star, "--hosts", "3", *by_site), deployed)
        self.assertEqual(self.model("--tree", self.star, "--tls", "off", *by_site), deployed)
        self.assertEqual(self.left_behind(), [])

    def test_results_say_who_had_what_and_what_came_of_it(self):
        out = os.path.join(self.folder, "out")
        text = self.sim("--spokes", "6", "--hubs", "2", "--split", "dirichlet:0.5", "--rows", "40",
                        "--out", out).stdout
        with open(os.path.join(out, "results.json"), encoding="utf-8") as f:
            said = json.load(f)
        self.assertEqual([r["round"] for r in said["run"]["history"][:3]], [1, 2, 3])
        self.assertGreater(said["run"]["history"][1]["metrics"]["accuracy"], 0.5)
        self.assertIn("round 2/4  accuracy %.4f" % said["run"]["history"][1]["metrics"]["accuracy"],
                      text)
        self.assertEqual({s["rows"] for s in said["sites"]}, {40})
        self.assertEqual({s["parent"] for s in said["sites"]}, {"hub-1", "hub-2"})
        self.assertTrue(all(sum(s["classes"].values()) == 40 for s in said["sites"]))
        with open(os.path.join(out, "hub-1-1", "data.csv"), encoding="utf-8") as f:
            self.assertEqual(len(f.readlines()), 41)
        self.f.cli("audit", "verify", *glob.glob(os.path.join(out, "*", "data")))
        self.f.cli("model", "info", os.path.join(out, "model.safetensors"))
        self.assertIn("which must be new", self.sim("--out", out, status=1).stderr)

    def test_a_plan_that_must_be_signed_is(self):
        plan = self.f.plan(rounds=1, mode="untrusted", exceptions="[privacy]",
                           secure={"norm_max": 2.0}, governance={"author": "ann"})
        with open(plan + ".sig", "w", encoding="ascii") as f:
            f.write("another authority's")
        out = os.path.join(self.folder, "signed")
        done = subprocess.run([federation.program("consilium"), "sim", plan, "--schema",
                               self.schema, "--data", self.all, "--spokes", "5", "--out", out],
                              capture_output=True, text=True, timeout=240, check=False,
                              env=federation.clean_environment())
        self.assertEqual(done.returncode, 0, done.stderr)
        with open(os.path.join(out, "top", "data", "audit", "audit.log"), encoding="utf-8") as f:
            self.assertIn('"ann"', f.read())
        done = subprocess.run([federation.program("consilium"), "sim", plan, "--schema",
                               self.schema, "--data", self.all, "--tls", "off"],
                              capture_output=True, text=True, timeout=60, check=False,
                              env=federation.clean_environment())
        self.assertEqual(done.returncode, 1)
        self.assertIn("there are no keys with --tls off", done.stderr)

    def test_what_is_wrong_is_said_and_leaves_nothing(self):
        self.assertIn("4 values and the tree 5 spokes",
                      self.sim("--spokes", "5", "--split", "column:hospital", status=1).stderr)
        self.assertIn("see consilium sim --help", self.sim("--tree", self.tree, "--spokes", "3",
                                                           status=2).stderr)
        self.assertIn("is a whole number", self.sim("--spokes", "few", status=2).stderr)
        self.assertIn("none of iid", self.sim("--split", "shards", status=2).stderr)
        for kept in self.left_behind():  # logs of what failed after it had begun
            shutil.rmtree(kept)

    def test_data_that_a_site_could_not_read_are_refused_before_anything_starts(self):
        bad = os.path.join(self.folder, "bad.yaml")
        with open(self.schema, encoding="utf-8") as f:
            text = f.read()
        with open(bad, "w", encoding="utf-8") as f:
            f.write(text.replace("{name: radius_mean, type: number, min: 0",
                                 "{name: radius_mean, type: number, min: 1000"))
        said = self.sim("--spokes", "2", status=1, schema=bad).stderr
        self.assertIn("all.csv:2: column 'radius_mean': this cell is outside the range", said)
        self.assertEqual(self.left_behind(), [])

    def test_a_spoke_that_declines_ends_it_and_leaves_the_logs(self):
        other = os.path.join(self.folder, "other.yaml")
        with open(self.schema, encoding="utf-8") as f:
            text = f.read()
        with open(other, "w", encoding="utf-8") as f:
            f.write(text.replace("name: breast-cancer", "name: another-contract"))
        said = self.sim("--spokes", "2", status=1, schema=other).stderr
        self.assertIn("declines the plan; the logs say why", said)
        kept, = self.left_behind()
        self.assertIn("what was there is kept in " + kept, said)
        with open(os.path.join(kept, "_hosts", "1.log"), encoding="utf-8") as f:
            self.assertIn("another-contract", f.read())
        shutil.rmtree(kept)

    def test_asked_to_stop_it_stops_all_it_has_started(self):
        process = subprocess.Popen(self.command("--spokes", "3", "--out",
                                                os.path.join(self.folder, "stopped")),
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   env=federation.clean_environment())
        self.assertIn("ready after", process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 1)
        self.assertIn("stopped: Terminated", errors)
        for path in glob.glob("/proc/[0-9]*/cmdline"):
            try:
                with open(path, "rb") as f:
                    self.assertNotIn(os.path.join(self.folder, "stopped").encode(), f.read())
            except (FileNotFoundError, ProcessLookupError):
                pass


class Host(unittest.TestCase):
    """Three spokes in one process."""

    def run_of(self, disturbed):
        with Federation() as f:
            top = f.top(children_min=3)
            host = Hosted(f, top, SITES[:3])
            run = f.run(f.plan(rounds=8))
            if disturbed:
                run.wait_round(3)
                host.kill()
                host.start()
            model = run.finish().model
            counted = {e["data"]["child"] for e in top.audit("update.counted")}
            self.assertEqual(counted, set(SITES[:3]))
            self.assertEqual(host.stop(), 0)
            return model

    def test_killed_in_the_middle_it_goes_on_to_the_same_model_as_spokes_of_their_own(self):
        with Federation() as f:
            top = f.top(children_min=3)
            for site in SITES[:3]:
                f.spoke(site, top)
            alone = f.run(f.plan(rounds=8)).finish().model
        self.assertEqual(self.run_of(False), alone)
        self.assertEqual(self.run_of(True), alone)

    def test_what_cannot_share_a_process_is_refused(self):
        with Federation(tls=False) as f:
            top = f.top()
            for changes, why in (({"threads": 2}, "threads belongs to the process"),
                                 ({"device": "cpu*2"}, "device belongs to the process"),
                                 ({"tpm": {"tcti": "swtpm"}}, "both have tpm.tcti"),
                                 ({"name": SITES[0]}, "have the same name"),
                                 ({"data_dir": os.path.join(f.dir, SITES[0])},
                                  "have the same data_dir")):
                one = f.spoke(SITES[0], top, start=False, threads=1)
                two = f.spoke(SITES[1], top, start=False, threads=1)
                two.keys.update(changes)
                one.keys.update({k: v for k, v in changes.items() if k == "tpm"})
                for node in (one, two):
                    with open(node.config_path, "w", encoding="utf-8") as out:
                        out.write(federation.yaml_of(node.keys))
                done = subprocess.run([federation.program("consilium-spoke"), "host",
                                       one.config_path, two.config_path], capture_output=True,
                                      text=True, timeout=60, check=False,
                                      env=federation.clean_environment())
                self.assertEqual(done.returncode, 1)
                self.assertIn(why, done.stderr)
                f.nodes.remove(one)
                f.nodes.remove(two)


class Hosted:
    """consilium-spoke host, of these sites."""

    def __init__(self, f, parent, sites):
        self.f = f
        self.files = []
        for site in sites:
            node = f.spoke(site, parent, start=False)
            with open(node.config_path, "w", encoding="utf-8") as out:
                out.write(federation.yaml_of(node.keys))
            self.files.append(node.config_path)
        self.log = os.path.join(f.dir, "host.log")
        f.others.append(self)
        self.start()

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [federation.program("consilium-spoke"), "host", *self.files],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.f.dir,
                env=federation.clean_environment())

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def close(self):
        if self.process.poll() is None:
            self.kill()


if __name__ == "__main__":
    unittest.main()
