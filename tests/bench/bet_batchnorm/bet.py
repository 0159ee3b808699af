# SPDX-License-Identifier: Apache-2.0
"""Is a mean of BatchNorm statistics in the integer domain as good as one in float64?

A small convolutional network with BatchNorm is trained by FedAvg over unequal sites of chest
X-rays, once for each way of averaging and each seed. In every round of the exact arms the same
updates are also averaged in float64, and the published float32 model is compared with that, class
of tensor by class. Prints the figures of README.md; exits 1 where an error passes its bound.
"""
import argparse
import math
import os
import sys
import time

try:
    import numpy as np
    import torch
    from torch import nn
    from torch.nn import functional
except ImportError as e:
    print(f"skipped: {sys.executable} has no {e.name}; set CONSILIUM_PYTHON to a Python that has "
          "torch and numpy")
    sys.exit(77)

from exact import Fold

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..", "..")
CLASSES = ("conv/linear", "bn affine", "running_mean", "running_var")
ARMS = ("float64", "float64'", "narrow", "wide")


class Net(nn.Module):
    """28 x 28 grey image to two classes; 6,522 parameters, 112 BatchNorm statistics."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.conv3 = nn.Conv2d(16, 32, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(32)
        self.out = nn.Linear(32 * 9, 2)

    def forward(self, x):
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 2)
        x = functional.max_pool2d(functional.relu(self.bn2(self.conv2(x))), 2)
        x = functional.max_pool2d(functional.relu(self.bn3(self.conv3(x))), 2)
        return self.out(x.flatten(1))


def class_of(name):
    if name.endswith("running_mean"):
        return "running_mean"
    if name.endswith("running_var"):
        return "running_var"
    return "bn affine" if name.startswith("bn") else "conv/linear"


def shared(net):
    """The tensors that travel: all but the integer counter num_batches_tracked."""
    return {k: v for k, v in net.state_dict().items() if v.dtype == torch.float32}


def load_images(path, scale):
    """Train and test as ((n, 1, 28, 28) float32, (n) int64); pixels 0..255 times scale."""
    z = np.load(path)
    parts = []
    for part in ("train", "test"):
        x = torch.from_numpy(z[f"{part}_images"].astype(np.float32) * scale)[:, None]
        parts.append((x, torch.from_numpy(z[f"{part}_labels"].astype(np.int64).ravel())))
    return parts


def split(labels, sites, rng):
    """Row numbers of each site: its share of each class is Dirichlet(0.5), at least 40 rows."""
    while True:
        rows = [[] for _ in range(sites)]
        for c in (0, 1):
            of_class = rng.permutation(np.flatnonzero(labels == c))
            cuts = np.cumsum(rng.dirichlet([0.5] * sites))[:-1]
            for site, part in enumerate(np.split(of_class, (cuts * len(of_class)).astype(int))):
                rows[site].extend(part)
        if min(map(len, rows)) >= 40:
            return [rng.permutation(r) for r in rows]


def train_locally(net, x, y, rows, args, generator):
    optimiser = torch.optim.SGD(net.parameters(), lr=args.lr, momentum=0.9)
    net.train()
    for _ in range(args.steps):
        at = rows[torch.randint(len(rows), (args.batch,), generator=generator)]
        optimiser.zero_grad()
        functional.cross_entropy(net(x[at]), y[at]).backward()
        optimiser.step()


def accuracy(net, x, y):
    net.eval()
    with torch.no_grad():
        return (net(x).argmax(1) == y).float().mean().item()


class Errors:
    """What was seen over all rounds, for each class of tensor."""

    def __init__(self):
        self.largest = {}  # |delta|
        self.rows = {}  # (way, class) -> [max abs, norm-wise relative, elementwise, refused]
        self.by_round = {}  # (round, way, class) -> [max abs, max norm-wise relative]
        self.over = 0  # elements further from float64 than the arithmetic allows
        self.round = 0

    def see_delta(self, kind, deltas):
        top = max(float(np.abs(d).max()) for d in deltas)
        self.largest[kind] = max(top, self.largest.get(kind, 0.0))

    def add(self, way, kind, got, want, refused):
        row = self.rows.setdefault((way, kind), [0.0, 0.0, 0.0, 0])
        row[3] += refused
        if refused:
            return
        error = np.abs(got.astype(np.float64) - want)
        top, norm = float(error.max()), float(np.linalg.norm(error) / np.linalg.norm(want))
        for seen in row, self.by_round.setdefault((self.round, way, kind), [0.0, 0.0]):
            seen[0] = max(seen[0], top)
            seen[1] = max(seen[1], norm)
        row[2] = max(row[2], float((error / np.maximum(np.abs(want), 1e-30)).max()))


def bound(clip, wide, base, deltas, want):
    """What rounding allows: half a step of the sum, and one float32 rounding of the result.
    2^-50 more for the double arithmetic of both sides."""
    step = 2.0 ** -(30 - math.ceil(math.log2(clip)) + (30 if wide else 0))
    size = np.abs(base) + np.max([np.abs(d) for d in deltas], axis=0)
    return step / 2 + np.spacing(np.abs(want).astype(np.float32)) / 2 + size * 2.0**-50


def compare(fold, errors, base, locals_, weights, clips):
    """Averages one round's updates in every way; returns {(clip, wide): {name: float32}}
    and the ways that refused an element."""
    total, results, beyond = float(sum(weights)), {}, set()
    for name, b in base.items():
        kind = class_of(name)
        deltas = [np.subtract(x[name], b) for x in locals_]
        exact_base = b.astype(np.float64)
        want = exact_base + sum(d.astype(np.float64) * w for d, w in zip(deltas, weights)) / total
        errors.see_delta(kind, deltas)
        errors.add("float32", kind, want.astype(np.float32), want, 0)
        for clip in clips:
            for wide in (False, True):
                got, refused = fold.mean(b, deltas, weights, clip, wide)
                errors.add((clip, wide), kind, got, want, refused)
                if refused:
                    beyond.add((clip, wide))
                else:
                    off = np.abs(got.astype(np.float64) - want)
                    errors.over += int((off > bound(clip, wide, exact_base, deltas, want)).sum())
                results.setdefault((clip, wide), {})[name] = got
    return results, beyond


def next_model(arm, fold, errors, base64, locals_, weights, args):
    """The arm's new model; float64 arrays for the float64 arms, else float32."""
    if arm.startswith("float64"):
        total = float(sum(weights))
        return {k: sum(x[k].astype(np.float64) * w for x, w in zip(locals_, weights)) / total
                for k in base64}
    base = {k: v.astype(np.float32) for k, v in base64.items()}
    got, refused = compare(fold, errors, base, locals_, weights, args.clips)
    if refused & {(args.clip, False), (args.clip, True)}:
        sys.exit(f"round {errors.round}: values beyond --clip {args.clip:g}; largest so far "
                 f"{errors.largest}")
    stats = ("running_mean", "running_var")
    return {k: got[args.clip, arm == "wide" and class_of(k) in stats][k] for k in base}


