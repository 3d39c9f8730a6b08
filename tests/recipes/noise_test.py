"""The notes of C++ libraries on stderr."""

import os
import subprocess
import sys

import pytest

from tests.running import ROOT

# As TensorFlow wrote them in several releases, on machines with and without a GPU.
NOTES = """WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795814301.402905    9760 port.cc:153] oneDNN custom operations are on.
I0000 00:00:1795814301.404407    9760 cudart_stub.cc:31] Could not find cuda drivers on your machine.
E0000 00:00:1795814301.404407    9760 cuda_dnn.cc:8579] Unable to register cuDNN factory: Attempting to register
W0000 00:00:1795814301.404407    9760 computation_placer.cc:177] computation placer already registered. Please check
2026-01-02 10:11:12.131415: I tensorflow/core/platform/cpu_feature_guard.cc:210] This TensorFlow binary is optimized
To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow
E0000 00:00:1795817833.712288   30729 cuda_platform.cc:52] failed call to cuInit: INTERNAL: UNKNOWN ERROR (303)
E0000 00:00:1795817885.492182    1209 util.cc:131] oneDNN supports DT_INT64 only on platforms with AVX-512.
2026-01-02 10:11:12.131415: E external/local_xla/cuda_fft.cc:467] Unable to register cuFFT factory: Attempting
"""
ERRORS = """E0000 00:00:1795814301.404407    9760 cuda.cc:1228] failed call to cuInit: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH
W0000 00:00:1795814301.404407    9760 memory.cc:1] Allocator ran out of memory
2026-01-02 10:11:12.131415: E tensorflow/core/kernels.cc:1] a real error
F0000 00:00:1795814301.404407    9760 cpu_feature_guard.cc:1] compiled to use AVX
Segmentation fault
"""
PROGRAM = f"""
import os, sys
from recipes.shared import noise, screen
with screen.kept_open(), noise.dropped():
    os.write(2, {(NOTES + ERRORS).encode()!r})
    assert sys.stderr.fileno() != 2
    print("from Python", file=sys.stderr)
    exec(sys.argv[1])
print("afterwards", file=sys.stderr)
"""


def end_of(code, **options):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", PROGRAM, code], env=env, stderr=subprocess.PIPE, text=True, **options)


def test_notes_are_dropped_and_errors_passed_on():
    end = end_of("pass")
    assert end.returncode == 0
    assert sorted(end.stderr.splitlines()) == sorted([*ERRORS.splitlines(), "from Python", "afterwards"])
    assert end.stderr.endswith("afterwards\n")


@pytest.mark.parametrize("code", ["os.abort()", "os.kill(os.getpid(), 9)", "os._exit(3)"])
def test_errors_are_passed_on_if_the_process_dies(code):
    end = end_of(code)
    assert end.returncode and sorted(end.stderr.splitlines()) == sorted([*ERRORS.splitlines(), "from Python"])


def test_a_traceback_is_whole_and_last():
    end = end_of("raise RuntimeError('ours')")
    assert end.returncode == 1 and end.stderr.endswith("RuntimeError: ours\n") and "cuInit" in end.stderr


def test_a_library_cannot_close_stderr():
    end = end_of("sys.stderr.close(); print('still open', file=sys.stderr)")
    assert end.returncode == 0 and end.stderr.endswith("afterwards\n")
    assert "still open" in end.stderr and "cannot be written" not in end.stderr


def test_a_missing_profiler_is_no_news():
    code = "import logging; log = logging.getLogger('absl'); log.warning('Failed to load jax profiler: %s', 1)"
    end = end_of(f"{code}; log.warning('another %s', 2)")
    assert "profiler" not in end.stderr and "another 2" in end.stderr  # the others are shown


@pytest.mark.backend
def test_programs_write_nothing_on_stderr(command, tmp_path):
    given = ("--dataset=sample", "--size=vit_micro", "--image_size=8", "--patch_size=4", "--vocabulary=8")
    end = command("pretrain", *given, "--batch_size=8", "--steps=2", f"--workdir={tmp_path}", TF_CPP_MIN_LOG_LEVEL="2")
    assert end.status == 0 and end.err == ""
    assert end.out.startswith("sample: 10000 images\n")


def test_help_that_is_not_read_to_its_end_says_nothing():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "recipes/pretrain.py", "--helpfull"]
    end = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert not end.stderr, end.stderr
