# SPDX-License-Identifier: Apache-2.0
"""Who was in the training data: an attack on the published model, with and without differential
privacy.

Two hospitals train together on real patients and on a question that their findings do not answer, so
that a network of 24,000 parameters has to learn each patient by heart. The attacker holds the model and a patient's
row, and says "was there" where the model's loss is small (Yeom and others 2018): the area under the
ROC curve is that of its losses over patients who were there and as many who were not. 0.5 is a guess.
"""
import csv
import json
import math
import os
import random
import statistics
import subprocess
import unittest

from federation import EXAMPLE, Federation, clean_environment, program

MEMBERS, SPLITS, DELTA = 250, 3, 1e-3
ROUNDS, STEPS, BATCH = 5, 10, 16


def patients():
    """Rows of 30 findings and the answer: whether the last digit of the first is odd."""
    with open(os.path.join(EXAMPLE, "breast_cancer.csv"), encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    return [row[:30] + ["odd" if int(row[0][-1]) % 2 else "even"] for row in rows]


def schema():
    """The example's, with that answer, and a split that the table names."""
    with open(os.path.join(EXAMPLE, "schema.yaml"), encoding="utf-8") as file:
        columns = [line for line in file.read().splitlines() if "type: number" in line]
    return "\n".join(["name: breast-cancer", "file: {header: false}", "columns:",
                      "  - {name: patient, type: id}", *columns,
                      "  - {name: answer, type: target, categories: [even, odd]}",
                      "  - {name: part, type: split}", "split: {by: column}", ""])


def write(path, rows, part="train"):
    with open(path, "w", encoding="utf-8") as file:
        for number, row in rows:
            file.write(",".join(["p%d" % number, *row, part]) + "\n")


def auc(members, others):
    """Chance that a patient who was there has the smaller loss; half where they are equal."""
    wins = sum((m < o) + (m == o) / 2 for m in members for o in others)
    return wins / (len(members) * len(others))


class Membership(unittest.TestCase):
    def attack(self, f, spokes, split, changes):
        """AUC of the attack on the model that the two hospitals train on this split's patients."""
        rows = list(enumerate(patients()))
        random.Random(split).shuffle(rows)
        members, others = rows[:MEMBERS], rows[MEMBERS:2 * MEMBERS]
        for i, node in enumerate(spokes):
            write(node.keys["data"]["csv"], members[i::2])
        run = f.run(f.plan(rounds=ROUNDS, weights="uniform", evaluate={"every": 0},
                           exact={"clip": 8.0, "saturate": "true"}, **changes))
        run.finish(40)
        model, all_rows = (os.path.join(f.dir, n + run.id[:8]) for n in ("model", "all"))
        f.cli("model", "pull", run.id, *f.at_top(), "--out", model)
        write(all_rows, members + others)
        subprocess.run([program("consilium-spoke"), "predict", "--graph",
                        os.path.join(EXAMPLE, "model.onnx"), "--model", model, "--out",
                        all_rows + ".scores", self.schema, all_rows], check=True,
                       capture_output=True, env=clean_environment())
        losses = []
        with open(all_rows + ".scores", encoding="utf-8") as file:
            for line, (_, row) in zip(csv.DictReader(file), members + others):
                score = float(line["score"])
                losses.append(-math.log(max(score if row[-1] == "odd" else 1 - score, 1e-12)))
        self.assertEqual(len(losses), 2 * MEMBERS)
        return auc(losses[:MEMBERS], losses[MEMBERS:])

    def test_the_model_tells_who_was_there_without_noise_and_not_with_it(self):
        with Federation() as f:
            top = f.top(children_min=2)
            self.schema = os.path.join(f.dir, "schema-membership.yaml")
            with open(self.schema, "w", encoding="utf-8") as file:
                file.write(schema())
            spokes = []
            for name in ("north-1", "north-2"):
                table = os.path.join(f.dir, name + "-patients.csv")
                write(table, enumerate(patients()[:40]))
                spokes.append(f.spoke(name, top, csv=table, schema=self.schema))
            plain = {"local": {"steps": 200, "optimiser": {"name": "adam", "lr": 0.005},
                               "batch": BATCH}}
            found = {"none": [self.attack(f, spokes, s, plain) for s in range(SPLITS)]}
            for epsilon in (1, 3):
                noise = float(f.cli("privacy", "noise", "--epsilon", str(epsilon), "--delta",
                                    str(DELTA), "--rate", str(BATCH * 2 / MEMBERS), "--steps",
                                    str(ROUNDS * STEPS)).stdout)
                private = {"local": {"steps": STEPS, "optimiser": {"name": "sgd", "lr": 0.1},
                                     "batch": BATCH},
                           "privacy": {"patient": {"clip": 1.0, "noise": noise, "delta": DELTA,
                                                   "epsilon_max": float(epsilon)}}}
                found[epsilon] = [self.attack(f, spokes, s, private) for s in range(SPLITS)]
            means = {epsilon: statistics.mean(values) for epsilon, values in found.items()}
            print("attack's AUC: " + json.dumps({str(e): round(m, 4) for e, m in means.items()}))
            # Three splits of 250 and 250: a guess is within 0.5 +- 0.015, and three of these.
            self.assertGreater(means["none"], 0.7)
            for epsilon in (1, 3):
                self.assertLess(abs(means[epsilon] - 0.5), 0.08, found)


if __name__ == "__main__":
    unittest.main()
