"""What stands in the way of a run: the machine and its packages, and, for a config, its keys, servers and prompts."""

import shutil
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from iteralign.config import OpenAIConfig, RunConfig
from iteralign.downloads import hub_endpoint
from iteralign.errors import InputError
from iteralign.records import Split
from iteralign.sizes import cores, held
from iteralign.sources import cache_folder

if TYPE_CHECKING:
    from iteralign.plan import Plan

PYTHON = (3, 11)
TESTED = {
    "torch": "2.13.0",
    "transformers": "5.23.0",
    "trl": "1.16.0",
    "peft": "0.21.2",
    "accelerate": "1.15.0",
    "datasets": "5.2.0",
    "safetensors": "0.8.0",
    "tokenizers": "0.23.3",
    "gguf": "0.19.0",
    "huggingface_hub": "2.4.0",
    "xllamacpp": "2026.10.11549",
    "openai": "3.52.0",
    "pydantic": "2.14.3",
    "PyYAML": "6.0.3",
    "typer": "0.29.2",
    "rich": "15.0.0",
    "Jinja2": "3.1.6",
    "filelock": "4.2.11",
    "numpy": "2.4.6",
    "scipy": "1.17.1",
    "scikit-learn": "1.9.1",
    "matplotlib": "3.11.2",
}
"""The versions of constraints.txt, with which the tests pass."""

EMBEDDED = ("policy", "oracle", "hhh")
ANSWER_SECONDS = 2.0


@dataclass(frozen=True)
class Check:
    """`ok` False: a run would fail here; None: worth knowing, or not to be found out. `hint` says what to do."""

    name: str
    ok: bool | None
    said: str
    hint: str = ""


def checks(config: RunConfig | None = None) -> list[Check]:
    """Of this machine; with a config also of what that run needs. Loads no model of the run and fetches nothing."""
    installed = list(packages())
    machine = [python(), *installed, device(), network(), cache()]
    planned, of_run = None, list[Check]()
    if config and any(check.ok is False for check in installed):
        of_run = [Check("config", None, "not looked at yet", "install what is missing, then ask again")]
    elif config:
        planned, forecast = planning(config)
        of_run = [*remote(config), *fetched(planned), *prompt_sets(config), *splits(config), forecast]
    return once([*machine, disk(Path.cwd(), planned), memory(planned), *of_run])


def once(found: Sequence[Check]) -> list[Check]:
    """Without what was met again: a broken file also breaks the splits and the plan."""
    first: dict[str, Check] = {}
    for check in found:
        first.setdefault(check.said if check.ok is False else f"{check.name}: {check.said}", check)
    return list(first.values())


# -- the machine ---------------------------------------------------------------------------------------


def python() -> Check:
    version, tested = sys.version.split()[0], ".".join(map(str, PYTHON))
    if sys.version_info[:2] == PYTHON:
        return Check("python", True, version)
    return Check("python", None if sys.version_info[:2] > PYTHON else False, f"{version}; tested with {tested}")


def packages() -> Iterator[Check]:
    """One line for all that have their tested versions, and one for each that has not."""
    same = 0
    for package, tested in TESTED.items():
        try:
            version = metadata.version(package).partition("+")[0]
        except metadata.PackageNotFoundError:
            yield Check(package, False, "not installed", f"pip install {package}=={tested}")
            continue
        if version == tested:
            same += 1
        else:
            yield Check(package, None, f"{version}; tested with {tested}")
    yield Check("packages", True if same else None, f"{same} of {len(TESTED)} in the versions they were tested with")


def device() -> Check:
    """What `device: auto` and `dtype: auto` come to here."""
    if find_spec("torch") is None:
        return Check("device", None, "torch is not installed, so not known")
    try:
        import torch

        from iteralign.models.device import pick_device, product_seconds
    except (ImportError, OSError) as error:  # OSError: a library of torch's that does not load
        return Check("device", False, f"torch cannot be imported: {error}", "install torch anew")
    where = pick_device("auto")
    if where.type == "cuda":
        cards = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
        return Check("device", True, ", ".join(f"{card.name} ({gigabytes(card.total_memory)})" for card in cards))
    if where.type != "cpu":
        return Check("device", True, where.type)
    seconds = product_seconds()
    bf16, fp32 = seconds["bfloat16"], seconds["float32"]
    faster = "bfloat16" if bf16 < fp32 else "float32"
    times = f"a product takes {1e3 * bf16:.1f} ms in bfloat16 and {1e3 * fp32:.1f} ms in float32"
    return Check("device", True, f"cpu, {cores()} cores; dtype auto is {faster}: {times}")


