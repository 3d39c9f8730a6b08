"""The devices of a run, chosen before anything is computed: several replicas, hosts and strategies."""

import contextlib
import math
import os

import keras
import numpy as np

STRATEGIES = {
    "tensorflow": ("mirrored", "multi_worker", "tpu"),
    "jax": ("data_parallel", "model_parallel"),
    "torch": (),
}
# How the weights of transformer blocks are divided: each pair of products needs one sum over the devices (Shoeybi et
# al., 2019).
# The columns of qkv are not ordered by heads, so queries, keys and values are gathered besides.
LAYOUTS = {
    r".*block_\d+/(attention/qkv|expand)/kernel": (None, "model"),
    r".*block_\d+/(attention/qkv|expand)/bias": ("model",),
    r".*block_\d+/(attention/project|contract)/kernel": ("model", None),
    r".*words/kernel": (None, "model"),
    r".*words/bias": ("model",),
}


class Devices:
    """The devices that share each batch of a run.

    Attributes:
        replicas: int, in how many parts a batch is divided.
        host, hosts: int, the number of this process, from 0 on, and of all.
    """

    def __init__(self, replicas=1, host=0, hosts=1, strategy=None):
        self.replicas = replicas
        self.host = host
        self.hosts = hosts
        self.strategy = strategy  # TensorFlow's

    def scope(self):
        """The context in which models are built and fitted."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    def dataset_for_fit(self, make_batches):
        """Create the data for `fit`: this host's batches, tuples from `make_batches()`, divided among its replicas.

        To TensorFlow it tells their size, which Keras does not.
        """
        if keras.backend.backend() != "tensorflow":
            return make_batches()
        import tensorflow as tf

        parts = self.replicas // self.hosts

        # One after the other: a strategy takes an element for each of its replicas.
        def shares():
            for batch in make_batches():
                for i in range(parts):
                    yield keras.tree.map_structure(
                        lambda x, i=i: x[len(x) // parts * i : len(x) // parts * (i + 1)], batch
                    )

        # With their size, shapes are static, so the step is traced once.
        spec = keras.tree.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), next(shares()))
        dataset = tf.data.Dataset.from_generator(shares, output_signature=spec)
        # The batches are this host's already; `experimental_distribute_dataset` would divide them once more.
        return (
            self.strategy.distribute_datasets_from_function(lambda context: dataset)
            if self.strategy
            else dataset.prefetch(2)
        )

    def any_host(self, flag):
        """Return whether the flag is set on any host. All hosts must call this together."""
        if self.hosts == 1:
            return flag
        # In float: a sum of flags is above 0 if one is set.
        if self.strategy:
            import tensorflow as tf

            flags = self.strategy.run(
                lambda: tf.distribute.get_replica_context().all_reduce("SUM", tf.constant(float(flag)))
            )
            return float(self.strategy.experimental_local_results(flags)[0]) > 0
        from jax.experimental import multihost_utils

        return bool(multihost_utils.process_allgather(np.array([flag])).any())


def accelerator():
    """Whether the backend computes on a GPU or TPU."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_physical_devices("GPU") or tf.config.list_physical_devices("TPU"))
    if keras.backend.backend() == "jax":
        import jax

        return jax.default_backend() != "cpu"
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available()


def accelerator_memory():
    """Bytes of memory that are free on an accelerator of this process; infinite where the backend does not say."""
    if keras.backend.backend() == "jax":
        import jax

        found = jax.local_devices()[0].memory_stats() or {}
        return found["bytes_limit"] - found["bytes_in_use"] if "bytes_limit" in found else math.inf
    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else math.inf
    # TensorFlow tells what it has taken, not what a device has left.
    return math.inf


def start_devices(strategy=None, devices=None, model_devices=None):
    """Choose the devices of a run, before anything is computed.

    Several processes find each other by environment variables: TF_CONFIG for TensorFlow;
    KERAS_DISTRIBUTION_JOB_ADDRESSES, KERAS_DISTRIBUTION_NUM_PROCESSES and KERAS_DISTRIBUTION_PROCESS_ID for JAX.

    Args:
        strategy: one of `STRATEGIES` of the backend. Default: the one that suits the available devices.
        devices: number of devices to use on each host. Default: all. A CPU is split into this many virtual devices.
        model_devices: number of devices that share one copy of the weights under "model_parallel". Default: all.

    Returns:
        `Devices`.

    Raises:
        ValueError: if the backend does not know the strategy, or there are fewer devices.
    """
    backend = keras.backend.backend()
    if strategy is not None and strategy not in STRATEGIES[backend]:
        known = ", ".join(STRATEGIES[backend]) or "none, since it uses one device"
        raise ValueError(
            f"Expected a strategy that the backend {backend} knows ({known}), received strategy={strategy!r}."
        )
    if model_devices is not None and strategy != "model_parallel":
        raise ValueError(
            f"Expected model_devices with strategy='model_parallel' alone, received strategy={strategy!r}."
        )
    if backend == "torch":
        if devices not in (None, 1):
            raise ValueError(
                f"Expected one device on torch, received devices={devices}; JAX and TensorFlow use several."
            )
        return Devices()
    return _start_jax(strategy, devices, model_devices) if backend == "jax" else _start_tensorflow(strategy, devices)


