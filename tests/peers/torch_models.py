# SPDX-License-Identifier: Apache-2.0
"""Models for torch_net.py: one small one an operator, and the architectures that people train."""
from dataclasses import dataclass
from typing import Callable

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass
class Case:
    name: str
    model: Callable[[], nn.Module]
    shape: tuple
    loss: str = "ce"
    rows: int = 3
    steps: int = 0
    lr: float = 0.05
    curve: float = 1e-3
    opset: int = 17
    seed: int = 1

    def input(self):
        return torch.randn(self.rows, *self.shape)

    def target(self, y):
        if self.loss == "bce":
            return torch.randint(0, 2, (self.rows,)).float()
        return torch.randint(0, y.shape[1], (self.rows, *y.shape[2:]))


class Head(nn.Module):
    """Something, and a linear layer on all of what it gives."""

    def __init__(self, shape, *body):
        super().__init__()
        self.body = nn.Sequential(*body)
        with torch.no_grad():
            self.head = nn.Linear(self.body(torch.randn(2, *shape)).flatten(1).shape[1], 3)

    def forward(self, x):
        return self.head(self.body(x).flatten(1))


class Apply(nn.Module):
    """A function with parameters of its own: f(x, p, q)."""

    def __init__(self, f, *shapes):
        super().__init__()
        self.f = f
        self.p = nn.ParameterList([nn.Parameter(torch.randn(*s)) for s in shapes])

    def forward(self, x):
        return self.f(x, *self.p)


def op(name, shape, *body, **more):
    return Case(name, lambda: Head(shape, *[b() if isinstance(b, type) else b for b in body]),
                shape, **more)


def fun(name, shape, f, *shapes, first=None, **more):
    """f after a convolution or a linear layer, so that a gradient passes through it."""
    def make():
        c = shape[0]
        before = first() if first else {1: lambda: nn.Linear(c, c), 2: lambda: nn.Conv1d(c, c, 1),
                                        3: lambda: nn.Conv2d(c, c, 1),
                                        4: lambda: nn.Conv3d(c, c, 1)}[len(shape)]()
        return Head(shape, before, Apply(f, *shapes))
    return Case(name, make, shape, **more)


def grouped(x):
    return F.instance_norm(x.reshape(x.shape[0], 2, -1)).reshape(x.shape)


IMAGE, VOLUME, LINE = (4, 5, 6), (3, 4, 5, 6), (4, 11)

