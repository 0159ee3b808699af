# SPDX-License-Identifier: Apache-2.0
"""A malicious or broken child against a real hub.

Whatever a child says, the hub lives on, tells the child and the log what was wrong, and the honest
children's model is the one they would have made without it, to the last bit.
"""
import os
import shutil
import socket
import ssl
import struct
import unittest

import edge
import grpc
import onnx_file
from federation import Federation, wait_until

HONEST, ME, OTHER = "north-1", "south-1", "south-2"
CODE = grpc.StatusCode
MIB = 1 << 20
SANITIZED = "CONSILIUM_BIN" in os.environ and "asan" in os.environ["CONSILIUM_BIN"]


def open_files(node):
    return len(os.listdir("/proc/%d/fd" % node.process.pid))


class Hostile(unittest.TestCase):
    """One top and one honest spoke for all tests of a class; the hostile children have their own
    identities from the same authority."""

    top_options = {"children_min": 2}

    @classmethod
    def setUpClass(cls):
        cls.f = Federation()
        try:
            cls.top = cls.f.top(**cls.top_options)
            cls.honest = cls.f.spoke(HONEST, cls.top)
            cls.top.wait_log("child %s attends" % HONEST)
            cls.me, cls.other = cls.identity(ME), cls.identity(OTHER)
        except BaseException:
            cls.f.close()
            raise

    @classmethod
    def tearDownClass(cls):
        cls.f.close()

    @classmethod
    def identity(cls, name, role="spoke"):
        folder = os.path.join(cls.f.dir, "hostile-" + name)
        cls.f.enroll(name, role, folder)
        return edge.Identity(os.path.join(folder, "identity"))

    def setUp(self):
        self.mark = self.top.mark()
        self.pid = self.top.process.pid

    def tearDown(self):
        self.assertTrue(self.top.running(), self.top.log(self.mark)[-2000:])
        self.assertTrue(self.honest.running())
        self.assertEqual(self.top.process.pid, self.pid)

    def connect(self, identity=None, **options):
        parent = edge.Parent(self.top.port, "top", identity or self.me, **options)
        self.addCleanup(parent.close)
        return parent

    def assert_ends(self, stream, code, text, log=None):
        """The hub has ended the stream with that status and text, and says so in its log."""
        found, details = stream.wait_end()
        self.assertEqual(found, code, details)
        self.assertRegex(details, text)
        self.top.wait_log(log or text, self.mark)


