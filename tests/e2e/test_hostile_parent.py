# SPDX-License-Identifier: Apache-2.0
"""A malicious or broken parent against real children.

Whatever a parent says, the child lives on, says in its log what was wrong, trains no round twice,
gives nothing that it did not offer, grows by a fixed amount only; and with an honest parent on the
same data directory its run goes on to the end. Beside each table of lies stands the honest twin.
"""
import hashlib
import math
import os
import random
import sqlite3
import struct
import unittest

import edge
import grpc
from federation import Federation, wait_until
from onnx_file import write_mlp
from parent import Host, pieces

CODE = grpc.StatusCode
MIB = 1 << 20
SITE, OTHER = "north-1", "north-2"
SANITIZED = "CONSILIUM_BIN" in os.environ and "asan" in os.environ["CONSILIUM_BIN"]
U64 = 2 ** 64 - 1


def disk(node):
    return sum(os.path.getsize(os.path.join(folder, name))
               for folder, _, names in os.walk(node.dir) for name in names
               if os.path.exists(os.path.join(folder, name)))


class Hostile(unittest.TestCase):
    """One authority, one lying parent and one child of it for all tests of a class."""

    role = "spoke"

    @classmethod
    def setUpClass(cls):
        cls.f = Federation()
        try:
            cls.host = cls.new_host("liar")
            path = os.path.join(cls.f.dir, "model.onnx")
            write_mlp(path, [30, 4, 1])
            cls.graph = edge.read_file(path)
            cls.host.put(cls.graph)
            shown = cls.f.cli("plan", "show", "--json", cls.f.plan(
                rounds=3, model=path, evaluate={"every": 0})).stdout
            cls.plan = shown.strip().encode()
            cls.start()
        except BaseException:
            cls.f.close()
            raise

    @classmethod
    def start(cls):
        cls.node = cls.f.spoke(SITE, cls.host)

    @classmethod
    def tearDownClass(cls):
        cls.f.close()

    @classmethod
    def identity(cls, name, role="hub"):
        folder = os.path.join(cls.f.dir, "hostile-" + name)
        cls.f.enroll(name, role, folder)
        return edge.Identity(os.path.join(folder, "identity"))

    @classmethod
    def new_host(cls, name, identity=None):
        host = Host(name, identity or cls.identity(name))
        cls.f.others.append(host)
        return host

    @classmethod
    def model(cls, seed=0.0, **changes):
        """A base model's bytes: another file for every seed."""
        tensors = changes.get("tensors") or [("fc1.weight", [4, 30]), ("fc1.bias", [4]),
                                             ("fc2.weight", [1, 4]), ("fc2.bias", [1])]
        count = sum(math.prod(shape) for _, shape in tensors)
        values = [0.001 * seed + 0.01 * (i % 7) for i in range(count)]
        values[0] = changes.get("first", values[0])
        return edge.safetensors(tensors, values)

    def setUp(self):
        self.pid = self.node.process.pid
        self.mark = self.node.mark()
        self.pb = edge.wire()

    def tearDown(self):
        self.assertTrue(self.node.running(), self.node.log(self.mark)[-2000:])
        self.assertEqual(self.node.process.pid, self.pid)

    def restart(self, welcome=True):
        """A new process on the same data, and its stream."""
        self.assertEqual(self.node.stop(), 0)
        while not self.host.children.empty():
            self.host.children.get()
        self.node.start()
        self.pid = self.node.process.pid
        return self.host.next_child(welcome)

    def said(self, pattern, mark=None):
        self.node.wait_log(pattern, self.mark if mark is None else mark)

    def flood_with_runs(self, child, count):
        """So many runs begun and ended at once: the stream is ended, and little stays of them."""
        before, on_disk, mark = self.node.rss_anon(), disk(self.node), self.node.mark()
        for i in range(count):
            run = hashlib.sha256(b"%d" % i).digest()
            child.send(plan=self.pb.Plan(run=run, plan=self.plan))
            child.send(end=self.pb.End(run=run, reason="over", model=bytes(32)))
        child.wait_end(60)
        self.said("more than 256 refused", mark)
        self.assertLess(disk(self.node) - on_disk, 8 * MIB)
        if not SANITIZED:
            self.assertLess(self.node.rss_anon() - before, 32 * MIB)

    # -- what an honest parent does

    def begin(self, child, plan=None, accept=True):
        run = os.urandom(32)
        child.send(plan=self.pb.Plan(run=run, plan=self.plan if plan is None else plan))
        answer = child.wait("answer", lambda a: a.run == run)
        self.assertEqual(answer.accepted, accept, answer.reason)
        return run if accept else answer.reason

    def open_round(self, child, run, number=1, base=None, **fields):
        child.send(round=self.pb.Round(run=run, round=number,
                                       base_model=base or self.host.put(self.model(number)),
                                       **fields))

    def deliver(self, child, run, number):
        """Takes the offer, grants it, and gives the receipt and the commit."""
        header = self.host.take_offer(child, lambda h: h[16:48] == run and h[48] == number)
        update = edge.sha256(header)
        child.send(grant=self.pb.Grant(update=update))
        wait_until(lambda: any(d.id == update for d in self.host.deliveries), edge.WAIT_S,
                   "the update is pushed")
        self.commit(child, run, number)
        return header

    def commit(self, child, run, number):
        child.send(commit=self.pb.Commit(run=run, round=number))

    def finish(self, child, run, first=1, last=3):
        """Honest rounds to the run's end; every round was trained once."""
        for number in range(first, last + 1):
            self.open_round(child, run, number)
            self.deliver(child, run, number)
        child.send(end=self.pb.End(run=run, completed=True, reason="every round is done",
                                   model=bytes(32)))
        self.f.wait(lambda: any(e["data"]["run"] == run.hex()
                                for e in self.node.audit("run.ended")), 20, "the run has ended")
        sealed = [e["data"]["round"] for e in self.node.audit("update.sealed")
                  if e["data"]["run"] == run.hex()]
        self.assertEqual(sorted(sealed), sorted(set(sealed)), "a round was trained twice")
        self.assertIn(last, sealed)


