"""Domain packs: where one lies, what its files hold, and a new one to fill."""

import re
from importlib.resources import files
from pathlib import Path

from iteralign.errors import DataError
from iteralign.store import write_text

FIELDS = {
    "red_team.jsonl": ("id", "question", "category", "subtopic", "split"),
    "harmless.jsonl": ("id", "question", "category", "subtopic", "split", "kind", "twin"),
}
"""Of every row of a pack's file, all of them texts; but the twin of a row that is no look-alike is null."""

KINDS = ("look_alike", "ordinary")
PAGES = ("rules.md", "DATASHEET.md")

SKELETON = Path(str(files("iteralign.data"))) / "new_pack"


def pack_folder(name: str, asked: str) -> Path:
    """The folder of a pack by its name, or by its path. `asked` is what an error names. Raises DataError."""
    shipped = Path(str(files("iteralign.packs")))
    own = shipped / name
    folder = own if re.fullmatch(r"\w+", name) and own.is_dir() else Path(name).expanduser()
    if not folder.is_dir():
        names = ", ".join(sorted(path.name for path in shipped.iterdir() if any(path.glob("*.jsonl"))))
        raise DataError(f"{asked}: there is no folder {folder} and no pack of that name. The packs are {names}")
    return folder


def new_pack(folder: Path) -> None:
    """Writes a pack with examples to replace and pages to fill in. Raises DataError where something is there."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        what = "is not empty" if folder.is_dir() else "is a file"
        raise DataError(f"{folder} {what}: a pack is written into a new folder. Name one that is not there yet")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be made: {error.strerror}. Name another folder") from error
    for name in (*FIELDS, *PAGES):
        write_text(folder / name, (SKELETON / name).read_text(encoding="utf-8"))
