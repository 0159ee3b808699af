# SPDX-License-Identifier: Apache-2.0
"""Who was in the training data: an attack on the published model, with and without differential
privacy.

Two hospitals train together on real patients and on a question that their findings do not answer, so
that a network of 24,000 parameters has to learn each patient by heart. The attacker holds the model and a patient's
row, and says "was there" where the model's loss is small (Yeom and others 2018): the area under the
ROC curve is that of its losses over patients who were there and as many who were not. 0.5 is a guess.

A stronger attacker has trained models of the same kind on patients that he knows, and asks of a
patient how confident those are that have not seen him (Carlini and others 2022). What counts there is
whom he finds without naming many others: the share of members at a false positive rate of 1 %.
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
MODELS = 17  # one is attacked, 16 are its shadows, each in turn


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


def auc(scores_in, scores_out):
    """Chance that a member has the higher score, half where they are equal, by ranks."""
    ordered = sorted([(s, 1) for s in scores_in] + [(s, 0) for s in scores_out])
    wins, below, at = 0.0, 0, 0
    while at < len(ordered):
        end = at
        while end < len(ordered) and ordered[end][0] == ordered[at][0]:
            end += 1
        inside = sum(member for _, member in ordered[at:end])
        wins += inside * (below + (end - at - inside) / 2)
        below += end - at - inside
        at = end
    return wins / (len(scores_in) * len(scores_out))


def tpr_at(scores_in, scores_out, fpr):
    """Share of members that are found where at most that share of the others is taken for one."""
    ordered = sorted(scores_out, reverse=True)
    limit = ordered[int(fpr * len(ordered))]
    return sum(s > limit for s in scores_in) / len(scores_in)


def normal(x, mean, variance):
    """Logarithm of the density."""
    return -0.5 * (math.log(2 * math.pi * variance) + (x - mean) ** 2 / variance)


def likelihood_ratios(was_there, confidences):
    """The attack of Carlini and others 2022 on each model in turn, all others being its shadows:
    {attack: (scores of who was there, of who was not)}. Both look at how confident models are of a
    patient that they have not seen, as a normal distribution, and "online" also at those that have.
    With so few shadows one variance is taken for all patients (their section VI-B)."""
    models, patients_count = len(was_there), len(was_there[0])
    found = {"offline": ([], []), "online": ([], [])}
    for target in range(models):
        others = [m for m in range(models) if m != target]
        around = []
        for p in range(patients_count):
            seen = [confidences[m][p] for m in others if was_there[m][p]]
            not_seen = [confidences[m][p] for m in others if not was_there[m][p]]
            around.append((seen, not_seen))
        variance = [statistics.mean((x - statistics.mean(group[side])) ** 2 for group in around
                                    for x in group[side]) for side in (0, 1)]
        for p, (seen, not_seen) in enumerate(around):
            x, mean = confidences[target][p], statistics.mean(not_seen)
            ratio = normal(x, statistics.mean(seen), variance[0]) - normal(x, mean, variance[1])
            side = 0 if was_there[target][p] else 1
            found["offline"][side].append((x - mean) / math.sqrt(variance[1]))
            found["online"][side].append(ratio)
    return found


PLAIN = {"local": {"steps": 200, "optimiser": {"name": "adam", "lr": 0.005}, "batch": BATCH}}


class Membership(unittest.TestCase):
    def start(self, f):
        """A top and two hospitals, which read the tables anew in every run."""
        top = f.top(children_min=2)
        self.f, self.spokes = f, []
        self.schema = os.path.join(f.dir, "schema-membership.yaml")
        with open(self.schema, "w", encoding="utf-8") as file:
            file.write(schema())
        for name in ("north-1", "north-2"):
            table = os.path.join(f.dir, name + "-patients.csv")
            write(table, enumerate(patients()[:40]))
            self.spokes.append(f.spoke(name, top, csv=table, schema=self.schema))

    def private(self, epsilon):
        noise = float(self.f.cli("privacy", "noise", "--epsilon", str(epsilon), "--delta",
                                 str(DELTA), "--rate", str(BATCH * 2 / MEMBERS), "--steps",
                                 str(ROUNDS * STEPS)).stdout)
        return {"local": {"steps": STEPS, "optimiser": {"name": "sgd", "lr": 0.1}, "batch": BATCH},
                "privacy": {"patient": {"clip": 1.0, "noise": noise, "delta": DELTA,
                                        "epsilon_max": float(epsilon)}}}

    def chances(self, members, asked, changes):
        """The chance of the right answer that the model of the two hospitals' members gives to each
        patient who is asked about."""
        f = self.f
        for i, node in enumerate(self.spokes):
            write(node.keys["data"]["csv"], members[i::2])
        run = f.run(f.plan(rounds=ROUNDS, weights="uniform", evaluate={"every": 0},
                           exact={"clip": 8.0, "saturate": "true"}, **changes))
        run.finish(40)
        model, table = (os.path.join(f.dir, n + run.id[:8]) for n in ("model", "all"))
        f.cli("model", "pull", run.id, *f.at_top(), "--out", model)
        write(table, asked)
        subprocess.run([program("consilium-spoke"), "predict", "--graph",
                        os.path.join(EXAMPLE, "model.onnx"), "--model", model, "--out",
                        table + ".scores", self.schema, table], check=True,
                       capture_output=True, env=clean_environment())
        with open(table + ".scores", encoding="utf-8") as file:
            scores = [float(line["score"]) for line in csv.DictReader(file)]
        self.assertEqual(len(scores), len(asked))
        return [min(max(score if row[-1] == "odd" else 1 - score, 1e-12), 1 - 1e-12)
                for score, (_, row) in zip(scores, asked)]

    def attack(self, split, changes):
        """AUC of the attack by the loss on the model of this split's patients."""
        rows = list(enumerate(patients()))
        random.Random(split).shuffle(rows)
        members, others = rows[:MEMBERS], rows[MEMBERS:2 * MEMBERS]
        chances = self.chances(members, members + others, changes)
        return auc(chances[:MEMBERS], chances[MEMBERS:])

    def test_the_model_tells_who_was_there_without_noise_and_not_with_it(self):
        with Federation() as f:
            self.start(f)
            found = {"none": [self.attack(s, PLAIN) for s in range(SPLITS)]}
            for epsilon in (1, 3):
                private = self.private(epsilon)
                found[epsilon] = [self.attack(s, private) for s in range(SPLITS)]
            means = {epsilon: statistics.mean(values) for epsilon, values in found.items()}
            print("attack's AUC: " + json.dumps({str(e): round(m, 4) for e, m in means.items()}))
            # Three splits of 250 and 250: a guess is within 0.5 +- 0.015, and three of these.
            self.assertGreater(means["none"], 0.7)
            for epsilon in (1, 3):
                self.assertLess(abs(means[epsilon] - 0.5), 0.08, found)

    def likelihood(self, changes):
        """AUC and TPR at an FPR of 1 % of the attacks by likelihood ratios, over MODELS models that
        each know a half of the same patients, drawn at random."""
        rows = list(enumerate(patients()))
        random.Random(1).shuffle(rows)
        rows = rows[:2 * MEMBERS]
        was_there, confidences = [], []
        for model in range(MODELS):
            half = set(random.Random(100 + model).sample(range(len(rows)), MEMBERS))
            chances = self.chances([rows[i] for i in sorted(half)], rows, changes)
            was_there.append([i in half for i in range(len(rows))])
            confidences.append([math.log(c / (1 - c)) for c in chances])
        found = likelihood_ratios(was_there, confidences)
        pairs = [pair for m in range(MODELS) for pair in zip(confidences[m], was_there[m])]
        found["loss"] = ([c for c, there in pairs if there], [c for c, there in pairs if not there])
        return {name: (auc(*sides), tpr_at(*sides, 0.01)) for name, sides in found.items()}

    def test_likelihood_ratios_find_some_for_certain_without_noise_and_nobody_with_it(self):
        with Federation() as f:
            self.start(f)
            found = {"none": self.likelihood(PLAIN), "3": self.likelihood(self.private(3))}
            for epsilon, attacks in found.items():
                for name, (area, found_at) in attacks.items():
                    print("epsilon %-4s %-7s AUC %.3f, TPR %.3f at FPR .01" %
                          (epsilon, name, area, found_at))
            # 4250 decisions each way, of the same 500 patients: a guess finds .010 +- .003.
            for name in ("offline", "online"):
                self.assertGreater(found["none"][name][0], 0.75)
                self.assertGreater(found["none"][name][1], 0.03)
                self.assertGreater(found["none"][name][1], found["none"]["loss"][1])
                self.assertLess(abs(found["3"][name][0] - 0.5), 0.1)
                self.assertLess(found["3"][name][1], 0.03)


if __name__ == "__main__":
    unittest.main()
