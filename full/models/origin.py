"""What a run records of the model it starts from, and compares when it is resumed."""

import hashlib
from pathlib import Path

EMBEDDED = ("tiny", "smollm2")
END = 2**20  # bytes; the header of a .safetensors file, which lists its tensors, is at its beginning


def model_origin(name: str) -> str:
    """A model as config.yaml records it: its name, with a hash of a local folder's files.

    Of large files the hash takes the size and a megabyte at either end: a change of a weight in between is not seen, which
    matters only to a run that was killed before its first checkpoint; from then on the checkpoint holds the weights.
    """
    folder = Path(name).expanduser()
    if name in EMBEDDED:
        return f"{name} (embedded)"
    if not folder.is_dir():
        return f"{name} (on the hub)"
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with open(path, "rb") as file:
            digest.update(file.read(END))
            file.seek(max(size - END, 0))
            digest.update(file.read(END))
    return f"{name} (files sha256 {digest.hexdigest()[:16]})"


SUFFIXES = {".json", ".safetensors", ".bin", ".jinja", ".model", ".txt"}