class RevokedSigner(Hostile):
    def test_a_parent_that_goes_on_with_the_plan_of_who_was_revoked_trains_nobody(self):
        person = os.path.join(self.f.dir, "rita")
        self.f.enroll("rita", "researcher", person)
        path = self.f.plan(rounds=3, model=os.path.join(self.f.dir, "model.onnx"),
                           evaluate={"every": 0})
        self.f.cli("plan", "sign", path, "--identity", person)
        child, run = self.host.next_child(), os.urandom(32)
        child.send(plan=self.pb.Plan(run=run, plan=self.plan,
                                     signature=edge.read_file(path + ".sig")))
        self.assertTrue(child.wait("answer", lambda a: a.run == run).accepted)
        self.open_round(child, run, 1)
        self.deliver(child, run, 1)
        self.f.cli("revoke", "--dir", self.f.authority, "--name", "rita")
        db = sqlite3.connect(os.path.join(self.f.authority, "authority.db"))
        (crl,), = db.execute("SELECT der FROM lists ORDER BY number DESC LIMIT 1").fetchall()
        db.close()
        child.send(revocations=self.pb.Revocations(crl=crl))
        self.open_round(child, run, 2)
        told = child.wait("decline", lambda d: d.run == run)
        self.assertEqual(told.round, 2)
        self.assertIn("rita, who signed the plan, was revoked", told.reason)
        self.assertEqual([e["data"]["round"] for e in self.node.audit("update.sealed")
                          if e["data"]["run"] == run.hex()], [1])


class Certificates(Hostile):
    @classmethod
    def start(cls):
        cls.node = cls.f.spoke(OTHER, cls.host)

    def test_a_parent_of_another_name_date_or_authority_is_not_attended(self):
        foreign = os.path.join(self.f.dir, "foreign")
        self.f.cli("pki", "init", "--dir", foreign, "--name", "test-authority")

        def forge(folder, authority, name, **more):
            return edge.forge(os.path.join(self.f.dir, folder), authority, name, role="hub", **more)

        lies = {"name": forge("f1", self.f.authority, "another"),
                "date": forge("f2", self.f.authority, "parent", end="20210101000000Z"),
                "authority": forge("f3", foreign, "parent")}
        good = forge("f4", self.f.authority, "parent")
        for i, (what, identity) in enumerate(lies.items()):
            identity.ca = good.ca  # it lets the child in
            host = self.new_host("parent", identity)
            node = self.f.spoke("centre-%d" % (i + 1), host)
            node.wait_log("no stream to parent parent: .*|certificate is not that of 'parent'")
            self.assertTrue(host.children.empty(), what)
        control = self.new_host("parent", good)
        self.f.spoke("south-1", control)
        control.next_child()


