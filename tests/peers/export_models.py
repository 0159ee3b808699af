#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Exports well-known architectures with PyTorch's two ONNX exporters, small and with random weights,
as files that the graph reader must read (tests/peers). Usage: export_models.py FOLDER [NAME...]"""
import os
import sys

import torch
import torch.nn as nn
import torch.nn.functional as F
import torchvision


class Perceptron(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(13, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 8),
                                  nn.Tanh(), nn.Linear(8, 2))

    def forward(self, x):
        return self.body(x)


def group_norm(channels):
    return nn.GroupNorm(8, channels)


class UNet3d(nn.Module):
    """Two levels; `norm` and `up` choose between the usual building blocks."""

    def __init__(self, norm, up, act=nn.ReLU):
        super().__init__()

        def block(a, b):
            return nn.Sequential(nn.Conv3d(a, b, 3, padding=1), norm(b), act(),
                                 nn.Conv3d(b, b, 3, padding=1), norm(b), act())

        self.down1, self.down2, self.bottom = block(1, 8), block(8, 16), block(16, 32)
        if up == "transpose":
            self.up2, self.up1 = nn.ConvTranspose3d(32, 16, 2, 2), nn.ConvTranspose3d(16, 8, 2, 2)
        else:
            self.up2 = nn.Sequential(nn.Upsample(scale_factor=2, mode=up), nn.Conv3d(32, 16, 1))
            self.up1 = nn.Sequential(nn.Upsample(scale_factor=2, mode=up), nn.Conv3d(16, 8, 1))
        self.right2, self.right1, self.head = block(32, 16), block(16, 8), nn.Conv3d(8, 3, 1)

    def forward(self, x):
        a = self.down1(x)
        b = self.down2(F.max_pool3d(a, 2))
        c = self.bottom(F.max_pool3d(b, 2))
        b = self.right2(torch.cat([self.up2(c), b], 1))
        return self.head(self.right1(torch.cat([self.up1(b), a], 1)))


class Interpolated(nn.Module):
    """Decoders that take the size from the skip, and a few operators of segmentation heads."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.act, self.leaky, self.norm = nn.PReLU(16), nn.LeakyReLU(0.1), nn.InstanceNorm2d(8, affine=True)
        self.head = nn.Conv2d(24, 2, 1)

    def forward(self, x):
        a = self.leaky(self.norm(self.a(x)))
        b = self.act(self.b(a))
        u = F.interpolate(b, size=a.shape[2:], mode="bilinear", align_corners=False)
        y = F.interpolate(self.head(torch.cat([u, a], 1)), size=x.shape[2:], mode="bilinear",
                          align_corners=True)
        return F.pad(y, (1, 1, 0, 0), mode="reflect")


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        n, t, d = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(n, t, d))


class Layer(nn.Module):
    def __init__(self, dim, heads, own):
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.own = own
        self.att = Attention(dim, heads) if own else nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(approximate="tanh" if own else "none"),
                                 nn.Dropout(0.1), nn.Linear(2 * dim, dim))

    def forward(self, x):
        y = self.n1(x)
        x = x + (self.att(y) if self.own else self.att(y, y, y, need_weights=False)[0])
        return x + self.mlp(self.n2(x))


class Vit(nn.Module):
    def __init__(self, own):
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 32))
        self.place = nn.Parameter(torch.randn(1, 17, 32))
        self.layers = nn.Sequential(Layer(32, 4, own), Layer(32, 4, own))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 5)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.place
        return self.head(self.norm(self.layers(x))[:, 0])


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.hidden, self.head = nn.Embedding(50, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x):
        return self.head(F.gelu(self.hidden(self.words(x.long()))).mean(1))


class Elementary(nn.Module):
    """Activations and arithmetic that the others do not have."""

    def __init__(self):
        super().__init__()
        self.scale, self.lin = nn.Parameter(torch.ones(6)), nn.Linear(6, 6, bias=False)

    def forward(self, x):
        a, b = self.lin(x)[:, :3], self.lin(x)[:, 3:]
        y = torch.cat([F.elu(a), b], 1) * self.scale - x / 2
        y = F.hardtanh(y) + F.silu(y) + torch.exp(-y.abs()) + F.hardswish(y)
        y = y / (y.pow(2).sum(1, keepdim=True).sqrt() + 1e-6) + torch.log(1 + y * y) + torch.sigmoid(y)
        return F.log_softmax(y, 1)


MODELS = {
    "mlp": (Perceptron, (13,)),
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=9), (3, 64, 64)),
    "resnet18-gn": (lambda: torchvision.models.resnet18(num_classes=9, norm_layer=group_norm), (3, 64, 64)),
    "densenet121": (lambda: torchvision.models.densenet121(num_classes=14), (3, 64, 64)),
    "mobilenet": (lambda: torchvision.models.mobilenet_v3_small(num_classes=4), (3, 64, 64)),
    "squeezenet": (lambda: torchvision.models.squeezenet1_1(num_classes=4), (3, 64, 64)),
    "unet3d": (lambda: UNet3d(nn.BatchNorm3d, "transpose"), (1, 16, 16, 16)),
    "unet3d-in": (lambda: UNet3d(lambda c: nn.InstanceNorm3d(c, affine=True), "nearest", nn.LeakyReLU), (1, 16, 16, 16)),
    "unet3d-gn": (lambda: UNet3d(lambda c: nn.GroupNorm(4, c), "trilinear"), (1, 16, 16, 16)),
    "interpolated": (Interpolated, (3, 33, 30)),
    "vit-mha": (lambda: Vit(False), (3, 32, 32)),
    "vit-sdpa": (lambda: Vit(True), (3, 32, 32)),
    "vit-torchvision": (lambda: torchvision.models.VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=5), (3, 32, 32)),
    "tokens": (Tokens, (7,)),
    "elementary": (Elementary, (6,)),
}


def export(name, folder):
    """script and raw are for training: every parameter is an initialiser of its own. optimised folds
    normalisations and ties initialisers of equal values, which is for inference only."""
    make, row = MODELS[name]
    for exporter in ("script", "raw", "optimised"):
        torch.manual_seed(1)
        # An in-place dropout becomes random numbers in the newer exporter's files for training.
        model, x = make().train(exporter == "script" or name != "mobilenet"), torch.rand(2, *row) * 40
        path = os.path.join(folder, f"{name}.{exporter}.onnx")
        if exporter == "script":
            torch.onnx.export(model, (x,), path, dynamo=False, opset_version=17,
                              training=torch.onnx.TrainingMode.TRAINING, do_constant_folding=False,
                              input_names=["x"], output_names=["y"],
                              dynamic_axes={"x": {0: "N"}, "y": {0: "N"}})
        else:
            torch.onnx.export(model, (x,), path, dynamo=True, external_data=False, verbose=False,
                              optimize=exporter == "optimised", input_names=["x"],
                              output_names=["y"], dynamic_shapes=({0: torch.export.Dim("N")},))


if __name__ == "__main__":
    os.makedirs(sys.argv[1], exist_ok=True)
    torch.set_num_threads(1)
    for wanted in sys.argv[2:] or MODELS:
        export(wanted, sys.argv[1])
