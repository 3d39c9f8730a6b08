"""The files of features: npz, npy and parquet, written without having all features in memory."""

import contextlib
import json
import math
import os
import shutil
import zipfile

from recipes.shared import commandline, journal, writing

FORMATS = (".npz", ".npy", ".parquet")
LONGEST = 200  # bytes of the name of --output: names beside it are longer, and most disks take 255
AT_ONCE = 1 << 22  # numbers that are converted at once
PIECE = 1 << 20  # bytes that are copied at once


def check(output, features):
    """Stop unless the features can be written to a file of this name."""
    if len(os.fsencode(output.name)) > LONGEST:
        raise commandline.BadInput(
            f"Expected --output with a name of at most {LONGEST} bytes, received {len(os.fsencode(output.name))};"
            " shorten it."
        )
    if output.suffix not in FORMATS:
        raise commandline.BadInput(
            f"Expected --output to end in {', '.join(FORMATS)}, received {output}; change the ending."
        )
    if output.suffix == ".npy" and len(features) > 1:
        raise commandline.BadInput(
            f"Expected one kind of --features for an .npy file, received {','.join(features)}; write an .npz file."
        )
    if output.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise commandline.BadInput(
                f"Expected pyarrow to be installed for .parquet, received an error ({error}). Run: pip install pyarrow"
            ) from error


def facts_file(output):
    """The JSON file beside the features: what they depend on, their names and what was left out."""
    return output.with_name(f"{output.name}.json")


def read_facts(output):
    """The facts beside the features, {} if there are none."""
    try:
        facts = json.loads(facts_file(output).read_text(encoding="utf-8"))
        return facts if isinstance(facts, dict) and "settings" in facts else {}
    except (OSError, ValueError):
        return {}


class Parts:
    """Features as they are computed, appended to one file per kind. It resumes after the last whole batch.

    Args:
        folder: `pathlib.Path` of a folder for the files.
        record: the `Record` of the folder.
        sizes: {name: shape} of the features of one image.
    """

    def __init__(self, folder, record, sizes):
        for name in ("names.part", *sizes):
            record.add(name)
        self.sizes, self.paths = sizes, {name: folder / name for name in sizes}
        self.path = folder / "names.part"
        self.journal = journal.Journal(self.path)
        self.bytes = {name: 4 * math.prod(shape) for name, shape in sizes.items()}  # of an image
        self.files = {name: open(path, "ab") for name, path in self.paths.items()}
        # A kill may have come between two files: what counts are the batches that all of them have.
        there = min(os.path.getsize(path) // self.bytes[name] for name, path in self.paths.items())
        rows, whole = 0, 0
        for batch in self.journal:
            if rows + len(batch["names"]) > there:
                break
            rows, whole = rows + len(batch["names"]), whole + 1
        self.journal.keep(whole)
        for name, file in self.files.items():
            file.truncate(rows * self.bytes[name])

    def add(self, number, names, features, left_out):
        """Append a batch: its names, features {name: (B, ...) float32} and {name: reason} of what was left out."""
        for name, values in features.items():
            self.files[name].write(values.astype("<f4").tobytes())
            self.files[name].flush()
        # Last: a batch counts once it is in the journal.
        self.journal.add({"batch": number, "names": names, "left_out": left_out})

    def close(self):
        self.journal.close()
        for file in self.files.values():
            file.close()

    def names(self):
        """List the names of all images, and {name: reason} of what was left out."""
        names, left_out = [], {}
        for batch in self.journal:
            names += batch["names"]
            left_out |= batch["left_out"]
        return names, left_out

    def write(self, output, names):
        """Write the features to an .npz, .npy or .parquet file, completely or not at all."""
        write = {".npz": self._npz, ".npy": self._npy, ".parquet": self._parquet}[output.suffix]
        with writing.aside(output, f"{output.name}.tmp") as part:
            write(part, names)

    def _copy(self, name, count, file):
        """Write an .npy file of `count` rows of a kind of features."""
        import numpy as np

        head = {"descr": "<f4", "fortran_order": False, "shape": (count, *self.sizes[name])}
        np.lib.format.write_array_header_1_0(file, head)
        with open(self.paths[name], "rb") as content:
            shutil.copyfileobj(content, file, PIECE)

    def _npy(self, path, names):
        with open(path, "wb") as file:
            self._copy(next(iter(self.sizes)), len(names), file)

    def _npz(self, path, names):
        import numpy as np

        with zipfile.ZipFile(path, "w") as archive:
            # zip64, since the size of a member is not known before it is written.
            with archive.open("names.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.array(names, str), allow_pickle=False)
            for name in self.sizes:
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    self._copy(name, len(names), file)

    def _parquet(self, path, names):
        import numpy as np
        import pyarrow as pa
        import pyarrow.parquet

        lengths = {name: math.prod(shape) for name, shape in self.sizes.items()}
        fields = [pa.field("file", pa.string())]
        for name, shape in self.sizes.items():
            note = {"shape": ",".join(map(str, shape))}
            fields.append(pa.field(name, pa.list_(pa.float32(), lengths[name]), metadata=note))
        step = max(1, AT_ONCE // max(lengths.values()))
        with contextlib.ExitStack() as stack:
            rows = stack.enter_context(pyarrow.parquet.ParquetWriter(path, pa.schema(fields)))
            files = {name: stack.enter_context(open(file, "rb")) for name, file in self.paths.items()}
            for start in range(0, len(names), step):
                some = names[start : start + step]
                columns = [pa.array(some, pa.string())]
                for name, file in files.items():
                    values = np.frombuffer(file.read(len(some) * self.bytes[name]), "<f4")
                    columns.append(pa.FixedSizeListArray.from_arrays(pa.array(values), lengths[name]))
                rows.write_table(pa.Table.from_arrays(columns, schema=pa.schema(fields)))


def read(output, name):
    """Read features (N, D) of one kind from a file that `Parts` wrote."""
    import numpy as np

    if output.suffix == ".npy":
        return np.load(output, mmap_mode="r", allow_pickle=False)
    if output.suffix == ".npz":
        with np.load(output, allow_pickle=False) as content:
            return content[name]
    import pyarrow.parquet

    column = pyarrow.parquet.read_table(output, columns=[name])[name].combine_chunks()
    values = column.flatten().to_numpy() if hasattr(column, "flatten") else np.asarray(column)
    return values.reshape(len(column), -1)