class Handshake(Hostile):
    top_options = {"children_min": 1}

    def tearDown(self):
        super().tearDown()
        # The hub still takes a child that behaves.
        with edge.Parent(self.top.port, "top", self.me) as parent:
            parent.attend(ME)

    def test_a_wrong_protocol_number_is_refused(self):
        stream = self.connect().open_stream()
        stream.hello(ME, protocol=1)
        self.assert_ends(stream, CODE.INVALID_ARGUMENT, "speaks protocol 2, the child 1")

    def test_another_name_than_the_certificates_is_refused(self):
        stream = self.connect().open_stream()
        stream.hello(HONEST)
        self.assert_ends(stream, CODE.UNAUTHENTICATED, "says it is 'north-1'.*is for 'south-1'")
        self.assertNotIn("child north-1 left", self.top.log(self.mark))

    def test_names_that_are_none_are_refused(self):
        for name, text in (("", "says it is ''"), ("x" * 64, "at most 63"),
                           ("a\nb", "control character"), ("../etc", "says it is")):
            with self.subTest(name=name):
                stream = self.connect().open_stream()
                stream.hello(name)
                stream.wait_end()
                self.assertRegex(stream.details, text)

    def test_a_second_hello_is_refused(self):
        stream = self.connect().attend(ME)
        stream.hello(ME)
        self.assert_ends(stream, CODE.INVALID_ARGUMENT, "begins with hello, and says it once")

    def test_a_message_before_hello_is_refused(self):
        pb = edge.wire()
        for field in ({"answer": pb.Answer(run=bytes(32), accepted=True)},
                      {"decline": pb.Decline(run=bytes(32), round=1)},
                      {"progress": pb.Progress(run=bytes(32), round=1)},
                      {"offer": pb.Offer(header=b"x")}):
            with self.subTest(field=list(field)):
                stream = self.connect().open_stream()
                stream.send(**field)
                self.assert_ends(stream, CODE.INVALID_ARGUMENT, "begins with hello")

    def test_an_empty_stream_ends_quietly(self):
        stream = self.connect().open_stream()
        stream.half_close()
        self.assertEqual(stream.wait_end()[0], CODE.OK)

    def assert_no_connection(self, identity):
        """The handshake fails, whichever end notices first."""
        with edge.Parent(self.top.port, "top", identity) as parent:
            stream = parent.open_stream()
            stream.hello(ME)
            self.assertEqual(stream.wait_end()[0], CODE.UNAVAILABLE)
        self.top.wait_log("grpc: .*(certificate|[Hh]andshake)", self.mark)

    def test_a_certificate_of_another_authority_is_refused(self):
        foreign = os.path.join(self.f.dir, "foreign")
        self.f.cli("pki", "init", "--dir", foreign, "--name", "test-authority")
        forged = edge.forge(os.path.join(self.f.dir, "forged"), foreign, ME)
        forged.ca = self.me.ca  # it knows whom it talks to; the hub must not know it
        self.assert_no_connection(forged)
        shutil.rmtree(foreign)

    def test_an_expired_certificate_is_refused_and_a_valid_one_of_the_same_maker_is_not(self):
        expired = edge.forge(os.path.join(self.f.dir, "expired"), self.f.authority, ME,
                             end="20210101000000Z")
        self.assert_no_connection(expired)
        valid = edge.forge(os.path.join(self.f.dir, "valid"), self.f.authority, ME)
        self.connect(valid).attend(ME)

    def test_a_certificate_without_a_name_of_ours_is_refused(self):
        odd = edge.forge(os.path.join(self.f.dir, "odd"), self.f.authority, ME, role="janitor")
        stream = self.connect(odd).open_stream()
        stream.hello(ME)
        self.assert_ends(stream, CODE.UNAUTHENTICATED, "janitor|SPIFFE|spiffe")

    def test_roles_do_not_gate_the_edge(self):
        operator = edge.Identity(os.path.join(self.f.operator, "identity"))
        self.connect(operator).attend("operator")
        self.top.wait_log("child operator attends", self.mark)

    def test_a_second_stream_of_a_name_replaces_the_first(self):
        parent = self.connect()
        first = parent.attend(ME)
        second = parent.attend(ME)
        code, text = first.wait_end()
        self.assertEqual(code, CODE.ALREADY_EXISTS)
        self.assertIn("replaced by a newer stream", text)
        self.assertIsNone(second.code)
        second.half_close()
        self.assertEqual(second.wait_end()[0], CODE.OK)

    def test_an_oversized_control_message_is_refused(self):
        stream = self.connect().attend(ME)
        stream.send_bytes(b"\x1a" + edge.varint(300 << 10) + bytes(300 << 10))
        self.assert_ends(stream, CODE.RESOURCE_EXHAUSTED, "a control message of 307")
        stream = self.connect().attend(ME)
        mark = self.top.mark()
        stream.send_bytes(bytes(8 * MIB))
        self.assertEqual(stream.wait_end()[0], CODE.RESOURCE_EXHAUSTED)
        self.top.wait_log("child %s left" % ME, mark)

    def test_bytes_that_are_no_message_are_refused(self):
        noise = bytes((i * 2654435761 >> 13) & 255 for i in range(1000))
        for data in (noise, b"\xff" * 64, b"\x0a\x05ab", b"\xf2\x01\x00", b""):
            with self.subTest(data=data[:8]):
                mark = self.top.mark()
                stream = self.connect().attend(ME)
                stream.send_bytes(data)
                code, text = stream.wait_end()
                self.assertEqual(code, CODE.INVALID_ARGUMENT)
                self.assertRegex(text, "not a valid protobuf message|does not know")
                self.top.wait_log("child %s: a message" % ME, mark)

    def test_bad_fields_are_refused_by_name(self):
        pb = edge.wire()
        for field, text in (({"answer": pb.Answer(run=b"short")}, "answer.run holds 5 bytes"),
                            ({"decline": pb.Decline(run=bytes(32), round=0)}, "round 0"),
                            ({"decline": pb.Decline(run=bytes(32), round=2 ** 64 - 1)}, "outside"),
                            ({"progress": pb.Progress(run=bytes(32), round=1, phase="x" * 600)},
                             "progress.phase has 600"),
                            ({"answer": pb.Answer(run=bytes(32), reason="\x1b[2J")},
                             "answer.reason holds a control"),
                            ({"offer": pb.Offer(header=b"consupd1")}, "header of 8 bytes"),
                            ({"offer": pb.Offer(header=bytes(184))}, "not an update")):
            with self.subTest(text=text):
                stream = self.connect().attend(ME)
                stream.send(**field)
                self.assert_ends(stream, CODE.INVALID_ARGUMENT, text)

    def test_messages_about_unknown_runs_harm_nobody(self):
        pb = edge.wire()
        stream = self.connect().attend(ME)
        unknown = bytes(range(32))
        stream.send(answer=pb.Answer(run=unknown, accepted=True))
        stream.send(decline=pb.Decline(run=unknown, round=3))
        stream.send(progress=pb.Progress(run=unknown, round=1, done=2 ** 32 - 1, total=0))
        update = edge.Update(unknown, 1, unknown, unknown, 1, b"\0\0\0\0")
        stream.offer(update)
        self.assertIn("does not know that run", stream.wait("refusal").reason)

    def test_an_unknown_method_is_refused(self):
        parent = self.connect()
        for path in ("/consilium.Tier/Steal", "/", "/x" * 500):
            with self.subTest(path=path[:20]), self.assertRaises(grpc.RpcError) as refused:
                parent.channel.unary_unary(path)(b"", timeout=edge.WAIT_S)
            self.assertEqual(refused.exception.code(), CODE.UNIMPLEMENTED)

    def test_a_port_that_gets_noise_serves_on(self):
        """Bytes that are no TLS, TLS without a certificate, and TLS that then says no HTTP/2."""
        where = ("127.0.0.1", self.top.port)
        for noise in (b"GET / HTTP/1.1\r\n\r\n", bytes(100000), b"\x16\x03\x01\xff\xff" * 1000):
            with socket.create_connection(where) as s:
                s.settimeout(edge.WAIT_S)
                try:
                    s.sendall(noise)
                    s.shutdown(socket.SHUT_WR)
                    while s.recv(65536):
                        pass
                except OSError:
                    pass  # the hub may reset what it does not understand
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.load_cert_chain(os.path.join(self.me.folder, "cert.pem"),
                                os.path.join(self.me.folder, "key.pem"))
        context.set_alpn_protocols(["h2"])
        with socket.create_connection(where) as raw, context.wrap_socket(raw) as s:
            s.settimeout(edge.WAIT_S)
            try:
                s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 10000)
                while s.recv(65536):
                    pass
            except OSError:
                pass


