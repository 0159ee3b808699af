# SPDX-License-Identifier: Apache-2.0
"""What travels with a released model: a card that says what it is, signed by the hub."""
import json
import os
import sys
import unittest

import package
from federation import Federation
from test_identity import at, with_authority

sys.path.insert(0, package.folder())
from consilium.operator import Operator  # noqa: E402


def flip(path, at_byte):
    with open(path, "r+b") as f:
        f.seek(at_byte)
        byte = f.read(1)[0]
        f.seek(at_byte)
        f.write(bytes([byte ^ 4]))


class Card(unittest.TestCase):
    def people(self, f, *names_and_roles):
        made = {}
        for name, role in names_and_roles:
            made[name] = os.path.join(f.dir, "person-" + name)
            f.enroll(name, role, made[name])
        return made

    def test_a_released_model_brings_a_card_that_anybody_can_check(self):
        with Federation() as f:
            top = with_authority(f, children_min=4)
            for name in ("north-1", "north-2", "north-3", "centre-1"):
                f.spoke(name, top)
            plan = f.plan(rounds=2,
                          governance={"purpose": "disease-research", "author": "operator",
                                      "legal_basis": "Art. 9(2)(j) GDPR"})
            f.cli("plan", "sign", plan, "--identity", f.operator)
            begun = f.run(plan)
            run = begun.finish()
            out = os.path.join(f.dir, "model.safetensors")
            beside = out + ".card.json"
            who = self.people(f, ("anna", "operator"), ("bert", "operator"),
                              ("carl", "researcher"))
            pull = ["model", "pull", "--out", out, "--json"]
            # Before it is released there is none, and that is no failure.
            self.assertIsNone(json.loads(f.cli(*pull, *at(top, who["anna"])).stdout)["card"])
            self.assertFalse(os.path.exists(beside))
            self.assertIn("is not there", f.cli("model", "card", out, check=False).stderr)
            f.cli("model", "release", run.model, *at(top, who["anna"]))
            top.kill()
            top.start()
            f.cli("model", "release", run.model, *at(top, who["bert"]))
            self.assertEqual(json.loads(f.cli(*pull, *at(top, who["carl"])).stdout)["card"], beside)
            self.check_says(f, top, begun.id, run.model, beside)
            self.check_verified(f, out, beside)
            self.check_python(f, top, who, run.model)
            self.check_audit(f, top, beside)

    def check_says(self, f, top, run, model, beside):
        with open(beside, encoding="utf-8") as file:
            card = json.load(file)["card"]
        self.assertEqual(card["model"]["sha256"], model)
        self.assertEqual(card["release"]["by"], ["anna", "bert"])
        self.assertEqual(card["plan"]["signed_by"], "operator")
        self.assertEqual(card["plan"]["governance"]["purpose"], "disease-research")
        begun = top.audit("run.begun")[-1]["data"]
        self.assertEqual(card["plan"]["sha256"], begun["plan"])
        self.assertEqual((card["run"]["id"], card["run"]["round"]), (run, 2))
        self.assertEqual((card["counted"]["children"], card["counted"]["last_round"]["children"]),
                         (4, 4))
        told = card["metrics"]["values"]
        self.assertGreater(told["accuracy"], 0.5)
        spread = card["metrics"]["spread"]["accuracy"]
        self.assertEqual(spread["children"], 4)
        self.assertLessEqual(spread["lowest"], spread["median"])
        self.assertLessEqual(spread["median"], spread["highest"])
        self.assertLessEqual(spread["lowest"], told["accuracy"])
        self.assertGreaterEqual(spread["highest"], told["accuracy"])
        self.assertNotIn("count", card["metrics"]["spread"])
        self.assertIsNone(card["privacy"]["patient"])
        self.assertEqual(card["lineage"]["first_model"], top.audit("round.opened")[0]["data"]["base"])
        # The head is of the very log that goes on with the card itself.
        after = [e for e in top.audit() if e["event"] == "model.card"][0]
        self.assertEqual(card["audit"]["lines"], after["seq"] - 1)
        text = f.cli("model", "card", beside[:-len(".card.json")],
                     "--ca", os.path.join(f.authority, "ca.pem")).stdout
        for words in ("anna and bert", "by the authority's certificate", "over 4 children",
                      "disease-research", model):
            self.assertIn(words, text)

    def check_verified(self, f, out, beside):
        ca = ["--ca", os.path.join(f.authority, "ca.pem")]
        self.assertTrue(json.loads(f.cli("model", "verify", out, "--json", *ca).stdout)["whole"])
        self.assertEqual(f.cli("model", "verify", out, check=False).returncode, 2)
        for path, words in ((out, "was altered"), (beside, "altered")):
            for byte in (9, os.path.getsize(path) // 2, os.path.getsize(path) - 2):
                flip(path, byte)
                told = f.cli("model", "verify", out, *ca, check=False)
                self.assertEqual(told.returncode, 1, (path, byte))
                self.assertIn(words, told.stderr)
                flip(path, byte)
        f.cli("pki", "init", "--dir", os.path.join(f.dir, "other"), "--name", "other")
        told = f.cli("model", "verify", out, "--ca", os.path.join(f.dir, "other", "ca.pem"),
                     check=False)
        self.assertEqual(told.returncode, 1)
        self.assertIn("authority", told.stderr)
        f.cli("model", "verify", out, "--identity", f.operator)

    def check_python(self, f, top, who, model):
        with Operator("127.0.0.1:%d" % top.port, top.name, who["carl"]) as hub:
            path = os.path.join(f.dir, "by-python.safetensors")
            self.assertEqual(hub.pull_file(path), model)
            self.assertEqual(hub.card()["model"]["sha256"], model)
            self.assertEqual(hub.card(sha256=model)["release"]["by"], ["anna", "bert"])
        f.cli("model", "verify", path, "--identity", f.operator)

    def check_audit(self, f, top, beside):
        """The hub's own copy is among what an auditor checks."""
        top.stop()
        f.cli("audit", "verify", top.dir)
        kept = [n for n in os.listdir(os.path.join(top.dir, "models")) if n.endswith(".card")]
        self.assertEqual(len(kept), 1)
        self.assertEqual(kept[0][:64], top.audit("model.card")[0]["data"]["card"])
        path = os.path.join(top.dir, "models", kept[0])
        with open(path, "rb") as ours, open(beside, "rb") as pulled:
            self.assertEqual(ours.read(), pulled.read())
        flip(path, 100)
        told = f.cli("audit", "verify", top.dir, check=False)
        self.assertEqual(told.returncode, 1)
        self.assertIn(".card", told.stderr)

    def test_two_children_are_too_few_for_a_spread_and_the_card_says_so(self):
        with Federation() as f:
            top = with_authority(f, children_min=2)
            for i in range(2):
                f.spoke("north-%d" % (i + 1), top)
            run = f.run(f.plan(rounds=1)).finish()
            who = self.people(f, ("anna", "operator"), ("bert", "operator"))
            for name in ("anna", "bert"):
                f.cli("model", "release", run.model, *at(top, who[name]))
            out = os.path.join(f.dir, "model")
            f.cli("model", "pull", "--out", out, *at(top, who["anna"]))
            card = json.loads(f.cli("model", "card", out, "--json").stdout)
            self.assertIsNone(card["metrics"]["spread"])
            self.assertIn("fewer than three", card["metrics"]["why_not"])
            self.assertIn("NOT checked", f.cli("model", "card", out).stdout)


if __name__ == "__main__":
    unittest.main()