def federate(arm, seed, fold, errors, data, args):
    """One run of FedAvg. Returns the test accuracy after every round."""
    (x, y), (x_test, y_test) = data
    rng = np.random.default_rng(seed)
    rows = [torch.from_numpy(r) for r in split(y.numpy(), args.sites, rng)]
    weights = [len(r) for r in rows]
    torch.manual_seed(seed)
    net, curve = Net(), []
    if arm == "float64'":  # the same run, its first model moved by parts in 10^7
        with torch.no_grad():
            for p in net.parameters():
                p.mul_(1 + 1e-7 * torch.randn_like(p))
    torch.manual_seed(seed)
    model = {k: v.numpy().astype(np.float64) for k, v in shared(net).items()}
    shapes = {k: v.shape for k, v in model.items()}
    for r in range(args.rounds):
        errors.round, locals_ = r + 1, []
        for site, own in enumerate(rows):
            load(net, model)
            generator = torch.Generator().manual_seed(seed * 1000003 + r * 101 + site)
            train_locally(net, x, y, own, args, generator)
            locals_.append({k: v.numpy().ravel().copy() for k, v in shared(net).items()})
        flat = {k: v.ravel() for k, v in model.items()}
        new = next_model(arm, fold, errors, flat, locals_, weights, args)
        model = {k: v.reshape(shapes[k]) for k, v in new.items()}
        load(net, model)
        curve.append(accuracy(net, x_test, y_test))
    return curve


def load(net, model):
    own = net.state_dict()
    with torch.no_grad():
        for k, v in model.items():
            own[k].copy_(torch.from_numpy(v.astype(np.float32)))


