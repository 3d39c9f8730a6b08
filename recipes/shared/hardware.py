"""--strategy and --devices: what a training recipe computes on."""

import os
import sys

from absl import flags

from recipes.shared import commandline, workdir

flags.DEFINE_enum(
    "strategy",
    None,
    ("mirrored", "multi_worker", "tpu", "data_parallel", "model_parallel"),
    "How devices share the work: the first three TensorFlow's, the others JAX's; left out, what suits the devices that"
    " there are. See docs/scale.md.",
)
flags.DEFINE_integer(
    "devices",
    None,
    lower_bound=1,
    help=(
        "Devices to use on each host; left out, all. Of a machine without accelerators the CPU is divided, for trials."
    ),
)
flags.DEFINE_integer(
    "model_devices",
    None,
    lower_bound=1,
    help="Devices that share one copy of the weights, with --strategy=model_parallel; left out, all.",
)
FLAGS = flags.FLAGS


def spread(main, one_host=False):
    """A recipe's `main(devices, run)` as `main()`, on the devices that the flags name. Of several hosts only the first
    prints and writes."""

    def spread_main():
        commandline.require("dataset", "workdir")
        from keras_splitmask.backend.devices import start_devices

        devices = start_devices(FLAGS.strategy, FLAGS.devices, FLAGS.model_devices)
        if one_host and devices.hosts > 1:
            raise commandline.BadInput(
                f"Expected one host, received {devices.hosts}; fine-tune with --devices, of which one host can have"
                " several."
            )
        divide(FLAGS.batch_size, devices.replicas)
        if devices.host:
            sys.stdout = open(os.devnull, "w")
        with workdir.opened(devices.host) as run, devices.scope():
            main(devices, run)

    return spread_main


def divide(batch_size, replicas, parts=1):
    """Refuse a batch that so many devices cannot share equally, each taking its share in so many equal parts."""
    if batch_size % (replicas * parts):
        taken = f" times the {parts} parts of --accumulate" if parts > 1 else ""
        raise commandline.BadInput(
            f"Expected --batch_size to be a multiple of the devices that share it, {replicas}{taken}, received"
            f" {batch_size}."
        )
