# SPDX-License-Identifier: Apache-2.0
"""Secure sums: a hub learns the sum of its spokes' updates and no single one.

The model of a plan with secure.sums is the one of the same plan without, tensor for tensor and byte
for byte; the two files differ in the plan's hash that each names, and in nothing else. So whatever
is killed on the way, the model says which updates were in the sum.
"""
import base64
import glob
import json
import os
import re
import struct
import unittest

import edge
from federation import Federation
from parent import Host
from recorder import TlsRecorder
from test_steward import patients, table_without, write

SPOKES = ["north-1", "north-2", "north-3", "centre-1"]
SECURE = {"sums": "region", "cohort_min": 2, "threshold": 0.51, "step_s": 20}
SLOW = {"steps": 1200}  # so long that a step of the masks is over before training is


def model_of(f, ended):
    """The bytes of the published file, without the plan's hash."""
    path = glob.glob(os.path.join(f.root.dir, "models", ended.model + ".safetensors"))[0]
    with open(path, "rb") as file:
        raw = file.read()
    plan = re.search(rb'"consilium.plan":"([0-9a-f]{64})"', raw)
    return raw.replace(plan.group(1), b"-" * 64)


def values_of(f, model):
    """All its numbers."""
    raw = edge.read_file(f.root.dir, "models", model + ".safetensors")
    return edge.Model(raw).values


def sealed(node, run):
    """Whether the spoke has masked an update of the run."""
    return any(e["data"]["run"] == run.id for e in node.audit("update.masked"))


def pseudonym_of(node):
    """What the spoke is called in its run's sums; "" before it has been told."""
    for path in glob.glob(os.path.join(node.dir, "identity", "pseudonyms", "*.pem")):
        subject = edge.openssl("x509", "-noout", "-subject", "-in", path).stdout.decode()
        return re.search(r"p-[0-9a-f]{40}", subject).group()
    return ""


def certificates_in(data):
    """In DER, where names can be read."""
    return [base64.b64decode(pem) for pem in re.findall(
        rb"-----BEGIN CERTIFICATE-----([\w+/=\s]*)-----END CERTIFICATE-----", data)]


def holds(folder, name):
    """The files below the folder that hold the name; updates, which come and go, are numbers."""
    files = [path for path in glob.glob(os.path.join(folder, "**"), recursive=True)
             if os.path.isfile(path) and not path.endswith(".upd")]
    return [path for path in files for data in [edge.read_file(path)]
            if any(name.encode() in part for part in [data] + certificates_in(data))]


def counted(top, run):
    return [e["data"]["child"] for e in top.audit("update.counted") if e["data"]["run"] == run.id]


def update_of(streams):
    """The payload of the largest Push among what was sent upwards."""
    best = b""
    for body in streams:
        at = body.find(b"\x7a")  # field 15 of Piece, its data
        while at >= 0:
            length, shift, i = 0, 0, at + 1
            while i < len(body) and shift < 35:
                length |= (body[i] & 0x7f) << shift
                shift += 7
                i += 1
                if body[i - 1] < 0x80:
                    break
            if len(best) < length <= len(body) - i:
                best = body[i:i + length]
            at = body.find(b"\x7a", at + 1)
    return best


