# SPDX-License-Identifier: Apache-2.0
"""Stewards and patients decide: signed plans, policies, a person who is asked, consents, withdrawals."""
import csv
import os
import subprocess
import unittest

import edge
from federation import Federation, clean_environment, program
from onnx_file import write_mlp
from parent import Host
from test_hostile_parent import Hostile

SLOW = {"steps": 6000, "optimiser": {"lr": 0.0001}}  # a round that lasts some seconds
USE = {"governance": {"purpose": "health-research"}}


def steward(node, *arguments, code=0):
    """`consilium-spoke ARGUMENTS` of the person who answers for that node's data."""
    done = subprocess.run([program("consilium-spoke"), arguments[0], "--data-dir", node.dir,
                           *arguments[1:]], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=60, env=clean_environment(), check=False)
    if done.returncode != code:
        raise AssertionError("%s: exit %d: %s" % (arguments, done.returncode, done.stderr))
    return done.stdout + done.stderr


def write(f, name, text):
    path = os.path.join(f.dir, name)
    with open(path + ".new", "w", encoding="utf-8") as out:
        out.write(text)
    os.replace(path + ".new", path)
    return path


def patients(f, site):
    with open(f.table(site), encoding="utf-8", newline="") as table:
        return [row[0] for row in csv.reader(table)][1:]


def table_without(f, site, left_out):
    """That hospital's table as if those patients had never been there."""
    with open(f.table(site), encoding="utf-8") as table:
        lines = [line for line in table if line.split(",")[0] not in left_out]
    return write(f, site + "-without.csv", "".join(lines))


class Signed(unittest.TestCase):
    def test_a_plan_is_taken_by_who_signed_it(self):
        with Federation() as f:
            top = f.top(children_min=1, policy={"signed": "true"})
            rules = "default: refuse\nrules:\n  - {decide: accept, author: [%s]}\n"
            ours = write(f, "ours.yaml", rules % "operator")
            theirs = write(f, "theirs.yaml", rules % "somebody-else")
            hub = f.hub("hub-a", top)
            one = f.spoke("north-1", hub, policy={"accept": None, "file": ours, "signed": "true"})
            f.spoke("north-2", hub, policy={"accept": None, "file": theirs})
            hub.wait_log("child north-2 attends")
            plan = f.plan(rounds=1, governance={"author": "operator"})
            refused = f.cli("run", "start", plan, *f.at_top(), check=False)
            self.assertNotEqual(refused.returncode, 0)
            self.assertIn("plan sign", refused.stderr)
            f.cli("plan", "sign", plan, "--identity", f.operator)
            f.run(plan).finish()
            self.assertEqual(top.audit("run.begun")[0]["data"]["author"], "operator")
            self.assertEqual([e["data"]["author"] for e in one.audit("plan.accepted")],
                             ["operator"])
            declined = [e["data"] for e in hub.audit("run.declined")]
            self.assertEqual([d["child"] for d in declined], ["north-2"])
            self.assertIn("theirs.yaml", declined[0]["reason"])
            # A signature is of one plan: after a change it is of none.
            with open(plan, "a", encoding="utf-8") as text:
                text.write("weights: uniform\n")
            refused = f.cli("run", "start", plan, *f.at_top(), check=False)
            self.assertNotEqual(refused.returncode, 0)
            self.assertIn("signature", refused.stderr)

    def test_nobody_signs_as_another_and_a_plan_has_its_last_day(self):
        with Federation() as f:
            f.top()
            plan = f.plan(rounds=1, governance={"author": "somebody-else"})
            refused = f.cli("plan", "sign", plan, "--identity", f.operator, check=False)
            self.assertIn("somebody-else", refused.stderr)
            self.assertFalse(os.path.exists(plan + ".sig"))
            plan = f.plan(rounds=1, governance={"expires": "2024-02-29"})
            refused = f.cli("run", "start", plan, *f.at_top(), check=False)
            self.assertNotEqual(refused.returncode, 0)
            self.assertIn("2024-02-29", refused.stderr)

    def test_show_says_what_each_tier_sees(self):
        with Federation(tls=False) as f:
            shown = f.cli("plan", "show", f.plan(rounds=1, **USE)).stdout
            self.assertIn("health-research", shown)
            self.assertIn("the number of its training rows", shown)
            self.assertIn("keeps each until the round's commit",
                          f.cli("plan", "show", f.plan(
                              rounds=1, tiers={"top": {"retain": "updates"}})).stdout)