def _start_jax(strategy, count, model_devices):
    import jax

    if count and jax.config.jax_platforms in (None, "cpu"):
        with contextlib.suppress(RuntimeError):  # JAX is at work already, with the devices that it found
            jax.config.update("jax_num_cpu_devices", count)
    if int(os.environ.get("KERAS_DISTRIBUTION_NUM_PROCESSES", 1)) > 1:
        # Before the first question about devices, with which JAX would start without the other hosts.
        keras.distribution.initialize()
    hosts = jax.process_count()
    here = _first(jax.local_devices(), count)
    # As many on each host: JAX divides the rows of a batch equally.
    chosen = [device for host in range(hosts) for device in _first(jax.local_devices(host), len(here))]
    if len(chosen) == 1 and strategy is None:
        keras.distribution.set_distribution(None)
        return Devices()
    names = [f"{device.platform}:{device.id}" for device in chosen]
    share = (model_devices or len(chosen)) if strategy == "model_parallel" else 1
    if len(chosen) % share:
        raise ValueError(f"Expected model_devices to divide the {len(chosen)} devices, received model_devices={share}.")
    # A copy of the weights must not cross hosts, since each host reads its own rows.
    if len(here) % share and hosts > 1:
        raise ValueError(
            f"Expected model_devices to divide the {len(here)} devices of a host, received model_devices={share}."
        )
    # auto_shard_dataset=False in both: each host reads only its own rows.
    if strategy == "model_parallel":
        mesh = keras.distribution.DeviceMesh((len(chosen) // share, share), ("batch", "model"), names)
        layouts = keras.distribution.LayoutMap(mesh)
        for pattern, axes in LAYOUTS.items():
            layouts[pattern] = axes
        distribution = keras.distribution.ModelParallel(
            layout_map=layouts, batch_dim_name="batch", auto_shard_dataset=False
        )
    else:
        distribution = keras.distribution.DataParallel(devices=names, auto_shard_dataset=False)
    keras.distribution.set_distribution(distribution)
    return Devices(len(chosen) // share, jax.process_index(), hosts)


def _start_tensorflow(strategy, count):
    import tensorflow as tf

    if (
        strategy is None
        and not os.environ.get("TF_CONFIG")
        and count in (None, 1)
        and len(tf.config.list_physical_devices("GPU")) < 2
    ):
        strategy = "tpu" if tf.config.list_physical_devices("TPU") else None
        if strategy is None:
            return Devices()
    strategy = strategy or ("multi_worker" if os.environ.get("TF_CONFIG") else "mirrored")
    if strategy == "multi_worker":
        made = tf.distribute.MultiWorkerMirroredStrategy()
        resolver = made.cluster_resolver
        return Devices(
            made.num_replicas_in_sync,
            resolver.task_id or 0,
            resolver.cluster_spec().num_tasks("worker") if resolver.cluster_spec() else 1,
            made,
        )
    # "local": the TPU of this machine, as on a Cloud TPU VM.
    if strategy == "tpu":
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver("local")
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        made = tf.distribute.TPUStrategy(resolver)
    else:
        cpu = tf.config.list_physical_devices("CPU")[0]
        if count and not tf.config.list_physical_devices("GPU"):
            with contextlib.suppress(RuntimeError):  # TensorFlow is at work already
                tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
        found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        made = tf.distribute.MirroredStrategy([device.name for device in _first(found, count)])
    return Devices(made.num_replicas_in_sync, strategy=made)


def _first(found, count):
    """The first `count` of the devices, or all."""
    if count and count > len(found):
        raise ValueError(
            f"Expected devices of at most {len(found)}, as many as there are here, received devices={count}."
        )
    return list(found)[:count]
