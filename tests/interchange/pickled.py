"""The pickle inside a file of torch.save."""

import io
import zipfile

import torch


def pickled(value):
    """Pickle a value as torch does."""
    file = io.BytesIO()
    torch.save(value, file)
    with zipfile.ZipFile(file) as archive:
        return archive.read("archive/data.pkl")