def network() -> Check:
    """Only to know: with a full cache a run needs no network."""
    try:
        endpoint = hub_endpoint()
    except InputError as error:
        return Check("hub", False, str(error))
    status, said = ask(endpoint, method="HEAD")
    if status:
        return Check("hub", True, f"{endpoint} answers")
    return Check("hub", None, f"{endpoint} does not answer ({said})", "what is in the cache works without it")


def cache() -> Check:
    """Whether it can be filled, and which of the embedded models and data it holds (judged by sizes)."""
    folder = cache_folder()
    whole = held()
    missing = [name for name in EMBEDDED if not whole.get(name)]
    here = [name for name in EMBEDDED if whole.get(name)]
    said = f"{folder} holds {', '.join(here) or 'none of the embedded models'}"
    if problem := unwritable(folder):
        hint = "permit writing there, or set ITERALIGN_CACHE to another folder"
        return Check("cache", False if missing else None, f"{said}; it cannot be written to: {problem}", hint)
    return Check("cache", None if missing else True, said, f"iteralign pull {' '.join(missing)}" if missing else "")


def unwritable(folder: Path) -> str:
    """Why nothing can be written in a folder, or in the nearest one that is there; "" when something can."""
    place = next((p for p in (folder, *folder.absolute().parents) if p.exists()), Path("/"))
    try:
        with tempfile.TemporaryFile(dir=place):
            return ""
    except OSError as error:
        return f"{place}: {error.strerror}"


def disk(folder: Path, plan: "Plan | None") -> Check:
    """Free on the disk that `folder` is on, against the run's checkpoints."""
    free, need = shutil.disk_usage(folder).free, known(plan, "disk")
    said = f"{gigabytes(free)} free in {folder}" + (f"; checkpoints take {gigabytes(need)}" if need else "")
    hint = "make room, or name a --run-dir on a larger disk" if need > free else ""
    return Check("disk", need <= free, said, hint)


def memory(plan: "Plan | None") -> Check:
    """Available, against the run's models; activations come on top, so what just fits is only a note."""
    free, need = available_memory(), known(plan, "memory")
    if free is None:
        return Check("memory", None, "this system does not say how much is available")
    said = f"{gigabytes(free)} available" + (f"; the models take {gigabytes(need)} and more" if need else "")
    if need <= 0.8 * free:
        return Check("memory", True, said)
    hint = "close other programs, take smaller models, or train by sft.lora"
    broken = need > free and shutil.which("nvidia-smi") is None  # a GPU has memory of its own
    return Check("memory", False if broken else None, said, hint)


def known(plan: "Plan | None", kind: str) -> int:
    return sum(amount.bytes or 0 for amount in getattr(plan, kind)) if plan else 0


