"""SplitMask's training step written by hand in plain torch, the yardstick of benchmark.py: the same mathematics, no
layers, no Keras."""

import math

import torch
from torch.nn import functional as F


def linear(p, name, x):
    return F.linear(x, p[f"{name}/kernel"], p[f"{name}/bias"])


def norm(p, name, x):
    return F.layer_norm(x, x.shape[-1:], p[f"{name}/gamma"], p[f"{name}/beta"], 1e-6)


def block(p, name, x, heads):
    """x (B, n, D) to (B, n, D)."""
    batch, count, width = x.shape
    qkv = linear(p, f"{name}/attention/qkv", norm(p, f"{name}/norm_attention", x)).view(batch, count, 3, heads, -1)
    mixed = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4)).transpose(1, 2).reshape(batch, count, width)
    x = x + linear(p, f"{name}/attention/project", mixed)
    return x + linear(p, f"{name}/contract", F.gelu(linear(p, f"{name}/expand", norm(p, f"{name}/norm_mlp", x))))


def blocks(p, prefix, x, heads):
    depth = len([name for name in p if name.startswith(f"{prefix}block_") and name.endswith("expand/kernel")])
    for i in range(depth):
        x = block(p, f"{prefix}block_{i + 1}", x, heads)
    return norm(p, f"{prefix}norm", x)


def to_patches(x, side):
    """x (B, H, W, C) to (B, N, side * side * C)."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // side, side, width // side, side, channels).transpose(2, 3)
    return x.reshape(batch, -1, side * side * channels)


def split(order, seen):
    """The positions (2B, n) that the branches see and those (2B, N - n) that they do not; the halves of an image in
    turn."""
    a, b, rest = order[:, :seen], order[:, seen : 2 * seen], order[:, 2 * seen :]

    def pair(x, y):
        return torch.stack([x, y], dim=1).flatten(0, 1)

    return pair(a, b), pair(torch.cat([b, rest], dim=1), torch.cat([a, rest], dim=1))


def objective(p, vectors, images, order, setting):
    """The loss of images (B, H, W, C) uint8 whose patches are assigned by `order` (B, N)."""
    x = (images.float() / 255 - setting.mean) / setting.std
    rows = torch.arange(len(images), device=x.device).repeat_interleave(2)[:, None]
    seen, unseen = split(order, setting.seen)

    patches = to_patches(x, setting.patch_size)
    tokens = linear(p, "patch_embedding/project", patches[rows, seen]) + F.embedding(
        seen, p["patch_embedding/positions"]
    )  # (2B, n, D)
    tokens = torch.cat([p["cls_token"].expand(len(tokens), -1, -1), tokens], dim=1)
    tokens = blocks(p, "", tokens, setting.heads)  # (2B, 1 + n, D)
    masks = p["decoder/mask_token"] + F.embedding(unseen, p["decoder/positions"])
    hidden = blocks(p, "decoder/", torch.cat([tokens, masks], dim=1), setting.heads)  # (2B, 1 + N, D)

    if setting.half:
        x = x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).mean(dim=(2, 4))
    with torch.autocast(x.device.type, enabled=False):  # words are chosen in float32
        words = (to_patches(x, setting.patch_size // (2 if setting.half else 1)) @ vectors.T).argmax(dim=-1)  # (B, N)
    logits = linear(p, "decoder/words", hidden[:, -unseen.shape[1] :])
    inpaint = F.cross_entropy(logits.flatten(0, 1), words[rows, unseen].flatten())

    pooled = F.normalize(hidden[:, 1:].mean(dim=1), dim=-1, eps=1e-6)
    similarity = pooled[0::2] @ pooled[1::2].T / setting.temperature  # (B, B)
    own = torch.arange(len(images), device=x.device)
    return inpaint + (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)) / 2


def learning_rate(step, setting):
    if step < setting.warmup:
        return setting.peak * step / setting.warmup
    share = min(1.0, (step - setting.warmup) / (setting.steps - setting.warmup))
    return setting.floor + (setting.peak - setting.floor) * (1 + math.cos(math.pi * share)) / 2


class Plain:
    """Holds the state, on a GPU if there is one; `setting` tells what is fixed, see benchmark.py."""

    def __init__(self, weights, vectors, setting):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        # `F.linear` takes its kernels transposed.
        self.weights = {
            name: (
                torch.tensor(value.T if name.endswith("kernel") else value, device=self.device)
                .contiguous()
                .requires_grad_()
            )
            for name, value in weights.items()
        }
        self.vectors = torch.tensor(vectors, device=self.device)
        self.setting = setting
        setting.mean, setting.std = (
            torch.as_tensor(value, dtype=torch.float32, device=self.device) for value in (setting.mean, setting.std)
        )
        self.objective = torch.compile(objective) if setting.compiled else objective
        decay = [p for name, p in self.weights.items() if name.endswith("kernel")]
        others = [p for name, p in self.weights.items() if not name.endswith("kernel")]
        groups = [{"params": decay, "weight_decay": setting.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(
            groups, betas=(setting.beta_1, setting.beta_2), eps=setting.epsilon, fused=True
        )
        # LambdaLR multiplies AdamW's default rate, 1e-3.
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: learning_rate(step, setting) / 1e-3
        )

    def loss(self, images, order):
        with torch.no_grad():
            return float(self._loss(objective, torch.tensor(images, device=self.device), order))

    def _loss(self, objective, images, order):
        if order is None:
            order = torch.rand(len(images), self.setting.count, device=self.device).argsort(dim=1)
        order = torch.as_tensor(order, device=self.device).long()
        with torch.autocast(
            self.device, getattr(torch, self.setting.precision), enabled=self.setting.precision != "float32"
        ):
            return objective(self.weights, self.vectors, images, order, self.setting)

    def step(self, images, order):
        loss = self._loss(self.objective, torch.as_tensor(images).to(self.device), order)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights.values(), self.setting.clip_norm)
        self.optimizer.step()
        self.schedule.step()
        return loss.detach()

    def steps(self, images, count, order=None):
        """`count` steps on the same images, each with a new order unless `order` is given; returns the last loss when
        all are done."""
        for _ in range(count):
            loss = self.step(images, order)
        # Reading the loss waits for the device.
        return float(loss)
