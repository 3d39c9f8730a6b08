"""run.files: a list of the files that a run wrote, and a lock for the process that writes them."""

import errno
import fcntl
import os
import posixpath
import stat

HELD = (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK)


class InUse(Exception):
    """Another process holds the lock."""


def is_held(folder):
    """Return whether another process holds the run in a folder."""
    from keras_splitmask.data import run_folders

    try:
        if (folder / run_folders.RECORD).is_file():
            Record(folder).close()
    except InUse:
        return True
    return False


class Record:
    """The files of the run in a folder. Until `close`, only this process may write there.

    A name is recorded before its file is written, so that a killed run leaves no unrecorded file.

    Args:
        folder: path of a folder that is empty or holds a run.

    Attributes:
        names: the names, relative to the folder.

    Raises:
        InUse: if another process holds the folder.
        OSError: if the record cannot be written.
    """

    def __init__(self, folder):
        from keras_splitmask.data import run_folders

        self.folder = folder
        self.path = folder / run_folders.RECORD
        self.descriptor = _locked(self.path)
        os.register_at_fork(after_in_child=self._close)  # or a child would keep the lock after this process is killed
        self.header = run_folders.HEADER
        self.unwritten = []
        content = os.pread(self.descriptor, os.fstat(self.descriptor).st_size, 0)
        content = content[: content.rfind(b"\n") + 1]  # the file of an incomplete line was not written yet
        os.ftruncate(self.descriptor, len(content))
        self.new = not content
        if self.new:
            self._begin()
        lines = content.decode(errors="replace").splitlines()[1:]
        self.names = [name for name in lines if _is_inside(name)]

    def _begin(self):
        try:
            _append(self.descriptor, self.header)
        except OSError:
            self.close(remove=True)
            raise

    def add(self, name):
        """Record a file before it is written. On a full disk it is recorded later, when there is room."""
        if name not in self.names:
            self.names.append(name)
            self.unwritten.append(name)
        if self.unwritten:
            try:
                _append(self.descriptor, "".join(f"{name}\n" for name in self.unwritten))
                self.unwritten = []
            except OSError:
                pass

    def has(self, name):
        """Return whether a file of this name exists and was written by the run."""
        return name in self.names and _is_file(self.folder / name)

    def files(self):
        """List the existing files of the run. Links are not followed."""
        home = os.path.realpath(self.folder)
        # With the unfinished forms, which a killed run leaves behind.
        forms = [form for name in self.names for form in (name, f"{name}.part", name.replace(".checkpoint", ".part"))]
        paths = [self.folder / form for form in dict.fromkeys(forms)]
        return [
            path
            for path in paths
            if _is_file(path) and os.path.realpath(path) == os.path.join(home, path.relative_to(self.folder))
        ]

    def clear(self):
        """Remove the files of the run in reverse order, so that run.flags exists as long as any checkpoint does."""
        for path in reversed(self.files()):
            path.unlink()
        self.names, self.unwritten = [], []
        os.ftruncate(self.descriptor, len(self.header.encode()))

    def close(self, remove=False):
        """Release the folder for other processes, and first delete the record if `remove`."""
        if self.descriptor is not None and remove:
            self.path.unlink(missing_ok=True)
        self._close()

    def _close(self):
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


def _locked(path):
    """Open the file, creating it if needed, and lock it where the file system can. Returns the descriptor."""
    while True:
        # Not through a link, which may lead to a file of the user's.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
        try:
            _lock(descriptor, path)
            if os.path.exists(path) and os.path.samestat(os.stat(path), os.fstat(descriptor)):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the process that held it has just deleted it


def _lock(descriptor, path):
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            raise InUse from error
        print(
            f"{path} cannot be locked ({error.strerror}). Do not start the same run twice at the same time.", flush=True
        )


def _append(descriptor, text):
    """Append all of the text, or nothing if the disk is full."""
    size = os.fstat(descriptor).st_size
    try:
        if os.write(descriptor, text.encode()) < len(text.encode()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def _is_inside(name):
    """Return whether a run could have recorded this name: a relative path inside its folder."""
    return (
        name.isprintable()
        and posixpath.normpath(name) == name
        and not name.startswith(("/", "..", "#"))
        and name != "."
    )


def _is_file(path):
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False