class Streams(Hostile):
    def test_a_the_first_message_is_a_welcome_in_our_protocol_from_whom_is_configured(self):
        pb = self.pb
        lies = (({"welcome": pb.Welcome(protocol=1, name="liar")}, "protocol 1, this child 2"),
                ({"welcome": pb.Welcome(protocol=2 ** 32 - 1, name="liar")}, "protocol 4294967295"),
                ({"welcome": pb.Welcome(protocol=edge.PROTOCOL, name="top")}, "says it is 'top'; 'liar' is"),
                ({"welcome": pb.Welcome(protocol=edge.PROTOCOL, name="x" * 64)}, "welcome.name has 64"),
                ({"plan": pb.Plan(run=bytes(32), plan=self.plan)}, "begins with welcome"),
                ({"grant": pb.Grant(update=bytes(32))}, "begins with welcome"),
                ({"end": pb.End(run=bytes(32), model=bytes(32))}, "begins with welcome"))
        for field, text in lies:
            with self.subTest(text=text):
                mark = self.node.mark()
                child = self.restart(welcome=False)  # its delay grows with every failure
                child.send(**field)
                self.said(text, mark)
                child.wait_end()
        self.assertEqual(self.node.audit("plan.accepted"), [])
        self.host.next_child()
        self.said("attending parent liar")

    def test_b_what_is_no_message_ends_the_stream_and_says_why(self):
        pb = self.pb
        r = bytes(32)

        def coded(**field):
            return edge.as_bytes(pb.ToChild(**field))

        lies = ((b"\xff" * 64, "not a valid protobuf"), (b"\x12\x05ab", "not a valid protobuf"),
                (b"\xe2\x03\x00", "does not know"), (b"", "does not know"),
                (b"\x12" + edge.varint(MIB + 5000) + bytes(MIB + 5000), "control message of 1053"),
                (coded(plan=pb.Plan(run=r)), "plan.plan has 0 bytes"),
                (coded(plan=pb.Plan(run=r, plan=b"x" * (MIB + 1))), "plan.plan has 1048577"),
                (coded(plan=pb.Plan(run=b"short", plan=b"{}")), "plan.run holds 5"),
                (coded(round=pb.Round(run=r, round=0, base_model=r)), "round 0"),
                (coded(round=pb.Round(run=r, round=U64, base_model=r)), "round 18446744073709551615"),
                (coded(round=pb.Round(run=r, round=1)), "round.base_model holds 0"),
                (coded(grant=pb.Grant(update=b"x" * 31)), "grant.update holds 31"),
                (coded(commit=pb.Commit(run=r, round=U64)), "outside"),
                (coded(refusal=pb.Refusal(run=r, round=1, update=r, reason="x" * 600)),
                 "refusal.reason has 600"),
                (coded(refusal=pb.Refusal(run=r, round=1, update=r, reason="\x1b[2J")),
                 "refusal.reason holds a control"),
                (coded(end=pb.End(run=r, model=b"x")), "end.model holds 1"),
                (coded(head=pb.Head(root=r)), "head.size is from 1"),
                (coded(head=pb.Head(size=9, root=r, since=4, proof=[r] * 65)), "head.proof has 65"),
                (coded(receipt=pb.Receipt(run=r, round=1, update=r, weight=U64)), "weight is above"),
                (coded(receipt=pb.Receipt(run=r, round=1, update=r, signature=bytes(200))),
                 "signature has 200"),
                (coded(welcome=pb.Welcome(protocol=edge.PROTOCOL, name="liar")), "says it once"))
        child = self.restart()
        for i, (data, text) in enumerate(lies):
            with self.subTest(text=text):
                mark = self.node.mark()
                child.send_bytes(data)
                self.said(text, mark)
                child.wait_end()
                child = self.host.next_child() if i < 4 else self.restart()
        self.finish(child, self.begin(child))

    def test_c_a_parent_that_never_says_welcome_is_left(self):
        child = self.restart()
        child.end()
        silent = self.host.next_child(welcome=False)
        self.said("has not said welcome for 15 s")
        silent.wait_end()
        self.host.next_child()

    def test_d_messages_that_serve_nothing_are_heard_out_up_to_a_bound(self):
        """Thousands at once: neither the log nor the memory grows with them."""
        pb, child = self.pb, self.restart()
        run = self.begin(child)
        other = bytes(range(32))
        before, on_disk, mark = self.node.rss_anon(), disk(self.node), self.node.mark()
        for i in range(20000):
            child.send(**({"commit": pb.Commit(run=other, round=1)},
                          {"refusal": pb.Refusal(run=run, round=1, update=other, reason="no")},
                          {"grant": pb.Grant(update=other)},
                          {"plan": pb.Plan(run=run, plan=self.plan)})[i % 4])
        child.wait_end()
        self.said("more than 256 refused, repeated or contradictory messages", mark)
        self.assertLess(self.node.log(mark).count("\n"), 400)
        self.assertLess(disk(self.node) - on_disk, MIB)
        if not SANITIZED:
            self.assertLess(self.node.rss_anon() - before, 8 * MIB)
        again = self.host.next_child()  # after a pause, and without our help
        self.finish(again, run)