class Asked(unittest.TestCase):
    ASK = "default: ask\nrules:\n  - {decide: accept, rounds_max: 1, steps_max: 5}\n"

    def test_a_plan_waits_for_a_person_over_a_restart_and_goes_on_when_approved(self):
        with Federation() as f:
            top = f.top(children_min=2)
            f.spoke("north-1", top)
            two = f.spoke("north-2", top, policy={
                "accept": None, "file": write(f, "policy.yaml", self.ASK)})
            run = f.run(f.plan(rounds=2, **USE))
            f.wait(lambda: top.audit("run.waits"), 20, "the top hears that north-2 waits")
            self.assertIn("default is ask", top.audit("run.waits")[0]["data"]["reason"])
            two.kill()
            mark = top.mark()
            two.start()
            top.wait_log("child north-2 attends", mark)
            self.assertEqual(top.audit("round.opened"), [], "it is counted in")
            shown = steward(two, "pending")
            for word in (run.id, "health-research", "2 rounds", "each of 10 steps",
                         "by nobody whom this site can verify"):
                self.assertIn(word, shown)
            self.assertEqual(two.audit("data.opened"), [], "nobody has said that it may")
            steward(two, "approve", "--reason", "the board agreed", run.id[:16])
            run.finish()
            self.assertIn("no run waits", steward(two, "pending"))
            decided = two.audit("plan.decided")[0]["data"]
            self.assertTrue(decided["accepted"])
            self.assertEqual((decided["reason"], decided["uid"]), ("the board agreed", os.getuid()))
            self.assertEqual({e["data"]["child"] for e in top.audit("update.counted")},
                             {"north-1", "north-2"})
            log = steward(two, "log", "--run", run.id[:16])
            self.assertIn("the board agreed", log)
            self.assertEqual(log.count("data.read"), 3)  # the last round evaluates alone

    def test_a_run_goes_on_without_those_who_wait(self):
        with Federation() as f:
            top = f.top(children_min=1)
            two = f.spoke("north-2", top, policy={
                "accept": None, "file": write(f, "policy.yaml", self.ASK)})
            top.wait_log("child north-2 attends")
            run = f.run(f.plan(rounds=2))
            f.wait(lambda: two.audit("plan.asked"), 20, "north-2 asks")
            f.spoke("north-1", top)
            run.finish()
            self.assertEqual({e["data"]["child"] for e in top.audit("update.counted")}, {"north-1"})
            f.wait(lambda: "no run waits" in steward(two, "pending"), 20, "nothing waits any more")
            small = f.run(f.plan(rounds=1, local={"steps": 5}))
            small.finish()
            f.wait(lambda: [e for e in two.audit("plan.accepted")
                            if e["data"]["by"] == "rule 1 of policy.yaml"], 20,
                   "what the rule allows is not asked")

    def test_a_refusal_goes_up_with_its_reason_and_stays(self):
        with Federation() as f:
            top = f.top(children_min=2)
            f.spoke("north-1", top)
            two = f.spoke("north-2", top, policy={
                "accept": None, "file": write(f, "policy.yaml", self.ASK)})
            run = f.run(f.plan(rounds=2))
            f.wait(lambda: two.audit("plan.asked"), 20, "north-2 asks")
            two.stop()
            # While the spoke is down: it is heeded when it starts.
            steward(two, "refuse", "--reason", "no board yet", run.id)
            two.start()
            f.wait(lambda: top.audit("run.declined"), 20, "the top hears of it")
            declined = top.audit("run.declined")[0]["data"]
            self.assertEqual(declined["child"], "north-2")
            f.wait(lambda: two.audit("plan.declined"), 20, "north-2 has declined")
            self.assertIn("no board yet", two.audit("plan.declined")[0]["data"]["reason"])
            self.assertIn("no run that waits", steward(two, "approve", run.id, code=1))
            f.spoke("centre-1", top)
            run.finish()

    def test_a_policy_with_a_mistake_does_not_start(self):
        with Federation(tls=False) as f:
            top = f.top()
            path = write(f, "policy.yaml", "default: ask\nrules: [{decide: accept, purpos: [care]}]\n")
            node = f.spoke("north-1", top, start=False, policy={"accept": None, "file": path})
            node.may_end = True
            node.spawn()
            node.wait_log("policy.yaml:2: unknown key 'purpos'; did you mean 'purpose'")


