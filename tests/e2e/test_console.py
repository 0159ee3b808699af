# SPDX-License-Identifier: Apache-2.0
"""The operator's program against real daemons: what it prints, and the exit status it leaves."""
import hashlib
import json
import os
import pty
import re
import shutil
import socket
import stat
import subprocess
import unittest

from federation import EXAMPLE, Federation, clean_environment, program


def free_port():
    """A port that was free a moment ago."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


class Console(unittest.TestCase):
    def refused(self, federation, *arguments, code=1):
        """Its message, after a command that must fail with that exit status."""
        done = federation.cli(*arguments, check=False)
        self.assertEqual((done.returncode, done.stdout), (code, ""), done.stderr)
        self.assertTrue(done.stderr.startswith("consilium: "), done.stderr)
        return done.stderr

    def test_a_model_is_stripped_of_what_went_with_it(self):
        def parts(path):
            with open(path, "rb") as f:
                raw = f.read()
            head = 8 + int.from_bytes(raw[:8], "little")
            info = json.loads(f2.cli("model", "info", path, "--json").stdout)
            return info, raw[head:]
        with Federation() as f2:
            top = f2.top(children_min=2)
            for site in ("north-1", "north-2"):
                f2.spoke(site, top)
            for times, local in ((3, {"curvature": {"lambda": 1.0, "clip": 4.0}}),
                                 (2, {"scaffold": "true"}), (1, {})):
                run = f2.run(f2.plan(rounds=2, local=local))
                whole = os.path.join(f2.dir, "whole.safetensors")
                bare = os.path.join(f2.dir, "bare.safetensors")
                run.finish()
                published = f2.cli("model", "pull", run.id, "--out", whole,
                                   *f2.at_top()).stdout.strip()
                printed = f2.cli("model", "strip", whole, "--out", bare).stdout.strip()
                self.assertEqual(printed, sha256(bare))
                before, values = parts(whole)
                after, kept = parts(bare)
                self.assertEqual((before["elements"], after["elements"]), (times * 24449, 24449))
                self.assertEqual([t["name"] for t in after["tensors"]],
                                 [t["name"] for t in before["tensors"]][:6])
                self.assertEqual(kept, values[:4 * 24449])
                self.assertEqual(after["metadata"]["consilium.stripped_from"], published)
                self.assertEqual("consilium.weight" in before["metadata"], times == 3)
            self.refused(f2, "model", "strip", bare, "--out", f2.dir)
            self.refused(f2, "model", "strip", bare + "-", "--out", whole)
            self.assertEqual([n for n in os.listdir(os.path.dirname(f2.dir) or "/")
                              if n == sha256(bare) + ".safetensors"], [])

    def test_a_run_is_started_listed_pulled_and_audited(self):
        with Federation() as f:
            top = f.top(children_min=2)
            for site in ("north-1", "north-2"):
                f.spoke(site, top)
            run = f.cli("run", "start", f.plan(rounds=3), "--wait", *f.at_top()).stdout.strip()

            listed = json.loads(f.cli("run", "list", "--json", *f.at_top()).stdout)["runs"]
            self.assertEqual([(r["run"], r["state"], r["round"]) for r in listed],
                             [(run, "completed", 4)])
            out = os.path.join(f.dir, "model.safetensors")
            printed = f.cli("model", "pull", run[:8], "--out", out, *f.at_top()).stdout.strip()
            self.assertEqual(printed, listed[0]["model"])
            self.assertEqual(sha256(out), printed)
            info = json.loads(f.cli("model", "info", out, "--json").stdout)
            self.assertEqual((info["sha256"], info["elements"]), (printed, 24449))

            graph = os.path.join(f.dir, "graph.onnx")
            f.cli("model", "pull", "--graph", "--out", graph, *f.at_top())
            self.assertEqual(sha256(graph), sha256(os.path.join(EXAMPLE, "model.onnx")))
            self.refused(f, "model", "pull", "f" * 64, "--out", graph + "2", *f.at_top())
            # A link is followed; what is no file is written to and stays what it is.
            link, pipe = os.path.join(f.dir, "link"), os.path.join(f.dir, "pipe")
            os.symlink(out, link)
            f.cli("model", "pull", run[:8], "--out", link, *f.at_top())
            self.assertTrue(os.path.islink(link))
            self.assertEqual(sha256(out), printed)
            os.mkfifo(pipe)
            reader = subprocess.Popen(["sha256sum", pipe], stdout=subprocess.PIPE, text=True)
            f.cli("model", "pull", run[:8], "--out", pipe, *f.at_top())
            self.assertEqual(reader.communicate()[0].split()[0], printed)
            self.assertTrue(stat.S_ISFIFO(os.stat(pipe).st_mode))
            self.refused(f, "model", "pull", run[:8], "--out", f.dir, *f.at_top())
            self.assertEqual([n for n in os.listdir(f.dir) if n.startswith("graph.onnx2")], [])

            started = top.audit("console.start")
            self.assertEqual([(e["data"]["caller"], e["data"]["run"]) for e in started],
                             [("operator", run)])
            whole = json.loads(f.cli("audit", "verify", top.dir, "--json").stdout)
            self.assertTrue(whole["whole"])
            log = os.path.join(f.dir, "broken.log")
            shutil.copy(os.path.join(top.dir, "audit", "audit.log"), log)
            with open(log, "r+b") as changed:
                changed.seek(changed.read().index(b"node.started"))
                changed.write(b"node.starteD")
            self.refused(f, "audit", "verify", log)

    def test_nodes_enroll_by_a_token_that_works_once(self):
        with Federation() as f:
            port = free_port()
            f.top(enroll_listen="127.0.0.1:%d" % port, authority_dir=f.authority)
            token = f.cli("token", "create", "--dir", f.authority, "--name", "north-1", "--role",
                          "spoke").stdout.strip()
            self.assertRegex(token, r"^consilium1\.[a-z2-7]{32}\.[0-9a-f]{64}$")
            kept = os.path.join(f.dir, "token")
            with open(kept, "w", encoding="ascii") as file:
                file.write(token + "\n")
            enroll = ["enroll", "--address", "127.0.0.1:%d" % port, "--token-file", kept, "--name",
                      "north-1", "--data-dir", os.path.join(f.dir, "north-1"), "--role"]
            self.refused(f, *enroll, "hub")  # it is for a spoke, and is not used up by this
            f.cli(*enroll, "spoke")
            self.refused(f, *enroll, "spoke")
            spoke = f.spoke("north-1", f.root, enroll=False)
            spoke.wait_log("attending parent top")
            self.refused(f, "token", "create", "--dir", f.authority, "--name", "north-1", "--role",
                         "spoke")
            f.cli("revoke", "--dir", f.authority, "--name", "north-1")
            self.refused(f, "revoke", "--dir", f.authority, "--name", "north-1")

    def test_only_operators_and_the_hub_itself_may_ask(self):
        with Federation() as f:
            top = f.top()
            spoke = f.spoke("north-1", top)
            where = ["--hub", "127.0.0.1:%d" % top.port, "--hub-name", "top"]
            said = self.refused(f, "run", "list", *where, "--identity", spoke.dir)
            self.assertIn("role operator", said)
            said = self.refused(f, "run", "start", f.plan(), *where, "--identity", spoke.dir)
            self.assertIn("role operator", said)
            self.assertEqual([e["data"]["caller"] for e in top.audit("console.refused")],
                             ["north-1", "north-1"])
            f.cli("run", "list", *where, "--identity", top.dir)
            self.refused(f, "run", "list", *where)  # nobody at all
            self.refused(f, "run", "list", *where, "--insecure")

    def test_a_watch_tells_every_round_over_a_kill_of_the_top(self):
        with Federation() as f:
            top = f.top()
            f.spoke("north-1", top)
            run = f.run(f.plan(rounds=40))
            path = os.path.join(f.dir, "watch.jsonl")
            with open(path, "w", encoding="ascii") as out:
                watch = subprocess.Popen(
                    [program("consilium"), "run", "watch", run.id, "--json", *f.at_top()],
                    stdout=out, env=clean_environment())
                run.wait_round(5)
                f.wait(lambda: os.path.getsize(path), 20, "the watch has said something")
                top.kill()
                top.start()
                self.assertEqual(watch.wait(100), 0)
            with open(path, encoding="ascii") as lines:
                states = [json.loads(line) for line in lines]
            self.assertEqual((states[-1]["state"], states[-1]["round"]), ("completed", 41))
            rounds = {r["round"]: r for s in states for r in s["history"]}
            self.assertEqual(sorted(rounds), list(range(42)))
            for number in range(41):
                self.assertIn("accuracy", rounds[number]["metrics"], "round %d" % number)

    def test_a_run_is_stopped_by_its_operator(self):
        with Federation() as f:
            top = f.top()
            hub = f.hub("hub-a", top)
            f.spoke("north-1", hub)
            run = f.run(f.plan(rounds=100000))
            run.wait_round(2)
            below = ["--hub", "127.0.0.1:%d" % hub.port, "--hub-name", "hub-a", "--identity",
                     f.operator]
            self.assertIn("at the top", self.refused(f, "run", "stop", run.id[:8], *below))
            f.cli("run", "stop", run.id[:8], *f.at_top())
            end = run.wait()
            self.assertEqual((end.state, end.reason), ("stopped", "stopped by operator"))
            done = f.cli("run", "watch", run.id, *f.at_top(), check=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn("stopped by operator", done.stderr)
            self.refused(f, "run", "stop", run.id, *f.at_top())

    def test_a_child_that_is_lost_is_listed_as_away_once(self):
        with Federation() as f:
            top = f.top()
            spoke = f.spoke("north-1", top)
            for _ in range(2):
                run = f.run(f.plan(rounds=100000))
                run.wait_round(1)

            def children():
                listed = json.loads(f.cli("node", "list", "--json", *f.at_top()).stdout)
                return [(n["name"], n["state"]) for n in listed["children"]]

            self.assertEqual(children(), [("north-1", "attending")])
            spoke.kill()
            f.wait(lambda: children() == [("north-1", "away")], 20, "the spoke is listed as away")

    def test_a_terminal_gets_a_picture_and_a_pipe_gets_lines(self):
        with Federation() as f:
            top = f.top()
            f.spoke("north-1", top)
            run = f.run(f.plan(rounds=3))
            ours, theirs = pty.openpty()
            watch = subprocess.Popen([program("consilium"), "run", "watch", *f.at_top()],
                                     stdin=subprocess.DEVNULL, stdout=theirs,
                                     env=clean_environment())
            os.close(theirs)
            seen = b""
            try:
                while True:
                    piece = os.read(ours, 65536)
                    if not piece:
                        break
                    seen += piece
            except OSError:  # Linux's way to say that the other end is closed
                pass
            os.close(ours)
            self.assertEqual(watch.wait(60), 0)
            last = seen.decode().split("\x1b[J")[-1]
            self.assertIn("completed", last.splitlines()[0])
            self.assertRegex(last, r"north-1 +\[#{24}\] 100%  delivered")
            self.assertRegex(last, r"round +updates +weight +accuracy")
            plain = f.cli("run", "watch", run.id, *f.at_top()).stdout
            self.assertNotIn("\x1b", plain)
            self.assertEqual(len(re.findall(r"(?m)^round [0-3]: accuracy ", plain)), 4)

    def test_operators_may_have_a_port_of_their_own(self):
        with Federation() as f:
            port = free_port()
            top = f.top(console_listen="127.0.0.1:%d" % port)
            own = ["--hub", "127.0.0.1:%d" % port, "--hub-name", "top", "--identity", f.operator]
            nodes = json.loads(f.cli("node", "list", "--json", *own).stdout)
            self.assertEqual((nodes["self"]["name"], nodes["children"]), ("top", []))
            self.assertIn("no such method", self.refused(f, "node", "list", *f.at_top()))
            self.assertEqual(top.stop(), 0)

    def test_without_tls_anybody_may_ask(self):
        with Federation(tls=False) as f:
            top = f.top()
            f.spoke("north-1", top)
            f.cli("run", "start", f.plan(rounds=1), "--wait", *f.at_top())

    def test_a_bad_plan_is_told_with_its_lines_and_never_sent(self):
        with Federation() as f:
            top = f.top()
            bad = f.plan(rounds=0, local={"batsch": 3})
            said = self.refused(f, "plan", "check", bad)
            self.assertRegex(said, r"plan-1\.yaml:\d+: rounds must be")
            self.assertRegex(said, r"plan-1\.yaml:\d+: unknown key 'local\.batsch'")
            self.refused(f, "run", "start", bad, *f.at_top())
            self.assertEqual(top.audit("console.refused"), [])
            good = f.cli("plan", "check", f.plan()).stdout
            self.assertIn("no sum can overflow", good)
            shown = json.loads(f.cli("plan", "show", f.plan(), "--json").stdout)
            self.assertEqual(shown["rounds"], 3)

    def test_a_command_that_is_used_wrongly_says_how_to_use_it(self):
        with Federation(tls=False) as f:
            for wrong in ([], ["nothing"], ["run"], ["run", "dance"], ["run", "list", "--nothing"],
                          ["run", "list"], ["plan", "check"], ["plan", "check", "a", "b"],
                          ["pki", "init", "--dir"], ["node", "list", "-h"],
                          ["pki", "init", "--dir", "d", "--name", "n", "--days", "many"]):
                done = f.cli(*wrong, check=False)
                self.assertEqual((done.returncode, done.stdout), (2, ""), wrong)
            for right in (["--help"], ["run", "watch", "--help"], ["hub", "--help"],
                          ["spoke", "--version"]):
                self.assertTrue(f.cli(*right).stdout, right)


if __name__ == "__main__":
    unittest.main()
