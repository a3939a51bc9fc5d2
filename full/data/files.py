"""Files and folders of problems as rows of plain Python values, read anew each time: no cache can be older than the file.

Numbers stay what the file says: JSON's are read exactly, a CSV cell stays text (it has no type), and a float32 in parquet
keeps its own shortest digits.
"""

import bz2
import csv
import gzip
import hashlib
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from full.errors import UserError

Row = dict[str, Any]
LOADABLE = ".jsonl, .json, .csv, .tsv or .parquet (also with .gz, .bz2 or .xz), or a folder of them"
UNPACK: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}
# What stands beside data in a folder of the hub or of datasets.save_to_disk.
NO_DATA = ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json", "config.json")
HASH_DIGITS = 16  # of the sha256 that a run records of its data


class Cell(str):
    """A text from a file without types: "1e-05" in it may be a number."""


def is_readable(path: Path) -> bool:
    """Whether a file's name says that it holds problems."""
    return _reader(path) is not None


def read_path(path: Path) -> tuple[dict[str, list[Row]], str]:
    """The rows of a file or folder by split, and what to record of their origin.

    A file has the one split "all". A folder has "train" and "test" where its files' names say so, else "all".

    Raises:
        UserError: it is not there, cannot be read, or holds no rows; one line that says what can be loaded.
    """
    if path.is_dir():
        parts, digest, files = _read_folder(path)
        where = f"folder of {files} files, sha256 {digest}"
    elif path.is_file():
        content = _bytes(path)
        parts, where = {"all": _read_file(path, content)}, f"file sha256 {_digest(content)}"
    else:
        raise UserError(
            f"{path} does not exist; expected a .jsonl, .json or .parquet file (also .csv, .tsv or compressed), or a folder."
        )
    if not any(parts.values()):
        raise UserError(f"{path} holds no rows; expected problems with their answers.")
    return parts, where


def table_rows(table: pa.Table) -> list[Row]:
    """The rows of a table as Python values; a narrow float as the number that its shortest digits name."""
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        values = column.to_pylist()
        if pa.types.is_float16(column.type) or pa.types.is_float32(column.type):
            narrow = np.float16 if pa.types.is_float16(column.type) else np.float32
            values = [None if value is None else float(str(narrow(value))) for value in values]
        columns[name] = values
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def first_line(error: Exception) -> str:
    """The first line of an error's message, for a message of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160].rstrip(".")


def _read_file(path: Path, content: bytes) -> list[Row]:
    reader = _reader(path)
    if reader is None:
        raise UserError(
            f"{path} is no file that can be loaded; expected {LOADABLE}. Convert it, or rename it if it is one."
        )
    try:
        for suffix in reversed(path.suffixes):
            if suffix.lower() not in UNPACK:
                break
            content = UNPACK[suffix.lower()](content)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{path} cannot be unpacked: {first_line(error)}. Is it whole?") from None
    return reader(path, content)


def _reader(path: Path) -> Callable[[Path, bytes], list[Row]] | None:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] in UNPACK:
        suffixes.pop()
    return READERS.get(suffixes[-1]) if suffixes else None


def _read_folder(folder: Path) -> tuple[dict[str, list[Row]], str, int]:
    """The rows by split, a hash of the files' names and content, and how many files there are."""
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return _read_saved(folder)
    files = [path for path in _files(folder) if is_readable(path) and path.name not in NO_DATA]
    if not files:
        there = ", ".join(sorted({path.suffix or path.name for path in _files(folder)})[:8]) or "nothing"
        raise UserError(f"{folder} holds {there}; expected {LOADABLE}.")
    rows, digest = {}, hashlib.sha256()
    for path in files:
        content = _bytes(path)
        digest.update(f"{path.relative_to(folder)} {_digest(content)}\n".encode())
        rows[path] = _read_file(path, content)
    named = {
        split: [path for path in files if split in _words(path.relative_to(folder))] for split in ("train", "test")
    }
    chosen = named if all(named.values()) else {"all": files}
    parts = {split: [row for path in paths for row in rows[path]] for split, paths in chosen.items()}
    return parts, digest.hexdigest()[:HASH_DIGITS], len(files)