class InARound(Hostile):
    """The hostile child has accepted a run of one round, which waits for it."""

    PLAN = {}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.plan = cls.f.plan(rounds=1, evaluate={"every": 0}, **cls.PLAN)
        with edge.Parent(cls.top.port, "top", cls.me) as parent:
            stream = parent.attend(ME)
            run, opened = cls.begin(stream)
            stream.send(decline=edge.wire().Decline(run=bytes.fromhex(run.id), round=1))
            cls.reference = run.finish().model
            cls.base_name = opened.base_model
            cls.base = edge.Model(parent.fetch(opened.base_model))
        cls.count = len(cls.base.values)

    @classmethod
    def begin(cls, stream, accept=True):
        run = cls.f.run(cls.plan)
        run_id = bytes.fromhex(run.id)
        stream.wait("plan", lambda p: p.run == run_id)
        if accept:
            stream.send(answer=edge.wire().Answer(run=run_id, accepted=True))
        return run, stream.wait("round", lambda r: r.run == run_id)

    def setUp(self):
        super().setUp()
        self.parent = self.connect()
        self.stream = self.parent.attend(ME)
        self.run_, _ = self.begin(self.stream)
        self.run_id = bytes.fromhex(self.run_.id)

    def tearDown(self):
        super().tearDown()
        self.parent.close()

    def update(self, payload=None, weight=1, **changes):
        fields = dict(run=self.run_id, round_number=1, manifest=self.base.manifest(30),
                      base=self.base_name, weight=weight,
                      payload=bytes(4 * self.count) if payload is None else payload)
        fields.update(changes)
        return edge.Update(**fields)

    def floats(self, index, value):
        """A payload of zeros but for one element."""
        payload = bytearray(4 * self.count)
        struct.pack_into("<f", payload, 4 * index, value)
        return bytes(payload)

    def grant(self, update):
        self.stream.offer(update)
        return self.stream.wait("grant", lambda g: g.update == update.id).offset

    def assert_push_fails(self, update, code, text, pieces=None, log=None):
        with self.assertRaises(grpc.RpcError) as failed:
            if pieces is None:
                self.parent.push(update)
            else:
                self.parent.push_method(iter(pieces), timeout=edge.WAIT_S)
        self.assertEqual(failed.exception.code(), code, failed.exception.details())
        self.assertRegex(failed.exception.details(), text)
        self.top.wait_log(log or text, self.mark)

    def assert_offer_refused(self, text, **changes):
        update = self.update(**changes)
        self.stream.offer(update)
        refusal = self.stream.wait("refusal", lambda r: r.update == update.id)
        self.assertRegex(refusal.reason, text)
        self.top.wait_log(text, self.mark)

    def give_up(self):
        self.stream.send(decline=edge.wire().Decline(run=self.run_id, round=1, reason="enough"))

    def assert_honest_result(self):
        """The run ends with what the honest spoke alone makes, counted once."""
        self.assertEqual(self.run_.finish(60).model, self.reference)
        counted = [(e["data"]["round"], e["data"]["child"])
                   for e in self.top.audit("update.counted") if e["data"]["run"] == self.run_.id]
        self.assertEqual(counted, [(1, HONEST)])


