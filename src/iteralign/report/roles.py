"""Who played which part in a run; a part that the policy played itself is said first."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from iteralign.agreement import krippendorff_alpha
from iteralign.config import (
    ClassifierConfig,
    HumanConfig,
    JudgeConfig,
    OneJudge,
    PaperJudgeConfig,
    RoleConfig,
    RubricConfig,
    RunConfig,
    ScriptedConfig,
    SelfConfig,
    members,
)
from iteralign.judges.panel import votes
from iteralign.ledger import read_json
from iteralign.report.wording import estimate
from iteralign.store import read_rows


@dataclass(frozen=True)
class Role:
    """`identity` is the name that the stored rows carry: it changes with weights and questions."""

    name: str
    what: str
    identity: str | None
    is_self: bool


def read_roles(folder: Path, config: RunConfig) -> tuple[Role, ...]:
    first = folder / "rounds/00000"
    return (
        Role("policy", model_text(config.policy), named(folder / "evals/base/responses.jsonl", "policy"), False),
        Role("oracle", model_text(config.oracle), oracle(first), isinstance(config.oracle, SelfConfig)),
        judge_role("judge", config.judge, first / "verdicts.jsonl"),
        judge_role("evaluator", config.evaluator, folder / "evals/base/verdicts.jsonl"),
    )


def oracle(place: Path) -> str | None:
    path = place / "principles.json"
    return read_json(path).get("oracle") if path.is_file() else None


def judge_role(name: str, config: JudgeConfig, verdicts: Path) -> Role:
    """`verdicts`: the first ones that it gave in the run."""
    judges = members(config)
    what = "; ".join(judge_text(judge) for judge in judges)
    if len(judges) > 1:
        what = f"the majority of {len(judges)}: {what}{agreement(verdicts)}"
    return Role(name, what, named(verdicts, "judge"), any(isinstance(judge.model, SelfConfig) for judge in judges))


def agreement(verdicts: Path) -> str:
    """Of a panel's judges with each other, on the replies of a file."""
    if not verdicts.is_file():
        return ""
    found = krippendorff_alpha([votes(row["probabilities"]) for row in read_rows(verdicts)])
    if found.value is None:
        return f"; they say the same of all {found.n} replies"
    return f"; Krippendorff's alpha {estimate(found)} over {found.n} replies"


def model_text(config: RoleConfig) -> str:
    if isinstance(config, SelfConfig):
        return "the policy itself"
    if isinstance(config, HumanConfig):
        return "people"
    if isinstance(config, ScriptedConfig):
        return f"the scripted model {config.script!r} (no weights)"
    return f"{config.model} ({config.type})"


def judge_text(config: OneJudge) -> str:
    model = model_text(config.model)
    if isinstance(config, PaperJudgeConfig):
        return f"{model}, the paper's sentence"
    if isinstance(config, ClassifierConfig):
        return f"{model}, label {config.label}"
    return f"{model}, {config.prompt}: {', '.join(config.questions)}"


def named(path: Path, field: str) -> str | None:
    rows = read_rows(path) if path.is_file() else []
    return str(rows[0][field]) if rows else None


def self_notice(roles: Sequence[Role]) -> str | None:
    own = [role.name for role in roles if role.is_self]
    if not own:
        return None
    listed = own[0] if len(own) == 1 else f"{', '.join(own[:-1])} and {own[-1]}"
    plays = f"The policy is its own {listed}"
    if "evaluator" in own:
        return f"{plays}: it graded itself, so rates by the evaluator say what the model thinks of itself."
    if "judge" in own:
        return f"{plays}: it chose what it was trained on by its own opinion."
    return f"{plays}: no stronger model took part in finding the principles."


def shared_model(config: RunConfig) -> str | None:
    for a, b in product(members(config.judge), members(config.evaluator)):
        if a.model == b.model and not isinstance(a.model, SelfConfig):
            ways = (
                "other questions" if isinstance(a, RubricConfig) and isinstance(b, RubricConfig) else "another question"
            )
            return f"Evaluator and judge are the same model with {ways}: a blind spot of that model is in both."
    return None
