"""The devices of a training recipe: --strategy, --devices and --model_devices."""

import os
import sys

from absl import flags

from recipes.shared import commandline, event_files, workdir

flags.DEFINE_enum(
    "strategy",
    None,
    ("mirrored", "multi_worker", "tpu", "data_parallel", "model_parallel"),
    "How the work is divided among devices. The first three are TensorFlow's, the others JAX's. Default: what suits"
    " the devices found. See docs/scale.md.",
)
flags.DEFINE_integer(
    "devices",
    None,
    lower_bound=1,
    help=(
        "Devices to use on each host. Default: all accelerators. Without accelerators the CPU acts as this many"
        " devices, for tests."
    ),
)
flags.DEFINE_integer(
    "model_devices",
    None,
    lower_bound=1,
    help="Devices that share one copy of the weights, with --strategy=model_parallel. Default: all.",
)
FLAGS = flags.FLAGS


def spread(main, one_host=False, free=(), auto=()):
    """Turn a recipe's `main(devices, run)` into a `main()` that runs on the devices of the flags. If there are several
    hosts, only the first one prints and writes.

    `free` and `auto` are those of `workdir.opened`.
    """

    def spread_main():
        event_files.check()
        from keras_splitmask.backend.devices import start_devices

        devices = start_devices(FLAGS.strategy, FLAGS.devices, FLAGS.model_devices)
        if one_host and devices.hosts > 1:
            raise commandline.BadInput(
                f"Expected one host, received {devices.hosts}. Run this recipe on one host, which may have several"
                " devices."
            )
        # With --batch_size left to be chosen, the recipe divides it later.
        if FLAGS.batch_size is not None:
            divide(FLAGS.batch_size, devices.replicas)
        if devices.host:
            sys.stdout = open(os.devnull, "w")
        with workdir.opened(devices.host, free, auto) as run, devices.scope():
            main(devices, run)

    return spread_main


def divide(batch_size, replicas, parts=1):
    """Refuse a batch that cannot be divided equally among the devices, and on each into `parts` micro-batches."""
    if batch_size % (replicas * parts):
        times = f" times --accumulate={parts}" if parts > 1 else ""
        raise commandline.BadInput(
            f"Expected --batch_size to be a multiple of the number of devices, {replicas}{times}, received"
            f" {batch_size}."
        )
