"""SplitMask's training step written by hand in plain TensorFlow, the yardstick of benchmark.py: the same mathematics,
no layers, no Keras."""

import math

import tensorflow as tf


def linear(p, name, x):
    kernel, bias = p[f"{name}/kernel"], p[f"{name}/bias"]
    product = tf.nn.bias_add(tf.linalg.matmul(tf.reshape(x, (-1, kernel.shape[0])), kernel), bias)
    return tf.reshape(product, (*x.shape[:-1], kernel.shape[1]))


def norm(p, name, x):
    precision, x = x.dtype, tf.cast(x, tf.float32)
    x = x - tf.reduce_mean(x, axis=-1, keepdims=True)
    x = x * tf.math.rsqrt(tf.reduce_mean(x * x, axis=-1, keepdims=True) + 1e-6)
    return tf.cast(x * tf.cast(p[f"{name}/gamma"], tf.float32) + tf.cast(p[f"{name}/beta"], tf.float32), precision)


def block(p, name, x, heads):
    """x (B, n, D) to (B, n, D)."""
    batch, count, width = x.shape
    qkv = tf.reshape(
        linear(p, f"{name}/attention/qkv", norm(p, f"{name}/norm_attention", x)),
        (batch, count, 3, heads, width // heads),
    )
    query, key, value = tf.unstack(tf.transpose(qkv, (2, 0, 3, 1, 4)))  # (B, heads, n, D / heads)
    shares = tf.nn.softmax(tf.linalg.matmul(query * (width // heads) ** -0.5, key, transpose_b=True))
    mixed = tf.reshape(tf.transpose(tf.linalg.matmul(shares, value), (0, 2, 1, 3)), (batch, count, width))
    x = x + linear(p, f"{name}/attention/project", mixed)
    return x + linear(p, f"{name}/contract", tf.nn.gelu(linear(p, f"{name}/expand", norm(p, f"{name}/norm_mlp", x))))


def blocks(p, prefix, x, heads):
    depth = len([name for name in p if name.startswith(f"{prefix}block_") and name.endswith("expand/kernel")])
    for i in range(depth):
        x = block(p, f"{prefix}block_{i + 1}", x, heads)
    return norm(p, f"{prefix}norm", x)


def to_patches(x, side):
    """x (B, H, W, C) to (B, N, side * side * C)."""
    batch, height, width, channels = x.shape
    x = tf.reshape(x, (batch, height // side, side, width // side, side, channels))
    return tf.reshape(tf.transpose(x, (0, 1, 3, 2, 4, 5)), (batch, -1, side * side * channels))


def split(order, seen):
    """The positions (2B, n) that the branches see and those (2B, N - n) that they do not; the halves of an image in
    turn."""
    a, b, rest = order[:, :seen], order[:, seen : 2 * seen], order[:, 2 * seen :]

    def pair(x, y):
        return tf.reshape(tf.stack([x, y], axis=1), (-1, x.shape[1]))

    return pair(a, b), pair(tf.concat([b, rest], axis=1), tf.concat([a, rest], axis=1))


def cross_entropy(logits, ids):
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(ids, tf.cast(logits, tf.float32)))


def objective(p, vectors, images, order, setting):
    """The loss of images (B, H, W, C) uint8 whose patches are assigned by `order` (B, N)."""
    x = (tf.cast(images, tf.float32) / 255 - setting.mean) / setting.std
    p = {name: tf.cast(value, setting.precision) for name, value in p.items()}
    seen, unseen = split(order, setting.seen)

    def of_halves(values, places):
        return tf.gather(tf.repeat(values, 2, axis=0), places, batch_dims=1)

    patches = of_halves(tf.cast(to_patches(x, setting.patch_size), setting.precision), seen)
    tokens = linear(p, "patch_embedding/project", patches) + tf.gather(
        p["patch_embedding/positions"], seen
    )  # (2B, n, D)
    cls_token = tf.broadcast_to(p["cls_token"], (tokens.shape[0], 1, tokens.shape[-1]))
    tokens = blocks(p, "", tf.concat([cls_token, tokens], axis=1), setting.heads)  # (2B, 1 + n, D)
    masks = p["decoder/mask_token"] + tf.gather(p["decoder/positions"], unseen)
    hidden = blocks(p, "decoder/", tf.concat([tokens, masks], axis=1), setting.heads)  # (2B, 1 + N, D)

    if setting.half:
        x = tf.reduce_mean(tf.reshape(x, (x.shape[0], x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1)), axis=(2, 4))
    sides = to_patches(x, setting.patch_size // (2 if setting.half else 1))
    words = tf.argmax(tf.linalg.matmul(sides, vectors, transpose_b=True), axis=-1, output_type=tf.int32)  # (B, N)
    inpaint = cross_entropy(linear(p, "decoder/words", hidden[:, -unseen.shape[1] :]), of_halves(words, unseen))

    pooled = tf.math.l2_normalize(tf.reduce_mean(tf.cast(hidden[:, 1:], tf.float32), axis=1), axis=-1)
    similarity = tf.linalg.matmul(pooled[0::2], pooled[1::2], transpose_b=True) / setting.temperature  # (B, B)
    own = tf.range(similarity.shape[0])
    return inpaint + (cross_entropy(similarity, own) + cross_entropy(tf.transpose(similarity), own)) / 2


def learning_rate(step, setting):
    rise = setting.peak * step / max(1, setting.warmup)
    share = tf.clip_by_value((step - setting.warmup) / (setting.steps - setting.warmup), 0, 1)
    return tf.where(
        step < setting.warmup, rise, setting.floor + (setting.peak - setting.floor) * (1 + tf.cos(math.pi * share)) / 2
    )


class Plain:
    """Holds the state; `setting` tells what is fixed, see benchmark.py."""

    def __init__(self, weights, vectors, setting):
        self.weights = {name: tf.Variable(value) for name, value in weights.items()}
        self.moments = {
            name: (tf.Variable(tf.zeros_like(v)), tf.Variable(tf.zeros_like(v))) for name, v in self.weights.items()
        }
        self.count = tf.Variable(0.0)
        self.vectors, self.setting = tf.constant(vectors), setting
        self.compiled = tf.function(self._step, jit_compile=setting.compiled)

    def loss(self, images, order):
        return float(objective(self.weights, self.vectors, tf.constant(images), tf.constant(order), self.setting))

    def _step(self, images, order):
        if order is None:
            order = tf.argsort(tf.random.uniform((images.shape[0], self.setting.count)), axis=1)
        with tf.GradientTape() as tape:
            loss = objective(self.weights, self.vectors, images, order, self.setting)
        gradients = tape.gradient(loss, list(self.weights.values()))
        gradients, _ = tf.clip_by_global_norm([tf.convert_to_tensor(g) for g in gradients], self.setting.clip_norm)
        rate = learning_rate(self.count, self.setting)
        self.count.assign_add(1.0)
        for (name, weight), g in zip(self.weights.items(), gradients, strict=True):
            if name.endswith("kernel"):
                weight.assign(weight * (1 - rate * self.setting.weight_decay))
            first, second = self.moments[name]
            tf.raw_ops.ResourceApplyAdam(
                var=weight.handle,
                m=first.handle,
                v=second.handle,
                beta1_power=self.setting.beta_1**self.count,
                beta2_power=self.setting.beta_2**self.count,
                lr=rate,
                beta1=self.setting.beta_1,
                beta2=self.setting.beta_2,
                epsilon=self.setting.epsilon,
                grad=g,
            )
        return loss

    def steps(self, images, count, order=None):
        """`count` steps on the same images, each with a new order unless `order` is given; returns the last loss when
        all are done."""
        images = tf.constant(images)
        for _ in range(count):
            loss = self.compiled(images, order)
        return float(loss)