def print_accuracy(curves, args):
    tail = min(20, args.rounds)
    print(f"\naccuracy on the test split: last round (mean of the last {tail})")
    print("| arm | " + " | ".join(f"seed {s}" for s in range(args.seeds)) + " | mean | sd |")
    print("|---|" + "---|" * (args.seeds + 2))
    for arm in args.arms:
        last = [curves[arm, s][-1] for s in range(args.seeds)]
        means = [float(np.mean(curves[arm, s][-tail:])) for s in range(args.seeds)]
        cells = " | ".join(f"{a:.4f} ({m:.4f})" for a, m in zip(last, means))
        spread = np.std(means, ddof=1) if args.seeds > 1 else math.nan
        print(f"| {arm} | {cells} | {np.mean(last):.4f} ({np.mean(means):.4f}) | {spread:.4f} |")


def print_errors(errors, args):
    print("\nlargest |delta|: " + ", ".join(f"{k} {errors.largest[k]:.3g}" for k in CLASSES))
    print("\nlargest error of any round against float64 FedAvg of the same updates: absolute; "
          "relative to the tensor's norm; relative to the element; refused elements")
    ways = [("float32 rounding alone", "float32")]
    ways += [(f"{'wide' if wide else 'narrow'}, clip {clip:g}", (clip, wide))
             for clip in args.clips for wide in (False, True)]
    print("| averaged | " + " | ".join(CLASSES) + " |")
    print("|---|" + "---|" * len(CLASSES))
    for title, way in ways:
        cells = []
        for kind in CLASSES:
            a, norm, element, refused = errors.rows[way, kind]
            gone = f"; {refused} refused" if refused else ""
            cells.append(f"{a:.1e}; {norm:.1e}; {element:.1e}{gone}")
        print(f"| {title} | " + " | ".join(cells) + " |")


def print_rounds(errors, args):
    shown = [r for r in (1, 2, 5, 10, 20, 50, 100, 200, 500) if r <= args.rounds]
    print(f"\nthe same by round, at clip {args.clip:g}: absolute; relative to the tensor's norm")
    print("| averaged | class | " + " | ".join(f"round {r}" for r in shown) + " |")
    print("|---|---|" + "---|" * len(shown))
    for wide in (False, True):
        for kind in CLASSES:
            cells = [errors.by_round[r, (args.clip, wide), kind] for r in shown]
            print(f"| {'wide' if wide else 'narrow'} | {kind} | " +
                  " | ".join(f"{a:.1e}; {n:.1e}" for a, n in cells) + " |")


def parse():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--module", default=os.path.join(ROOT, "build/lib/libbet_batchnorm_fold.so"))
    p.add_argument("--data", default=os.path.join(
        os.environ.get("CONSILIUM_TEST_DATA", os.path.join(ROOT, "../shared/data")),
        "pneumoniamnist/pneumoniamnist_28_content.npz"))
    p.add_argument("--rounds", type=int, default=100)
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--sites", type=int, default=5)
    p.add_argument("--steps", type=int, default=10, help="local steps a round")
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--lr", type=float, default=0.01)
    p.add_argument("--clip", type=float, default=8, help="of the exact arms")
    p.add_argument("--clips", type=float, nargs="+", default=[1, 8, 64],
                   help="compared on the same updates")
    p.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    p.add_argument("--raw-pixels", action="store_true", help="0..255 instead of 0..1")
    args = p.parse_args()
    if args.clip not in args.clips:
        args.clips.append(args.clip)
    return args


def main():
    args = parse()
    for path in (args.module, args.data):
        if not os.path.exists(path):
            print(f"skipped: {path} is not here")
            return 77
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    fold, errors, curves = Fold(args.module), Errors(), {}
    data = load_images(args.data, 1.0 if args.raw_pixels else 1 / 255)
    start = time.monotonic()
    for seed in range(args.seeds):
        for arm in args.arms:
            curves[arm, seed] = federate(arm, seed, fold, errors, data, args)
            print(f"seed {seed}, {arm}: {curves[arm, seed][-1]:.4f} "
                  f"({time.monotonic() - start:.0f} s)", flush=True)
    print_accuracy(curves, args)
    if errors.rows:
        print_errors(errors, args)
        print_rounds(errors, args)
        print(f"\nelements beyond the bound of the arithmetic: {errors.over}")
    return 1 if errors.over else 0


if __name__ == "__main__":
    sys.exit(main())
