"""SplitMask's training step written by hand in plain JAX, the yardstick of benchmark.py: the same mathematics, no
layers, no Keras."""

import jax
import numpy as np
from jax import numpy as jnp


def linear(p, name, x):
    return x @ p[f"{name}/kernel"] + p[f"{name}/bias"]


def norm(p, name, x):
    precision, x = x.dtype, x.astype("float32")
    x = x - x.mean(axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)
    return (x * p[f"{name}/gamma"] + p[f"{name}/beta"]).astype(precision)


def block(p, name, x, heads):
    """x (B, n, D) to (B, n, D)."""
    batch, count, width = x.shape
    qkv = linear(p, f"{name}/attention/qkv", norm(p, f"{name}/norm_attention", x)).reshape(batch, count, 3, heads, -1)
    mixed = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]).reshape(batch, count, width)
    x = x + linear(p, f"{name}/attention/project", mixed)
    hidden = jax.nn.gelu(linear(p, f"{name}/expand", norm(p, f"{name}/norm_mlp", x)), approximate=False)
    return x + linear(p, f"{name}/contract", hidden)


def blocks(p, prefix, x, heads):
    depth = len([name for name in p if name.startswith(f"{prefix}block_") and name.endswith("expand/kernel")])
    for i in range(depth):
        x = block(p, f"{prefix}block_{i + 1}", x, heads)
    return norm(p, f"{prefix}norm", x)


def to_patches(x, side):
    """x (B, H, W, C) to (B, N, side * side * C)."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // side, side, width // side, side, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, -1, side * side * channels)


def split(order, seen):
    """The positions (2B, n) that the branches see and those (2B, N - n) that they do not; the halves of an image in
    turn."""
    a, b, rest = order[:, :seen], order[:, seen : 2 * seen], order[:, 2 * seen :]

    def pair(x, y):
        return jnp.stack([x, y], axis=1).reshape(-1, x.shape[1])

    return pair(a, b), pair(jnp.concatenate([b, rest], axis=1), jnp.concatenate([a, rest], axis=1))


def cross_entropy(logits, ids):
    """Mean over all rows. The comparison with `ids` fuses with its neighbours, where a gather's gradient would be a
    scatter."""
    logits = logits.astype("float32")
    chosen = ids[..., None] == jnp.arange(logits.shape[-1])
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - jnp.sum(jnp.where(chosen, logits, 0), axis=-1))


def objective(p, vectors, images, order, setting):
    """The loss of images (B, H, W, C) uint8 whose patches are assigned by `order` (B, N)."""
    x = (images / np.float32(255) - setting.mean) / setting.std
    p = {name: value.astype(setting.precision) for name, value in p.items()}
    rows = jnp.arange(len(images)).repeat(2)[:, None]
    seen, unseen = split(order, setting.seen)

    patches = to_patches(x, setting.patch_size).astype(setting.precision)
    tokens = (
        linear(p, "patch_embedding/project", patches[rows, seen]) + p["patch_embedding/positions"][seen]
    )  # (2B, n, D)
    cls_token = jnp.broadcast_to(p["cls_token"], (len(tokens), 1, tokens.shape[-1]))
    tokens = blocks(p, "", jnp.concatenate([cls_token, tokens], axis=1), setting.heads)  # (2B, 1 + n, D)
    masks = p["decoder/mask_token"] + p["decoder/positions"][unseen]
    hidden = blocks(p, "decoder/", jnp.concatenate([tokens, masks], axis=1), setting.heads)  # (2B, 1 + N, D)

    if setting.half:
        x = x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).mean(axis=(2, 4))
    words = jnp.argmax(to_patches(x, setting.patch_size // (2 if setting.half else 1)) @ vectors.T, axis=-1)  # (B, N)
    inpaint = cross_entropy(linear(p, "decoder/words", hidden[:, -unseen.shape[1] :]), words[rows, unseen])

    pooled = hidden[:, 1:].mean(axis=1, dtype="float32")
    pooled = (pooled * jax.lax.rsqrt(jnp.sum(pooled**2, axis=-1, keepdims=True) + 1e-12)).reshape(len(images), 2, -1)
    similarity = pooled[:, 0] @ pooled[:, 1].T / setting.temperature  # (B, B)
    own = jnp.arange(len(images))
    return inpaint + (cross_entropy(similarity, own) + cross_entropy(similarity.T, own)) / 2


def learning_rate(step, setting):
    rise = setting.peak * step / max(1, setting.warmup)
    share = jnp.clip((step - setting.warmup) / (setting.steps - setting.warmup), 0, 1)
    return jnp.where(
        step < setting.warmup, rise, setting.floor + (setting.peak - setting.floor) * (1 + jnp.cos(jnp.pi * share)) / 2
    )


def adamw(state, gradients, setting):
    """One step of AdamW on gradients clipped to a norm; matrices decay, all else does not."""
    step = state["step"] + 1
    rate = learning_rate(state["step"], setting)
    size = jnp.sqrt(sum(jnp.sum(g * g) for g in gradients.values()))
    shrink = setting.clip_norm / jnp.maximum(size, setting.clip_norm)
    alpha = rate * jnp.sqrt(1 - setting.beta_2**step) / (1 - setting.beta_1**step)
    new = {"step": step, "key": state["key"], "weights": {}, "first": {}, "second": {}}
    for name, g in gradients.items():
        g = g * shrink
        new["first"][name] = first = state["first"][name] + (1 - setting.beta_1) * (g - state["first"][name])
        new["second"][name] = second = state["second"][name] + (1 - setting.beta_2) * (g * g - state["second"][name])
        keep = 1 - rate * setting.weight_decay if name.endswith("kernel") else 1
        new["weights"][name] = state["weights"][name] * keep - alpha * first / (jnp.sqrt(second) + setting.epsilon)
    return new


class Plain:
    """Holds the state; `setting` tells what is fixed, see benchmark.py."""

    def __init__(self, weights, vectors, setting):
        weights = {name: jnp.array(value) for name, value in weights.items()}

        def zeros():
            return {name: jnp.zeros_like(value) for name, value in weights.items()}

        self.state = {
            "step": jnp.array(0),
            "key": jax.random.key(0),
            "weights": weights,
            "first": zeros(),
            "second": zeros(),
        }
        self.vectors = jnp.array(vectors)
        self.objective = jax.jit(lambda p, vectors, images, order: objective(p, vectors, images, order, setting))

        def step(state, vectors, images, order):
            if order is None:
                key = jax.random.fold_in(state["key"], state["step"])
                order = jnp.argsort(jax.random.uniform(key, (len(images), setting.count)), axis=1)
            loss, gradients = jax.value_and_grad(objective)(state["weights"], vectors, images, order, setting)
            return adamw(state, gradients, setting), loss

        # Donated, as Keras does: the new state takes the memory of the old one.
        self.compiled = jax.jit(step, donate_argnums=0)

    def loss(self, images, order):
        return float(self.objective(self.state["weights"], self.vectors, images, order))

    def steps(self, images, count, order=None):
        """`count` steps on the same images, each with a new order unless `order` is given; returns the last loss when
        all are done."""
        for _ in range(count):
            self.state, loss = self.compiled(self.state, self.vectors, images, order)
        # JAX returns before it has computed.
        return float(jax.block_until_ready((self.state, loss))[1])
