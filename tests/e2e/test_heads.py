# SPDX-License-Identifier: Apache-2.0
"""Nobody can show two histories: heads of audit logs, between parents and children.

The tree is computed here by RFC 6962's own definitions (merkle.py), from the lines of the log.
"""
import os
import shutil
import unittest

import edge
import grpc
import merkle
from federation import Federation
from parent import Host

LINES = [b"line %d" % i for i in range(40)]
OTHER = LINES[:7] + [b"another line %d" % i for i in range(40)]


def head(node, key, lines, size, since=0, known=0, answer=False, **changes):
    """A signed head of the first `size` lines."""
    h = edge.wire().Head(size=size, root=merkle.root(lines[:size]), time_ms=5, known=known,
                         answer=answer, since=since)
    if since:
        h.proof.extend(merkle.subproof(since, lines[:size], True) if since < size else [])
    for name, value in changes.items():
        setattr(h, name, value)
    text = "consilium head 1\nnode %s\nsize %d\nroot %s\ntime_ms %d\n" % (
        node, h.size, h.root.hex(), h.time_ms)
    h.signature = edge.openssl("dgst", "-sha256", "-sign", key, stdin=text.encode()).stdout
    return h


def lines_of(node):
    with open(os.path.join(node.dir, "audit", "audit.log"), "rb") as f:
        return f.read().split(b"\n")[:-1]


class Honest(unittest.TestCase):
    def test_each_keeps_true_heads_of_its_neighbours_over_restarts(self):
        with Federation() as f:
            n = f.tree({"hub-a": {"north-1": None, "north-2": None}, "north-3": None})
            f.run(f.plan(rounds=3)).finish()
            n["hub-a"].kill()
            n["hub-a"].start()
            n["north-1"].stop()
            n["north-1"].start()
            second = f.run(f.plan(rounds=2))
            second.finish()
            neighbours = {"top": {"hub-a", "north-3"}, "hub-a": {"top", "north-1", "north-2"},
                          "north-1": {"hub-a"}, "north-2": {"hub-a"}, "north-3": {"top"}}

            def last(node, peer):
                return max((e["data"]["size"] for e in n[node].audit("peer.head")
                            if e["data"]["peer"] == peer), default=0)

            def ended(node):
                return [e["seq"] for e in n[node].audit("run.ended")
                        if e["data"]["run"] == second.id]

            # The end of the second run is under a head that every neighbour has.
            for name, peers in neighbours.items():
                for peer in peers:
                    f.wait(lambda: ended(peer) and last(name, peer) >= ended(peer)[0],
                           20, "%s has the last head of %s" % (name, peer))
            for name, peers in neighbours.items():
                self.assertEqual(n[name].audit("peer.equivocates"), [])
                self.assertEqual(n[name].audit("peer.began_anew"), [])
                self.assertEqual({e["data"]["peer"] for e in n[name].audit("peer.certificate")},
                                 peers)
                for e in n[name].audit("peer.head"):
                    data = e["data"]
                    lines = lines_of(n[data["peer"]])[:data["size"]]
                    self.assertEqual(len(lines), data["size"])
                    self.assertEqual(merkle.root(lines).hex(), data["root"])

    def test_without_tls_heads_are_kept_unsigned(self):
        with Federation(tls=False) as f:
            n = f.tree({"north-1": None})
            f.run(f.plan(rounds=1)).finish()
            f.wait(lambda: n["north-1"].audit("peer.head"), 20, "a head is kept")
            self.assertEqual(n["north-1"].audit("peer.head")[0]["data"]["signature"], "")