class Plans(Hostile):
    def changed(self, old, new):
        self.assertIn(old, self.plan)
        return self.plan.replace(old, new, 1)

    def test_a_plans_that_are_none_are_declined_and_say_why(self):
        child = self.host.next_child()
        lies = ((b"\0", "."), (b"[]", "."), (b"{" * 5000, "."), (b'{"plan":1}', "."),
                (b"\xff\xfe" * 100, "."), (self.plan + b" ", "canonical"),
                (self.changed(b'"rounds":3', b'"rounds":0'), "rounds"),
                (self.changed(b'"rounds":3', b'"rounds":%d' % U64), "."),
                (self.changed(b'"rounds":3', b'"rounds":3,"roundz":1'), "a key"),
                (self.changed(b'"batch":16', b'"batch":-1'), "batch"),
                (self.changed(b'"rounds":3', b'"rounds":1000001'), "rounds"),
                (self.changed(b'"seed":7', b'"seed":"../../etc"'), "seed"))
        for plan, text in lies:
            with self.subTest(plan=plan[:20]):
                mark = self.node.mark()
                self.assertRegex(self.begin(child, plan, accept=False), text)
                self.said("declined: ", mark)
        self.assertEqual(self.node.audit("plan.accepted"), [])
        self.assertEqual(self.node.audit("data.opened"), [])
        self.begin(child)

    def test_b_a_plan_for_other_data_opens_none_to_the_parent(self):
        child = self.restart()
        reason = self.begin(child, self.changed(b'"breast-cancer"', b'"psychiatry"'), accept=False)
        self.assertRegex(reason, "wants data 'psychiatry', this site holds 'breast-cancer'")
        self.assertNotIn("/", reason)
        self.assertEqual([e for e in self.node.audit("data.read")
                          if e["data"].get("contract") == "psychiatry"], [])

    def test_c_graphs_that_are_none_are_declined(self):
        child = self.restart()
        name = edge.sha256(self.graph).hex().encode()
        size = b'"bytes":%d' % len(self.graph)
        noise = random.Random(1).randbytes(5000)
        for graph, text in ((b"x", "."), (noise, "."), (self.graph[:-7], "."),
                            (self.graph.replace(b"Gemm", b"Exec"), "Exec")):
            with self.subTest(graph=graph[:8]):
                sha = self.host.put(graph)
                plan = self.changed(name, sha.hex().encode()).replace(
                    size, b'"bytes":%d' % len(graph))
                mark = self.node.mark()
                self.assertRegex(self.begin(child, plan, accept=False), text)
                self.said("declined: ", mark)
        self.begin(child)

    def test_d_a_graph_larger_than_its_plan_says_is_not_taken(self):
        child = self.restart()
        huge = bytes(3 * MIB)
        sha = self.host.put(huge)
        plan = self.changed(edge.sha256(self.graph).hex().encode(), sha.hex().encode())
        child.send(plan=self.pb.Plan(run=os.urandom(32), plan=plan))
        self.said(r"content [0-9a-f]{12}, asked for again: content of 3145728 bytes or more, "
                  r"at most %d are right" % len(self.graph))
        self.begin(child)
        self.assertLess(max(self.node.models().values()), MIB)

    def test_e_a_second_plan_for_a_run_is_not_heeded(self):
        child = self.restart()
        run = self.begin(child)
        child.send(plan=self.pb.Plan(run=run, plan=self.changed(b'"batch":16', b'"batch":8')))
        self.said("another plan for run %s" % run.hex()[:12])
        child.send(plan=self.pb.Plan(run=run, plan=self.plan))  # its own, again: answered
        child.wait("answer", lambda a: a.run == run and a.accepted)
        self.finish(child, run)

    def test_f_as_many_runs_are_open_as_may_be_and_one_that_ends_makes_room(self):
        child = self.restart()
        open_runs, refused = [], None
        for _ in range(70):
            run = os.urandom(32)
            child.send(plan=self.pb.Plan(run=run, plan=self.plan))
            answer = child.wait("answer", lambda a, run=run: a.run == run)
            if not answer.accepted:
                refused = answer.reason
                break
            open_runs.append(run)
        self.assertRegex(refused or "", "64 runs are open here")
        self.assertLessEqual(len(open_runs), 64)
        for run in open_runs:
            child.send(end=self.pb.End(run=run, reason="enough", model=bytes(32)))
        self.finish(child, self.begin(child))

    def test_g_thousands_of_runs_leave_a_bounded_trace(self):
        child = self.restart()
        self.flood_with_runs(child, 5000)
        child = self.restart()
        self.finish(child, self.begin(child))