class Offers(InARound):
    def test_offers_that_do_not_belong_are_refused(self):
        self.assert_offer_refused("does not know that run", run=bytes(32))
        self.assert_offer_refused("not open here", round_number=2)
        self.assert_offer_refused("round 0", round_number=0)
        self.assert_offer_refused("another base model", base=bytes(32))
        self.assert_offer_refused("is of manifest", manifest=bytes(32))
        self.assert_offer_refused("payload bytes; encoding f32",
                                  payload=bytes(4 * self.count + 4))
        self.assert_offer_refused("payload bytes; encoding f32", payload=bytes(4))
        self.assert_offer_refused("payload bytes; encoding sum", payload=bytes(40),
                                  encoding=edge.SUM)
        self.assert_offer_refused("encoding q8; the plan's codec is f32", payload=bytes(40),
                                  encoding=edge.Q8)
        self.give_up()
        self.assert_honest_result()

    def test_headers_that_no_update_may_have_end_the_stream(self):
        n = 4 * self.count
        big = edge.metrics({"x": [2 ** 62] * 40000})
        for text, changes in (
                ("encoding 11", {"encoding": 11}),
                ("weight 0 and %d payload" % n, {"weight": 0}),
                ("weight 2147483648", {"weight": 2 ** 31}),
                ("weight 4294967297", {"weight": 2 ** 32 + 1, "encoding": edge.SUM}),
                ("weight 1 and 0 payload", {"payload": b""}),
                ("no whole float32", {"payload_bytes": n + 1}),
                ("more than any model", {"payload_bytes": 2 ** 63}),
                ("round 18446744073709551615", {"round_number": 2 ** 64 - 1}),
                ("saturated", {"saturated": 2 ** 63}),
                ("format version 2", {"version": 2}),
                ("not an update", {"magic": b"consupd2"}),
                ("cannot have|came as", {"length": 200}),
                ("control message|header has", {"metrics_bytes": big}),
                ("metric", {"metrics_bytes": b"\xff" * 32})):
            with self.subTest(text=text):
                mark = self.top.mark()
                stream = self.parent.attend(ME)
                stream.offer(self.update(**changes))
                code, details = stream.wait_end()
                self.assertIn(code, (CODE.INVALID_ARGUMENT, CODE.RESOURCE_EXHAUSTED), details)
                self.assertRegex(details, text)
                self.top.wait_log("child %s: " % ME, mark)
        self.stream = self.parent.attend(ME)
        self.give_up()
        self.assert_honest_result()

    def test_metrics_that_are_not_the_plans_are_refused(self):
        """Small on the wire, 8 MiB unpacked; or such that the sums of the round cannot be made."""
        for text, vectors in (("metric x", {"x": [0] * 2 ** 20}),
                              ("metric count", {"count": [1, 2]}),
                              ("metric count", {"count": [2 ** 63 - 1]}),
                              ("metric loss", {"loss": [-2 ** 63]}),
                              ("metric score_hist_pos", {"score_hist_pos": [0] * 4095}),
                              ("metric nova_tau is for a plan with local.normalise",
                               {"nova_tau": [1024]}),
                              ("metric m0", {"m%d" % i: [1] for i in range(256)})):
            with self.subTest(text=text):
                self.assert_offer_refused(text, metrics_bytes=edge.metrics(vectors))
        self.give_up()
        self.assert_honest_result()

    def test_offers_by_the_thousand_do_not_grow_the_hub(self):
        padding = {"count": [1], "score_hist_pos": [1] * 4096}
        before = self.top.rss_anon()
        for i in range(4000):
            self.stream.offer(self.update(weight=i + 1, metrics_bytes=edge.metrics(padding)))
        last = self.update(weight=5000)
        self.stream.offer(last)
        self.stream.wait("grant", lambda g: g.update == last.id, timeout_s=60)
        if not SANITIZED:
            self.assertLess(self.top.rss_anon() - before, 24 * MIB)
        self.assertLess(len(self.top.spool()), 8)
        self.parent.push(last)
        self.assertEqual(self.run_.finish().state, "completed")
        counted = sorted(e["data"]["child"] for e in self.top.audit("update.counted")
                         if e["data"]["run"] == self.run_.id)
        self.assertEqual(counted, [HONEST, ME])

    def test_a_huge_claimed_weight_is_refused_once_an_honest_update_counts(self):
        self.f.wait(lambda: [e for e in self.top.audit("update.counted")
                             if e["data"]["run"] == self.run_.id], 30, "the honest one counts")
        zeros = edge.sum_payload([0] * self.count)
        self.assert_offer_refused("total weight", weight=2 ** 32, payload=zeros,
                                  encoding=edge.SUM)
        self.assert_honest_result()