class Secure(unittest.TestCase):
    def test_the_model_is_that_of_the_visible_twin_over_a_tree(self):
        shape = {"hub-a": {"north-1": None, "north-2": None, "north-3": None},
                 "hub-b": {"centre-1": None, "centre-2": None}}
        with Federation() as f:
            nodes = f.tree(shape, top=f.top_with_authority)
            twin = f.run(f.plan(rounds=3)).finish()
            run = f.run(f.plan(rounds=3, secure=SECURE))
            self.assertEqual(model_of(f, run.finish()), model_of(f, twin))
            for hub, children in shape.items():
                events = [e["data"] for e in nodes[hub].audit("round.unmasked")]
                self.assertEqual([(e["round"], e["spokes"]) for e in events],
                                 [(r, len(children)) for r in (1, 2, 3, 4)])
                # What a hub counts of each child is one update, and not of how many patients.
                weights = {e["data"]["weight"] for e in nodes[hub].audit("update.counted")
                           if e["data"]["run"] == run.id}
                self.assertEqual(weights, {1})
            shown = f.cli("plan", "show", f.plan(rounds=3, secure=SECURE)).stdout
            self.assertIn("of at least 2 spokes", shown)

    def test_an_audit_makes_the_masked_sums_again(self):
        kept = {"retention": {"updates_days": 30, "models_days": 30}}
        with Federation() as f:
            top = f.top_with_authority(children_min=3, **kept)
            hub = f.hub("hub-a", top, children_min=2, **kept)
            # The top has spokes of its own beside a hub: its sum is of both kinds.
            for site, parent in (("north-1", hub), ("north-2", hub), ("centre-1", top),
                                 ("centre-2", top)):
                f.spoke(site, parent)
            run = f.run(f.plan(rounds=2, secure=SECURE))
            run.finish()

            def replay(node):
                done = f.cli("audit", "replay", run.id, "--data-dir", node.dir, "--json",
                             check=False)
                return [r["result"] for r in json.loads(done.stdout)["rounds"]]

            for node in (top, hub):
                self.assertEqual(replay(node), ["same"] * 3, node.name)
                self.assertEqual(len(node.audit("round.unmasked")), 3)
            masks = glob.glob(os.path.join(hub.dir, "retained", "*.terms"))
            self.assertEqual(len(masks), 3)
            with open(masks[0], "r+b") as file:
                file.seek(40)
                byte = file.read(1)
                file.seek(40)
                file.write(bytes([byte[0] ^ 1]))
            self.assertEqual(sorted(replay(hub)), ["DIFFERS", "same", "same"])
            for path in masks:
                os.unlink(path)
            self.assertEqual(replay(hub), ["not kept"] * 3)
            self.assertEqual(replay(top), ["same"] * 3)

    def test_no_update_is_on_the_wire_that_its_visible_twin_shows_there(self):
        with Federation() as f:
            top = f.top_with_authority(children_min=3)
            for site in SPOKES[1:3]:
                f.spoke(site, top)
            spoke = f.spoke(SPOKES[0], top, start=False)
            recorder = TlsRecorder(top, spoke)
            f.others.append(recorder)
            spoke.keys["parent"]["address"] = recorder.address
            spoke.start()
            f.run(f.plan(rounds=1, evaluate={"every": 0})).finish()
            before = recorder.payloads()
            payload = update_of(before)
            deltas = struct.unpack("<%df" % (len(payload) // 4), payload)
            self.assertGreater(len(deltas), 10000)
            run = f.run(f.plan(rounds=1, evaluate={"every": 0}, secure=SECURE))
            run.finish()
            masked = [b for b in recorder.payloads() if b not in before]
            self.assertGreater(sum(map(len, masked)), 8 * len(deltas), "the masked update was sent")
            weight = spoke.audit("update.sealed")[-1]["data"]["weight"]
            self.assertGreater(weight, 1)
            words = [weight * round(d * 2 ** 30) for d in deltas]
            for at in range(0, len(deltas) - 8, 8):
                eight = deltas[at:at + 8]
                if not any(eight):
                    continue  # zeros are found anywhere
                floats = struct.pack("<8f", *eight)
                ints = struct.pack("<8q", *words[at:at + 8])
                self.assertTrue(any(floats in b for b in before), "the control")
                for body in masked:
                    self.assertNotIn(floats, body)
                    self.assertNotIn(ints, body)

    def start(self, f, **options):
        top = f.top_with_authority(children_min=len(SPOKES), **options)
        return top, {site: f.spoke(site, top) for site in SPOKES}

    def plan(self, f, **secure):
        changes = {"secure": dict(SECURE, **secure)} if secure else {}
        return f.plan(rounds=1, evaluate={"every": 0}, local=SLOW, **changes)

    def agreed(self, f, top, run, mark):
        """The masks of round 1 are agreed upon, and nobody has trained it yet."""
        top.wait_log("round 1: secure sum: 'deliver'", mark)

    def test_a_spoke_killed_before_its_push_is_not_in_the_sum_and_one_after_it_is(self):
        with Federation() as f:
            top, spokes = self.start(f)
            all_four = model_of(f, f.run(self.plan(f)).finish())

            # After its push: the others take its masks off.
            mark = top.mark()
            run = f.run(self.plan(f, step_s=2))
            self.agreed(f, top, run, mark)
            spokes["north-1"].freeze()
            f.wait(lambda: "north-2" in counted(top, run), 60, "north-2 has pushed")
            spokes["north-2"].kill()
            spokes["north-1"].thaw()
            self.assertEqual(model_of(f, run.finish()), all_four)
            spokes["north-2"].start()
            top.wait_log("child north-2 attends", mark)

            # Before it: it says that it is out when it is back, and the rest is unmasked.
            mark = top.mark()
            run = f.run(self.plan(f, step_s=20))
            self.agreed(f, top, run, mark)
            spokes["north-2"].kill()
            spokes["north-2"].start()
            three = model_of(f, run.finish())
            self.assertNotEqual(three, all_four)
            self.assertEqual(sorted(counted(top, run)), ["centre-1", "north-1", "north-3"])
            self.assertFalse(sealed(spokes["north-2"], run))
            declined = [e["data"]["reason"] for e in spokes["north-2"].audit("round.declined")]
            self.assertTrue(any("started anew" in r for r in declined), declined)

            # The twin of that: three spokes in the open.
            spokes["north-2"].stop()
            top.wait_log("child north-2 left", mark)
            top.stop()
            top.keys["children_min"] = 3
            top.start()
            self.assertEqual(model_of(f, f.run(self.plan(f)).finish()), three)

    def test_a_hub_killed_in_any_step_goes_on_where_it_was(self):
        with Federation() as f:
            top, spokes = self.start(f)
            all_four = model_of(f, f.run(self.plan(f)).finish())

            # While masks are agreed upon.
            mark = top.mark()
            run = f.run(self.plan(f, step_s=60))
            top.wait_log("secure sum: 'advert'", mark)
            top.kill()
            top.start()
            self.assertEqual(model_of(f, run.finish()), all_four)

            # While updates are awaited, and then while they are unmasked.
            mark = top.mark()
            run = f.run(self.plan(f, step_s=60))
            self.agreed(f, top, run, mark)
            top.kill()
            spokes["north-1"].freeze()
            top.start()
            f.wait(lambda: len(counted(top, run)) == 3, 60, "three have pushed")
            spokes["north-2"].freeze()
            spokes["north-1"].thaw()
            top.wait_log("secure sum: 'signed'", mark)
            top.kill()
            top.start()
            spokes["north-2"].thaw()
            self.assertEqual(model_of(f, run.finish()), all_four)
            for name, spoke in spokes.items():
                masks = [e["data"]["round"] for e in spoke.audit("update.masked")
                         if e["data"]["run"] == run.id]
                self.assertEqual(masks, [1], name)  # once in a round, whatever was killed

    def test_a_quorum_waits_for_as_many_as_can_be_unmasked(self):
        """Two of four would close the round, and three of them must be left to take masks off."""
        with Federation() as f:
            top, spokes = self.start(f)
            plan = f.plan(rounds=1, evaluate={"every": 0}, local=SLOW, secure=dict(SECURE, step_s=2),
                          tiers={"top": {"quorum": 0.5}})
            mark = top.mark()
            run = f.run(plan)
            self.agreed(f, top, run, mark)
            for site in ("north-1", "north-2"):
                spokes[site].freeze()
            f.wait(lambda: len(counted(top, run)) == 2, 60, "the two others have pushed")
            spokes["north-1"].thaw()
            self.assertEqual(run.finish().state, "completed")
            spokes["north-2"].thaw()
            self.assertGreaterEqual(len(counted(top, run)), 3)

    def test_a_round_that_cannot_be_unmasked_is_given_up_or_skipped(self):
        with Federation() as f:
            top, spokes = self.start(f)
            first = None
            for lost, state in (("end", "failed"), ("skip", "completed")):
                mark = top.mark()
                run = f.run(self.plan(f, step_s=2, threshold=1.0, lost_round=lost))
                self.agreed(f, top, run, mark)
                spokes["north-1"].freeze()
                f.wait(lambda: "north-2" in counted(top, run), 60, "north-2 has pushed")
                spokes["north-2"].kill()
                spokes["north-1"].thaw()
                ended = run.wait()
                self.assertEqual(ended.state, state, ended.reason)
                lost_events = [e["data"] for e in top.audit("secure.lost")
                               if e["data"]["run"] == run.id]
                self.assertEqual(len(lost_events), 1)
                self.assertRegex(lost_events[0]["reason"], "at least 4 are wanted")
                self.assertFalse([e for e in top.audit("round.folded")
                                  if e["data"]["run"] == run.id])
                first = first or ended.model
                self.assertEqual(ended.model, first)  # the one that it began with
                spokes["north-2"].start()
                top.wait_log("child north-2 attends", mark)


    def test_a_second_sum_of_one_model_is_refused_by_whoever_unmasked_the_first(self):
        """Round 1 is lost when two have revealed their shares already; round 2 begins from the
        same model, and both sums would differ by one hospital or two."""
        with Federation() as f:
            top, spokes = self.start(f)
            mark = top.mark()
            plan = f.plan(rounds=2, evaluate={"every": 0}, local=SLOW,
                          secure=dict(SECURE, step_s=6, threshold=0.67, lost_round="skip"))
            run = f.run(plan)
            self.agreed(f, top, run, mark)
            spokes["north-1"].freeze()
            f.wait(lambda: len(counted(top, run)) == 3, 60, "three have pushed")
            spokes["north-2"].freeze()
            spokes["north-1"].thaw()
            signed = lambda n: [e for e in spokes[n].audit("secure.step")
                                if e["data"]["step"] == "survivors"]
            f.wait(lambda: signed("north-1") and signed("north-3") and signed("centre-1"), 60,
                   "three have signed")
            f.cli("run", "list", *f.at_top())  # their answers have left meanwhile
            spokes["north-1"].freeze()
            top.wait_log("round 1: given up", mark)
            last = spokes["north-3"], spokes["centre-1"]

            def declined(node):
                return [e["data"]["reason"] for e in node.audit("round.declined")
                        if e["data"]["round"] == 2]

            for node in last:
                f.wait(lambda n=node: declined(n), 30, "%s says no" % node.name)
                self.assertIn("a sum of updates of this model was unmasked", declined(node)[0])
                self.assertEqual([e["data"]["round"] for e in node.audit("update.masked")], [1])
            for name in ("north-1", "north-2"):
                spokes[name].thaw()
            self.assertEqual(run.wait().state, "completed")
            # The two that had revealed nothing make a sum of their own.
            self.assertEqual([(e["data"]["round"], e["data"]["spokes"])
                              for e in top.audit("round.unmasked")], [(2, 2)])


class Pseudonyms(unittest.TestCase):
    def test_nothing_that_a_spoke_receives_or_keeps_names_another(self):
        """With pseudonyms: false the same search finds them."""
        with Federation() as f:
            top = f.top_with_authority()
            hub = f.hub("region-a", top, children_min=4)
            others = [f.spoke(site, hub) for site in SPOKES[1:]]
            spoke = f.spoke(SPOKES[0], hub, start=False)
            recorder = TlsRecorder(hub, spoke)
            f.others.append(recorder)
            spoke.keys["parent"]["address"] = recorder.address
            spoke.start()
            names = [o.name for o in others]

            def run_with(pseudonyms):
                plan = f.plan(rounds=2, secure=dict(
                    SECURE, pseudonyms="true" if pseudonyms else "false"))
                shown = f.cli("plan", "show", plan).stdout
                self.assertIn("a pseudonym of this run" if pseudonyms else
                              "the names of those in the sum", shown)
                run = f.run(plan)
                run.finish()
                self.assertEqual([e["data"]["spokes"] for e in hub.audit("round.unmasked")
                                  if e["data"]["run"] == run.id], [4] * 3)
                came = recorder.payloads_down()
                came += [der for body in came for der in certificates_in(body)]
                return [name for name in names if holds(spoke.dir, name) or spoke.find(name) or
                        any(name.encode() in body for body in came)]

            self.assertEqual(run_with(True), [])
            called = [set(re.findall(rb"p-[0-9a-f]{40}", body))
                      for body in recorder.payloads_down()]
            self.assertEqual(max(map(len, called)), 3, "the list was seen, and three others on it")
            self.assertEqual(run_with(False), names, "the control")
            # What a run's spokes were called is nowhere when it is over.
            f.wait(lambda: not pseudonym_of(spoke), 20, "its key is gone")

    def test_a_pseudonym_ends_with_the_certificate_that_it_was_given_for(self):
        with Federation() as f:
            top = f.top_with_authority(children_min=4)
            spokes = [f.spoke(site, top) for site in SPOKES]
            # The round it is revoked in may be lost: the others answer no list that holds it.
            run = f.run(f.plan(rounds=100000, evaluate={"every": 0},
                               tiers={"top": {"deadline_s": 3}},
                               secure=dict(SECURE, step_s=2, lost_round="skip")))
            sums = lambda: [e["data"]["spokes"] for e in top.audit("round.unmasked")]
            f.wait(lambda: 4 in sums(), 60, "a sum of all four")
            f.cli("revoke", "--dir", f.authority, "--name", SPOKES[0])
            f.wait(lambda: top.audit("revocations.taken"), 20, "the list is here")
            f.wait(lambda: top.audit("revocations.taken")[-1]["data"]["count"] == 2, 20,
                   "its pseudonym is on it too")
            f.wait(lambda: sums()[-1] == 3, 60, "a sum without it")
            self.assertEqual(f.cli("run", "stop", run.id, *f.at_top()).returncode, 0)
            self.assertTrue(all(s.running() for s in spokes[1:]))

    def test_one_that_is_killed_is_called_the_same_again(self):
        with Federation() as f:
            top = f.top_with_authority(children_min=3)
            spokes = [f.spoke(site, top) for site in SPOKES[:3]]
            run = f.run(f.plan(rounds=100000, evaluate={"every": 0}, secure=dict(SECURE, step_s=2)))
            opened = lambda: len(top.audit("round.unmasked"))
            f.wait(lambda: opened() >= 1, 60, "a round is done")
            before = pseudonym_of(spokes[0])
            for node in (spokes[0], top):
                node.kill()
                node.start()
            done = opened()
            sums = lambda: [e["data"]["spokes"] for e in top.audit("round.unmasked")][done:]
            f.wait(lambda: 3 in sums(), 90, "a sum of all three")
            self.assertEqual(pseudonym_of(spokes[0]), before)
            # One to a spoke, from the first round to the last.
            self.assertEqual(len(top.audit("pseudonym.given")), 3)
            f.cli("run", "stop", run.id, *f.at_top())

    def test_a_top_without_the_authority_says_what_to_do(self):
        with Federation() as f:
            top = f.top()
            refused = f.cli("run", "start", f.plan(secure=SECURE), *f.at_top(), check=False)
            self.assertNotEqual(refused.returncode, 0)
            self.assertIn("no authority lies beside this top (authority_dir)", refused.stderr)
            self.assertTrue(top.running())


class Bound(unittest.TestCase):
    def test_no_hospital_moves_the_model_further_than_the_plan_says(self):
        with Federation() as f:
            top = f.top_with_authority(children_min=2)
            spokes = [f.spoke(site, top) for site in SPOKES[:2]]

            def moved(norm):
                """How far the mean of one round moves the model."""
                run = f.run(f.plan(rounds=1, evaluate={"every": 0},
                                   secure=dict(SECURE, norm_max=norm)))
                model = run.finish().model
                base = [e["data"]["base"] for e in top.audit("round.opened")
                        if e["data"]["run"] == run.id]
                values = [values_of(f, name) for name in (model, base[0])]
                return sum((a - b) ** 2 for a, b in zip(*values)) ** 0.5

            free = moved(1e6)
            self.assertGreater(free, 0.02)
            self.assertFalse(any(s.find("the change is cut") for s in spokes))
            self.assertLessEqual(moved(0.01), 0.01 * (1 + 1e-5))
            self.assertTrue(all(s.find("the change is cut from norm .* to 0.01") for s in spokes))


class Withdrawals(unittest.TestCase):
    def start(self, f, gone=()):
        """Three sites of which the third is not there yet; the patients in `gone` were never at
        the first, and others of it may opt out."""
        top = f.top_with_authority(children_min=2)
        out = write(f, "opt-out.txt", "")
        first = f.spoke(SPOKES[0], top, csv=table_without(f, SPOKES[0], gone),
                        consent={"opt_out": out})
        f.spoke(SPOKES[1], top)
        return top, first

    def plan(self, f):
        return f.plan(rounds=1, evaluate={"every": 0}, secure=dict(SECURE, cohort_min=3),
                      governance={"purpose": "health-research"})

    def test_a_patient_who_opts_out_before_the_update_is_masked_is_in_no_sum(self):
        models = []
        for early in (True, False):
            with Federation() as f:
                gone = patients(f, SPOKES[0])[:3]
                top, first = self.start(f, gone if early else ())
                run = f.run(self.plan(f))
                f.wait(lambda n=first: n.audit("update.sealed"), 30, "the first has trained")
                if not early:
                    write(f, "opt-out.txt", "\n".join(gone) + "\n")
                    f.wait(lambda n=first: len(n.audit("update.sealed")) == 2, 30,
                           "it has trained again")
                    self.assertEqual(len(first.audit("update.discarded")), 1)
                    self.assertFalse(first.audit("withdrawal.asked"))  # it had not left
                self.assertFalse(first.audit("update.masked"))
                f.spoke(SPOKES[2], top)
                models.append(model_of(f, run.finish()))
                self.assertEqual(len(first.audit("update.masked")), 1)
        self.assertEqual(models[0], models[1])

    def test_one_who_opts_out_after_it_takes_the_site_out_of_the_round(self):
        with Federation() as f:
            top = f.top_with_authority(children_min=3)
            out = write(f, "opt-out.txt", "")
            first = f.spoke(SPOKES[0], top, consent={"opt_out": out})
            f.spoke(SPOKES[1], top)
            last = f.spoke(SPOKES[2], top)
            mark = top.mark()
            run = f.run(f.plan(rounds=1, evaluate={"every": 0}, local=SLOW, secure=SECURE,
                               governance={"purpose": "health-research"}))
            top.wait_log("round 1: secure sum: 'deliver'", mark)
            last.freeze()
            f.wait(lambda: SPOKES[0] in counted(top, run), 60, "the first has pushed")
            write(f, "opt-out.txt", patients(f, SPOKES[0])[0] + "\n")
            f.wait(lambda: first.audit("withdrawal.done"), 30, "it is out")
            last.thaw()
            run.finish()
            self.assertEqual([e["data"]["spokes"] for e in top.audit("round.unmasked")], [2])
            self.assertEqual(len(first.audit("update.masked")), 1)  # and no second time


class Cohort(unittest.TestCase):
    def test_a_site_that_asks_for_company_refuses_to_be_alone(self):
        with Federation() as f:
            top = f.top_with_authority()
            spoke = f.spoke("north-1", top, policy={"accept": "all", "cohort_min": 3})
            for changes, why in (({}, "the plan has secure.sums: none"),
                                 ({"secure": dict(SECURE)}, "secure.cohort_min: 2")):
                run = f.run(f.plan(rounds=1, **changes))
                spoke.wait_log("declined: .*at least 3 sites .*%s" % why)
                f.cli("run", "stop", run.id, *f.at_top())
            # A plan that promises enough is taken; the hub has one spoke, and waits for others.
            mark = top.mark()
            run = f.run(f.plan(rounds=1, secure=dict(SECURE, cohort_min=3, step_s=1)))
            top.wait_log("1 of 1 spokes have answered in step 'advert' after 1 s; at least 3", mark)
            self.assertFalse(spoke.audit("update.masked"))
            self.assertFalse(counted(top, run))
            # And they come.
            f.spoke("north-2", top)
            f.spoke("north-3", top)
            run.finish()

    def test_a_list_of_one_or_a_second_list_is_answered_by_leaving(self):
        """A lying parent, by the protocol alone."""
        with Federation() as f:
            folder = os.path.join(f.dir, "liar-identity")
            f.enroll("liar", "hub", folder)
            host = Host("liar", edge.Identity(os.path.join(folder, "identity")))
            f.others.append(host)
            path = f.plan(rounds=3, evaluate={"every": 0}, secure=dict(SECURE, pseudonyms="false"))
            with open(os.path.join(edge.ROOT, "deploy", "examples", "breast-cancer", "model.onnx"),
                      "rb") as graph:
                host.put(graph.read())
            plan = f.cli("plan", "show", "--json", path).stdout.strip().encode()
            spoke = f.spoke("north-1", host)
            child, pb = host.next_child(), edge.wire()
            run = os.urandom(32)
            child.send(plan=pb.Plan(run=run, plan=plan))
            self.assertTrue(child.wait("answer").accepted)
            lists = [
                (struct.pack("<I", 1), "a list of 1 children"),
                (struct.pack("<I", 0), "a list of 0 children"),
                (struct.pack("<I", 1) + bytes(32), "without this child's own keys"),
            ]
            for number, (body, why) in enumerate(lists, 1):
                child.send(round=pb.Round(run=run, round=number, base_model=bytes([number]) * 32))
                advert = child.wait("secure", lambda m, n=number: m.round == n)
                self.assertEqual(advert.step, 1)
                child.send(secure=pb.Secure(run=run, round=number, step=2, body=body))
                declined = child.wait("decline", lambda m, n=number: m.round == n)
                self.assertIn(why, declined.reason)
                # It has left: a right list, or any, comes too late.
                child.send(secure=pb.Secure(run=run, round=number, step=2, body=body + b"x"))
                child.wait("decline", lambda m, n=number: m.round == n)
            self.assertEqual(child.count("offer"), 0)
            self.assertEqual(child.count("secure", lambda m: m.step != 1), 0)
            self.assertTrue(spoke.running())

    def test_a_child_that_says_nonsense_is_out_and_the_others_go_on(self):
        with Federation() as f:
            top = f.top_with_authority(children_min=4)
            first = f.spoke(SPOKES[0], top)
            for site in SPOKES[1:3]:
                f.spoke(site, top)
            folder = os.path.join(f.dir, "south-identity")
            f.enroll("south-1", "spoke", folder)
            me = edge.Parent(top.port, "top", edge.Identity(os.path.join(folder, "identity")))
            self.addCleanup(me.close)
            stream, pb = me.attend("south-1"), edge.wire()
            mark = top.mark()
            run = f.run(f.plan(rounds=1, evaluate={"every": 0}, secure=dict(SECURE, step_s=2)))
            plan = stream.wait("plan")
            stream.send(answer=pb.Answer(run=plan.run, accepted=True))
            told = stream.wait("round")
            f.wait(lambda: pseudonym_of(first), 30, "the first has a pseudonym")
            borrowed = bytes([42]) + pseudonym_of(first).encode() + bytes(96)
            for step, body in ((1, borrowed), (1, b"nonsense"), (1, bytes(4000)), (3, b"x"),
                               (6, b"x"), (8, b"x")):
                stream.send(secure=pb.Secure(run=told.run, round=1, step=step, body=body))
            run.finish()
            self.assertTrue(top.find("south-1: step 'advert': .*has called another child so", mark))
            self.assertTrue(top.find("south-1: step 'advert'", mark))
            self.assertEqual(sorted(counted(top, run)), sorted(SPOKES[:3]))
            refused = [e["data"]["child"] for e in top.audit("secure.refused")]
            self.assertEqual(set(refused), {"south-1"})
            self.assertEqual(stream.code, None)  # it may stay, for other rounds


if __name__ == "__main__":
    unittest.main()