OPS = [
    Case("mlp", lambda: nn.Sequential(nn.Linear(13, 16), nn.ReLU(), nn.Linear(16, 8), nn.Tanh(),
                                      nn.Linear(8, 2)), (13,), rows=8, steps=20),
    Case("mlp-bce", lambda: nn.Sequential(nn.Linear(13, 16), nn.Sigmoid(), nn.Linear(16, 1)),
         (13,), loss="bce", rows=8, steps=20),
    op("conv1d", LINE, nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2)),
    op("conv2d", IMAGE, nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 5, (3, 2), stride=(2, 1))),
    op("conv2d-groups", IMAGE, nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 8, 3, groups=4)),
    op("conv2d-depthwise", IMAGE, nn.Conv2d(4, 16, 1), nn.Conv2d(16, 16, 3, groups=16, bias=False)),
    op("conv2d-dilated", IMAGE, nn.Conv2d(4, 8, 1), nn.Conv2d(8, 6, 3, dilation=2, padding=1)),
    op("conv2d-uncovered", IMAGE, nn.Conv2d(4, 8, 1), nn.Conv2d(8, 6, 2, stride=3)),
    op("conv3d", VOLUME, nn.Conv3d(3, 8, 3, padding=1), nn.Conv3d(8, 5, 3, stride=2, padding=1)),
    op("conv-transpose1d", LINE, nn.Conv1d(4, 4, 1), nn.ConvTranspose1d(4, 6, 3, stride=2)),
    op("conv-transpose2d", IMAGE, nn.Conv2d(4, 8, 1),
       nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1, output_padding=1)),
    op("conv-transpose2d-groups", IMAGE, nn.Conv2d(4, 8, 1),
       nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2, bias=False)),
    op("conv-transpose3d", VOLUME, nn.Conv3d(3, 8, 1), nn.ConvTranspose3d(8, 4, 2, stride=2)),
    op("max-pool2d", IMAGE, nn.Conv2d(4, 8, 1), nn.MaxPool2d(3, 2, 1)),
    op("max-pool2d-ceil", IMAGE, nn.Conv2d(4, 8, 1), nn.MaxPool2d(3, 2, ceil_mode=True)),
    op("max-pool1d", LINE, nn.Conv1d(4, 8, 1), nn.MaxPool1d(3, 1)),
    op("max-pool3d", VOLUME, nn.Conv3d(3, 8, 1), nn.MaxPool3d(2)),
    op("avg-pool2d", IMAGE, nn.Conv2d(4, 8, 1), nn.AvgPool2d(3, 2, 1)),
    op("avg-pool2d-inside", IMAGE, nn.Conv2d(4, 8, 1),
       nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
    op("avg-pool3d", VOLUME, nn.Conv3d(3, 8, 1), nn.AvgPool3d(2)),
    op("global-avg-pool", IMAGE, nn.Conv2d(4, 8, 1), nn.AdaptiveAvgPool2d(1)),
    op("batch-norm1d", (12,), nn.Linear(12, 9), nn.BatchNorm1d(9), rows=6),
    op("batch-norm2d", IMAGE, nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), steps=3),
    op("batch-norm2d-relu", IMAGE, nn.Conv2d(4, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
       nn.Conv2d(8, 5, 3), steps=3),
    op("batch-norm3d", VOLUME, nn.Conv3d(3, 8, 1), nn.BatchNorm3d(8)),
    op("instance-norm2d", IMAGE, nn.Conv2d(4, 8, 1), nn.InstanceNorm2d(8, affine=True), nn.ReLU()),
    op("instance-norm3d", VOLUME, nn.Conv3d(3, 8, 1), nn.InstanceNorm3d(8)),
    op("group-norm2d", IMAGE, nn.Conv2d(4, 8, 1), nn.GroupNorm(4, 8), nn.ReLU(),
       nn.Conv2d(8, 8, 1)),
    op("group-norm3d", VOLUME, nn.Conv3d(3, 8, 1), nn.GroupNorm(2, 8)),
    op("group-norm-plain", IMAGE, nn.Conv2d(4, 8, 1), nn.GroupNorm(2, 8, affine=False), nn.ReLU()),
    # What looks like an exported GroupNorm and is none: by rows of the image, and read twice.
    fun("group-norm-rows", (4, 4, 4), lambda x, p: grouped(x) * p + p, (1, 4, 1)),
    fun("group-norm-twice", (4, 4, 4), lambda x, p: grouped(x) * p + grouped(x), (4, 1, 1)),
    op("layer-norm", (5, 12), nn.Linear(12, 16), nn.LayerNorm(16)),
    op("layer-norm-2", (3, 5, 4), nn.Linear(4, 6), nn.LayerNorm((5, 6))),
    fun("relu", IMAGE, F.relu), fun("leaky-relu", IMAGE, lambda x: F.leaky_relu(x, 0.1)),
    op("prelu", IMAGE, nn.Conv2d(4, 8, 1), nn.PReLU(8)),
    op("prelu-1", IMAGE, nn.Conv2d(4, 8, 1), nn.PReLU(), nn.Conv2d(8, 4, 1)),
    fun("elu", (12,), F.elu), fun("sigmoid", IMAGE, torch.sigmoid), fun("tanh", (12,), torch.tanh),
    fun("gelu", (5, 12), F.gelu, first=lambda: nn.Linear(12, 12)),
    fun("gelu-tanh", (5, 12), lambda x: F.gelu(x, approximate="tanh"),
        first=lambda: nn.Linear(12, 12)),
    fun("erf", (12,), torch.erf), fun("softplus", (12,), F.softplus),
    fun("exp", (12,), lambda x: torch.exp(0.3 * x)),
    fun("log", (12,), lambda x: torch.log(x * x + 1)), fun("sqrt", (12,), lambda x: (x * x + 1).sqrt()),
    fun("pow", (12,), lambda x: (x * x + 1) ** 1.5), fun("square", (12,), lambda x: x ** 2),
    fun("reciprocal", (12,), lambda x: torch.reciprocal(x * x + 1)),
    fun("abs", (12,), torch.abs), fun("neg", (12,), torch.neg),
    fun("clip", (12,), lambda x: torch.clamp(x, -0.5, 0.7)),
    fun("hard-sigmoid", (12,), F.hardsigmoid),
    fun("silu", IMAGE, F.silu),
    fun("softmax", (5, 12), lambda x: F.softmax(x, -1), first=lambda: nn.Linear(12, 12)),
    fun("softmax-channels", IMAGE, lambda x: F.softmax(x, 1)),
    fun("log-softmax", (5, 12), lambda x: F.log_softmax(x, -1), first=lambda: nn.Linear(12, 12)),
    fun("add-row", (12,), lambda x, p: x + p, (12,)),
    fun("add-channel", IMAGE, lambda x, p: x + p, (4, 1, 1)),
    fun("add-image", IMAGE, lambda x, p: x + p, (1, 4, 5, 6)),
    fun("add-spots", IMAGE, lambda x, p: x + p, (5, 6)),
    fun("add-twice", IMAGE, lambda x: x + x), fun("sub", IMAGE, lambda x, p: p - x, (4, 1, 1)),
    fun("mul-channel", IMAGE, lambda x, p: x * p, (4, 1, 1)),
    fun("mul-image", IMAGE, lambda x, p: x * p, (4, 5, 6)),
    fun("mul-self", IMAGE, lambda x: x * x),
    fun("mul-gate", IMAGE, lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True))),
    fun("div", IMAGE, lambda x, p: x / (p * p + 1), (4, 1, 1)),
    fun("div-scalar", IMAGE, lambda x, p: p / (x * x + 1), (1,)),
    fun("scalar", IMAGE, lambda x: 2 * x + 0.5),
    fun("matmul", (5, 12), lambda x, p: x @ p, (12, 7), first=lambda: nn.Linear(12, 12)),
    fun("matmul-batch", (5, 12), lambda x: x @ x.transpose(1, 2), first=lambda: nn.Linear(12, 12)),
    fun("matmul-heads", (2, 5, 6), lambda x: (x.transpose(2, 3) @ x) @ x.transpose(2, 3),
        first=lambda: nn.Linear(6, 6)),
    fun("matmul-many", (2, 5, 6), lambda x, p: x @ p, (2, 6, 4), first=lambda: nn.Linear(6, 6)),
    fun("matmul-left", (2, 5, 6), lambda x, p: p @ x, (7, 5), first=lambda: nn.Linear(6, 6)),
    fun("matmul-spread", (2, 1, 6), lambda x, p: x.unsqueeze(2) @ p, (3, 6, 4),
        first=lambda: nn.Linear(6, 6)),
    fun("matmul-vector", (2, 5, 6), lambda x, p: x @ p, (6,), first=lambda: nn.Linear(6, 6)),
    fun("matmul-row", (2, 5, 6), lambda x, p: p @ x, (5,), first=lambda: nn.Linear(6, 6)),
    fun("concat", IMAGE, lambda x: torch.cat([x, F.relu(x), x * 2], 1)),
    fun("concat-rows", IMAGE, lambda x: torch.cat([x, F.relu(x)], 2)),
    fun("split", IMAGE, lambda x: torch.cat([p * (i + 1) for i, p in enumerate(x.split(3, 2))], 2)),
    fun("chunk", IMAGE, lambda x: torch.mul(*x.chunk(2, 1))),
    fun("slice", IMAGE, lambda x: x[:, 1:3, ::2, 2:-1]),
    fun("flip", IMAGE, lambda x: torch.cat([x, x.flip(3)], 1)),
    fun("pad", IMAGE, lambda x: F.pad(x, (1, 2, 0, 1))), fun("pad-value", IMAGE, lambda x: F.pad(x, (1, 2, 3, 1), value=0.5)),
    fun("pad-reflect", IMAGE, lambda x: F.pad(x, (1, 2, 3, 1), mode="reflect")),
    fun("pad-edge", VOLUME, lambda x: F.pad(x, (1, 2, 3, 1, 1, 1), mode="replicate")),
    fun("reshape", IMAGE, lambda x: x.reshape(x.shape[0], 8, -1)),
    fun("transpose", IMAGE, lambda x: x.permute(0, 2, 3, 1)),
    fun("squeeze", IMAGE, lambda x: x.mean(1, keepdim=True).squeeze(1).unsqueeze(2)),
    fun("expand", IMAGE, lambda x, p: torch.cat([p.expand(x.shape[0], -1, -1, -1), x], 1), (1, 2, 5, 6)),
    fun("mean-spots", IMAGE, lambda x: x.mean((2, 3))), fun("mean-rows", IMAGE, lambda x: x.mean(2)),
    fun("sum-channels", IMAGE, lambda x: x.sum(1)), fun("mean-keep", IMAGE, lambda x: x.mean(3, keepdim=True)),
    fun("upsample-nearest", IMAGE, lambda x: F.interpolate(x, scale_factor=2)),
    fun("upsample-linear", IMAGE, lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")),
    fun("upsample-aligned", IMAGE, lambda x: F.interpolate(x, size=(8, 13), mode="bilinear", align_corners=True)),
    fun("downsample-linear", IMAGE, lambda x: F.interpolate(x, size=(3, 4), mode="bilinear")),
    fun("upsample-trilinear", VOLUME, lambda x: F.interpolate(x, scale_factor=2, mode="trilinear")),
    fun("upsample-linear1d", LINE, lambda x: F.interpolate(x, scale_factor=3, mode="linear")),
    Case("segmentation", lambda: nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(),
                                               nn.Conv2d(8, 4, 1)), (1, 5, 6), steps=5),
]


