"""The memory that is left for this process."""

import math
import pathlib


def free_memory():
    """Bytes of memory that are free for this process: what the machine, its control group and the process's own limit
    leave. Infinite where Linux does not say."""
    return min(_free_in_machine(), _free_in_group(), _free_in_limit())


def _free_in_machine():
    return _field("/proc/meminfo", "MemAvailable:", 1024)


def _free_in_group(root="/sys/fs/cgroup"):
    """What the control group of the process and those around it leave (version 2, or version 1 as in a container)."""
    try:
        # The line 0::/PATH is that of version 2.
        own = pathlib.Path("/proc/self/cgroup").read_text().rpartition("0::")[2].split("\n")[0]
    except OSError:
        return math.inf
    folder = pathlib.Path(root, own.lstrip("/"))
    return min(
        _left(pathlib.Path(root, "memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        *(
            _left(place, "memory.max", "memory.current", "inactive_file")
            for place in (folder, *folder.parents)
            if place.is_relative_to(root)
        ),
    )


def _left(folder, limit, usage, cached):
    """The limit of a control group less what it uses, where cached files count as free."""
    try:
        most, used = (int((folder / name).read_text()) for name in (limit, usage))
    except (OSError, ValueError):  # "max": without a limit
        return math.inf
    cache = _field(folder / "memory.stat", cached, 1)
    return max(0, most - used + (cache if cache < math.inf else 0))


def _free_in_limit():
    """What `ulimit -v` leaves."""
    try:
        import resource  # not on Windows
    except ImportError:
        return math.inf
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    return math.inf if most == resource.RLIM_INFINITY else max(0, most - _field("/proc/self/status", "VmSize:", 1024))


def _field(path, name, unit):
    """The number after a name in a file of the kernel, times its unit; infinite if there is none."""
    try:
        with open(path) as lines:
            return next(unit * int(line.split()[1]) for line in lines if line.split()[:1] == [name])
    except (OSError, StopIteration):
        return math.inf