class Rounds(Hostile):
    def test_a_rounds_that_do_not_follow_are_not_heeded_and_none_is_trained_twice(self):
        pb, child = self.pb, self.host.next_child()
        run = self.begin(child)
        base = self.host.put(self.model(1))
        self.open_round(child, run, 2, base, deadline_ms=U64)
        header = self.host.take_offer(child)
        update = edge.sha256(header)
        other = self.host.put(self.model(9))
        lies = ((dict(round=2, base_model=other), "round 2 from another model"),
                (dict(round=1, base_model=base), "round 1 was committed before"),
                (dict(round=4, base_model=base), "round 4 of a plan of 3"),
                (dict(round=1000000, base_model=base), "round 1000000 of a plan of 3"))
        for fields, text in lies:
            with self.subTest(text=text):
                mark = self.node.mark()
                child.send(round=pb.Round(run=run, **fields))
                self.said(text, mark)
        for number in (3, 7, 1000000):
            with self.subTest(commit=number):
                mark = self.node.mark()
                self.commit(child, run, number)
                self.said("commit of round %d, and round 2 is open" % number, mark)
        for field in ({"commit": pb.Commit(run=bytes(32), round=1)},
                      {"round": pb.Round(run=bytes(32), round=1, base_model=base)},
                      {"refusal": pb.Refusal(run=bytes(32), round=1, update=update)}):
            mark = self.node.mark()
            child.send(**field)
            self.said("a run that it has sent no plan of", mark)
        mark = self.node.mark()
        child.send(refusal=pb.Refusal(run=run, round=3, update=update, reason="never"))
        self.said("round 3: the parent refuses the update: never", mark)
        self.assertIn(update.hex() + ".upd", self.node.spool(), "still needed, still there")
        self.assertNotIn(other.hex() + ".safetensors", self.node.models())
        # The same round again, as after a lost stream: what was sealed is offered, not trained.
        self.open_round(child, run, 2, base)
        self.assertEqual(self.host.take_offer(child), header)
        self.deliver_again(child, run, update)
        mark = self.node.mark()
        self.open_round(child, run, 2, base)
        self.said("round 2 was committed before", mark)
        child = self.restart()
        child.send(plan=pb.Plan(run=run, plan=self.plan))
        child.wait("answer", lambda a: a.run == run and a.accepted)
        mark = self.node.mark()
        self.open_round(child, run, 2, base)
        self.said("round 2 was committed before", mark)
        self.finish(child, run, first=3)
        for number in (1, 3):
            mark = self.node.mark()
            self.open_round(child, run, number, base)
            self.said("is over: round %d is not trained" % number, mark)
        child.send(end=pb.End(run=run, reason="twice", model=bytes(32)))
        child.send(end=pb.End(run=bytes(32), reason="unknown", model=bytes(32)))
        self.finish(child, self.begin(child))

    def deliver_again(self, child, run, update):
        child.send(grant=self.pb.Grant(update=update))
        wait_until(lambda: any(d.id == update for d in self.host.deliveries), edge.WAIT_S,
                   "the update is pushed")
        self.f.wait(lambda: self.node.audit("receipt"), 20, "the receipt counts")
        self.commit(child, run, 2)
        self.f.wait(lambda: update.hex() + ".upd" not in self.node.spool(), 20, "it is let go")

    def test_b_a_run_that_moves_on_does_not_leave_fetches_behind(self):
        child = self.restart()
        run = self.begin(child, self.plan.replace(b'"rounds":3', b'"rounds":150'))
        for number in range(1, 150):
            self.open_round(child, run, number, hashlib.sha256(b"%d" % number).digest())
        self.open_round(child, run, 150)
        self.deliver(child, run, 150)
        self.f.wait(lambda: not any(n.endswith(".part") for n in self.node.models()), 20,
                    "nothing half is left")


    def test_c_a_delta_that_gives_another_model_is_passed_over_and_the_model_fetched_whole(self):
        child = self.restart()
        run = self.begin(child)
        before = self.host.put(self.model(1))
        self.open_round(child, run, 1, before)
        self.deliver(child, run, 1)
        noise = self.host.put(b"consdlt1" + bytes(200))
        for number, delta, text in ((2, noise, "is not a delta that this node knows"),
                                    (3, hashlib.sha256(b"nowhere").digest(), "no such content")):
            mark = self.node.mark()
            model = self.host.put(self.model(number))
            self.open_round(child, run, number, model, delta=delta, delta_base=before)
            self.deliver(child, run, number)
            self.said("the model is fetched whole: .*" + text, mark)
            before = model
        self.assertNotIn(noise.hex() + ".delta", self.node.models())
        child.send(end=self.pb.End(run=run, completed=True, reason="done", model=bytes(32)))


