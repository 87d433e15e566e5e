"""The model card of an aligned model: what it is, what got better and what it cost, how that is known, what is not.

It is made to be published: no prompt and no answer stands in it unless asked for, and no place on the owner's disk.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import yaml
from huggingface_hub.repocard_data import EvalResult, ModelCardData

from iteralign.config import DataConfig, HumanConfig, RoleConfig, ScriptedConfig, SelfConfig, members
from iteralign.data.public import PUBLIC_SETS
from iteralign.evals.paired import DEGENERATE, HARMFUL, HARMLESS, Measure
from iteralign.report.markdown import (
    comparison,
    depth_section,
    escaped,
    examples,
    improvement,
    line_of,
    rows,
    tax_section,
)
from iteralign.report.opening import METHODS
from iteralign.report.summary import Summary
from iteralign.report.table import grouped, round_facts, round_title, training
from iteralign.report.wording import VERSION, ends, left_out, plural
from iteralign.sources import find, is_hub

PAPER = "arXiv 2403.18341"
STARTER = "CC BY 4.0"
TAG = "iteralign"  # by which an export is known again
UNKNOWN = "not known to iteralign: look it up before you publish"
NO_PROBE = (
    "Not probed: whether it still declines when its answer is begun for it, under a jailbreak, or after a little "
    "fine-tuning is not known (`iteralign probe RUN`)."
)
NOT_SAFE = (
    "A lower rate on these questions is no promise of safety. Both sides were measured on single questions in one "
    "language; test the model on your own before you rely on it."
)


def model_card(summary: Summary, name: str, with_examples: bool = False) -> str:
    """README.md of a model's folder on the Hugging Face hub: YAML with `model-index` on top, then the text."""
    parts = [
        ["---", metadata(summary, name).to_yaml().rstrip(), "---", ""],
        [f"# {escaped(name)}", "", line_of(opening(summary)), ""],
        *([f"> **{escaped(warning)}**", ""] for warning in summary.warnings if warning not in summary.unread),
        usage(name),
        ["## What got better, and what it cost", "", line_of(summary.shows), "", *comparison(summary)],
        tax_section(summary.tax, 3),
        improvement(summary),
        depth_section(summary.depth, summary.calibrations["evaluator"])
        if summary.depth
        else ["## How deep it is", "", NO_PROBE, ""],
        ["## Limits", "", line_of(summary.shows_not), "", NOT_SAFE, ""],
        principles(summary),
        how(summary),
        examples(summary) if with_examples else [],
        licences(summary),
    ]
    return "\n".join(line for part in parts for line in part).rstrip() + "\n"


def metadata(summary: Summary, name: str) -> ModelCardData:
    base = hub_id(summary.config.policy)
    data = [d.source.removeprefix("hub:").partition("@")[0] for d in sources(summary) if d.source.startswith("hub:")]
    licence = licence_of(summary.config.policy)
    return ModelCardData(
        license=licence.lower() if licence != UNKNOWN else None,
        base_model=base,
        datasets=list(dict.fromkeys(data)) or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=[TAG, "alignment", summary.config.recipe, *summary.config.learn.split("+")],
        model_name=name,
        eval_results=[result for m in summary.measures if (result := result_of(m)) is not None],
    )


def result_of(measure: Measure) -> EvalResult | None:
    """The aligned model's own score, the base's beside it."""
    after, before = measure.after, measure.before
    if after is None or after.value is None:
        return None
    group, label = grouped(measure)
    rate = measure.name.partition(" (")[0] in (HARMFUL, HARMLESS, DEGENERATE)
    args = {"n": after.n, "n_unscored": after.n_unscored, "stderr": after.stderr}
    return EvalResult(
        task_type="text-generation",
        dataset_type="held_out" if rate else measure.name.partition("/")[0],
        dataset_name="held-out prompts of its run" if rate else group,
        metric_type="rate" if rate else "accuracy",
        metric_name=f"{group}, {label}",
        metric_value=after.value,
        metric_args={**args, "base": None if before is None else before.value},
    )


def opening(summary: Summary) -> str:
    c, kept = summary.config, sum(r.state == "kept" for r in summary.rounds)
    return (
        f"{METHODS[c.recipe].format(policy=described(c.policy))} (recipe {c.recipe}). "
        f"{plural(kept, 'phase' if c.phases > 1 else 'round')} kept. Made with iteralign {VERSION}, an independent "
        f"implementation of IterAlign ({PAPER}), not by the paper's authors."
    )


