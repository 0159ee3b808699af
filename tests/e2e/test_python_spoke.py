# SPDX-License-Identifier: Apache-2.0
"""A spoke in another language: its update counts as any other's, to the last bit."""
import json
import os
import struct
import unittest

import edge
from federation import Federation


def sealed_updates(node):
    """The sealed files of a node's spool."""
    return [edge.UpdateFile(edge.read_file(node.dir, "spool", name))
            for name in node.spool() if name.endswith(".upd")]


class PythonSpoke(unittest.TestCase):
    def train_by_hand(self, f, parent, parent_node, name, codec="f32"):
        """Takes part in the one round of a run with a made-up update, last of all. Returns the
        base model, every update that counts, and the receipt."""
        stream = parent.attend(name)
        run = f.run(f.plan(rounds=1, evaluate={"every": 0}, codec={"name": codec}))
        said = stream.wait("plan")
        self.assertEqual(said.run.hex(), run.id)
        plan = json.loads(said.plan)
        graph = parent.fetch(bytes.fromhex(plan["model"]["sha256"]))
        self.assertEqual(len(graph), plan["model"]["bytes"])
        stream.send(answer=edge.wire().Answer(run=said.run, accepted=True))

        opened = stream.wait("round")
        base = edge.Model(parent.fetch(opened.base_model))
        # Ties to even, both ends of the clip, the smallest subnormal and minus zero are in there.
        odd = [2.0 ** -31, 3 * 2.0 ** -31, -2.0 ** -31, 1.0, -1.0, 1e-45, -0.0, 0.1]
        delta = [odd[i % 8] if i < 64 else ((i * 2654435761) % 2 ** 32 - 2 ** 31) / 2 ** 33
                 for i in range(len(base.values))]
        payload, encoding = edge.f32_payload(delta), edge.F32
        if codec == "f16":
            payload, encoding = edge.f16_payload(delta, 30), edge.F16
        update = edge.Update(said.run, opened.round, base.manifest(30), opened.base_model, 1000003,
                             payload, encoding)
        f.wait(lambda: len(parent_node.audit("update.counted")) == 2, 60, "both C spokes are done")
        others = sealed_updates(parent_node)
        self.assertEqual(len(others), 2)

        stream.offer(update)
        grant = stream.wait("grant")
        self.assertEqual((grant.update, grant.offset), (update.id, 0))
        receipt = parent.push(update, grant.offset)
        return run, base, others + [edge.UpdateFile(update.header.ljust(4096, b"\0") +
                                                    update.payload)], receipt

    def assert_mean(self, run, top, base, updates):
        """The published model is base + S / W: integers, and one division in double."""
        weight = sum(u.weight for u in updates)
        quantised = [[edge.quantise(x, 30) for x in u.floats()] for u in updates]
        expected = []
        for i, x in enumerate(base.values):
            total = sum(u.weight * q[i] for u, q in zip(updates, quantised))
            expected.append(x + float(total) / float(weight) * 2.0 ** -30)
        model = run.finish().model
        data = edge.read_file(top.dir, "models", model + ".safetensors")
        self.assertEqual(edge.sha256(data).hex(), model)
        published = edge.Model(data)
        self.assertEqual(published.tensors, base.tensors)
        count = len(expected)
        self.assertEqual(struct.pack("<%df" % count, *published.values),
                         struct.pack("<%df" % count, *expected))

    def assert_receipt(self, receipt, update, child, parent_node):
        cert = os.path.join(parent_node.dir, "identity", "cert.pem")
        self.assertEqual((receipt.run, receipt.round, receipt.update, receipt.child,
                          receipt.parent, receipt.weight),
                         (update.run, 1, update.id, child, parent_node.name, update.weight))
        self.assertTrue(edge.receipt_signed_by(receipt, cert))
        receipt.weight += 1
        self.assertFalse(edge.receipt_signed_by(receipt, cert))

    def test_two_c_spokes_and_a_python_spoke_give_the_exact_mean(self):
        with Federation() as f:
            top = f.top(children_min=3)
            for site in ("north-1", "north-2"):
                f.spoke(site, top)
            folder = os.path.join(f.dir, "south-1")
            f.enroll("south-1", "spoke", folder)
            me = edge.Identity(os.path.join(folder, "identity"))
            with edge.Parent(top.port, "top", me) as parent:
                run, base, updates, receipt = self.train_by_hand(f, parent, top, "south-1")
                self.assert_mean(run, top, base, updates)
                self.assert_receipt(receipt, updates[-1], "south-1", top)

    def test_c_spokes_and_a_python_spoke_mean_the_same_by_half_precision(self):
        with Federation() as f:
            top = f.top(children_min=3)
            for site in ("north-1", "north-2"):
                f.spoke(site, top)
            folder = os.path.join(f.dir, "south-1")
            f.enroll("south-1", "spoke", folder)
            me = edge.Identity(os.path.join(folder, "identity"))
            with edge.Parent(top.port, "top", me) as parent:
                run, base, updates, _ = self.train_by_hand(f, parent, top, "south-1", "f16")
                self.assertEqual([u.encoding for u in updates], [edge.F16] * 3)
                self.assert_mean(run, top, base, updates)

    def test_a_python_spoke_below_a_regional_hub_counts_the_same(self):
        with Federation() as f:
            top = f.top()
            hub = f.hub("hub-a", top, children_min=3)
            for site in ("north-1", "north-2"):
                f.spoke(site, hub)
            folder = os.path.join(f.dir, "south-1")
            f.enroll("south-1", "spoke", folder)
            me = edge.Identity(os.path.join(folder, "identity"))
            with edge.Parent(hub.port, "hub-a", me) as parent:
                run, base, updates, receipt = self.train_by_hand(f, parent, hub, "south-1")
                self.assert_mean(run, top, base, updates)
                self.assert_receipt(receipt, updates[-1], "south-1", hub)


if __name__ == "__main__":
    unittest.main()
