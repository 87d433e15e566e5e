"""A run opened: the configuration, the run directory, the models by role, the prompts by split."""

import json
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import BaseFileLock

from iteralign.config import (
    JudgeConfig,
    LlamaCppConfig,
    OneJudge,
    PanelConfig,
    PaperJudgeConfig,
    RubricConfig,
    RunConfig,
    TransformersConfig,
    members,
)
from iteralign.constitutions import load_constitution
from iteralign.data import assert_disjoint, load_sets
from iteralign.errors import ConfigError, DataError
from iteralign.judges.base import Judge
from iteralign.judges.calibration import calibration_of, file_of
from iteralign.judges.classifier import Classifier
from iteralign.judges.panel import Panel
from iteralign.judges.paper import PaperJudge
from iteralign.judges.rubric import Rubric
from iteralign.models.base import Model
from iteralign.models.load import Roles
from iteralign.models.usage import Usage
from iteralign.records import Constitution, Prompt, Split, digest
from iteralign.sizes import at_hand, cores
from iteralign.sources import Progress
from iteralign.stages.red_team import red_team
from iteralign.store import LOCK, Store, Watcher, locked, open_run, write_text
from iteralign.training.policy import BASE, Engine, Policy, refuse_untrainable

VALIDATION: Split = "validation"
HELD_OUT: Split = "held_out"
ATTACKED = "attacked"  # folder of a copy that a fine-tuning attack trains


@dataclass(frozen=True)
class Prompts:
    """Both sides of one split."""

    red_team: list[Prompt]
    harmless: list[Prompt]

    def first(self, n: int, seed: int) -> list[Prompt]:
        """At most n of each side, spread over the categories; equal for every model that is compared."""
        return red_team(self.red_team, 0, min(n, len(self.red_team)), seed) + red_team(
            self.harmless, 0, min(n, len(self.harmless)), seed
        )


@dataclass(frozen=True)
class Run:
    config: RunConfig
    store: Store
    engine: Engine
    roles: Roles
    prompts: dict[Split, Prompts]
    constitution: Constitution
    lock: BaseFileLock
    watch: Watcher | None = None
    step: Callable[[int, int], None] | None = None

    @property
    def base(self) -> Policy:
        return Policy(self.engine, BASE)

    def oracle(self, policy: Policy) -> Model:
        return self.roles.get(self.config.oracle, lambda: policy.model)

    def judge(self, policy: Policy) -> Judge:
        return self._kept("judge", self.config.judge, policy)

    def comparer(self, policy: Policy) -> Model:
        """Who says which of two answers is better: a model of its own, or the judge's."""
        own = self.config.prefer.model or members(self.config.judge)[0].model
        return self.roles.get(own, lambda: policy.model)

    def evaluator(self, policy: Policy) -> Judge:
        return self._kept("evaluator", self.config.evaluator, policy)

    def _kept(self, role: str, config: JudgeConfig, policy: Policy) -> Judge:
        """What the judge was measured to be worth is kept beside what it says; no stage of its own: a judge is made in
        the middle of one, whose time this would take over."""
        judge = judge_of(config, self.roles, policy)
        if not isinstance(config, PanelConfig) and (made := calibration_of(config, judge.instrument)):
            path = self.store.path(f"{file_of(role)}.json")
            if not path.exists():
                write_text(path, json.dumps(made.row(), ensure_ascii=False, indent=1) + "\n")
        return judge

    @property
    def usage(self) -> Usage:
        """What this process asked of all its models; training is no call."""
        return self.engine.usage.plus(self.roles.usage)

    def spent(self, stage: str, seconds: float, usage: Usage) -> None:
        """One time that a stage was worked at, for the report."""
        self.store.event("stage", stage=stage, seconds=round(seconds, 2), **usage._asdict())

    def close(self) -> None:
        self.roles.close()
        self.engine.close()
        self.lock.release()


def judge_of(config: JudgeConfig, roles: Roles, policy: Policy) -> Judge:
    made = [judge_by(one, roles.get(one.model, lambda: policy.model)) for one in members(config)]
    return Panel(made) if isinstance(config, PanelConfig) else made[0]