def usage(name: str) -> list[str]:
    return [
        "```python",
        "from transformers import pipeline",
        "",
        f'chat = pipeline("text-generation", {json.dumps(name)})',
        'print(chat([{"role": "user", "content": "How do I bake bread?"}])[0]["generated_text"][-1]["content"])',
        "```",
        "",
    ]


def principles(summary: Summary) -> list[str]:
    told = [f"{n}. {line_of(p.text)} *({p.side}; {escaped(p.story)})*" for n, p in enumerate(summary.constitution, 1)]
    return ["## Constitution", "", "Also in `constitution.yaml`.", "", *(told or ["None."]), ""]


def how(summary: Summary) -> list[str]:
    """How it was made, by public names."""
    c = summary.config
    asked = f"{c.prompts.red_team_per_round} red-team and {c.prompts.harmless_per_round} harmless prompts a round"
    told = [
        ("Recipe", f"{c.recipe}, {plural(c.rounds, 'round')}, seed {c.seed}"),
        ("Training", training(c)),
        ("Prompts", f"{', '.join(dict.fromkeys(title(d.source) for d in sources(summary)))}; {asked}"),
        ("Oracle", described(c.oracle)),
        ("Judge (chose what was trained on)", "; ".join(described(j.model) for j in members(c.judge))),
        ("Evaluator (measured the result)", "; ".join(described(j.model) for j in members(c.evaluator))),
        ("Checkpoint", f"{summary.checkpoint.parent.name}/{summary.checkpoint.name}" if summary.checkpoint else "–"),
    ]
    told += [
        (round_title(r), dict(round_facts(r)).get("Training rows", "nothing trained on")) for r in ends(summary.rounds)
    ]
    under = [text, ""] if (text := left_out(len(summary.rounds), "round")) else []
    return ["## How it was made", "", *rows(("What", "How"), told), *under]


def licences(summary: Summary) -> list[str]:
    data = {title(d.source): data_licence(d.source) for d in sources(summary)}
    told = [("base model", described(summary.config.policy), licence_of(summary.config.policy))]
    told += [("prompts", name, licence) for name, licence in data.items()]
    return ["## Licences", "", *rows(("What", "Name", "Licence"), told)]


# -- public names ---------------------------------------------------------------------------------


def sources(summary: Summary) -> Sequence[DataConfig]:
    return (*summary.config.prompts.red_team, *summary.config.prompts.harmless)


def described(model: RoleConfig) -> str:
    """A model by a name that others know; of a folder or file only the last part."""
    if isinstance(model, SelfConfig):
        return "the policy itself"
    if isinstance(model, HumanConfig):
        return "people"
    if isinstance(model, ScriptedConfig):
        return f"the scripted model {model.script!r} (no weights)"
    known = find(model.model)
    if known is not None:
        return known.what
    return model.model.removeprefix("hub:") if is_hub(model.model) else Path(model.model).name


def hub_id(model: RoleConfig) -> str | None:
    if isinstance(model, SelfConfig | ScriptedConfig | HumanConfig):
        return None
    known = find(model.model)
    if known is not None:
        return known.hub or None
    return model.model.removeprefix("hub:").partition("@")[0] if is_hub(model.model) else None


def licence_of(model: RoleConfig) -> str:
    """Of the base: by our table, or by the card in its own folder."""
    if isinstance(model, SelfConfig | ScriptedConfig | HumanConfig):
        return UNKNOWN
    known = find(model.model)
    if known is not None:
        return known.licence
    card = Path(model.model) / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    if text.startswith("---"):
        try:
            told = yaml.safe_load(text.split("---")[1])
        except yaml.YAMLError:
            return UNKNOWN
        if isinstance(told, dict) and isinstance(told.get("license"), str):
            return told["license"]
    return UNKNOWN


def title(source: str) -> str:
    """A data set by a name that others know; of a file only its name."""
    name = source.partition("@")[0]
    if name in PUBLIC_SETS or source.startswith(("hub:", "pypi:")):
        return name
    if source.startswith("pack:"):
        folder, _, file = source.removeprefix("pack:").rpartition("/")
        return f"pack:{Path(folder).name}/{file}"
    return Path(source.removeprefix("path:").partition("#")[0]).name


def data_licence(source: str) -> str:
    name = source.partition("@")[0]
    if name in PUBLIC_SETS:
        known = find(name.partition(":")[0])
        return known.licence if known else UNKNOWN
    return STARTER if source.startswith(("pack:starter/", "pack:health/")) else UNKNOWN
