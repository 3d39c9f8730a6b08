"""DINO (Caron et al., 2021, "Emerging properties in self-supervised vision transformers") on SplitMask's encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_splitmask import losses
from keras_splitmask.backend.distribution import gather_batch, mean_of_batch
from keras_splitmask.backend.layers import Dense, gelu
from keras_splitmask.backend.typing import Array, Float, Int, Shaped
from keras_splitmask.encoder import Encoder
from keras_splitmask.options import check_number
from keras_splitmask.patches import grid_shape
from keras_splitmask.resampling import resampling_matrix
from keras_splitmask.training.batch import Batch
from keras_splitmask.training.inputs import check_absolute
from keras_splitmask.training.objective_model import ObjectiveModel
from keras_splitmask.training.pixels import shape_text

HIDDEN, BOTTLENECK = 2048, 256  # widths of the head


def local_size(image_shape: Sequence[int], patch_size: int) -> tuple[int, ...]:
    """Compute (height, width) of a local crop: 96 of 224 pixels, rounded to a multiple of the patch."""
    return tuple(max(1, round(side * 96 / 224 / patch_size)) * patch_size for side in image_shape[:2])


@keras.saving.register_keras_serializable("keras_splitmask")
class DINOHead(keras.layers.Layer):
    """Map tokens (..., D) to their cosines with K prototypes (..., K): two hidden layers, a bottleneck, the prototypes.

    The prototypes are a linear layer without bias, weight-normalised, with its gain fixed at 1.
    """

    def __init__(self, width: int, prototypes: int, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.prototypes = prototypes
        small = keras.initializers.TruncatedNormal(stddev=0.02)
        sizes = {"expand": HIDDEN, "hidden": HIDDEN, "bottleneck": BOTTLENECK}
        self.expand, self.hidden, self.bottleneck = (
            Dense(size, kernel_initializer=small, dtype=self.dtype_policy, name=name) for name, size in sizes.items()
        )
        self.build((None, width))

    def build(self, tokens_shape):
        for layer, width in ((self.expand, self.width), (self.hidden, HIDDEN), (self.bottleneck, HIDDEN)):
            layer.build((None, width))
        small = keras.initializers.TruncatedNormal(stddev=0.02)
        self.kernel = self.add_weight(
            shape=(BOTTLENECK, self.prototypes), initializer=small, autocast=False, name="kernel"
        )
        self.built = True

    def call(self, tokens: Float[Array, "*axes D"]) -> Float[Array, "*axes K"]:
        tokens = gelu(self.expand(tokens))  # (..., 2048)
        tokens = gelu(self.hidden(tokens))
        tokens = losses.unit(self.bottleneck(tokens))  # (..., 256)
        # Weight normalisation in float32 in every precision, hence autocast=False above.
        kernel = self.kernel * ops.rsqrt(ops.sum(self.kernel * self.kernel, axis=0, keepdims=True) + 1e-12)
        return ops.matmul(ops.cast(tokens, self.compute_dtype), ops.cast(kernel, self.compute_dtype))

    def get_config(self):
        return {**super().get_config(), "width": self.width, "prototypes": self.prototypes}


@keras.saving.register_keras_serializable("keras_splitmask")
class DINO(ObjectiveModel):
    """Train a student to predict, from any crop of an image, a teacher's output for its two large crops.

    The teacher is a moving average of the student. `fit` takes dictionaries of crops, as `data.view_batches` returns
    them: "global" (B, 2, H, W, C), the large ones, and "local" (B, k, h, w, C). The result, `encoder`, is the teacher,
    as in the paper.

    Args:
        encoder: an `Encoder`, the teacher's. The student starts as its copy. Only the student has drop path and
            gradients.
        steps: optimizer steps of the whole run, over which the teacher's momentum rises.
        prototypes: K; 65536 in the paper. A few thousand are enough for small sets, and cheaper.
        local_shape: (height, width) of the local crops. Default: as `local_size` computes it.
        momentum: momentum of the teacher in the first step; it rises to 1 along half a cosine. 0.996 in the paper,
            0.9995 for batches of 256.
        centre_momentum: momentum of the centre, the mean of the teacher's outputs. It is subtracted from them, so that
            no prototype always wins.
        temperature: temperature of the student.
        teacher_temperatures: temperature of the teacher in the first step and after `teacher_warmup`, linear between.
            Lower than the student's, so that the prototypes do not all become equally likely. Both 0.04 in the paper;
            its longer runs end at 0.07.
        teacher_warmup: number of steps.
        augmentation: an `AugmentViews` for the crops of a training step.
        seed: decides all random numbers of training, together with the number of the step.
    """

    def __init__(
        self,
        encoder: Encoder,
        steps: int,
        prototypes: int = 65536,
        local_shape: Sequence[int] | None = None,
        momentum: float = 0.996,
        centre_momentum: float = 0.9,
        temperature: float = 0.1,
        teacher_temperatures: Sequence[float] = (0.04, 0.04),
        teacher_warmup: int = 0,
        augmentation: keras.layers.Layer | None = None,
        seed: int = 0,
        name: str = "dino",
        **kwargs,
    ):
        super().__init__(
            encoder,
            logged=["teacher_entropy", "feature_std"],
            seed=seed,
            augmentation=augmentation,
            name=name,
            **kwargs,
        )
        check_absolute(encoder)
        if min(steps, prototypes) < 1 or not 0 <= momentum <= 1 or not 0 <= centre_momentum < 1:
            raise ValueError(
                "Expected steps and prototypes of at least 1, a momentum in [0, 1] and a centre_momentum in [0, 1), "
                f"received {steps=}, {prototypes=}, {momentum=}, {centre_momentum=}."
            )
        for each in (temperature, *teacher_temperatures):
            check_number("each temperature", each, 1e-3, 100)
        if teacher_warmup < 0:
            raise ValueError(f"Expected a teacher_warmup of at least 0 steps, received {teacher_warmup=}.")
        self.steps = steps
        self.prototypes = prototypes
        self.local_shape = tuple(local_shape or local_size(encoder.image_shape, encoder.patch_size))
        self.momentum = momentum
        self.centre_momentum = centre_momentum
        self.temperature = temperature
        self.teacher_temperatures = tuple(teacher_temperatures)
        self.teacher_warmup = teacher_warmup
        self.head = DINOHead(encoder.width, prototypes, dtype=self.dtype_policy, name="head")
        # Another name: paths tell the student's weights from the teacher's in checkpoints.
        self.student = Encoder.from_config({**encoder.get_config(), "name": "student"})
        self.student_head = DINOHead(encoder.width, prototypes, dtype=self.dtype_policy, name="student_head")
        local_grid = grid_shape((*self.local_shape, encoder.image_shape[-1]), encoder.patch_size)
        # Matrices: XLA on TensorFlow cannot resize with antialiasing.
        self.resampling = [
            resampling_matrix(old, new, "bicubic").astype("float32")
            for old, new in zip(encoder.grid, local_grid, strict=True)
        ]
        self.build((None, *encoder.image_shape))

    def build(self, images_shape):
        # Variables, since `objective` does not get the number of the step; autocast=False keeps them in float32.
        first = keras.initializers.Constant(self.teacher_temperatures[0])
        self.teacher_temperature = self.add_weight(
            shape=(), initializer=first, trainable=False, autocast=False, name="temperature"
        )
        self.centre = self.add_weight(
            shape=(self.prototypes,), initializer="zeros", trainable=False, autocast=False, name="centre"
        )
        self.start_student()
        super().build(images_shape)

    def start_student(self) -> None:
        """Make the student a copy of the teacher. Call it again after loading other weights into the encoder."""
        for student, teacher in self._pairs():
            student.assign(ops.convert_to_numpy(teacher))  # as a copy: JAX donates the memory of one variable

    def _pairs(self):
        """List (student's weight, teacher's weight) of all weights that the student learns."""
        student, teacher = ((self.student, self.student_head), (self.encoder, self.head))
        pairs = [zip(_learned(a), _learned(b), strict=True) for a, b in zip(student, teacher, strict=True)]
        return [pair for part in pairs for pair in part]

    # The optimizer sees these only. The encoder's own weights stay trainable for later fine-tuning.
    @property
    def trainable_variables(self):
        return [*self.student.trainable_variables, *self.student_head.trainable_variables]

    @property
    def non_trainable_variables(self):
        learned = {id(v) for v in self.trainable_variables}
        return [v for v in self.variables if id(v) not in learned]

    def problem_of_images(self, images: Any) -> str | None:
        crops: Any = images if hasattr(images, "get") else {}
        shapes: Any = [getattr(crops.get(name), "shape", ()) for name in ("global", "local")]
        if all(len(shape) == 5 for shape in shapes) and shapes[0][1] == 2:
            return None
        return (
            'Expected a dictionary of crops, "global" (B, 2, H, W, C) and "local" (B, k, h, w, C), received'
            f" {shape_text(images)}; cut them by data.view_batches."
        )

    def call(self, images: Shaped[Array, "B H W C"], training: bool | None = None) -> dict[str, Float[Array, "B ..."]]:
        """Compute the output of the teacher's encoder for images (B, H, W, C)."""
        return self.encoder(images, training=training)

    def local_positions(self) -> Float[Array, "n D"]:
        """Resample the student's table of positions to the grid of local crops: (n, D)."""
        rows, columns = self.resampling
        table = ops.reshape(
            self.student.patch_embedding.position_table(), (*self.encoder.grid, -1)
        )  # (rows, columns, D)
        table = ops.tensordot(rows, ops.tensordot(columns, table, axes=(1, 1)), axes=(1, 1))
        return ops.reshape(table, (-1, self.encoder.width))

    def objective(self, batch: Batch, training: bool) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Compute the cross entropy of student and teacher over pairs of crops (equation 3).

        The images of the batch are crops, "global" (B, 2, H, W, C) and "local" (B, k, h, w, C).
        """
        views = batch.images
        large = one_batch(views["global"])  # (2B, H, W, C)
        # training=False: the teacher has no drop path.
        features = self.encoder(large, training=False)["cls"]  # (2B, D)
        answers = self.head(features)  # (2B, K)
        answers = ops.cast(ops.stop_gradient(answers), "float32")
        targets = ops.softmax((answers - self.centre) / self.teacher_temperature, axis=-1)
        targets = ops.reshape(targets, (-1, 2, self.prototypes))  # (B, 2, K)

        tokens = self.student.encode(self.student.embed(large), training=training)[:, 0]
        tokens = ops.reshape(tokens, (-1, 2, self.encoder.width))  # (B, 2, D)
        if count := views["local"].shape[1]:
            local = self.student.embed(one_batch(views["local"]), table=self.local_positions())  # (kB, n, D)
            local = ops.reshape(self.student.encode(local, training=training)[:, 0], (-1, count, self.encoder.width))
            tokens = ops.concatenate([tokens, local], axis=1)  # (B, 2 + k, D)
        logits = self.student_head(tokens)  # (B, 2 + k, K)
        loss = ops.mean(losses.distil(logits, targets, self.temperature))

        # DINO can collapse in two ways: to an entropy of 0, where one prototype always wins, and to log(K), where all
        # are equally likely.
        entropy = -ops.mean(ops.sum(targets * ops.log(targets + 1e-12), axis=-1))
        everyone, _ = gather_batch(losses.unit(features), each=2)  # (2G, D)
        # 1 for unit vectors spread evenly over the sphere, where each coordinate has a variance of 1 / D; 0 for
        # collapse.
        spread = ops.mean(ops.std(everyone, axis=0)) * self.encoder.width**0.5
        # `teacher_mean` is not logged: `after_step` moves the centre by it.
        return loss, {"teacher_entropy": entropy, "feature_std": spread, "teacher_mean": mean_of_batch(answers, each=2)}

    def momentum_at(self, step: Int[Array, ""] | int) -> Float[Array, ""]:
        """Compute the teacher's momentum in a step, float32: half a cosine from `momentum` to 1."""
        share = ops.clip(ops.cast(step, "float32") / self.steps, 0.0, 1.0)
        return 1 - (1 - self.momentum) * (1 + ops.cos(math.pi * share)) / 2

    def teacher_temperature_at(self, step: Int[Array, ""] | int) -> Float[Array, ""]:
        """Compute the teacher's temperature in a step, float32."""
        first, last = self.teacher_temperatures
        return first + (last - first) * ops.clip(ops.cast(step, "float32") / max(1, self.teacher_warmup), 0.0, 1.0)

    def after_step(self, step: Int[Array, ""] | int, outputs: dict[str, Array]) -> None:
        """Move the teacher towards the student, and the centre towards the teacher's outputs (equation 4)."""
        momentum = self.momentum_at(step)
        for student, teacher in self._pairs():
            teacher.assign(teacher + (1 - momentum) * (student - teacher))  # exact where both are equal
        self.centre.assign(self.centre_momentum * self.centre + (1 - self.centre_momentum) * outputs["teacher_mean"])
        # `objective` reads it in the next step.
        self.teacher_temperature.assign(self.teacher_temperature_at(step + 1))

    def get_config(self):
        own = (
            "steps",
            "prototypes",
            "local_shape",
            "momentum",
            "centre_momentum",
            "temperature",
            "teacher_temperatures",
            "teacher_warmup",
        )
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


def _learned(layer):
    """List the weights of a layer, frozen ones too, without the state of its random numbers."""
    return [weight for weight in layer.weights if weight.name != "seed_generator_state"]


def one_batch(crops: Shaped[Array, "B k H W C"]) -> Shaped[Array, "k*B H W C"]:
    """Flatten crops (B, k, h, w, C) to (kB, h, w, C), grouped by image.

    So on several devices the crops stay on the device of their image.
    """
    return ops.reshape(crops, (-1, *crops.shape[2:]))