def available_memory() -> int | None:
    """Bytes, inside this container's limit where it has one; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):  # no limit ("max"), or another kind of system
        return found
    return max(0, limit - used) if found is None else min(found, max(0, limit - used))


def gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB"


# -- a config ------------------------------------------------------------------------------------------


def planning(config: RunConfig) -> tuple["Plan | None", Check]:
    """The plan walks through every stage, so it meets what is wrong with templates, thresholds, attacks and files."""
    from iteralign.plan import clock, plan

    try:
        made = plan(config)
    except InputError as error:
        return None, Check("config", False, str(error))
    calls = sum(line.calls for line in made.lines)
    return made, Check(
        "config", True, f"its stages can be walked through: at most {calls:,} calls, {clock(made.seconds)}"
    )


def remote(config: RunConfig) -> Iterator[Check]:
    """The key and the server of each remote model; equal ones once."""
    from iteralign.models.openai import key_of, url_of
    from iteralign.walk import ROLES, models_of

    asked: set[str] = set()
    for model in dict.fromkeys(m for role in ROLES for m in models_of(config, role) if isinstance(m, OpenAIConfig)):
        name, key, url = f"key {model.key_env}", "", ""
        try:
            url = url_of(model)
            key = key_of(model) if model.key_env else ""
            if key and name not in asked:
                yield Check(name, True, "is set")
        except InputError as error:
            if not url:
                yield Check(f"server of {model.model}", False, str(error))
                continue
            if name not in asked:
                yield Check(name, False, str(error))
        if url not in asked:
            yield server(url, key, model)
        asked |= {name, url}


def server(url: str, key: str, model: OpenAIConfig) -> Check:
    name = f"server {url}"
    status, said = ask(f"{url}/models", key)
    if not status:
        return Check(name, False, f"does not answer: {said}", "is it running, and is base_url right?")
    if status in (401, 403) and key:
        return Check(
            name, False, f"answers, but does not let us in (HTTP {status})", f"check the key in {model.key_env}"
        )
    return Check(name, True, "answers")


def fetched(plan: "Plan | None") -> Iterator[Check]:
    """What the run would fetch first."""
    for amount in plan.downloads if plan else ():
        if amount.bytes:
            said = f"not in the cache: {amount.bytes / 1e6:,.1f} MB are fetched at the start"
            yield Check(amount.what, None, said, f"iteralign pull {amount.what}")
        elif amount.bytes is None:
            yield Check(amount.what, None, "not on this disk: it is fetched at the start, which needs the network")


def prompt_sets(config: RunConfig) -> Iterator[Check]:
    from iteralign.data import load_prompts
    from iteralign.plan import copy_at_hand

    for source in dict.fromkeys((*config.prompts.red_team, *config.prompts.harmless)):
        name = f"prompts {source.source}"
        here = copy_at_hand(source)
        if here is None:
            yield Check(name, None, "not on this disk: fetched at the start")
            continue
        try:
            counts = Counter(prompt.split for prompt in load_prompts(here, config.seed))
        except InputError as error:
            yield Check(name, False, str(error))
        else:
            yield Check(
                name, True, ", ".join(f"{counts[split]} {split}" for split in ("train", "validation", "held_out"))
            )


def splits(config: RunConfig) -> Iterator[Check]:
    """Whether each side has a round's batch, and prompts to steer by and to measure on. Too few are a note: a run
    takes what there is."""
    from iteralign.plan import prompts_at_hand

    try:
        sets, _ = prompts_at_hand(config)
    except InputError as error:
        yield Check("splits", False, str(error))
        return
    wanted, held_out = config.prompts, config.prompts.held_out if config.evals.held_out else 0
    needs: list[tuple[Split, str, int, str]] = [
        ("train", "red_team", wanted.red_team_per_round, "a round asks for"),
        ("train", "harmless", wanted.harmless_per_round, "a round asks for"),
        ("validation", "red_team", wanted.validation, "the gates ask for"),
        ("validation", "harmless", wanted.validation, "the gates ask for"),
        ("held_out", "red_team", held_out, "the evaluation asks for"),
        ("held_out", "harmless", held_out, "the evaluation asks for"),
    ]
    if not wanted.harmless:
        needs = [need for need in needs if need[1] == "red_team"]
        yield Check("splits", None, "prompts.harmless is empty: nobody would see it if the policy came to refuse all")
    short = [(split, side, len(getattr(sets[split], side)), n, who) for split, side, n, who in needs]
    for split, side, count, need, who in short:
        if count < need:
            broken = not count and side == "red_team" and split != "validation"
            said = f"{count} {side} prompts in {split}, and {who} {need}"
            yield Check("splits", False if broken else None, said, "give a larger set, or ask for fewer")
    if all(count >= need for *_, count, need, _ in short):
        yield Check("splits", True, "every split holds as many prompts as are asked for")


# -- the network ---------------------------------------------------------------------------------------


def ask(url: str, key: str = "", method: str = "GET") -> tuple[int, str]:
    """The HTTP status, 0 without an answer in time, and why there was none."""
    answers = [(0, f"no answer within {ANSWER_SECONDS:g} s")]
    request = Request(url, method=method)
    if key:
        request.add_unredirected_header("Authorization", f"Bearer {key}")

    def go() -> None:
        try:
            with urlopen(request, timeout=ANSWER_SECONDS) as response:
                answers.append((response.status, ""))
        except HTTPError as error:
            answers.append((error.code, ""))
        except (OSError, HTTPException) as error:
            answers.append((0, str(getattr(error, "reason", error))))

    thread = threading.Thread(target=go, daemon=True)  # a name server may take longer than the timeout
    thread.start()
    thread.join(ANSWER_SECONDS + 0.5)
    return answers[-1]