# ---- what people train -------------------------------------------------------------------------


class Embedded(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.table(x.long()).mean(1))


class Tokens(Case):
    def input(self):
        return torch.randint(0, 20, (self.rows, *self.shape)).float()


class UNet3d(nn.Module):
    def __init__(self, norm, width=8, classes=3):
        super().__init__()

        def block(a, b):
            return nn.Sequential(nn.Conv3d(a, b, 3, padding=1), norm(b), nn.ReLU(),
                                 nn.Conv3d(b, b, 3, padding=1), norm(b), nn.ReLU())

        w = width
        self.down1, self.down2, self.bottom = block(1, w), block(w, 2 * w), block(2 * w, 4 * w)
        self.up2 = nn.ConvTranspose3d(4 * w, 2 * w, 2, 2)
        self.up1 = nn.ConvTranspose3d(2 * w, w, 2, 2)
        self.right2, self.right1 = block(4 * w, 2 * w), block(2 * w, w)
        self.head = nn.Conv3d(w, classes, 1)

    def forward(self, x):
        a = self.down1(x)
        b = self.down2(F.max_pool3d(a, 2))
        c = self.bottom(F.max_pool3d(b, 2))
        b = self.right2(torch.cat([self.up2(c), b], 1))
        return self.head(self.right1(torch.cat([self.up1(b), a], 1)))