class Contents(Hostile):
    def test_a_content_that_is_not_as_named_is_thrown_away_and_asked_for_again(self):
        pb, child = self.pb, self.host.next_child()

        def forever(request, context):
            while context.is_active():
                yield pb.Piece(offset=request.offset, total=len(good))

        def endless(request, context):
            at = request.offset
            while context.is_active():
                yield pb.Piece(offset=at, total=100 if at == request.offset else 0,
                               data=bytes(MIB))
                at += MIB

        def longer(_request, context):
            yield pb.Piece(total=len(good) + 5000, data=bytes(len(good) + 4000))
            context.abort(CODE.UNAVAILABLE, "cut")

        good = self.model(0.5)
        lies = {"damaged": lambda r, c: pieces(bytes(len(good))),
                "truncated": lambda r, c: pieces(good[:-5]),
                "too long": lambda r, c: pieces(good + b"more"),
                "longer, and cut": longer,
                "at a wrong offset": lambda r, c: pieces(good, at=7),
                "at an offset near 2^64": lambda r, c: pieces(good, at=U64),
                "a total near 2^64": lambda r, c: pieces(good, total=U64),
                "empty for ever": forever, "never ending": endless,
                "nothing": lambda r, c: iter(()),
                "no piece": lambda r, c: iter([b"\xff\xff"])}
        texts = {"damaged": "arrived damaged", "truncated": "arrived damaged",
                 "too long": "arrived damaged", "at a wrong offset": "offset 7, which nobody",
                 "at an offset near 2^64": "offset 18446744073709551615",
                 "a total near 2^64": "content of 18446744073709551615",
                 "empty for ever": "a piece without data", "never ending": "at most",
                 "nothing": "arrived damaged"}
        for i, (what, lie) in enumerate(lies.items()):
            with self.subTest(what=what):
                mark = self.node.mark()
                run = self.begin(child)
                good = self.model(0.5 + i)
                name = self.host.put(good)
                self.host.lies[name] = [lie]
                self.open_round(child, run, 1, name)
                if what in texts:
                    self.said(texts[what], mark)
                self.host.take_offer(child, lambda h, run=run: h[16:48] == run)
                child.send(end=pb.End(run=run, reason="enough", model=bytes(32)))
                self.f.wait(lambda: not any(n.endswith(".part") for n in self.node.models()), 20,
                            "nothing half is left")
        self.finish(child, self.begin(child))

    def test_b_models_that_are_not_the_plans_are_declined(self):
        child = self.restart()
        tensors = [("fc1.weight", [4, 30]), ("fc1.bias", [4]), ("fc2.weight", [1, 4])]
        good = self.model(3)
        lies = ((b"", "."), (b"x" * 100, "."), (good[:-4], "."), (good + bytes(8), "."),
                (struct.pack("<Q", U64) + good[8:], "."),
                (good.replace(b"F32", b"F16"), "."), (good.replace(b"fc1.bias", b"fc9.bias"), "fc"),
                (self.model(tensors=tensors), "."),
                (self.model(tensors=tensors + [("fc2.bias", [1, 1])]), "fc2.bias"),
                (self.model(first=float("nan")), "."), (self.model(first=float("inf")), "."))
        for data, text in lies:
            with self.subTest(text=text, size=len(data)):
                run, mark = self.begin(child), self.node.mark()
                self.open_round(child, run, 1, self.host.put(data))
                declined = child.wait("decline", lambda d, run=run: d.run == run)
                self.assertRegex(declined.reason, text)
                self.assertNotIn("/", declined.reason)
                self.said("run %s round 1: " % run.hex()[:12], mark)
                child.send(end=self.pb.End(run=run, reason="enough", model=bytes(32)))
        self.finish(child, self.begin(child))