class Consents(unittest.TestCase):
    """The models are equal to the bit to those of tables that never held the patients."""

    def consents(self, f, site, left_out):
        lines = ["%s,%s\n" % (p, "education" if p in left_out else "health-research quality")
                 for p in patients(f, site)]
        return write(f, "consent.csv", "id,purposes\n" + "".join(lines))

    def model_of(self, plan, run_it):
        with Federation() as f:
            top = f.top(children_min=2)
            run_it(f, top)
            return f.run(f.plan(**plan)).finish().model

    def test_only_rows_whose_patients_allow_the_purpose_are_read(self):
        plan = {"rounds": 2, **USE}

        def with_consents(f, top):
            some = patients(f, "north-1")[::3]
            f.node = f.spoke("north-1", top, consent={"table": self.consents(f, "north-1", some)})
            f.spoke("north-2", top)

        def without_them(f, top):
            some = patients(f, "north-1")[::3]
            f.spoke("north-1", top, csv=table_without(f, "north-1", some))
            f.spoke("north-2", top)

        self.assertEqual(self.model_of(plan, with_consents), self.model_of(plan, without_them))
        self.assertNotEqual(self.model_of(plan, lambda f, top: (
            f.spoke("north-1", top), f.spoke("north-2", top))), self.model_of(plan, without_them))

    def test_a_purpose_that_nobody_allows_is_declined_without_a_number(self):
        with Federation() as f:
            top = f.top(children_min=1)
            one = f.spoke("north-1", top, consent={"table": self.consents(f, "north-1", [])})
            top.wait_log("child north-1 attends")
            f.run(f.plan(rounds=1, governance={"purpose": "education"}))
            f.wait(lambda: top.audit("run.declined"), 20, "north-1 declines")
            self.assertEqual(top.audit("run.declined")[0]["data"]["reason"],
                             "no row is left that consents allow to be read")
            self.assertEqual(one.audit("data.read"), [])

    def test_few_rows_are_not_trained_on(self):
        with Federation() as f:
            top = f.top(children_min=1)
            few = patients(f, "north-1")[6:]
            f.spoke("north-1", top, consent={"table": self.consents(f, "north-1", few),
                                             "rows_min": 7})
            top.wait_log("child north-1 attends")
            f.run(f.plan(rounds=1, **USE))
            f.wait(lambda: top.audit("round.declined"), 20, "north-1 declines the round")
            self.assertEqual(top.audit("round.declined")[0]["data"]["reason"],
                             "fewer than 7 training rows may be read here for this purpose")