class LyingHub(unittest.TestCase):
    def test_a_hub_with_two_logs_is_named_and_left_alone(self):
        """The hub itself, on an older copy of its disk: it goes on from there as if nothing had
        been."""
        with Federation() as f:
            n = f.tree({"north-1": None})
            top, spoke = n["top"], n["north-1"]
            top.stop()
            copy = top.dir + "-before"
            shutil.copytree(top.dir, copy)
            mark = spoke.mark()
            top.start()
            spoke.wait_log("attending parent", mark)
            f.run(f.plan(rounds=2)).finish()
            f.wait(lambda: spoke.audit("run.ended"), 20, "the run has ended there")
            top.stop()
            shutil.rmtree(top.dir)
            os.rename(copy, top.dir)
            top.reread_audit()
            mark = spoke.mark()
            top.start()
            spoke.wait_log("'top' has shown two histories", mark)
            self.assertEqual([e["data"]["peer"] for e in spoke.audit("peer.equivocates")], ["top"])
            mark = spoke.mark()
            spoke.stop()
            spoke.start()
            spoke.wait_log("'top' has shown two histories", mark)
            self.assertEqual(len(spoke.audit("peer.equivocates")), 1)

    def host(self, f):
        folder = os.path.join(f.dir, "liar")
        f.enroll("liar", "hub", folder)
        host = Host("liar", edge.Identity(os.path.join(folder, "identity")))
        f.others.append(host)
        return host, os.path.join(folder, "identity", "key.pem")

    def test_a_parent_is_believed_as_long_as_it_proves_what_it_shows(self):
        with Federation() as f:
            host, key = self.host(f)
            spoke = f.spoke("north-1", host)
            child = host.next_child()
            first = child.wait("head")
            self.assertTrue(first.answer)
            self.assertEqual((first.since, first.known), (0, 0))
            self.assertEqual(merkle.root(lines_of(spoke)[:first.size]), first.root)
            child.send(head=head("liar", key, LINES, 5, known=first.size, answer=True))
            second = child.wait("head")
            self.assertEqual((second.since, second.known), (first.size, 5))
            lines = lines_of(spoke)[:second.size]
            self.assertEqual(merkle.root(lines), second.root)
            self.assertEqual(list(second.proof), merkle.subproof(first.size, lines, True))
            # Later, without a proof: it asks for one.
            child.send(head=head("liar", key, LINES, 9))
            third = child.wait("head")
            self.assertEqual((third.known, third.answer), (5, True))
            child.send(head=head("liar", key, LINES, 9, since=5))
            child.send(head=head("liar", key, LINES, 9, since=5, answer=True))
            self.assertEqual(child.wait("head").known, 9)
            self.assertEqual([e["data"]["size"] for e in spoke.audit("peer.head")], [5, 9])

    def lie(self, *lies):
        with Federation() as f:
            host, key = self.host(f)
            spoke = f.spoke("north-1", host)
            child = host.next_child()
            child.wait("head")
            for lie in lies:
                child.send(head=lie(key))
            child.wait_end()
            return spoke.audit("peer.equivocates"), spoke.log()

    def test_another_root_for_the_same_size_is_two_histories(self):
        named, _ = self.lie(lambda key: head("liar", key, LINES, 9),
                            lambda key: head("liar", key, OTHER, 9))
        self.assertEqual(len(named), 1)
        data = named[0]["data"]
        self.assertEqual((data["peer"], data["size"], data["other_size"]), ("liar", 9, 9))
        self.assertEqual(data["root"], merkle.root(LINES[:9]).hex())
        self.assertEqual(data["other_root"], merkle.root(OTHER[:9]).hex())

    def test_a_longer_log_that_does_not_continue_the_kept_one_is_two_histories(self):
        named, _ = self.lie(lambda key: head("liar", key, LINES, 9),
                            lambda key: head("liar", key, OTHER, 20, since=9))
        self.assertEqual(len(named), 1)

    def test_a_shorter_log_is_two_histories(self):
        named, _ = self.lie(lambda key: head("liar", key, LINES, 9),
                            lambda key: head("liar", key, LINES, 8))
        self.assertEqual(len(named), 1)

    def test_a_head_that_is_not_signed_by_the_certificate_is_not_believed_of_anyone(self):
        def forged(key):
            h = head("liar", key, LINES, 9)
            h.root = merkle.root(OTHER[:9])
            return h

        named, log = self.lie(lambda key: head("liar", key, LINES, 9), forged)
        self.assertEqual(named, [])
        self.assertIn("the head of liar's audit log", log)


class LyingChild(unittest.TestCase):
    def test_a_child_with_two_logs_is_sent_away_until_it_is_certified_anew(self):
        with Federation() as f:
            top = f.top(children_min=1)

            def identity(*more):
                folder = os.path.join(f.dir, "liar")
                f.cli("enroll", "--local", "--authority-dir", f.authority, "--name", "liar",
                      "--role", "spoke", "--data-dir", folder, *more)
                return (edge.Identity(os.path.join(folder, "identity")),
                        os.path.join(folder, "identity", "key.pem"))

            me, key = identity()
            with edge.Parent(top.port, "top", me) as parent:
                stream = parent.attend("liar")
                stream.send(head=head("liar", key, LINES, 9, answer=True))
                kept = stream.wait("head")
                self.assertEqual(kept.known, 9)
                lines = lines_of(top)[:kept.size]
                self.assertEqual(merkle.root(lines), kept.root)
                stream.send(head=head("liar", key, LINES, 12, since=9, answer=True))
                self.assertEqual(stream.wait("head").known, 12)
                stream.send(head=head("liar", key, OTHER, 30, since=12))
                code, text = stream.wait_end()
                self.assertEqual(code, grpc.StatusCode.PERMISSION_DENIED)
                self.assertIn("two histories", text)
                self.assertEqual([e["data"]["peer"] for e in top.audit("peer.equivocates")],
                                 ["liar"])
                again = parent.open_stream()
                again.hello("liar")
                _, text = again.wait_end()
                self.assertIn("two histories", text)
            top.kill()
            top.start()
            with edge.Parent(top.port, "top", me) as parent:
                stream = parent.open_stream()
                stream.hello("liar")
                self.assertIn("two histories", stream.wait_end()[1])
            me, key = identity("--replace")  # another certificate for the same key
            with edge.Parent(top.port, "top", me) as parent:
                stream = parent.open_stream()
                stream.hello("liar")
                self.assertIn("two histories", stream.wait_end()[1])
            os.remove(key)
            me, key = identity("--replace")
            with edge.Parent(top.port, "top", me) as parent:
                stream = parent.attend("liar")
                stream.send(head=head("liar", key, OTHER, 3, known=kept.size, answer=True))
                self.assertEqual(stream.wait("head").known, 3)
                self.assertEqual([e["data"]["other_size"] for e in top.audit("peer.began_anew")],
                                 [3])


if __name__ == "__main__":
    unittest.main()