class Updates(Hostile):
    def test_a_grants_and_receipts_that_do_not_fit_change_nothing(self):
        pb, child = self.pb, self.host.next_child()
        run = self.begin(child)
        self.open_round(child, run, 1)
        header = self.host.take_offer(child)
        update = edge.sha256(header)
        for grant, text in ((pb.Grant(update=bytes(32)), "was not offered"),
                            (pb.Grant(update=run), "was not offered"),
                            (pb.Grant(update=update, offset=U64), "from byte 18446744073709551615"),
                            (pb.Grant(update=update, offset=MIB), "from byte 1048576")):
            with self.subTest(text=text):
                mark = self.node.mark()
                child.send(grant=grant)
                self.said(text, mark)
        forged = edge.forge(os.path.join(self.f.dir, "forged"), self.f.authority, "liar",
                            role="hub")
        foreign = self.host.receipt(header, SITE)
        edge.sign_receipt(foreign, os.path.join(forged.folder, "key.pem"))
        make = self.host.receipt
        for receipt in (make(header, SITE, signature=b""), make(header, SITE, signature=b"x" * 70),
                        foreign, make(header, OTHER), make(header, SITE, parent="top"),
                        make(header, SITE, round=2), make(header, SITE, weight=1)):
            mark = self.node.mark()
            child.send(receipt=receipt)
            self.said("receipt is not valid: ", mark)
        mark = self.node.mark()
        child.send(receipt=make(header, SITE, run=bytes(32)))
        self.said("a run that it has sent no plan of", mark)
        self.assertEqual(self.node.audit("receipt"), [])
        self.assertEqual(len(self.node.audit("receipt.invalid")), 7)
        self.assertEqual(self.host.deliveries, [])
        self.open_round(child, run, 1)
        self.assertEqual(self.host.take_offer(child), header)
        self.open_round(child, run, 1)
        self.deliver(child, run, 1)
        self.f.wait(lambda: len(self.node.audit("receipt")) == 1, 20, "the honest one counts")
        for _ in range(50):  # and counts once
            child.send(receipt=make(header, SITE, time_ms=2))
        self.finish(child, run, first=2)
        self.assertEqual(sum(e["data"]["update"] == update.hex()
                             for e in self.node.audit("receipt")), 1)

    def test_b_pushes_that_are_answered_wrongly_are_offered_again(self):
        child = self.restart()
        run = self.begin(child)
        self.open_round(child, run, 1)
        answers = [lambda d, c: b"\xff\xff", lambda d, c: b"x" * 8000,
                   lambda d, c: c.abort(CODE.UNAVAILABLE, "later")]
        self.host.answer = lambda d, c: (answers.pop(0)(d, c) if answers
                                         else self.host.honest_answer(d, c))
        try:
            while answers:
                left = len(answers)
                header = self.host.take_offer(child, lambda h: h[16:48] == run)
                child.send(grant=self.pb.Grant(update=edge.sha256(header)))
                wait_until(lambda left=left: len(answers) < left, edge.WAIT_S, "a push came")
            self.said("receipt cannot be read")
            self.deliver(child, run, 1)
        finally:
            self.host.answer = self.host.honest_answer
        self.finish(child, run, first=2)

    def test_c_thousands_of_grants_push_an_update_a_few_times_at_most(self):
        child = self.restart()
        run = self.begin(child)
        self.open_round(child, run, 1)
        header = self.host.take_offer(child)
        before, pushed = self.node.rss_anon(), len(self.host.deliveries)
        for _ in range(5000):
            child.send(grant=self.pb.Grant(update=edge.sha256(header)))
        child.wait_end()
        self.said("more than 256 refused")
        self.assertLess(len(self.host.deliveries) - pushed, 260)
        if not SANITIZED:
            self.assertLess(self.node.rss_anon() - before, 8 * MIB)
        child = self.restart()
        child.send(plan=self.pb.Plan(run=run, plan=self.plan))
        child.wait("answer", lambda a: a.run == run and a.accepted)
        self.finish(child, run)


