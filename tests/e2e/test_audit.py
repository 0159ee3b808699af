# SPDX-License-Identifier: Apache-2.0
"""The audit that anyone can recompute: `audit verify` and `audit replay`, with every node stopped."""
import hashlib
import json
import os
import random
import shutil
import subprocess
import tempfile
import unittest

import federation
from federation import Federation

KEPT = {"retention": {"updates_days": 30, "models_days": 30}}


def stop_all(f):
    for node in reversed(f.nodes):
        node.stop()


def files_of(node, folder, suffix):
    path = os.path.join(node.dir, folder)
    return sorted(os.path.join(path, n) for n in os.listdir(path) if n.endswith(suffix))


def rechained(lines):
    """The lines of a log with numbers and hashes made to fit, as one would who can write to the
    disk of a node."""
    out, before = [], bytes(32)
    for number, line in enumerate(lines, 1):
        event = json.loads(line)
        event.pop("hash", None)
        event.update(seq=number, prev=before.hex())
        bare = json.dumps(event, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        before = hashlib.sha256(before + bare).digest()
        event["hash"] = before.hex()
        out.append(json.dumps(event, sort_keys=True, separators=(",", ":"),
                              ensure_ascii=False).encode())
    return out


class Stopped(unittest.TestCase):
    """A small federation that has made a model, stopped; each test gets it as it was."""

    @classmethod
    def setUpClass(cls):
        cls.f = Federation()
        try:
            top = cls.f.top(children_min=2, **KEPT)
            hub = cls.f.hub("hub-a", top, children_min=2, **KEPT)
            for site in ("north-1", "north-2"):
                cls.f.spoke(site, hub)
            cls.f.spoke("centre-1", top)
            run = cls.f.run(cls.f.plan(rounds=3))
            run.finish()
            cls.run_id = run.id
            cls.top, cls.hub = top, hub
            # Every node has the last heads of its neighbours.
            for node in cls.f.nodes:
                cls.f.wait(lambda: node.audit("run.ended") and node.audit("peer.head") and
                           node.audit("peer.head")[-1]["seq"] > node.audit("run.ended")[0]["seq"],
                           20, "%s has seen the end" % node.name)
            stop_all(cls.f)
        except BaseException:
            cls.f.close()
            raise

    @classmethod
    def tearDownClass(cls):
        cls.f.close()

    def verify(self, *paths):
        """(exit status, the JSON object)"""
        done = self.f.cli("audit", "verify", "--json", "--ca",
                          os.path.join(self.f.authority, "ca.pem"), *paths, check=False)
        return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr

    def all(self):
        return [n.dir for n in self.f.nodes]

    def found(self, words, *paths):
        code, said = self.verify(*(paths or self.all()))
        self.assertEqual(code, 1, said)
        self.assertFalse(said["whole"])
        self.assertTrue(any(words in text for text in said["findings"]), said["findings"])


    def with_log(self, node, change):
        """The directories, with one node's log changed."""
        folder = os.path.join(self.f.dir, "changed")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(node.dir, folder)
        path = os.path.join(folder, "audit", "audit.log")
        with open(path, "rb") as file:
            lines = file.read().split(b"\n")[:-1]
        with open(path, "wb") as file:
            file.write(b"".join(line + b"\n" for line in change(lines)))
        return [folder if n is node else n.dir for n in self.f.nodes]

    def with_withdrawal(self):
        """The top's directory, in whose log one update of the first round is withdrawn and made
        again, and another, which nothing holds, only withdrawn."""
        def change(lines):
            at = next(i for i, line in enumerate(lines) if b'"event":"update.counted"' in line)
            end = next(i for i, line in enumerate(lines) if b'"event":"round.folded"' in line)
            self.assertLess(at, end)
            event = json.loads(lines[at])
            again = json.dumps(event).encode()
            event["event"] = "update.withdrawn"
            same = json.dumps(event).encode()
            event["data"]["update"] = "ab" * 32
            gone = json.dumps(event).encode()
            event["event"] = "update.counted"
            lost = json.dumps(event).encode()
            return rechained(lines[:at + 1] + [same, lost, gone, again] + lines[at + 1:])

        return self.with_log(self.top, change)[0]


class Verify(Stopped):
    def test_what_nobody_touched_is_whole(self):
        code, said = self.verify(*self.all())
        self.assertEqual((code, said["findings"]), (0, []))
        of = {n["node"]: n for n in said["nodes"]}
        self.assertEqual(set(of), {"top", "hub-a", "north-1", "north-2", "centre-1"})
        # Four rounds, the last an evaluation: two updates each at both hubs.
        self.assertEqual((of["top"]["updates"], of["hub-a"]["updates"]), (8, 8))
        self.assertEqual((of["north-1"]["receipts"], of["top"]["receipts"]), (4, 0))
        self.assertTrue(all(n["heads"] >= 4 and n["unsigned"] == 0 for n in said["nodes"]), said)
        text = self.f.cli("audit", "verify", *self.all()).stdout
        self.assertIn("everything that was checked is as it should be", text)

    def test_a_log_alone_is_checked_too(self):
        code, said = self.verify(os.path.join(self.hub.dir, "audit", "audit.log"))
        self.assertEqual((code, said["nodes"][0]["node"]), (0, "hub-a"))

    def test_a_flipped_bit_in_any_artefact_is_found(self):
        targets = {"log": [os.path.join(n.dir, "audit", "audit.log") for n in self.f.nodes],
                   "update": files_of(self.top, "retained", ".upd") +
                             files_of(self.hub, "retained", ".upd"),
                   "plan": files_of(self.top, "retained", ".plan") +
                           files_of(self.hub, "retained", ".plan"),
                   "model": files_of(self.top, "models", ".safetensors") +
                            files_of(self.top, "retained", ".safetensors") +
                            files_of(self.hub, "models", ".safetensors"),
                   "graph": files_of(self.top, "models", ".onnx")}
        rng = random.Random(11)
        for kind, paths in targets.items():
            self.assertTrue(paths, kind)
            for _ in range(20):
                path = rng.choice(paths)
                with open(path, "rb") as file:
                    was = file.read()
                at = rng.choice([0, len(was) - 1] + [rng.randrange(len(was)) for _ in range(8)])
                bad = bytearray(was)
                bad[at] ^= 1 << rng.randrange(8)
                with self.subTest(kind=kind, path=os.path.basename(path), at=at):
                    try:
                        with open(path, "wb") as file:
                            file.write(bad)
                        # The node alone: nothing but its own directory gives it away.
                        folder = os.path.dirname(os.path.dirname(path))
                        code, said = self.verify(folder)
                        self.assertEqual(code, 1, said)
                    finally:
                        with open(path, "wb") as file:
                            file.write(was)
        self.assertEqual(self.verify(*self.all())[0], 0)

    def test_a_log_written_anew_with_a_whole_chain_contradicts_the_heads_that_others_hold(self):
        def leave_out(lines):
            at = next(i for i, line in enumerate(lines) if b'"event":"update.counted"' in line)
            return rechained(lines[:at] + lines[at + 1:])

        for node in (self.top, self.hub):
            paths = self.with_log(node, leave_out)
            self.assertEqual(self.verify(paths[0] if node is self.top else paths[1])[0], 0,
                             "alone it looks whole")
            self.found("it shows two histories", *paths)
            self.found("its own log says nothing of it", *paths)

    def test_a_log_that_was_cut_lacks_lines_whose_head_others_hold(self):
        self.found("it was cut", *self.with_log(self.top, lambda lines: lines[:-30]))

    def test_a_receipt_changed_after_it_was_signed_is_found_by_its_signature(self):
        def change(lines):
            return rechained([line.replace(b'"event":"receipt"', b'"event":"receipt"')
                              .replace(b'"weight":', b'"weight":1')
                              if b'"event":"receipt"' in line else line for line in lines])

        node = self.f.nodes[2]
        self.found("the receipt of hub-a is not signed by it", *self.with_log(node, change))

    def test_another_authoritys_nodes_are_not_believed(self):
        other = os.path.join(self.f.dir, "other")
        self.f.cli("pki", "init", "--dir", other, "--name", "test-authority")
        done = self.f.cli("audit", "verify", "--ca", os.path.join(other, "ca.pem"), self.top.dir,
                          check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("another authority's", done.stderr)

    def test_what_is_not_there_is_an_error_and_not_a_whole_log(self):
        code, said = self.verify(os.path.join(self.f.dir, "nobody"))
        self.assertEqual(code, 1)
        self.assertIn("nobody", said)


class Replay(Stopped):
    def replay(self, node, *arguments, check=True):
        done = self.f.cli("audit", "replay", self.run_id[:12], *arguments, "--data-dir", node.dir,
                          "--json", check=False)
        if check:
            self.assertEqual(done.returncode, 0, done.stderr + done.stdout)
        return json.loads(done.stdout) if done.stdout else done.stderr

    def test_a_withdrawn_update_is_in_no_sum_and_in_no_report(self):
        folder = self.with_withdrawal()
        done = self.f.cli("audit", "replay", self.run_id[:12], "--data-dir", folder, "--json",
                          check=False)
        self.assertEqual(done.returncode, 0, done.stderr + done.stdout)
        self.assertEqual(json.loads(done.stdout)["rounds"], self.replay(self.top)["rounds"])

        def first_round(data_dir):
            with tempfile.TemporaryDirectory(prefix="consilium-audit-") as out:
                self.f.cli("audit", "export", data_dir, "--out", os.path.join(out, "export"))
                with open(os.path.join(out, "export", "report.md"), encoding="utf-8") as file:
                    table = [line.strip("| \n").split(" | ") for line in file if "|" in line]
                names = next(line for line in table if line[0] == "round")
                row = table[table.index(names) + 2]
                self.assertEqual(row[0], "1")
                written = dict(zip(names, row))["withdrawn"]
                with open(os.path.join(out, "export", "report.json"), encoding="utf-8") as file:
                    return json.load(file)["runs"][self.run_id]["rounds"]["1"], written

        (now, told), (before, untold) = first_round(folder), first_round(self.top.dir)
        self.assertEqual((told, untold), ("2", "0"))
        self.assertEqual(now.pop("withdrawn"), 2)
        now["children"].sort()
        before["children"].sort()
        self.assertEqual(now, before)

    def test_each_round_gives_the_models_and_sums_that_the_logs_name(self):
        said = self.replay(self.top)
        committed = [e["data"]["model"] for e in self.top.audit("round.committed")]
        self.assertEqual([r["made"] for r in said["rounds"]], committed)
        self.assertEqual({r["result"] for r in said["rounds"]}, {"same"})
        self.assertEqual(said["of"], "models")
        said = self.replay(self.hub)
        self.assertEqual([r["made"] for r in said["rounds"]],
                         [e["data"]["update"] for e in self.hub.audit("round.folded")])
        self.assertEqual(said["of"], "updates")
        text = self.f.cli("audit", "replay", self.run_id[:12], "--data-dir", self.top.dir).stdout
        self.assertIn(committed[-1], text)
        self.assertIn("every round gives what the log says", text)

    def test_one_round_is_computed_from_the_base_that_was_kept(self):
        said = self.replay(self.top, "2")
        self.assertEqual([r["round"] for r in said["rounds"]], [2])
        self.assertEqual(said["rounds"][0]["made"],
                         self.top.audit("round.committed")[1]["data"]["model"])

    def test_an_update_that_is_gone_or_altered_is_said(self):
        path = files_of(self.top, "retained", ".upd")[0]
        os.rename(path, path + "x")
        try:
            said = self.replay(self.top, check=False)
            self.assertIn("not kept", {r["result"] for r in said["rounds"]})
            self.assertFalse(said["same"])
        finally:
            os.rename(path + "x", path)
        largest = max(files_of(self.top, "retained", ".upd"), key=os.path.getsize)
        with open(largest, "rb") as file:
            was = file.read()
        try:
            with open(largest, "wb") as file:
                file.write(was[:-1] + bytes([was[-1] ^ 1]))
            said = self.replay(self.top, check=False)
            self.assertIn("DIFFERS", {r["result"] for r in said["rounds"]})
        finally:
            with open(largest, "wb") as file:
                file.write(was)

    def test_a_run_that_is_not_there_and_a_round_that_was_not_are_refused(self):
        done = self.f.cli("audit", "replay", "ffffffffffff", "--data-dir", self.top.dir,
                          check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("no run that begins with", done.stderr)
        done = self.f.cli("audit", "replay", self.run_id[:12], "77", "--data-dir", self.top.dir,
                          check=False)
        self.assertIn("says nothing of round 77", done.stderr)
        done = self.f.cli("audit", "replay", self.run_id[:12], "0", "--data-dir", self.top.dir,
                          check=False)
        self.assertEqual(done.returncode, 2)


PLANS = {
    "median": {"tiers": {"default": {"merge": {"rule": "median"}}}},
    "centred clipping": {"tiers": {"default": {"merge": {"rule": "centred_clipping"}}}},
    "multi-krum, mixed": {"tiers": {"top": {"merge": {"rule": "trimmed_mean", "byzantine": 1,
                                                      "mix": "nearest"}}}},
    "adam": {"server": {"optimiser": {"name": "adam", "lr": 0.01}}},
    "q8 both ways": {"codec": {"name": "q8", "down": "q8"}},
    "top-k": {"codec": {"name": "top_k", "share": 0.1}},
    "fednova": {"local": {"normalise": "true"}},
    "scaffold": {"local": {"scaffold": "true"}},
    "fedcurv": {"local": {"curvature": {"lambda": 0.1}}},
}


class Methods(unittest.TestCase):
    """Whatever the plan says: the same SHA-256 again, round by round."""

    def test_replay_gives_the_same_models_by_every_rule_codec_and_optimiser(self):
        with Federation() as f:
            top = f.top(children_min=4, **KEPT)
            for site in ("north-1", "north-2", "centre-1", "centre-2"):
                f.spoke(site, top)
            runs = {}
            for name, changes in PLANS.items():
                done = f.cli("plan", "check", f.plan(rounds=3, **changes), check=False)
                self.assertEqual(done.returncode, 0, "%s: %s" % (name, done.stderr))
                run = f.run(f.plan(rounds=3, **changes))
                run.finish()
                runs[name] = run
            stop_all(f)
            for name, run in runs.items():
                with self.subTest(plan=name):
                    done = f.cli("audit", "replay", run.id, "--data-dir", top.dir, "--json",
                                 check=False)
                    self.assertEqual(done.returncode, 0, done.stderr + done.stdout)
                    said = json.loads(done.stdout)
                    self.assertEqual([r["result"] for r in said["rounds"]], ["same"] * 4, said)
                    self.assertEqual(said["rounds"][-1]["made"], run.ended().model)

    def test_replay_gives_the_same_models_of_buffered_rounds(self):
        with Federation() as f:
            top = f.top(children_min=3, **KEPT)
            for site in ("north-1", "north-2", "centre-1"):
                f.spoke(site, top)
            run = f.run(f.plan(rounds=12, evaluate={"every": 0}, tiers={
                "top": {"sync": "buffered", "quorum": 2, "staleness_max": 8}}))
            run.finish()
            counted = [e["data"] for e in top.audit("update.counted")]
            self.assertTrue(any(e["counted"] > e["round"] for e in counted), "none was late")
            stop_all(f)
            done = f.cli("audit", "replay", run.id, "--data-dir", top.dir, "--json", check=False)
            self.assertEqual(done.returncode, 0, done.stderr + done.stdout)
            said = json.loads(done.stdout)
            self.assertEqual([r["result"] for r in said["rounds"]], ["same"] * 12, said)

    def test_sums_that_were_folded_early_are_computed_from_what_they_were_made_of(self):
        with Federation() as f:
            top = f.top(children_min=6, retain="sums", max_uploaders=2, **KEPT)
            for site in federation.SITES[:6]:
                f.spoke(site, top)
            run = f.run(f.plan(rounds=2))
            run.finish()
            self.assertTrue(top.audit("round.part"), "nothing was folded early")
            stop_all(f)
            done = f.cli("audit", "replay", run.id, "--data-dir", top.dir, check=False)
            self.assertEqual(done.returncode, 0, done.stderr + done.stdout)


class Examples(unittest.TestCase):
    """Every run of a shipped example, at the top and at each regional hub."""

    def replayed(self, command, work, hubs, timeout_s):
        env = dict(federation.clean_environment(), CONSILIUM_BIN=federation.BIN)
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              env=env, timeout=timeout_s)
        self.assertEqual(done.returncode, 0, done.stdout)
        count = 0
        for hub in hubs:
            data = os.path.join(work, hub, "data")
            audit = federation.AuditReader(os.path.join(data, "audit", "audit.log")).read()
            for begun in [e["data"] for e in audit if e["event"] == "run.begun"]:
                done = subprocess.run(
                    [federation.program("consilium"), "audit", "replay", begun["run"],
                     "--data-dir", data, "--json"], stdout=subprocess.PIPE, text=True, check=False,
                    timeout=120, env=federation.clean_environment())
                said = json.loads(done.stdout)
                self.assertTrue(said["same"] and done.returncode == 0, said)
                self.assertGreater(sum(r["result"] == "same" for r in said["rounds"]), 1)
                if said["of"] == "models":
                    ended, = [e["data"] for e in audit if e["event"] == "run.ended" and
                              e["data"]["run"] == begun["run"]]
                    made = [r["made"] for r in said["rounds"] if r["result"] == "same"]
                    self.assertIn(ended["model"], made)
                count += 1
        dirs = [os.path.join(work, name, "data") for name in sorted(os.listdir(work))
                if os.path.exists(os.path.join(work, name, "data", "audit"))]
        done = subprocess.run([federation.program("consilium"), "audit", "verify", *dirs],
                              capture_output=True, text=True, check=False, timeout=120,
                              env=federation.clean_environment())
        self.assertEqual(done.returncode, 0, done.stderr)
        return count

    def test_breast_cancer(self):
        with tempfile.TemporaryDirectory(prefix="consilium-audit-") as folder:
            work = os.path.join(folder, "quick")
            count = self.replayed(
                [os.path.join(federation.ROOT, "deploy", "quickstart"), "--programs",
                 federation.BIN, "--dir", work, "--folds", "2"], work,
                ["national", "north", "centre", "south"], 180)
            self.assertEqual(count, 8)

    def test_heart_disease(self):
        data = os.environ.get("CONSILIUM_TEST_DATA",
                              os.path.join(federation.ROOT, "..", "shared", "data"))
        originals = os.path.join(data, "uci-heart-disease", "original")
        if not os.path.isdir(originals):
            self.skipTest("no heart-disease data at %s" % originals)
        with tempfile.TemporaryDirectory(prefix="consilium-audit-") as folder:
            work = os.path.join(folder, "heart")
            count = self.replayed(
                [os.path.join(federation.ROOT, "deploy", "examples", "heart-disease", "run"),
                 originals, work], work, ["national", "america", "europe"], 400)
            self.assertEqual(count, 30)


class Export(Stopped):
    def test_an_export_holds_what_verify_and_replay_need_and_nothing_secret(self):
        out = os.path.join(self.f.dir, "export")
        self.f.cli("audit", "export", self.top.dir, "--out", out)
        names = [os.path.join(os.path.relpath(path, out), n)
                 for path, _, files in os.walk(out) for n in files]
        self.assertFalse([n for n in names if "key" in n or "journal" in n], names)
        code, said = self.verify(out, *[n.dir for n in self.f.nodes if n is not self.top])
        self.assertEqual((code, said["findings"]), (0, []))
        done = self.f.cli("audit", "replay", self.run_id[:12], "--data-dir", out)
        self.assertIn("every round gives what the log says", done.stdout)
        with open(os.path.join(out, "report.md"), encoding="utf-8") as file:
            text = file.read()
        model = self.top.audit("run.ended")[0]["data"]["model"]
        for words in ("# What top did", "purpose: tests of the federation", "started by: operator",
                      model, "| 3 |", "| %s | %s |" % tuple(
                          self.top.audit(e)[1]["data"][k][:16] for e, k in
                          (("round.opened", "base"), ("round.committed", "model"))),
                      "## Record of processing", "hub-a"):
            self.assertIn(words, text)
        with open(os.path.join(out, "report.json"), encoding="utf-8") as file:
            report = json.load(file)
        run = report["runs"][self.run_id]
        self.assertEqual((run["model"], run["state"], run["contract"]),
                         (model, "completed", "breast-cancer"))
        self.assertEqual(sorted(run["rounds"]["1"]["children"]), ["centre-1", "hub-a"])
        self.assertEqual(set(report["peers"]), {"hub-a", "centre-1"})
        refused = self.f.cli("audit", "export", self.top.dir, "--out", out, check=False)
        self.assertEqual(refused.returncode, 1)
        self.assertIn("must not be there yet", refused.stderr)

    def test_a_spokes_export_says_which_data_were_used_for_what(self):
        node = self.f.nodes[2]
        out = os.path.join(self.f.dir, "spoke")
        self.f.cli("audit", "export", node.dir, "--out", out, "--without-files")
        with open(os.path.join(out, "report.json"), encoding="utf-8") as file:
            run = json.load(file)["runs"][self.run_id]
        self.assertEqual((run["purpose"], run["recipient"], run["receipts"]),
                         ("tests of the federation", "hub-a", 4))
        self.assertGreater(run["data"]["train_rows"], 0)
        self.assertGreater(run["data_reads"], 0)


class Retention(unittest.TestCase):
    def test_without_it_nothing_stays_and_with_it_the_log_says_what_went(self):
        with Federation() as f:
            top = f.top(children_min=1)
            f.spoke("north-1", top)
            run = f.run(f.plan(rounds=2))
            run.finish()
            self.assertEqual(files_of(top, "retained", ".upd"), [])
            top.stop()
            top.keys["retention"] = {"updates_days": 2, "models_days": 1}
            top.start()
            f.run(f.plan(rounds=2, local={"seed": 8})).finish()
            kept = files_of(top, "retained", ".upd")
            self.assertEqual(len(kept), 3)
            top.stop()
            for path in kept[:2]:
                os.utime(path, (1, 1))
            top.start()
            gone, = top.audit("retention.expired")
            self.assertEqual((gone["data"]["updates"], gone["data"]["models"]), (2, 0))
            self.assertEqual(files_of(top, "retained", ".upd"), kept[2:])
            started = top.audit("node.started")
            self.assertEqual(len(started[0]["data"]["binary"]), 64)
            self.assertIn("retention.updates_days", started[1]["data"]["changed"])
            self.assertEqual(started[2]["data"]["changed"], "")


if __name__ == "__main__":
    unittest.main()
