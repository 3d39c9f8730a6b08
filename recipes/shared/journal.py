"""A file to which results are appended, so that a stopped program goes on where it was."""

import json


class Journal:
    """JSON lines, one per batch. Only whole lines count: what a killed process left of one is cut off.

    Args:
        path: `pathlib.Path` of the file, which may not exist yet.

    Attributes:
        count: number of lines.
    """

    def __init__(self, path):
        self.path = path
        self.count = 0
        self.ends = [0]  # the size of the file after each line
        self.file = open(path, "a+b")
        self.file.seek(0)
        for line in self.file:
            if not _is_whole(line):
                break
            self.count += 1
            self.ends.append(self.ends[-1] + len(line))
        self.keep(self.count)

    def keep(self, count):
        """Cut the file off after the first lines."""
        self.count = count
        self.file.truncate(self.ends[count])
        self.ends = self.ends[: count + 1]

    def add(self, value):
        """Append a value as one line, all of it or nothing if the disk is full."""
        line = json.dumps(value, separators=(",", ":")).encode() + b"\n"
        try:
            self.file.write(line)
            self.file.flush()
        except OSError:
            self.file.close()
            with open(self.path, "r+b") as file:
                file.truncate(self.ends[-1])
            raise
        self.count += 1
        self.ends.append(self.ends[-1] + len(line))

    def __iter__(self):
        with open(self.path, "rb") as file:
            for line in file:
                yield json.loads(line)

    def close(self):
        self.file.close()


def _is_whole(line):
    """Whether a line was written completely. After a power cut its bytes may be zeros."""
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False
