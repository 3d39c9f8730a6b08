"""--logger=tensorboard: the log of a run as event files of TensorBoard, on every backend."""

import time

from absl import flags

flags.DEFINE_enum(
    "logger", None, ["tensorboard"], "Also write the log as event files of TensorBoard, into --workdir/tensorboard."
)
FLAGS = flags.FLAGS
FOLDER = "tensorboard"


def check():
    """Stop if the package for --logger is missing.

    Raises:
        ImportError: with a line that says what to install.
    """
    if FLAGS.logger:
        from keras_splitmask.backend.optional import optional

        optional("tensorboard.summary.writer.record_writer", "tensorboard")


def loggers(run, start):
    """Return the functions, for `RunLog`, that write each line of the log of a run elsewhere too: one, or none.

    Args:
        run: the `workdir.Run`.
        start: steps done before. TensorBoard then drops what an earlier process wrote about later steps.
    """
    if not FLAGS.logger:
        return []
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.summary.writer.record_writer import RecordWriter

    # TensorBoard reads the files of a folder in the order of their names.
    path = run.file(f"{FOLDER}/events.out.tfevents.{start:010d}.splitmask")
    events, failed = None, False

    def write(step, **content):
        nonlocal events, failed
        first = []
        try:
            if events is None:
                events = RecordWriter(open(path, "wb"))
                first = [{"file_version": "brain.Event:2"}]
                # With a session's start, TensorBoard drops what it has read of this step and later ones.
                first += [{"step": start + 1, "session_log": event_pb2.SessionLog(status=1)}] * bool(start)  # a start
            for values in (*first, {"step": step, **content}):
                events.write(event_pb2.Event(wall_time=time.time(), **values).SerializeToString())
            events.flush()
        except OSError as error:
            failed = True
            print(f"{path} cannot be written ({error.strerror or error}); the run goes on without it.", flush=True)

    def log(line):
        values = [
            summary_pb2.Summary.Value(tag=name, simple_value=value) for name, value in line.items() if name != "step"
        ]
        if not failed:
            write(line["step"], summary=summary_pb2.Summary(value=values))

    return [log]