class Attention(nn.Module):
    """A small vision transformer, pre-norm."""

    def __init__(self, dim=32, heads=4, depth=2, patch=7, size=28):
        super().__init__()
        self.embed = nn.Conv2d(1, dim, patch, patch)
        self.token = nn.Parameter(torch.randn(1, 1, dim))
        self.place = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, dim))
        self.layers = nn.ModuleList(
            [nn.ModuleDict({"n1": nn.LayerNorm(dim), "qkv": nn.Linear(dim, 3 * dim),
                            "out": nn.Linear(dim, dim), "n2": nn.LayerNorm(dim),
                            "up": nn.Linear(dim, 4 * dim), "down": nn.Linear(4 * dim, dim)})
             for _ in range(depth)])
        self.heads, self.norm, self.head = heads, nn.LayerNorm(dim), nn.Linear(dim, 2)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.place
        n, length, dim = x.shape
        for l in self.layers:
            q, k, v = l["qkv"](l["n1"](x)).reshape(n, length, 3, self.heads,
                                                   dim // self.heads).permute(2, 0, 3, 1, 4)
            a = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, dim)
            x = x + l["out"](a)
            x = x + l["down"](F.gelu(l["up"](l["n2"](x))))
        return self.head(self.norm(x)[:, 0])


def resnet18(norm=None, channels=1, classes=2):
    import torchvision
    model = torchvision.models.resnet18(num_classes=classes, norm_layer=norm)
    model.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
    return model


def densenet121(channels=1, classes=2):
    import torchvision
    model = torchvision.models.densenet121(num_classes=classes)
    model.features.conv0 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
    return model


MODELS = [
    Tokens("embedding", Embedded, (7,)),
    Case("unet3d-instance", lambda: UNet3d(lambda c: nn.InstanceNorm3d(c, affine=True)),
         (1, 16, 16, 16), rows=2),
    Case("unet3d-group", lambda: UNet3d(lambda c: nn.GroupNorm(4, c)), (1, 16, 16, 16), rows=2),
    Case("unet3d-dice", lambda: UNet3d(lambda c: nn.GroupNorm(4, c)), (1, 16, 16, 16), rows=2,
         loss="dice_ce", steps=100, lr=0.02),
    Case("unet3d-batch", lambda: UNet3d(nn.BatchNorm3d), (1, 16, 16, 16), rows=2, steps=20,
         lr=0.02, curve=1e-2),
    Case("vit", Attention, (1, 28, 28), rows=4),
    Case("resnet18-batch", resnet18, (1, 28, 28), rows=8),
    Case("resnet18-group", lambda: resnet18(lambda c: nn.GroupNorm(8, c)), (1, 28, 28), rows=4),
    Case("densenet121", densenet121, (1, 64, 64), rows=4),
]

CASES = OPS + MODELS