class Withdrawn(unittest.TestCase):
    PLAN = {"rounds": 1, "local": SLOW, "evaluate": {"every": 0}, **USE}

    def reference(self, grow):
        with Federation() as f:
            top = f.top(children_min=1)
            children = grow(f, top)
            for child in children:
                top.wait_log("child %s attends" % child)
            return f.run(f.plan(**self.PLAN)).finish().model

    def held_open(self, f):
        """A round in which north-1 has delivered and north-2 has not, and will when it is thawed."""
        opt_out = write(f, "opt-out.txt", "")
        top = f.top(children_min=2)
        one = f.spoke("north-1", top, consent={"opt_out": opt_out})
        two = f.spoke("north-2", top)
        run = f.run(f.plan(**self.PLAN))
        run.wait_round(1)
        two.freeze()
        f.wait(lambda: one.audit("receipt"), 60, "north-1 has delivered")
        self.assertEqual(one.audit("receipt")[0]["data"]["round"], 1)
        return top, one, two, run

    def test_a_patient_who_opts_out_before_the_commit_is_in_no_model(self):
        with Federation() as f:
            top, one, two, run = self.held_open(f)
            gone = patients(f, "north-1")[:6]  # some of whom train
            try:
                write(f, "opt-out.txt", "\n".join(gone) + "\n")
                f.wait(lambda: top.audit("update.withdrawn"), 20, "the update is taken out")
                f.wait(lambda: len(one.audit("receipt")) == 2, 60, "north-1 has delivered anew")
            finally:
                two.thaw()
            model = run.finish().model
            applied = one.audit("consent.applied")[-1]["data"]
            self.assertEqual((applied["withheld_rows"], applied["changed"]), (6, True))
            self.assertEqual(len(one.audit("withdrawal.done")), 1)
            counted = [e["data"]["update"] for e in top.audit("update.counted")
                       if e["data"]["child"] == "north-1"]
        self.assertEqual(len(set(counted)), 2)
        self.assertEqual(model, self.reference(lambda g, top: (
            g.spoke("north-1", top, csv=table_without(g, "north-1", gone)).name,
            g.spoke("north-2", top).name)))

    def test_a_site_that_withdraws_before_the_commit_is_in_no_model(self):
        with Federation() as f:
            top, one, two, run = self.held_open(f)
            try:
                steward(one, "withdraw", "--reason", "the board took it back", run.id)
                f.wait(lambda: one.audit("withdrawal.done"), 20, "north-1 knows that it is out")
                f.wait(lambda: top.audit("run.declined"), 20, "north-1 has left the run")
            finally:
                two.thaw()
            model = run.finish().model
            left = one.audit("site.withdrawn")[0]["data"]
            self.assertEqual((left["round"], left["committed"]), (1, False))
            self.assertIn("the board took it back", top.audit("run.declined")[0]["data"]["reason"])
        self.assertEqual(model,
                         self.reference(lambda g, top: (g.spoke("north-2", top).name,)))

    def test_a_site_that_withdraws_after_a_commit_is_told_what_remains(self):
        with Federation() as f:
            top = f.top(children_min=2)
            one = f.spoke("north-1", top)
            two = f.spoke("north-2", top)
            run = f.run(f.plan(**dict(self.PLAN, rounds=3)))
            run.wait_round(2)
            two.freeze()  # so that the round stays open
            try:
                f.wait(lambda: [e for e in one.audit("data.read") if e["data"]["round"] == 2], 20,
                       "north-1 trains round 2")
                steward(one, "withdraw", run.id)
                f.wait(lambda: one.audit("site.withdrawn"), 20, "north-1 has withdrawn")
            finally:
                two.thaw()
            run.finish()
            left = one.audit("site.withdrawn")[0]["data"]
            self.assertEqual(left["round"], 2)
            self.assertIn("training anew", left["remains"])
            back = [e["data"]["update"] for e in top.audit("update.withdrawn")]
            counted = [e["data"]["round"] for e in top.audit("update.counted")
                       if e["data"]["child"] == "north-1" and e["data"]["update"] not in back]
            self.assertEqual(counted, [1])


