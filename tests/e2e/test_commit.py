# SPDX-License-Identifier: Apache-2.0
"""What a round's commit says of a child's update, and what the child's state makes of it."""
import os
import shutil
import unittest

import edge
from federation import Federation
from onnx_file import write_mlp
from parent import Host
from test_codec import kept
from test_hostile_parent import Hostile

CODEC = {"name": "top_k", "share": 0.1}


class Commit(unittest.TestCase):
    """What a codec dropped of an update is carried on if and only if the update counted."""

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
            rounds=6, model=path, evaluate={"every": 0}, codec=CODEC)).stdout.strip().encode()

    begin, open_round, model = Hostile.begin, Hostile.open_round, Hostile.model

    def kept_of(self, spoke, suffix):
        """The round whose remainder this is; 0 where there is none."""
        names = kept(spoke, suffix)
        if not names:
            return 0
        with open(os.path.join(spoke.dir, "residual", names[0]), "rb") as f:
            update = f.read(4096)
        rounds = [e["data"]["round"] for e in spoke.audit("update.sealed")
                  if bytes.fromhex(e["data"]["update"]) in update]
        self.assertEqual(len(rounds), 1)
        return rounds[0]

    def train(self, child, run, number):
        self.open_round(child, run, number)
        return self.host.take_offer(child, lambda h: h[16:48] == run and h[48] == number)

    def four_rounds(self, spoke, child, run):
        """Only the second counts: the first missed, a fourth is begun with no word of the third."""
        kept_of = lambda: (self.kept_of(spoke, ".now"), self.kept_of(spoke, ".next"))
        self.train(child, run, 1)
        child.send(commit=self.pb.Commit(run=run, round=1, missed=True))
        self.train(child, run, 2)
        self.assertEqual(kept_of(), (0, 2))
        child.send(commit=self.pb.Commit(run=run, round=2))
        self.train(child, run, 3)
        self.assertEqual(kept_of(), (2, 3))
        self.train(child, run, 4)
        self.assertEqual(kept_of(), (2, 4))

    def end(self, child, run):
        child.send(end=self.pb.End(run=run, completed=True, reason="done", model=bytes(32)))

    def test_a_spoke_keeps_what_was_dropped_of_updates_that_counted(self):
        spoke = self.f.spoke("north-1", self.host)
        child = self.host.next_child()
        run = self.begin(child)
        self.four_rounds(spoke, child, run)
        spoke.kill()  # its parent goes on, and says at its return what it may not have heard
        spoke.start()
        child = self.host.next_child()
        child.send(plan=self.pb.Plan(run=run, plan=self.plan))
        child.send(commit=self.pb.Commit(run=run, round=4))
        self.train(child, run, 5)
        self.assertEqual((self.kept_of(spoke, ".now"), self.kept_of(spoke, ".next")), (4, 5))
        self.end(child, run)
        self.f.wait(lambda: not kept(spoke, ""), 20, "an ended run to leave nothing")

    def test_a_hub_whose_update_missed_tells_its_children(self):
        hub = self.f.hub("region", self.host)
        spoke = self.f.spoke("north-1", hub)
        child = self.host.next_child()
        run = self.begin(child)
        self.four_rounds(spoke, child, run)
        self.assertEqual([e["data"]["counted"] for e in hub.audit("round.committed")],
                         [False, True, False])
        self.end(child, run)
        self.f.wait(lambda: not kept(spoke, ""), 20, "an ended run to leave nothing")

    def lose_disk(self, hub):
        """The hub comes back with nothing: a new key, and no memory of any round."""
        hub.kill()
        shutil.rmtree(hub.dir)
        self.f.cli("enroll", "--local", "--replace", "--authority-dir", self.f.authority,
                   "--name", hub.name, "--role", "hub", "--data-dir", hub.dir)
        hub.reread_audit()
        hub.start()
        child = self.host.next_child()
        return child

    def test_a_hub_that_lost_its_disk_leaves_what_counted_to_receipts(self):
        hub = self.f.hub("region", self.host)
        spoke = self.f.spoke("north-1", hub)
        child = self.host.next_child()
        run = self.begin(child)
        kept_of = lambda: (self.kept_of(spoke, ".now"), self.kept_of(spoke, ".next"))
        self.train(child, run, 1)
        self.f.wait(lambda: spoke.audit("receipt"), 20, "the spoke has its receipt")
        child = self.lose_disk(hub)  # the parent has counted what it had delivered
        child.send(plan=self.pb.Plan(run=run, plan=self.plan))
        child.send(commit=self.pb.Commit(run=run, round=1))
        child.wait("answer", lambda a: a.run == run and a.accepted)
        self.train(child, run, 2)
        self.assertEqual(kept_of(), (1, 2))
        child = self.lose_disk(hub)  # and the parent has not: it knows, and its children hear it
        child.send(plan=self.pb.Plan(run=run, plan=self.plan))
        child.send(commit=self.pb.Commit(run=run, round=1))
        child.wait("answer", lambda a: a.run == run and a.accepted)
        self.train(child, run, 3)
        self.assertEqual(kept_of(), (1, 3))


class Told(unittest.TestCase):
    """What a hub says of a child's update, at the commit and whenever the child comes back."""

    def accept(self, stream):
        said = stream.wait("plan")
        stream.send(answer=edge.wire().Answer(run=said.run, accepted=True))

    def update(self, opened):
        base = edge.Model(self.parent.fetch(opened.base_model))
        payload = edge.f32_payload([0.001] * len(base.values))
        return edge.Update(opened.run, opened.round, base.manifest(30), opened.base_model, 10,
                           payload)

    def test_a_child_hears_which_update_of_its_counted_and_which_missed(self):
        with Federation() as f:
            top = f.top(children_min=2)
            f.spoke("north-1", top)
            folder = os.path.join(f.dir, "south-1")
            f.enroll("south-1", "spoke", folder)
            identity = edge.Identity(os.path.join(folder, "identity"))
            self.parent = edge.Parent(top.port, "top", identity)
            try:
                stream = self.parent.attend("south-1")
                run = f.run(f.plan(rounds=3, evaluate={"every": 0}, tiers={
                    "top": {"deadline_s": 3}}))
                self.accept(stream)
                update = self.update(stream.wait("round"))
                stream.offer(update)
                self.parent.push(update, stream.wait("grant").offset)
                commit = stream.wait("commit")
                self.assertEqual((commit.round, commit.missed), (1, False))
                late = self.update(stream.wait("round"))
                commit = stream.wait("commit")  # the deadline passed without its update
                self.assertEqual((commit.round, commit.missed), (2, True))
                self.parent.close()
                self.parent = edge.Parent(top.port, "top", identity)
                stream = self.parent.attend("south-1")
                self.accept(stream)
                commit = stream.wait("commit")
                self.assertEqual((commit.round, commit.missed), (1, False))
                stream.offer(late)
                commit = stream.wait("commit", lambda c: c.round == 2)
                self.assertTrue(commit.missed)
                stream.offer(update)
                commit = stream.wait("commit", lambda c: c.round == 1)
                self.assertFalse(commit.missed)
                self.assertEqual(run.finish().state, "completed")
                # Of a run that is over it hears the end, which lets go of everything, alone.
                self.parent.close()
                self.parent = edge.Parent(top.port, "top", identity)
                stream = self.parent.attend("south-1")
                self.assertTrue(stream.wait("end").completed)
                self.assertFalse([m for m in stream.messages
                                  if m.WhichOneof("message") == "commit"])
            finally:
                self.parent.close()


if __name__ == "__main__":
    unittest.main()
