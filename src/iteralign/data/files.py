"""Files → rows: JSON lines, JSON, CSV, Parquet and text, each row with its place for error messages."""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from iteralign.errors import DataError


@dataclass(frozen=True)
class Row:
    """`where` is FILE:LINE of JSON lines and text, "FILE, row N" (from 1) of the rest."""

    where: str
    values: dict[str, Any]


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file by its extension; a bare text is a row with the one column `prompt`. Raises DataError."""
    reader = _READERS.get(_extension(existing(path)))
    if reader is None:
        raise DataError(
            f"{path}: the extension {path.suffix!r} is not known. Expected {', '.join(_READERS)}"
            " (all but .parquet also with .gz): convert the file"
        )
    return reader(path)


def existing(path: Path) -> Path:
    """The path of a file that is there, else a DataError that names the nearest one."""
    if path.is_file():
        return path
    if path.is_dir():
        raise DataError(f"{path} is a folder: expected one file. {_among(path)}")
    if not path.parent.is_dir():
        raise DataError(f"there is no {path}: its folder {path.parent} is not there either. Check the path")
    names = [entry.name for entry in path.parent.iterdir()]
    near = get_close_matches(path.name, names, n=1)
    hint = f"Did you mean {path.parent / near[0]}?" if near else _among(path.parent)
    raise DataError(f"there is no file {path}. {hint}")


def read_text(path: Path) -> str:
    """A UTF-8 file, unpacked where its name ends in .gz."""
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix.lower() == ".gz" else content).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8, but byte {error.start} is not. Save it as UTF-8") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a whole gzip file ({error}). Fetch or pack it again") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def read_json(path: Path) -> Any:
    """The one value of a JSON file; None where the file is empty."""
    text = read_text(path)
    return parsed(text, path, 1) if text.strip() else None


def records(where: str, value: object) -> Iterator[Row]:
    """The rows of a JSON list of objects or of texts."""
    if not isinstance(value, list):
        raise DataError(f"{where}: expected a JSON list of objects or texts, got {type_name(value)}")
    for number, entry in enumerate(cast("list[Any]", value), 1):
        yield _record(entry, f"{where}, row {number}")


def type_name(value: object) -> str:
    """What a value is, in a reader's words. The value itself is not shown: it may be harmful text."""
    return next((name for kind, name in _TYPE_NAMES if isinstance(value, kind)), type(value).__name__)


_TYPE_NAMES: list[tuple[type | tuple[type, ...], str]] = [
    (type(None), "nothing"),
    (bool, "true or false"),
    ((int, float), "a number"),
    (str, "a text"),
    (list, "a list"),
    (dict, "an object"),
]


def _json_lines(path: Path) -> Iterator[Row]:
    for number, line in numbered_lines(path):
        yield _record(parsed(line, path, number), f"{path}:{number}")


def _json(path: Path) -> Iterator[Row]:
    value = read_json(path)
    yield from records(str(path), [] if value is None else value)


def _csv(path: Path) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    try:
        for number, values in enumerate(reader, 1):
            if None in values:
                raise DataError(f"{path}, row {number}: more cells than the header. Quote cells with commas")
            yield Row(f"{path}, row {number}", values)
    except csv.Error as error:
        raise DataError(f"{path}, near line {reader.line_num}: not valid CSV: {error}") from error


def _text(path: Path) -> Iterator[Row]:
    for number, line in numbered_lines(path):
        yield Row(f"{path}:{number}", {"prompt": line})


def _parquet(path: Path) -> Iterator[Row]:
    from pyarrow import parquet  # comes with `datasets`; not needed for any other file

    try:
        table = cast(Any, parquet.read_table(path))  # type: ignore[reportUnknownMemberType]
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: not a Parquet file that can be read: {error}") from error
    for number, values in enumerate(table.to_pylist(), 1):
        yield Row(f"{path}, row {number}", values)


_READERS = {".jsonl": _json_lines, ".json": _json, ".csv": _csv, ".parquet": _parquet, ".txt": _text}
EXTENSIONS = (*_READERS, ".gz")


def _extension(path: Path) -> str:
    packed = path.suffix.lower() == ".gz" and Path(path.stem).suffix.lower() != ".parquet"
    return (Path(path.stem) if packed else path).suffix.lower()


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers; split at newlines only: JSON strings may hold U+2028."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            yield number, line.removesuffix("\r")


def parsed(text: str, path: Path, line: int) -> Any:
    try:
        value = json.loads(text)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        place = f"{path}:{line + error.lineno - 1}"
        raise DataError(f"{place}: not valid JSON: {error.msg} (column {error.colno}). Mend or delete it") from error
    except UnicodeEncodeError as error:  # JSON lets it through, and then nothing could store or send it
        raise DataError(f"{path}:{line}: holds half a character (a lone \\ud8.. escape). Mend or delete it") from error
    return value


def _record(entry: object, where: str) -> Row:
    if isinstance(entry, str):
        return Row(where, {"prompt": entry})
    if isinstance(entry, dict):
        return Row(where, cast("dict[str, Any]", entry))
    raise DataError(f"{where}: expected an object or a text, got {type_name(entry)}")


def _among(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"{folder} holds {', '.join(names[:8])}{more}" if names else f"{folder} is empty"