def judge_by(config: OneJudge, model: Model) -> Judge:
    """ConfigError: its calibration says that it must not be used."""
    if isinstance(config, RubricConfig):
        made: Judge = Rubric(config, model)
    else:
        made = PaperJudge(config, model) if isinstance(config, PaperJudgeConfig) else Classifier(config, model)
    calibration_of(config, made.instrument)
    return made


def open_(
    config: RunConfig,
    folder: Path,
    fresh: bool = False,
    watch: Watcher | None = None,
    progress: Progress | None = None,
    step: Callable[[int, int], None] | None = None,
    trains: bool = True,
    shared: Path | None = None,
) -> Run:
    """A run directory that is new or belongs to this very config, its prompts read and split. No model is loaded.
    `trains`: the policy must be one that can be trained. `shared`: a folder where several runs keep what their judges and oracles said."""
    if trains:
        refuse_untrainable(config.policy)
    check_models(config)
    prompts = split_prompts(config)
    constitution = load_constitution(config.constitution) if config.constitution else Constitution()
    if (folder / LOCK).exists():
        locked(folder).release()  # before anything of it is touched
    forget_attacked(folder)
    kept = open_run(folder, config.digest_fields(), fresh)
    lock = locked(kept)
    store = Store(kept, config.runtime.micro_batch, watch)
    threads = config.runtime.threads or cores()
    write_environment(kept, threads)
    return Run(
        config=config,
        store=store,
        engine=Engine(config.policy, threads, progress, store),
        roles=Roles(threads, kept / "calls.sqlite", progress, shared),
        prompts=prompts,
        constitution=constitution,
        lock=lock,
        watch=watch,
        step=step,
    )


def forget_attacked(folder: Path) -> None:
    """Copies that a fine-tuning attack trained, and that a probe which was killed has left: before anything else is done
    with a run's directory, and before --fresh moves it away."""
    for left in folder.glob(f"probe/*/{ATTACKED}"):
        shutil.rmtree(left, ignore_errors=True)


def check_models(config: RunConfig) -> None:
    """A model that is nowhere, or cannot learn as the config says, is met before there is a directory that holds its config."""
    refuse_encoder_decoder(config)
    judges = (*members(config.judge), *members(config.evaluator))
    for model in (config.policy, config.oracle, *(judge.model for judge in judges)):
        if isinstance(model, TransformersConfig | LlamaCppConfig):
            at_hand(model.model)


def refuse_encoder_decoder(config: RunConfig) -> None:
    """ConfigError: pairs and rewards are of decoder-only policies. One that is not fetched yet is met when it trains."""
    if config.learn == "sft" or not isinstance(config.policy, TransformersConfig) or not config.phases:
        return
    folder = at_hand(config.policy.model)
    path = folder / "config.json" if folder else None
    if path is not None and path.is_file() and json.loads(path.read_text()).get("is_encoder_decoder"):
        raise ConfigError(
            f"learn: {config.learn} needs a decoder-only policy, and {config.policy.model} is an encoder-decoder: use learn: sft"
        )


def split_prompts(config: RunConfig) -> dict[Split, Prompts]:
    sources = [*config.prompts.red_team, *config.prompts.harmless]
    sets, n = load_sets(sources, config.seed), len(config.prompts.red_team)
    harmful, harmless = ([p for part in side for p in part] for side in (sets[:n], sets[n:]))
    if not harmful:
        raise ConfigError("prompts.red_team names no data set: a run needs red-team prompts")
    everything = harmful + harmless
    train = [p for p in everything if p.split == "train"]
    assert_disjoint(train, [p for p in everything if p.split != "train"])
    splits: dict[Split, Prompts] = {}
    for split in ("train", "validation", "held_out"):
        splits[split] = Prompts([p for p in harmful if p.split == split], [p for p in harmless if p.split == split])
    if not splits["train"].red_team:
        raise DataError("no red-team prompt is in the train split: give a larger set, or split: train")
    return splits


def write_environment(folder: Path, threads: int) -> None:
    packages = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "xllamacpp", "openai", "iteralign")
    versions: dict[str, Any] = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    facts = {
        "python": sys.version.split()[0],
        "system": platform.platform(),
        "cpu_count": os.cpu_count(),
        "threads": threads,
        "packages": versions,
        "command": digest(sys.argv),
    }
    write_text(folder / "environment.json", json.dumps(facts, indent=1) + "\n")
