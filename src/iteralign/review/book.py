"""What people said, in one SQLite file beside the run: every click is kept with who and when, none is overwritten.

Write-ahead logging and one transaction a click: ten people at once lose nothing, and a kill between any two clicks
neither. The file is the owner's alone (0600), for the tokens of all links stand in it.
"""

import hmac
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from iteralign.errors import ConfigError, StoreError
from iteralign.records import Record

Said = Literal["satisfactory", "harmful", "unhelpful", "untruthful", "incoherent", "none"]
Action = Literal["accept", "edit", "merge", "retire", "restore", "up", "down", "add"]
TABLES = """
    CREATE TABLE IF NOT EXISTS secrets(name TEXT PRIMARY KEY, value TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS annotators(token TEXT PRIMARY KEY, name TEXT UNIQUE NOT NULL, at REAL NOT NULL);
    CREATE TABLE IF NOT EXISTS ratings(n INTEGER PRIMARY KEY, annotator TEXT NOT NULL, item TEXT NOT NULL,
        said TEXT NOT NULL, note TEXT NOT NULL, at REAL NOT NULL);
    CREATE INDEX IF NOT EXISTS latest ON ratings(annotator, item, n);
    CREATE TABLE IF NOT EXISTS decisions(n INTEGER PRIMARY KEY, who TEXT NOT NULL, action TEXT NOT NULL,
        principle TEXT NOT NULL, text TEXT NOT NULL, at REAL NOT NULL);
"""
NAME_LENGTH, NOTE_LENGTH = 60, 2000


class Annotator(Record):
    token: str
    name: str


class Rating(Record):
    """What somebody says of an item: satisfactory, or what is wrong with it ("none": they do not say)."""

    annotator: str
    item: str
    said: Said
    note: str
    at: float


class Decision(Record):
    """About a principle by id. `text`: the new wording of edit and add, the id of what it is merged into."""

    who: str
    action: Action
    principle: str
    text: str
    at: float


class Book:
    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            path.touch(mode=0o600)
        with self._open() as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.executescript(TABLES)
            for name in ("owner", "csrf"):
                db.execute("INSERT OR IGNORE INTO secrets VALUES (?, ?)", (name, secrets.token_urlsafe(24)))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """One connection a call, committed at its end: any thread may ask."""
        try:
            db = sqlite3.connect(self.path, timeout=30)
        except sqlite3.Error as error:
            raise StoreError(f"cannot open {self.path}: {error}") from error
        try:
            with db:
                yield db
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{self.path}: {error}. Free space, or move the file aside to start anew") from error
        finally:
            db.close()

    # -- who ---------------------------------------------------------------------------------------

    @property
    def owner(self) -> str:
        """The token of the owner's own pages."""
        return self._secret("owner")

    def stamp(self, token: str) -> str:
        """What a form of the page behind `token` must bring back."""
        return hmac.new(self._secret("csrf").encode(), token.encode(), "sha256").hexdigest()[:32]

    def stamped(self, token: str, stamp: str) -> bool:
        return hmac.compare_digest(self.stamp(token).encode(), stamp.encode())

    def _secret(self, name: str) -> str:
        with self._open() as db:
            return str(db.execute("SELECT value FROM secrets WHERE name = ?", (name,)).fetchone()[0])

    def invite(self, name: str) -> Annotator:
        """Who rates, by name; the same name gets the same link. ConfigError: no name."""
        name = " ".join(name.split())[:NAME_LENGTH]
        if not name:
            raise ConfigError("an annotator needs a name")
        with self._open() as db:
            db.execute(
                "INSERT OR IGNORE INTO annotators VALUES (?, ?, ?)", (secrets.token_urlsafe(16), name, time.time())
            )
            token = db.execute("SELECT token FROM annotators WHERE name = ?", (name,)).fetchone()[0]
        return Annotator(token=token, name=name)

    def annotators(self) -> list[Annotator]:
        with self._open() as db:
            return [Annotator(token=t, name=n) for t, n in db.execute("SELECT token, name FROM annotators ORDER BY at")]

    def annotator(self, token: str) -> Annotator | None:
        return next((a for a in self.annotators() if hmac.compare_digest(a.token.encode(), token.encode())), None)

    # -- what they say -----------------------------------------------------------------------------

    def rate(self, annotator: Annotator, item: str, said: Said, note: str = "") -> None:
        with self._open() as db:
            db.execute(
                "INSERT INTO ratings(annotator, item, said, note, at) VALUES (?, ?, ?, ?, ?)",
                (annotator.name, item, said, note[:NOTE_LENGTH], time.time()),
            )

    def ratings(self) -> list[Rating]:
        """The newest of each annotator for each item, oldest first."""
        with self._open() as db:
            rows = db.execute(
                "SELECT annotator, item, said, note, at FROM ratings WHERE n IN "
                "(SELECT max(n) FROM ratings GROUP BY annotator, item) ORDER BY n"
            ).fetchall()
        return [Rating(annotator=a, item=i, said=s, note=t, at=at) for a, i, s, t, at in rows]

    def decide(self, who: str, action: Action, principle: str, text: str = "") -> None:
        with self._open() as db:
            db.execute(
                "INSERT INTO decisions(who, action, principle, text, at) VALUES (?, ?, ?, ?, ?)",
                (who[:NAME_LENGTH], action, principle, text[:NOTE_LENGTH], time.time()),
            )

    def decisions(self) -> list[Decision]:
        with self._open() as db:
            rows = db.execute("SELECT who, action, principle, text, at FROM decisions ORDER BY n").fetchall()
        return [Decision(who=w, action=a, principle=p, text=t, at=at) for w, a, p, t, at in rows]
