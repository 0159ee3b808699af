# SPDX-License-Identifier: Apache-2.0
"""Plans that ask for a TPM's word on what a node runs: who gives it takes part, and nobody else."""
import json
import os
import shutil
import unittest

import edge
from federation import Federation, program
from tpm import Tpm

SPOKE = "north-1"


def sha256_of(path):
    return edge.sha256(edge.read_file(path)).hex()


class Attest(unittest.TestCase):
    def setUp(self):
        self.f = Federation()
        self.addCleanup(self.f.close)
        self.keys = os.path.join(self.f.dir, "tpm-keys")
        os.mkdir(self.keys)
        self.top = self.f.top(children_min=1, attest={"keys": self.keys})

    def tpm(self, name):
        tpm = Tpm(os.path.join(self.f.dir, name + "-tpm"))
        self.f.others.append(tpm)
        return tpm

    def pin(self, node, name=None, keys=None):
        """What an operator does with the file that a hospital gave."""
        self.f.wait(lambda: node.audit("tpm.measured"), 20, "%s has its key" % node.name)
        shutil.copy(os.path.join(node.dir, "identity", "attest.pem"),
                    os.path.join(keys or self.keys, (name or node.name) + ".pem"))

    def plan(self, *allow, **changes):
        allow = allow or ["binary=" + sha256_of(program("consilium-spoke"))]
        governance = {"attest": "tpm", "attest_allow": "[%s]" % ", ".join('"%s"' % a for a in allow)}
        return self.f.plan(**dict({"rounds": 1, "governance": governance}, **changes))

    def refused(self, run, reason):
        """The top has said why it does not admit the child, to it and in its log."""
        found = self.f.wait(lambda: [e["data"] for e in self.top.audit("attest.refused")
                                     if e["data"]["run"] == run.id and reason in
                                     e["data"]["reason"]],
                            30, "the top does not admit it: " + reason)
        self.assertTrue([e for e in self.top.audit("run.declined") if e["data"]["run"] == run.id])
        self.assertFalse([e for e in self.top.audit("round.opened") if e["data"]["run"] == run.id])
        return found[-1]

    def test_a_node_that_shows_what_it_runs_takes_part_and_an_auditor_can_check_it(self):
        f, top = self.f, self.top
        inner = os.path.join(f.dir, "hub-keys")
        os.mkdir(inner)
        hub = f.hub("hub-a", top, tpm={"tcti": self.tpm("hub-a").tcti}, attest={"keys": inner})
        hub.stop()
        hub.start()  # with the port that it was given, which is in its configuration now
        spoke = f.spoke(SPOKE, hub, tpm={"tcti": self.tpm(SPOKE).tcti, "pcr": 16})
        self.pin(hub)
        self.pin(spoke, keys=inner)
        started = spoke.audit("node.started")[0]["data"]
        self.assertEqual(started["binary"], sha256_of(program("consilium-spoke")))
        plan = self.plan(*["binary=" + sha256_of(program(p))
                           for p in ("consilium-spoke", "consilium-hub")],
                         "config=" + started["config"],
                         "config=" + hub.audit("node.started")[1]["data"]["config"],
                         "pcr7=" + "0" * 64, rounds=2, local={"steps": 2000})
        run = f.run(plan)
        run.wait_round(1, hub)
        spoke.kill()  # whoever comes back is asked again
        spoke.start()
        f.wait(lambda: len(hub.audit("attest.admitted")) == 2, 30, "the spoke is back")
        hub.kill()
        hub.start()
        run.finish()
        admitted = [e["data"] for e in hub.audit("attest.admitted")]
        self.assertEqual([a["child"] for a in admitted], [SPOKE] * 3)
        self.assertEqual(len({a["nonce"] for a in admitted}), 3)
        self.assertEqual([e["data"]["child"] for e in top.audit("attest.admitted")],
                         ["hub-a"] * 2)
        for node in (top, hub, spoke):
            node.stop()
        told = json.loads(f.cli("audit", "verify", "--json", *[n.dir for n in (top, hub, spoke)]
                                ).stdout)
        self.assertTrue(told["whole"], told["findings"])
        self.assertEqual([n["quotes"] for n in told["nodes"]], [2, 3, 0])
        out = os.path.join(f.dir, "export")
        f.cli("audit", "export", spoke.dir, "--out", out)
        with open(os.path.join(out, "report.json"), encoding="utf-8") as report:
            self.assertEqual([s["binary"] for s in json.load(report)["starts"]],
                             [started["binary"]] * 2)

    def test_another_program_is_refused_and_so_is_one_without_a_tpm_or_a_pinned_key(self):
        f, top = self.f, self.top
        other = os.path.join(f.dir, "another-spoke")
        shutil.copy(program("consilium-spoke"), other)
        with open(other, "ab") as binary:
            binary.write(b"\0")  # it runs as before, and is another
        tpm = self.tpm(SPOKE)
        spoke = f.spoke(SPOKE, top, start=False, tpm={"tcti": tpm.tcti})
        spoke.program = other
        spoke.start()
        run = f.run(self.plan())
        self.refused(run, "no key of its TPM is pinned here (attest.keys has no north-1.pem)")
        self.pin(spoke)
        spoke.kill()
        spoke.start()
        event = self.refused(run, "the program that it runs, %s, is not in the plan's "
                                  "governance.attest_allow" % sha256_of(other))
        self.assertEqual(event["binary"], sha256_of(other))
        spoke.wait_log("parent top does not admit this node: the program that it runs")
        spoke.kill()
        spoke.keys.pop("tpm")
        spoke.program = None
        spoke.start()
        self.refused(run, "no TPM is configured there (tpm.tcti)")
        spoke.kill()
        spoke.keys["tpm"] = {"tcti": self.tpm("stranger").tcti}
        spoke.start()
        self.refused(run, "not signed by the TPM key that is pinned for north-1")
        # The same hospital with the right program and its own TPM: the run was never lost for it.
        spoke.kill()
        spoke.keys["tpm"] = {"tcti": tpm.tcti}
        spoke.start()
        run.finish()
        self.assertEqual(len(top.audit("attest.admitted")), 1)

    def test_an_old_quote_and_an_offer_without_one_get_nobody_in(self):
        f, top = self.f, self.top
        spoke = f.spoke(SPOKE, top, tpm={"tcti": self.tpm(SPOKE).tcti})
        self.pin(spoke)
        first = f.run(self.plan())
        first.finish()
        old = [e["data"] for e in top.audit("attest.admitted")][0]
        spoke.kill()
        run = f.run(self.plan(local={"seed": 8}))
        me = edge.Identity(os.path.join(spoke.dir, "identity"))  # its key is stolen, its TPM is not
        pb, run_id = edge.wire(), bytes.fromhex(run.id)
        fields = {k: bytes.fromhex(old[k])
                  for k in ("signature", "platform", "binary", "kernels", "config")}
        fields.update(run=run_id, attest=bytes.fromhex(old["quote"]), pcr=old["pcr"])
        for nonce in (lambda asked: bytes.fromhex(old["nonce"]), lambda asked: asked.nonce):
            with edge.Parent(top.port, "top", me) as parent:
                stream = parent.attend(SPOKE)
                stream.wait("plan", lambda m: m.run == run_id)
                stream.send(answer=pb.Answer(run=run_id, accepted=True))
                asked = stream.wait("challenge")
                self.assertEqual(len(asked.nonce), 32)
                self.assertNotEqual(asked.nonce.hex(), old["nonce"])
                stream.send(secure=pb.Secure(run=run_id, round=1, step=1, body=b"x"))
                stream.send(quote=pb.Quote(nonce=nonce(asked), **fields))
                told = stream.wait("challenge")
                self.assertEqual(told.nonce, b"")
                self.assertIn("its quote answers another question: an older nonce", told.reason)
                stream.send(quote=pb.Quote(nonce=nonce(asked), **fields))  # nobody asks any more
                stream.send(answer=pb.Answer(run=run_id, accepted=True))
                self.assertNotIn(stream.wait("challenge").nonce, (asked.nonce, b""))
        self.refused(run, "its quote answers another question")
        spoke.start()
        run.finish()

    def test_a_hub_that_could_not_check_takes_no_such_plan(self):
        with Federation() as f:
            f.top()
            governance = {"attest": "tpm", "attest_allow": '["binary=%s"]' % ("ab" * 32)}
            refused = f.cli("run", "start", f.plan(rounds=1, governance=governance), *f.at_top(),
                            check=False)
            self.assertNotEqual(refused.returncode, 0)
            self.assertIn("attest.keys names their folder", refused.stderr)

    def test_a_tpm_that_is_not_there_keeps_a_node_from_starting(self):
        spoke = self.f.spoke(SPOKE, self.top, start=False, tpm={"tcti": "swtpm:port=1"})
        spoke.may_end = True
        spoke.spawn()
        spoke.wait_log("no TPM answers at tpm.tcti 'swtpm:port=1'")


if __name__ == "__main__":
    unittest.main()
