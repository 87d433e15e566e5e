"""A tiny GGUF in llama.cpp: what a call gives does not depend on the calls before it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from iteralign.config import LlamaCppConfig
from iteralign.models.base import Job, Sampling
from iteralign.models.gguf import write_gguf
from iteralign.models.llama_cpp import LlamaCppModel
from iteralign.records import Chat, user
from tiny import tiny_folder

SHARED = "How do I grow tomatoes in a small garden, and " * 6
CHATS = [user(SHARED + end) for end in ("what?", "why is that?", "who?", "when?")]
WARM = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=64)


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_gguf(tiny_folder(folder / "m", dtype=torch.float32), folder / "m.gguf", "f16")
    return folder / "m.gguf"


@pytest.fixture
def model(gguf: Path) -> Iterator[LlamaCppModel]:
    made = LlamaCppModel(LlamaCppConfig(model=str(gguf), scoring="llama_cpp"), gguf, 1)
    yield made
    made.close()


def jobs(chats: list[Chat]) -> list[Job]:
    return [Job(chat=c, sampling=WARM, seed=n) for n, c in enumerate(chats)]


def test_a_call_gives_the_same_whatever_came_before_it(model: LlamaCppModel) -> None:
    """A prompt that is read in two pieces, the first of them long ago, gives other numbers than one read whole."""
    replies, choices = model.generate(jobs(CHATS)), model.choose(CHATS, ("yes", "no"))
    model.generate(jobs([user(SHARED + "it grows well if it is watered.")]))
    assert model.generate(jobs(CHATS)) == replies
    model.generate(jobs([user(SHARED + "it grows well if it is watered.")]))
    assert model.choose(CHATS, ("yes", "no")) == choices


def test_only_what_was_asked_is_counted(model: LlamaCppModel) -> None:
    replies, before = model.generate(jobs(CHATS)), model.meter.usage
    assert (before.calls, before.read) == (len(CHATS), sum(r.prompt_tokens for r in replies))
    model.choose(CHATS, ("yes", "no"))
    assert model.meter.usage.less(before).calls == len(CHATS)
    assert model.meter.usage.less(before).read == before.read


def test_a_server_that_has_served_nothing_yet_can_be_let_go(gguf: Path) -> None:
    """Of 400 that were let go at once one waited for ever, in C where no signal reaches it: so another process does it."""
    code = (
        "import sys; from pathlib import Path; from iteralign.config import LlamaCppConfig\n"
        "from iteralign.models.llama_cpp import LlamaCppModel\n"
        f"path = Path({str(gguf)!r})\n"
        "for _ in range(800):\n"
        "    model = LlamaCppModel(LlamaCppConfig(model=str(path), scoring='llama_cpp'), path, 1)\n"
        "    assert model.server.listening_address\n"
        "    model.close()\n"
        "print('all were')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout == "all were\n", done.stderr
