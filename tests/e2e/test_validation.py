# SPDX-License-Identifier: Apache-2.0
"""A hub with validation data of its own: what makes its loss worse goes into quarantine, and shares
are of what the round took off it."""
import json
import os
import subprocess
import threading
import unittest

import edge
import federation
from federation import EXAMPLE, Federation
from test_audit import KEPT, stop_all
from test_screen import exchanged

SITES = ("north-1", "north-2")
BAD = "centre-1"
OWN = "south-1"
PLAN = {"evaluate": {"every": 0},
        "tiers": {"default": {"screen": {"loss": 1.1, "strikes": 50},
                              "contribution": {"permutations": 20}}}}


class Validation(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.f = f = Federation()
        try:
            schema = os.path.join(EXAMPLE, "schema.yaml")
            cls.top = f.top(children_min=3, validation={"data": f.table(OWN), "schema": schema},
                            **KEPT)
            for site in SITES:
                f.spoke(site, cls.top)
            f.spoke(BAD, cls.top, csv=exchanged(f, BAD))
            cls.run_ = f.run(f.plan(rounds=4, **PLAN))
            cls.run_.finish()
            # Shares come when they are worked out, which no round waits for.
            f.wait(lambda: len(cls.top.audit("update.contributed")) == 4 * len(SITES), 60,
                   "the shares of four rounds are worked out")
            cls.shown = json.loads(f.cli("contribution", "--json", *f.at_top()).stdout)
            cls.listed = json.loads(f.cli("quarantine", "list", "--json", *f.at_top()).stdout)
        except BaseException:
            f.close()
            raise

    @classmethod
    def tearDownClass(cls):
        cls.f.close()

    def appraised(self, *models):
        """What the program says of models of the run, by the same data."""
        def kept(folder, suffix):
            return [os.path.join(self.top.dir, folder, n)
                    for n in os.listdir(os.path.join(self.top.dir, folder)) if n.endswith(suffix)]
        done = subprocess.run(
            [federation.program("consilium-spoke"), "appraise", "--plan", kept("retained", ".plan")[0],
             "--graph", kept("models", ".onnx")[0], "--threads", "1",
             os.path.join(EXAMPLE, "schema.yaml"), self.f.table(OWN)],
            input="".join(m + "\n" for m in models), capture_output=True, text=True, timeout=60,
            check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def model(self, sha256):
        for folder in ("retained", "models"):
            path = os.path.join(self.top.dir, folder, sha256 + ".safetensors")
            if os.path.exists(path):
                return path
        return self.fail("model %s is not kept" % sha256)

    def test_the_bad_one_is_put_aside_by_its_loss_though_three_are_few(self):
        self.assertEqual([c["child"] for c in self.listed["children"]], [BAD])
        self.assertIn("validation loss is", self.listed["children"][0]["reason"])
        events = [e["data"] for e in self.top.audit("update.quarantined")]
        self.assertTrue(all(e["by_loss"] for e in events))
        self.assertTrue(events)

    def test_shares_are_what_each_round_took_off_the_loss(self):
        rows = {c["child"]: c for c in self.shown["children"]}
        opened = [e["data"]["base"] for e in self.top.audit("round.opened")]
        committed = [e["data"]["model"] for e in self.top.audit("round.committed")]
        said = self.appraised(self.model(opened[0]), self.model(committed[3]))
        before, after = (s["loss"] / 2.0 ** 20 / s["count"] for s in said)
        self.assertGreater(before, after)
        self.assertEqual({c["utility"] for c in rows.values() if c["rounds"]}, {"validation-loss"})
        self.assertAlmostEqual(sum(c["share"] for c in rows.values()), before - after, places=9)

    def test_a_model_that_is_none_is_said_and_the_next_is_appraised(self):
        last = self.model(self.top.audit("round.committed")[-1]["data"]["model"])
        bad, good = self.appraised("/nowhere.safetensors", last)
        self.assertIn("/nowhere.safetensors", bad["error"])
        self.assertGreater(good["count"], 0)

    def test_no_candidate_is_left_behind(self):
        self.assertEqual(os.listdir(os.path.join(self.top.dir, "validation")), [])

    def test_zz_replay_checks_the_models_and_says_what_it_cannot(self):
        stop_all(self.f)
        done = self.f.cli("audit", "replay", self.run_.id[:12], "--data-dir", self.top.dir,
                          "--json", check=False)
        said = json.loads(done.stdout)
        self.assertTrue(said["same"], said)
        self.assertTrue(any("data of the hub's own" in r["why"] for r in said["rounds"]), said)


class Programs(unittest.TestCase):
    """The program beside the hub is another one than the spoke's."""

    def federation(self, f, script):
        path = os.path.join(f.dir, "program")
        with open(path, "w", encoding="utf-8") as file:
            file.write(script)
        os.chmod(path, 0o700)
        top = f.top(children_min=2, validation={
            "data": f.table(OWN), "schema": os.path.join(EXAMPLE, "schema.yaml"), "program": path})
        for site in SITES:
            f.spoke(site, top)
        return top

    def test_one_that_fails_is_tried_again(self):
        with Federation() as f:
            mark = os.path.join(f.dir, "tried")
            top = self.federation(f, "#!/bin/sh\nif [ ! -e %s ]; then : > %s; exit 1; fi\n"
                                     "exec %s \"$@\"\n"
                                  % (mark, mark, federation.program("consilium-spoke")))
            f.run(f.plan(rounds=1, **PLAN)).finish()
            self.assertTrue(top.find("validation: the program has ended"))

    def test_one_that_never_answers_does_not_hold_up_the_end_of_the_hub(self):
        with Federation() as f:
            top = self.federation(f, "#!/bin/sh\necho $$ > %s\nexec sleep 1000\n"
                                  % os.path.join(f.dir, "asked"))
            f.run(f.plan(rounds=1, **PLAN))
            f.wait(lambda: os.path.exists(os.path.join(f.dir, "asked")), 60, "it is asked")
            top.stop()


class Shares(unittest.TestCase):
    """Contributions are worked out beside the rounds, which wait for none of them."""
    plan = {"evaluate": {"every": 0},
            "tiers": {"default": {"contribution": {"permutations": 20}}}}

    def federation(self, f, script, **more):
        path = os.path.join(f.dir, "program")
        with open(path, "w", encoding="utf-8") as file:
            file.write("#!/bin/sh\n" + script)
        os.chmod(path, 0o700)
        top = f.top(children_min=2, validation={
            "data": f.table(OWN), "schema": os.path.join(EXAMPLE, "schema.yaml"), "program": path},
            **more)
        for site in SITES:
            f.spoke(site, top)
        return top

    def aside(self, top):
        folder = os.path.join(top.dir, "contributions")
        return {name: os.listdir(os.path.join(folder, name)) for name in os.listdir(folder)}

    def test_a_run_ends_while_the_program_still_thinks_and_the_hub_too(self):
        with Federation() as f:
            top = self.federation(f, "exec sleep 1000\n")
            run = f.run(f.plan(rounds=7, **self.plan))
            self.assertEqual(run.finish().state, "completed")
            self.assertEqual(len(top.audit("round.committed")), 7)
            self.assertEqual(top.audit("update.contributed"), [])
            # Four rounds wait, each with two updates and the model that they changed, though the
            # rounds are over; the rest is said to have none.
            none = top.audit("contributions.none")
            self.assertEqual([e["data"]["round"] for e in none], [5, 6, 7])
            self.assertIn("of 4 rounds before", none[0]["data"]["reason"])
            self.assertEqual([len(files) for files in self.aside(top).values()], [3] * 4)
            top.kill()
            top.start()
            self.assertEqual(self.aside(top), {})
            f.run(f.plan(rounds=1, **self.plan)).finish()
            self.assertEqual(len(self.aside(top)), 1)
            self.assertEqual(top.stop(), 0)  # and does not wait for an answer
            self.assertEqual(self.aside(top), {})

    def test_shares_that_come_after_the_rounds_are_counted_all_the_same(self):
        with Federation() as f:
            gate = os.path.join(f.dir, "gate")
            os.mkfifo(gate)
            secret = os.path.join(f.dir, "secret")
            with open(secret, "w", encoding="ascii") as file:
                file.write("correct horse battery\n")
            os.chmod(secret, 0o600)
            top = self.federation(f, "read go < %s\nexec %s \"$@\"\n" %
                                  (gate, federation.program("consilium-spoke")),
                                  storage={"encrypt": "true"}, key_passphrase_file=secret, **KEPT)
            run = f.run(f.plan(rounds=3, **self.plan))
            run.finish()
            self.assertEqual(top.audit("update.contributed"), [])
            for name, files in self.aside(top).items():
                for file in files:
                    data = edge.read_file(top.dir, "contributions", name, file)
                    self.assertFalse(data.startswith(b"consupd1") or b'"dtype"' in data[:4096],
                                     file + " lies in the clear")
            done = threading.Event()

            def open_gate():
                while not done.is_set():
                    try:
                        way = os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
                    except OSError:  # nobody waits behind it
                        done.wait(0.01)
                        continue
                    try:
                        os.write(way, b"go\n")
                    except BrokenPipeError:  # it has been through already
                        pass
                    os.close(way)

            opener = threading.Thread(target=open_gate)
            opener.start()
            try:
                f.wait(lambda: len(top.audit("update.contributed")) == 3 * len(SITES), 60,
                       "three rounds are worked out")
            finally:
                done.set()
                opener.join()
            shown = json.loads(f.cli("contribution", run.id, "--json", *f.at_top()).stdout)
            self.assertEqual({c["rounds"] for c in shown["children"]}, {3})
            said = [e["data"] for e in top.audit("update.contributed")]
            for child in shown["children"]:
                self.assertAlmostEqual(child["share"], sum(
                    e["share"] for e in said if e["child"] == child["child"]), places=12)
            ended = top.audit("run.ended")[0]["seq"]
            self.assertTrue(all(e["seq"] > ended for e in top.audit("update.contributed")))
            f.wait(lambda: not self.aside(top), 10, "what was kept aside is gone")
            stop_all(f)
            replay = subprocess.run(
                [federation.program("consilium"), "audit", "replay", run.id[:12], "--data-dir",
                 top.dir, "--json"], capture_output=True, text=True, check=False, timeout=60,
                env=dict(federation.clean_environment(), CONSILIUM_KEY_PASSPHRASE_FILE=secret))
            self.assertTrue(json.loads(replay.stdout)["same"], replay.stdout + replay.stderr)


class Missing(unittest.TestCase):
    def test_a_plan_that_wants_validation_data_is_refused_where_there_are_none(self):
        with Federation() as f:
            f.top()
            done = f.cli("run", "start", f.plan(rounds=1, **PLAN), *f.at_top(), check=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn("its operator has named none (validation.data)", done.stderr)


if __name__ == "__main__":
    unittest.main()