class Late(unittest.TestCase):
    """A withdrawal as the parent hears it, from a parent that answers as the test has it."""

    def setUp(self):
        self.f = Federation()
        self.addCleanup(self.f.close)
        folder = os.path.join(self.f.dir, "parent")
        self.f.enroll("parent", "hub", folder)
        self.host = Host("parent", edge.Identity(os.path.join(folder, "identity")))
        self.f.others.append(self.host)
        self.pb = edge.wire()
        path = os.path.join(self.f.dir, "model.onnx")
        write_mlp(path, [30, 4, 1])
        self.host.put(edge.read_file(path))
        self.plan = self.f.cli("plan", "show", "--json", self.f.plan(
            rounds=3, model=path, evaluate={"every": 0}, **USE)).stdout.strip().encode()

    begin, open_round, model = Hostile.begin, Hostile.open_round, Hostile.model

    def offered(self, child, run, number):
        return edge.sha256(self.host.take_offer(
            child, lambda h: h[16:48] == run and h[48] == number))

    def sealed_then_opted_out(self):
        write(self.f, "opt-out.txt", "")
        spoke = self.f.spoke("north-1", self.host,
                             consent={"opt_out": os.path.join(self.f.dir, "opt-out.txt")})
        child = self.host.next_child()
        run = self.begin(child)
        self.open_round(child, run, 1)
        first = self.offered(child, run, 1)
        self.gone = patients(self.f, "north-1")[::2]
        write(self.f, "opt-out.txt", "\n".join(self.gone) + "\n")
        asked = child.wait("withdraw")
        self.assertEqual((asked.run, asked.round, asked.update), (run, 1, first))
        return spoke, child, run, first

    def test_one_that_comes_too_late_is_recorded_and_not_repeated(self):
        spoke, child, run, first = self.sealed_then_opted_out()
        child.send(refusal=self.pb.Refusal(run=run, round=1, update=first, reason="it is summed"))
        self.f.wait(lambda: spoke.audit("withdrawal.late"), 20, "north-1 knows that it is late")
        late = spoke.audit("withdrawal.late")[0]["data"]
        self.assertEqual(late["reason"], "it is summed")
        self.assertIn("training anew", late["remains"])
        child.send(commit=self.pb.Commit(run=run, round=1))
        self.open_round(child, run, 2)
        self.offered(child, run, 2)
        self.assertEqual(child.count("withdraw"), 0)
        self.assertEqual(len(spoke.audit("withdrawal.asked")), 1)
        self.assertEqual([e["data"]["round"] for e in spoke.audit("data.read")], [1, 2])
        applied = spoke.audit("consent.applied")[-1]["data"]
        self.assertEqual((applied["withheld_rows"], applied["changed"]), (len(self.gone), True))

    def test_one_that_the_parent_did_not_answer_is_asked_again_after_a_kill(self):
        spoke, child, run, first = self.sealed_then_opted_out()
        spoke.kill()
        spoke.start()
        child = self.host.next_child()
        child.send(plan=self.pb.Plan(run=run, plan=self.plan))
        self.open_round(child, run, 1)
        self.assertEqual(child.wait("withdraw").update, first)
        child.send(refusal=self.pb.Refusal(run=run, round=1, update=first, withdrawn=True))
        second = self.offered(child, run, 1)
        self.assertNotEqual(second, first)
        self.assertEqual(child.count("offer"), 0)
        self.assertEqual(len(spoke.audit("withdrawal.done")), 1)


class TwoAuthorities(unittest.TestCase):
    def test_a_hospital_serves_two_with_a_policy_for_each_and_one_file_of_opt_outs(self):
        with Federation() as f, Federation() as g:
            opt_out = write(f, "opt-out.txt", patients(f, "north-1")[0] + "\n")
            csv_path = f.table("north-1")
            rules = write(g, "policy.yaml",
                          "default: refuse\nrules: [{decide: ask, purpose: [quality]}]\n")
            ours = f.spoke("north-1", f.top(), consent={"opt_out": opt_out})
            theirs = g.spoke("st-mary", g.top(), csv=csv_path, consent={"opt_out": opt_out},
                             policy={"accept": None, "file": rules})
            run = f.run(f.plan(rounds=1, **USE))
            run.finish()
            asked = g.run(g.plan(rounds=1, governance={"purpose": "quality"}))
            g.wait(lambda: theirs.audit("plan.asked"), 20, "the other authority's plan is asked")
            self.assertIn("no run waits", steward(ours, "pending"))
            steward(theirs, "approve", asked.id)
            asked.finish()
            for node in (ours, theirs):
                self.assertEqual({e["data"]["withheld_rows"] for e in node.audit("data.opened")},
                                 {1})
            # What one authority certified opens nothing at the other.
            f.operator = g.operator
            refused = f.cli("run", "start", f.plan(rounds=1), *f.at_top(), check=False)
            self.assertNotEqual(refused.returncode, 0)


if __name__ == "__main__":
    unittest.main()