class Steps(InARound):
    """Of a plan that normalises updates by effective steps, ten at each hospital."""

    PLAN = {"local": {"normalise": "true"}}

    def test_steps_beyond_the_plans_bound_are_refused(self):
        wrong = "1 to 10 effective steps are the plan's"
        for weight, steps in ((1, 10 * 1024 + 1), (1, 1023), (1, 0), (1, -1), (1, 2 ** 63 - 1),
                              (7, 7 * 10 * 1024 + 1), (7, 7 * 1024 - 1)):
            with self.subTest(weight=weight, steps=steps):
                self.assert_offer_refused(wrong, weight=weight,
                                          metrics_bytes=edge.metrics({"nova_tau": [steps]}))
        self.assert_offer_refused("does not say its effective steps")
        self.assert_offer_refused("of 1 bin would be right",
                                  metrics_bytes=edge.metrics({"nova_tau": [1024, 1024]}))
        self.give_up()
        self.assert_honest_result()

    def test_steps_within_it_are_taken(self):
        update = self.update(metrics_bytes=edge.metrics({"nova_tau": [10 * 1024]}))
        self.grant(update)
        self.parent.push(update)
        self.assertNotEqual(self.run_.finish(60).model, self.reference)


class Flood(InARound):
    """Alone: the hub sends the child away for minutes afterwards."""

    def test_a_child_that_says_the_same_a_thousand_times_grows_no_log(self):
        audit = os.path.join(self.top.dir, "audit", "audit.log")
        pb = edge.wire()
        before = os.path.getsize(audit) + self.top.mark()
        for i in range(1000):
            self.stream.send(answer=pb.Answer(run=self.run_id, accepted=i % 2 == 0, reason="x"))
            self.stream.offer(self.update(base=bytes(32), weight=i + 1))
            self.stream.send(decline=pb.Decline(run=self.run_id, round=1, reason="flood"))
        self.assert_honest_result()
        grown = os.path.getsize(audit) + self.top.mark() - before
        self.assertLess(grown, 200000)