class Hub(Hostile):
    """A regional hub below the lying parent, with an honest spoke of its own."""

    role = "hub"

    @classmethod
    def start(cls):
        cls.node = cls.f.hub("region", cls.host)
        cls.spoke = cls.f.spoke(SITE, cls.node)
        cls.node.wait_log("child %s attends" % SITE)

    def finish(self, child, run, first=1, last=3):
        for number in range(first, last + 1):
            self.open_round(child, run, number)
            self.deliver(child, run, number)
        child.send(end=self.pb.End(run=run, completed=True, reason="done", model=bytes(32)))
        self.f.wait(lambda: any(e["data"]["run"] == run.hex()
                                for e in self.node.audit("run.ended")), 20, "the run has ended")
        counted = [e["data"]["round"] for e in self.node.audit("update.counted")
                   if e["data"]["run"] == run.hex()]
        self.assertEqual(sorted(counted), sorted(set(counted)), "a round was counted twice")

    def test_a_a_childs_update_is_never_the_parents(self):
        """A parent that knows the hash of a hospital's own update cannot have it."""
        child = self.host.next_child()
        run = self.begin(child)
        self.open_round(child, run, 1)
        own = edge.sha256(self.host.take_offer(child))
        counted = self.f.wait(lambda: self.node.audit("update.counted"), 20, "the spoke's counts")
        theirs = bytes.fromhex(counted[0]["data"]["update"])
        self.assertNotEqual(own, theirs)
        child.send(grant=self.pb.Grant(update=theirs))
        self.said("grants update %s, which was not offered to it" % theirs.hex()[:12])
        self.open_round(child, run, 1)
        self.deliver(child, run, 1)
        self.assertEqual({d.id for d in self.host.deliveries}, {own})
        self.finish(child, run, first=2)

    def test_b_plans_and_rounds_that_do_not_fit_are_not_heeded(self):
        pb, child = self.pb, self.restart()
        self.node.wait_log("child %s attends" % SITE, self.mark)
        for plan in (b"\0", self.plan + b" ", self.plan.replace(b'"rounds":3', b'"rounds":0')):
            mark = self.node.mark()
            self.begin(child, plan, accept=False)
            self.said("plan refused: ", mark)
        run = self.begin(child)
        base = self.host.put(self.model(1))
        self.open_round(child, run, 2, base, deadline_ms=U64)
        header = self.host.take_offer(child)
        update = edge.sha256(header)
        other = self.host.put(self.model(9))
        lies = (({"round": pb.Round(run=run, round=2, base_model=other)}, "from another model"),
                ({"round": pb.Round(run=run, round=1, base_model=base)}, "a later round has begun"),
                ({"round": pb.Round(run=run, round=4, base_model=base)}, "has fewer rounds"),
                ({"commit": pb.Commit(run=run, round=3)}, "commit of a round that is not open"),
                ({"commit": pb.Commit(run=run, round=1000000)}, "that is not open"),
                ({"plan": pb.Plan(run=run, plan=self.plan.replace(b'"batch":16', b'"batch":8'))},
                 "another plan for run"),
                ({"refusal": pb.Refusal(run=run, round=3, update=update, reason="never")},
                 "refuses our update: never"),
                ({"commit": pb.Commit(run=bytes(32), round=1)}, "sent no plan of"),
                ({"receipt": self.host.receipt(header, "region", weight=1)}, "is not valid"),
                ({"grant": pb.Grant(update=update, offset=U64)}, "from byte 18446744073709551615"))
        for field, text in lies:
            with self.subTest(text=text):
                mark = self.node.mark()
                child.send(**field)
                self.said(text, mark)
        self.assertIn(update.hex() + ".upd", self.node.spool(), "still needed, still there")
        self.open_round(child, run, 2, base)
        self.deliver(child, run, 2)
        self.finish(child, run, first=3)

    def test_c_thousands_of_plans_and_fetches_are_bounded(self):
        child = self.restart()
        self.flood_with_runs(child, 3000)
        child = self.restart()
        self.node.wait_log("child %s attends" % SITE, self.mark)
        self.finish(child, self.begin(child))


if __name__ == "__main__":
    unittest.main()
