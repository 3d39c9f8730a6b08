"""Flags that several programs define alike. Each function defines them for the module that calls it."""

from absl import flags

flags.disclaim_key_flags()  # --help and run.flags list them as the caller's


def fraction(name, default, text):
    """Define a flag from 0 to 1."""
    flags.DEFINE_float(name, default, text, lower_bound=0, upper_bound=1)


def encoder(default=""):
    """Define --init_from and --size; `default` describes the default of --size."""
    flags.DEFINE_string(
        "init_from",
        None,
        "Run folder, .keras file, file or folder of weights of Hugging Face or timm, or hf:OWNER/NAME, of a pre-trained"
        " encoder. Default: train from scratch.",
    )
    flags.DEFINE_string(
        "size", None, f"Encoder to train from scratch: vit_micro, vit_tiny, vit_small, vit_base or vit_large.{default}"
    )


def drop_path():
    flags.DEFINE_float("drop_path", 0.1, "Stochastic depth rate of the last block. Lower it for short runs.")


def warmup_and_weight_decay(warmup):
    fraction(
        "warmup",
        warmup,
        "Fraction of the steps in which the learning rate rises. Raise it if the loss jumps early.",
    )
    flags.DEFINE_float("weight_decay", 0.05, "Weight decay of AdamW. Biases, norms, positions and cls are exempt.")


def layer_decay():
    fraction(
        "layer_decay",
        0.75,
        "Learning rate of each block as a fraction of the next block's; 1 disables it. Used with --init_from only.",
    )


def seed_and_jit():
    flags.DEFINE_integer("seed", 0, lower_bound=0, upper_bound=2**31 - 1, help="Seed for all random numbers.")
    flags.DEFINE_bool(
        "jit",
        None,
        "Compile the step with XLA on TensorFlow, which changes the random numbers. Default: only on accelerators.",
    )


def log_every():
    flags.DEFINE_integer(
        "log_every",
        None,
        lower_bound=1,
        help="Steps between lines of the log. Default: auto, a twentieth of the run, but at most 50.",
    )


def save_every():
    flags.DEFINE_integer(
        "save_every",
        None,
        lower_bound=1,
        help="Steps between checkpoints, which are written at lines of the log. Default: as often as 2% of the time"
        " allows.",
    )