class Pushes(InARound):
    def test_a_push_of_what_was_not_offered_is_refused(self):
        self.assert_push_fails(self.update(), CODE.NOT_FOUND, "was offered")
        offered = self.update(base=bytes(32))
        self.stream.offer(offered)
        self.stream.wait("refusal")
        self.assert_push_fails(offered, CODE.NOT_FOUND, "was offered")
        self.give_up()
        self.assert_honest_result()

    def test_a_push_of_another_childs_update_is_refused(self):
        update = self.update()
        self.grant(update)
        thief = self.connect(self.other)
        thief.attend(OTHER)
        with self.assertRaises(grpc.RpcError) as refused:
            thief.push(update)
        self.assertEqual(refused.exception.code(), CODE.NOT_FOUND)
        self.give_up()
        self.assert_honest_result()

    def test_bytes_at_a_wrong_place_are_refused(self):
        pb = edge.wire()
        update = self.update()
        for offset in (4, 1 << 20, 2 ** 63, 2 ** 64 - 1):
            with self.subTest(offset=offset):
                self.grant(update)
                piece = pb.Piece(id=update.id, offset=offset, data=update.payload[:100])
                self.assert_push_fails(update, CODE.INVALID_ARGUMENT, "offset", [piece])
        self.give_up()
        self.assert_honest_result()

    def test_more_bytes_than_promised_are_refused(self):
        pb = edge.wire()
        update = self.update()
        self.grant(update)
        long = pb.Piece(id=update.id, data=update.payload + b"more")
        self.assert_push_fails(update, CODE.INVALID_ARGUMENT, "payload|bytes", [long])
        self.give_up()
        self.assert_honest_result()

    def test_fewer_bytes_than_promised_end_the_push_and_are_kept(self):
        pb = edge.wire()
        update = self.update()
        self.grant(update)
        short = pb.Piece(id=update.id, data=update.payload[:1000])
        self.assert_push_fails(update, CODE.INVALID_ARGUMENT, "1000 of %d" % (4 * self.count),
                               [short])
        self.assert_push_fails(update, CODE.INVALID_ARGUMENT, "without", [])
        offset = self.grant(update)
        receipt = self.parent.push(update, offset)
        self.assertEqual(receipt.update, update.id)
        self.assertEqual(self.run_.finish().state, "completed")

    def test_pieces_that_are_none_are_refused(self):
        update = self.update()
        for data in (b"\xff" * 100, bytes(2 * MIB), b"\x0a\x20" + update.id + b"\x7a\xff\xff\x7f"):
            with self.subTest(data=data[:4]):
                self.grant(update)
                with self.assertRaises(grpc.RpcError) as refused:
                    self.parent.push_method(iter([data]), timeout=edge.WAIT_S)
                self.assertIn(refused.exception.code(),
                              (CODE.INVALID_ARGUMENT, CODE.RESOURCE_EXHAUSTED))
        self.give_up()
        self.assert_honest_result()

    def test_a_flipped_bit_is_refused_and_the_right_bytes_are_then_accepted(self):
        update = self.update(self.floats(7, 0.5))
        self.grant(update)
        flipped = bytearray(update.payload)
        flipped[5000] ^= 1
        self.assert_push_fails(update, CODE.DATA_LOSS, "Merkle|root", [
            edge.wire().Piece(id=update.id, data=bytes(flipped))])
        offset = self.grant(update)
        receipt = self.parent.push(update, offset)
        self.assertTrue(edge.receipt_signed_by(
            receipt, os.path.join(self.top.dir, "identity", "cert.pem")))
        self.assertEqual(self.run_.finish().state, "completed")

    def refused_element(self, payload, text, **changes):
        update = self.update(payload, **changes)
        self.grant(update)
        self.assert_push_fails(update, CODE.INVALID_ARGUMENT, text)
        again = self.update(weight=9)
        self.stream.offer(again)  # one bad update is enough for a round
        # The honest child may have delivered already: then the round is over without this one.
        self.stream.wait_any({"refusal": lambda r: r.update == again.id,
                              "commit": lambda c: c.round == again.round})
        self.assert_honest_result()

    def test_nan_is_refused_by_tensor_name(self):
        name = self.base.tensors[0][0]
        self.refused_element(self.floats(3, float("nan")),
                             "tensor %s, element 3 is -?nan" % name)

    def test_infinity_is_refused_by_tensor_name(self):
        name = self.base.tensors[-1][0]
        self.refused_element(self.floats(self.count - 1, float("-inf")), "tensor %s.*-inf" % name)

    def test_an_element_beyond_the_clip_is_refused_by_tensor_name(self):
        name = self.base.tensors[0][0]
        self.refused_element(self.floats(0, 1.0000001), "tensor %s, element 0 is 1" % name)

    def test_a_sum_beyond_its_weight_is_refused_by_tensor_name(self):
        sums = [0] * self.count
        sums[11] = -(3 * 2 ** 30 + 1)
        self.refused_element(edge.sum_payload(sums), "element 11 is the sum -3221225473",
                             encoding=edge.SUM, weight=3)

    def test_a_sum_that_is_not_packed_as_it_must_is_refused(self):
        good = edge.sum_payload([1] * self.count)
        wide = bytearray(good)
        wide[0] = 65
        self.refused_element(bytes(wide), "update .*(width|wide)", encoding=edge.SUM)

    def test_a_sum_whose_directory_lies_is_refused(self):
        good = bytearray(edge.sum_payload([1] * self.count))
        struct.pack_into("<I", good, len(good) - 4, 0xfffffff0)
        self.refused_element(bytes(good), "directory|payload", encoding=edge.SUM)

    def test_a_push_that_outlives_its_round_is_told_so_and_leaves_nothing(self):
        pb = edge.wire()
        update = self.update()
        self.grant(update)
        held = edge.queue.Queue()
        held.put(pb.Piece(id=update.id, data=update.payload[:1000]))
        call = self.push_in_background(held)
        self.top.wait_log("push of %s: update" % ME, self.mark)
        self.give_up()
        self.assert_honest_result()
        held.put(pb.Piece(offset=1000, data=update.payload[1000:]))
        held.put(None)
        self.assertNotEqual(call.code(), CODE.OK)
        self.f.wait(lambda: not self.top.spool(), 20, "the spool is empty")

    def push_in_background(self, pieces):
        return self.parent.push_method.future(iter(pieces.get, None), timeout=edge.WAIT_S)