def _read_saved(folder: Path) -> tuple[dict[str, list[Row]], str, int]:
    """A folder that datasets.save_to_disk wrote."""
    from datasets import DatasetDict, load_from_disk

    try:
        saved = load_from_disk(str(folder))
    except Exception as error:  # the reader raises many kinds; all mean that the folder is not what it seems
        raise UserError(f"{folder} cannot be read as a saved data set: {first_line(error)}.") from None
    splits = dict(saved) if isinstance(saved, DatasetDict) else {"all": saved}
    chosen = {name: splits[name] for name in ("train", "test")} if {"train", "test"} <= splits.keys() else splits
    parts = {str(name): table_rows(part.with_format("arrow")[:]) for name, part in chosen.items()}
    files, digest = _files(folder), hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(folder)} {_digest(_bytes(path))}\n".encode())
    if parts.keys() != {"train", "test"}:
        parts = {"all": [row for rows in parts.values() for row in rows]}
    return parts, digest.hexdigest()[:HASH_DIGITS], len(files)


def _files(folder: Path) -> list[Path]:
    """The files below a folder in the order of their names; hidden ones and caches are not data."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if not any(part[0] in "._" for part in path.relative_to(folder).parts))


def _words(path: Path) -> list[str]:
    return re.split(r"[^a-z]+", str(path).lower())


def _json(path: Path, content: bytes) -> list[Row]:
    """JSON lines, an array of objects, one object, or an object that holds one array of objects."""
    text = _text(path, content)
    try:
        found = _parse(text)
    except ValueError as whole:
        if text.lstrip()[:1] == "[":
            raise UserError(f"{path} cannot be read as json: {first_line(whole)}.") from None
        found = []
        # Not splitlines: it also breaks at U+2028 and its kind, which may stand inside a text.
        for number, line in enumerate(text.split("\n"), start=1):
            try:
                found += [_parse(line)] if line.strip() else []
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path} cannot be read as json: line {number}: {first_line(error)}.") from None
    except RecursionError:
        raise UserError(f"{path} cannot be read as json: it is nested too deeply.") from None
    if isinstance(found, dict) and ".json" in map(str.lower, path.suffixes):
        arrays = [value for value in found.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
        own = {"problem", "question", "prompt", "messages"} & found.keys()
        found = arrays[0] if len(arrays) == 1 and not own else found
    found = found if isinstance(found, list) else [found]
    for number, row in enumerate(found, start=1):
        if not isinstance(row, dict):
            raise UserError(
                f"{path} cannot be read as json rows: row {number} holds {_kind(row)}; expected an object with the columns "
                'of a problem, e.g. {"problem": "...", "answer": "..."}.'
            )
    return found


def _parse(text: str) -> Any:
    return json.loads(text, parse_float=_json_float)


def _json_float(text: str) -> float | Decimal:
    # A float that a program wrote is that float; anything else is the number as it is written.
    value = float(text)
    return value if repr(value) == text else Decimal(text)


def _csv(path: Path, content: bytes) -> list[Row]:
    text = _text(path, content)
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)  # spreadsheets of some countries write semicolons
    limit = csv.field_size_limit(len(text) + 1)
    try:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        names = [name.strip() for name in next(lines, [])]
        rows: list[Row] = []
        for cells in lines:
            if not any(cell.strip() for cell in cells):
                continue  # spreadsheets leave such lines at the end
            if len(cells) != len(names):
                raise UserError(
                    f"{path} cannot be read as csv: line {lines.line_num} has {len(cells)} cells for {len(names)} columns. "
                    "Put texts that hold a comma in quotation marks."
                )
            rows.append({name: Cell(cell) for name, cell in zip(names, cells, strict=True)})
    except csv.Error as error:
        raise UserError(f"{path} cannot be read as csv: {first_line(error)}.") from None
    finally:
        csv.field_size_limit(limit)
    return rows


def _parquet(path: Path, content: bytes) -> list[Row]:
    try:
        return table_rows(pyarrow.parquet.read_table(pa.BufferReader(content)))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read as parquet: {first_line(error)}.") from None


READERS: dict[str, Callable[[Path, bytes], list[Row]]] = {
    ".jsonl": _json, ".ndjson": _json, ".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet,
}  # fmt: skip


def _text(path: Path, content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path} is UTF-16; expected UTF-8. Save it as UTF-8, e.g. iconv -f UTF-16 -t UTF-8.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path} is not UTF-8 (line {line} has the byte 0x{content[error.start]:02x}); expected UTF-8. Save it so, e.g. "
            "iconv -f LATIN1 -t UTF-8."
        ) from None


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:HASH_DIGITS]


def _kind(value: Any) -> str:
    names: Iterable[tuple[type, str]] = (
        (list, "a list"),
        (str, "a text"),
        (dict, "an object"),
        (bool, "a truth value"),
    )
    return next((name for kind, name in names if isinstance(value, kind)), "null" if value is None else "a number")