class Fetches(Hostile):
    top_options = {"children_min": 1, "max_uploaders": 4}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        path = os.path.join(cls.f.dir, "big.onnx")
        onnx_file.write_mlp(path, [30, 2048, 1024, 1], seed=1)
        cls.plan = cls.f.plan(rounds=1, model=path, evaluate={"every": 0},
                              local={"steps": 1, "batch": 1})
        cls.model = bytes.fromhex(cls.f.run(cls.plan).finish().model)

    def request(self, offset=0, content=None):
        return edge.wire().FetchRequest(sha256=content or self.model, offset=offset)

    def test_what_is_not_there_is_refused(self):
        parent = self.connect()
        size = len(parent.fetch(self.model))
        self.assertEqual(parent.fetch(self.model, size), b"")
        tail = parent.fetch(self.model, size - 10)
        self.assertEqual(len(tail), 10)
        pb = edge.wire()
        for request, code in ((self.request(content=bytes(32)), CODE.NOT_FOUND),
                              (self.request(size + 1), CODE.INVALID_ARGUMENT),
                              (self.request(2 ** 64 - 1), CODE.INVALID_ARGUMENT),
                              (pb.FetchRequest(sha256=b"short"), CODE.INVALID_ARGUMENT),
                              (b"\xff" * 40, CODE.INVALID_ARGUMENT),
                              (bytes(5000), CODE.RESOURCE_EXHAUSTED)):
            with self.subTest(code=code), self.assertRaises(grpc.RpcError) as refused:
                list(parent.fetch_method(request, timeout=edge.WAIT_S))
            self.assertEqual(refused.exception.code(), code)
            self.assertTrue(refused.exception.details())

    def test_a_fetch_that_asks_for_nothing_ends(self):
        call = self.connect().channel.stream_stream("/consilium.Tier/Fetch")(
            iter([]), timeout=edge.WAIT_S)
        with self.assertRaises(grpc.RpcError) as refused:
            list(call)
        self.assertEqual(refused.exception.code(), CODE.INVALID_ARGUMENT)

    def test_a_thousand_fetches_that_nobody_reads_starve_nobody(self):
        parent = self.connect(options=[("grpc.http2.lookahead_bytes", 65536)])
        before, files = self.top.rss_anon(), open_files(self.top)
        calls = [parent.fetch_method(self.request()) for _ in range(1000)]
        # A quiet child's fetch is served beside them, and so is a whole run.
        self.assertGreater(len(self.connect(self.other).fetch(self.model)), MIB)
        self.assertEqual(self.f.run(self.plan).finish().state, "completed")
        self.assertLess(open_files(self.top) - files, 64)
        if not SANITIZED:
            self.assertLess(self.top.rss_anon() - before, 64 * MIB)
        for call in calls:
            call.cancel()

    def test_a_thousand_fetches_that_are_read_are_all_served_or_refused(self):
        parent = self.connect()
        calls = [parent.fetch_method(self.request(MIB * 8), timeout=120) for _ in range(300)]
        served = refused = 0
        for call in calls:
            try:
                served += sum(len(p.data) for p in call) > 0
            except grpc.RpcError as e:
                self.assertEqual(e.code(), CODE.RESOURCE_EXHAUSTED, e.details())
                refused += 1
        self.assertEqual(served + refused, 300)
        self.assertGreater(served, 0)

    def test_streams_that_are_opened_and_left_alone_do_not_grow_the_hub(self):
        before = self.top.rss_anon()
        parent = self.connect()
        streams = [parent.open_stream(read=False) for _ in range(2000)]
        pushes = [parent.push_method.future(iter(edge.queue.Queue().get, None))
                  for _ in range(0)]
        self.assertEqual(self.f.run(self.plan).finish().state, "completed")
        if not SANITIZED:
            self.assertLess(self.top.rss_anon() - before, 48 * MIB)
        for call in pushes:
            call.cancel()
        for stream in streams:
            stream.cancel()

    def test_streams_that_come_and_go_leave_nothing_behind(self):
        parent = self.connect()
        parent.attend(ME).cancel()
        before, files = self.top.rss_anon(), open_files(self.top)
        for _ in range(500):
            parent.attend(ME)
        if not SANITIZED:
            self.assertLess(self.top.rss_anon() - before, 16 * MIB)
        parent.close()
        wait_until(lambda: open_files(self.top) <= files, edge.WAIT_S, "the files are closed")


if __name__ == "__main__":
    unittest.main()
