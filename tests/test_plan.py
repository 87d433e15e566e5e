"""A plan holds at least what its run then does, says what its numbers rest on, and loads and fetches nothing."""

import io
import json
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file

from iteralign.config import LlamaCppConfig, RunConfig, TransformersConfig, load_config
from iteralign.errors import DataError, InputError
from iteralign.judges.base import as_data, degenerate
from iteralign.models.base import Job, Sampling
from iteralign.models.scripted import ScriptedModel
from iteralign.plan import Line, Plan, plan, plan_table
from iteralign.recipes.iteralign import iteralign
from iteralign.records import digest, user
from iteralign.runs import open_
from iteralign.sizes import count_parameters, memory_of, weigh
from iteralign.store import open_run
from iteralign.tally import Tally
from make import small_hhh

SCRIPTED = Path(__file__).parents[1] / "configs" / "scripted.yaml"
DEMO = SCRIPTED.with_name("demo.yaml")
# a name of its own for each role, by which their calls are told apart
ROLES = ("evaluator.model.script=oracle",)
OPENAI = (
    "{type: openai, model: big, key_env: null, base_url: 'http://127.0.0.1:9/v1', price: {prompt: 2, completion: 8}}"
)


@pytest.fixture(autouse=True)
def cut_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache, and no network at all."""

    def refuse(*_: object) -> None:
        raise AssertionError("a plan asked the network")

    monkeypatch.setenv("ITERALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def scripted(*overrides: str) -> RunConfig:
    return load_config(SCRIPTED, overrides)


def line(made: Plan, stage: str, role: str) -> Line:
    [found] = [x for x in made.lines if (x.stage, x.role) == (stage, role)]
    return found


def shown(made: Plan) -> str:
    Console(file=(text := io.StringIO()), width=200).print(plan_table(made))
    return text.getvalue()


def rows(folder: Path, pattern: str) -> list[dict[str, Any]]:
    return [json.loads(text) for path in sorted(folder.glob(pattern)) for text in path.read_text().splitlines()]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """Counts what the scripted models are really asked, by their script and the call."""
    counts: Counter[tuple[str, str]] = Counter()

    def counting(call: str) -> None:
        inner = getattr(ScriptedModel, call)

        def counted(self: ScriptedModel, items: Any, *rest: Any) -> Any:
            counts[self.name.split(":")[1], call] += len(items)
            return inner(self, items, *rest)

        monkeypatch.setattr(ScriptedModel, call, counted)

    for call in ("generate", "choose", "loglikelihoods"):
        counting(call)
    return counts


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("revise.check=true", "revise.critique=true", "revise.max_principles=0"),
        ("revise.keep=all", "sft.rows=pool", "revise.candidates=3"),
        ("discover.group_by=none", "discover.group_size=5", "rounds=3"),
        ("discover.ask_cosine=0", "discover.duplicate_cosine=1", "discover.group_size=3"),
        ("discover.group_by=clusters", "prompts.harmless_per_round=7", "prompts.validation=3"),
        ("policy.script=collapses", "judge.trust_wants=false", "revise.accept=all"),
        ("evals.held_out=false", "gates.evaluator=false", "runtime.micro_batch=5"),
    ],
)
def test_no_run_does_more_than_its_plan(
    overrides: tuple[str, ...], asked: Counter[tuple[str, str]], tmp_path: Path
) -> None:
    config = scripted(*ROLES, *overrides)
    made = plan(config)
    assert not asked, "a plan asks no model"
    iteralign(open_(config, folder := tmp_path / "run"))

    def planned(*roles: str) -> int:
        return sum(x.calls for x in made.lines if x.role in roles)

    policy = [n for (who, _), n in asked.items() if who in ("policy", "collapses")]
    assert 0 < sum(policy) <= planned("policy")
    assert 0 < asked["judge", "choose"] <= planned("judge")
    assert 0 < asked["oracle", "generate"] <= sum(x.calls for x in made.lines if x.stage == "discover")
    merging = sum(x.calls for x in made.lines if x.stage == "merge")
    assert asked["oracle", "choose"] <= planned("evaluator") + merging
    assert 0 < len(rows(folder, "rounds/*/rows.jsonl")) <= made.training.rows


def test_what_does_not_depend_on_failures_is_planned_to_the_call(tmp_path: Path) -> None:
    config = scripted(*ROLES)
    made = plan(config)
    iteralign(open_(config, folder := tmp_path / "run"))
    verdicts = rows(folder, "rounds/*/verdicts.jsonl")
    assert line(made, "respond", "policy").calls == len(rows(folder, "rounds/*/responses.jsonl")) == 96
    assert line(made, "judge", "judge").calls == sum(len(v["probabilities"]) for v in verdicts)
    assert line(made, "gate", "policy").calls == len(rows(folder, "rounds/*/validation/responses.jsonl"))
    assert line(made, "gate, base", "policy").calls == len(rows(folder, "evals/validation/responses.jsonl"))
    held_out = rows(folder, "evals/base/responses.jsonl") + rows(folder, "evals/final/responses.jsonl")
    assert line(made, "held-out", "policy").calls == len(held_out) == 80
    assert line(made, "held-out", "evaluator").calls == 80


def test_twice_the_rounds_are_twice_the_calls_of_a_round() -> None:
    once, twice = plan(scripted("rounds=2")), plan(scripted("rounds=4"))
    for a, b in zip(once.lines, twice.lines, strict=True):
        assert b.calls == (a.calls if a.per == "run" else 2 * a.calls), a.stage
    assert (twice.training.rows, twice.training.steps) == (2 * once.training.rows, 2 * once.training.steps)


def test_prices_of_the_config_give_the_cost() -> None:
    made = plan(scripted(f"oracle={OPENAI}"))
    own = [x for x in made.lines if x.role == "oracle"]
    assert [x.stage for x in own] == ["discover", "merge"]
    for oracle in own:
        assert oracle.dollars == pytest.approx((2 * oracle.prompt_tokens + 8 * oracle.new_tokens) / 1e6)
        assert oracle.seconds == oracle.calls / 8
    assert made.dollars == pytest.approx(sum(x.dollars or 0.0 for x in own))
    assert made.dollars
    assert f"${made.dollars:.2f}" in shown(made)


def test_at_most_one_question_for_each_new_principle_is_planned_unless_none_is_asked() -> None:
    made = plan(scripted("discover.per_call=2"))
    assert line(made, "merge", "oracle").calls == 2 * line(made, "discover", "oracle").calls
    for setting in ("discover.ask_cosine=null", "discover.prompt=paper.yaml"):
        assert [x for x in plan(scripted(setting)).lines if x.stage == "merge"] == []


def test_without_a_price_the_cost_is_unknown() -> None:
    made = plan(scripted("oracle={type: openai, model: big, key_env: null}"))
    assert line(made, "discover", "oracle").dollars is None
    assert made.dollars is None
    assert "unknown" in shown(made)
    assert made.as_dict()["total"]["dollars"] is None


def test_the_cost_stays_unknown_in_the_config_of_a_run_directory(tmp_path: Path) -> None:
    config = scripted("oracle={type: openai, model: big, key_env: null}")
    kept = open_run(tmp_path / "run", config.digest_fields()) / "config.yaml"
    again = load_config(kept)
    assert again == config
    assert plan(again).dollars is None
    priced = scripted(f"oracle={OPENAI}")
    paid = load_config(open_run(tmp_path / "paid", priced.digest_fields()) / "config.yaml")
    assert plan(paid).dollars == plan(priced).dollars


def test_half_a_price_is_refused() -> None:
    with pytest.raises(InputError, match=r"oracle\.price\.completion"):
        scripted("oracle={type: openai, model: big, price: {prompt: 2}}")


def test_the_plan_reads_as_json_and_as_a_table() -> None:
    made = plan(scripted())
    tree = json.loads(json.dumps(made.as_dict()))
    assert tree["total"]["calls"] == sum(x["calls"] for x in tree["lines"])
    assert tree["prompts"]["held_out"] == {"red_team": 128, "harmless": 128}
    assert all(x["basis"] for x in [*tree["lines"], tree["training"], *tree["memory"], *tree["disk"]])
    text = shown(made)
    assert all(stage in text for stage in ("respond", "discover", "train", "memory", "Assumed"))


def test_a_policy_that_judges_itself_is_held_once() -> None:
    made = plan(scripted("judge.model={type: self}", "oracle={type: self}"))
    assert line(made, "judge", "judge").model == line(made, "discover", "oracle").model == "scripted: policy"
    assert [amount.what.split(":")[0] for amount in made.memory] == ["policy", "evaluator"]


def test_a_set_that_is_not_on_this_disk_is_estimated_and_says_so() -> None:
    made = plan(scripted("prompts.red_team=[{source: harmfulqa, wants: decline, attack: cou}]"))
    assert line(made, "respond", "policy").calls == 96
    assert [note for note in made.assumed if note.startswith("harmfulqa: not on this disk")]
    assert {a.what: a.bytes for a in made.downloads} == {"harmfulqa": 166_259}


def test_what_is_wrong_with_a_config_is_met_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "questions.jsonl").write_text('{"prompt": "How?"}\n{"prompt":\n')
    for override, said in (
        (f"prompts.red_team=[{{source: {tmp_path}/questions.jsonl, wants: decline}}]", "questions.jsonl:2"),
        ("prompts.red_team=[{source: 'pack:starter/red_team', wants: decline, attack: cuo}]", "did you mean cou"),
        ("revise.prompt=revize.yaml", "revize.yaml"),
        ("judge.questions=[coherent]", "answered"),
        ("policy={type: openai, model: x}", "cannot be trained"),
        ("constitution=nowhere.yaml", "nowhere.yaml"),
        ("policy={type: transformers, model: polcy}", "did you mean policy"),
    ):
        with pytest.raises(InputError, match=said):
            plan(scripted(override))


def test_the_same_question_in_two_splits_is_refused(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"prompt": "How?"}\n')
    sets = ", ".join(f"{{source: {tmp_path}/q.jsonl, wants: decline, split: {s}}}" for s in ("train", "held_out"))
    with pytest.raises(DataError, match="questions in two splits"):
        plan(scripted(f"prompts.red_team=[{sets}]"))


def test_hhh_is_planned_to_the_pair_once_it_is_in_the_cache(
    monkeypatch: pytest.MonkeyPatch, asked: Counter[tuple[str, str]], tmp_path: Path
) -> None:
    away = plan(scripted("evals.hhh=true"))
    assert line(away, "hhh", "policy").calls == 2 * 258
    assert [a.what for a in away.downloads] == ["hhh"]
    small_hhh(monkeypatch, tmp_path)
    config = scripted("evals.hhh=true", "evals.held_out=false", "rounds=1")
    here = plan(config)
    assert here.downloads[0].bytes == 0
    iteralign(open_(config, tmp_path / "run"))
    assert line(here, "hhh", "policy").calls == asked["policy", "loglikelihoods"] == 2 * 4 * 2


def test_a_model_weighs_what_its_files_or_its_name_say(tmp_path: Path) -> None:
    save_file({"a": np.ones((3, 5), dtype="float32"), "b": np.ones(7, dtype="float16")}, tmp_path / "model.safetensors")
    assert count_parameters(tmp_path / "model.safetensors") == 22
    assert weigh(str(tmp_path)).parameters == 22
    assert weigh("policy").parameters == pytest.approx(134_515_008, rel=0.001)
    assert weigh("judge").bytes == weigh("oracle").bytes == 1_117_320_768
    assert weigh("hub:meta-llama/Llama-2-7b-hf").parameters == 7e9
    assert weigh("mistralai/Mixtral-8x7B-v0.1").parameters is None
    assert weigh("some/model").parameters is None


def test_training_takes_masters_gradients_and_adam_and_lora_takes_less() -> None:
    config = TransformersConfig(model="org/model-1b", dtype="bfloat16")
    held, trained = memory_of("policy", config), memory_of("policy", config, trained=True)
    lora = memory_of("policy", config, trained=True, lora=scripted("sft.lora={}").sft.lora)
    assert (held.bytes, trained.bytes) == (2e9, 20e9)
    assert held.bytes is not None
    assert lora.bytes is not None
    assert held.bytes + 4e9 < lora.bytes < 7e9
    assert memory_of("policy", TransformersConfig(model="org/model"), trained=True).bytes is None


def test_speeds_scale_with_size_and_are_unknown_where_nothing_was_measured() -> None:
    def seconds(model: str) -> float | None:
        return line(plan(scripted(f"policy={model}")), "respond", "policy").seconds

    small, large = (
        seconds("{type: transformers, model: org/a-1b, device: cpu}"),
        seconds("{type: transformers, model: org/a-7b, device: cpu}"),
    )
    assert small is not None
    assert large == pytest.approx(7 * small)
    assert seconds("{type: transformers, model: org/a-1b, device: cuda}") is None
    assert seconds("{type: transformers, model: org/a, device: cpu}") is None


def test_llama_cpp_reads_a_reply_once_for_all_questions_about_it() -> None:
    tally = Tally(LlamaCppConfig(model="oracle"))
    reply = "a long reply " * 40
    tally.choose([user(f"{reply} {question}?") for question in ("One", "Two", "Three")], ("yes", "no"))
    assert tally.calls == 3
    assert tally.read < 0.5 * tally.prompt


def test_a_scorer_in_torch_is_faster_and_weighs_more() -> None:
    def made(scoring: str, who: str = "judge.model") -> Plan:
        return plan(load_config(DEMO, [f"{who}={{type: llama_cpp, model: oracle, scoring: {scoring}}}"]))

    torch, llama = made("torch"), made("llama_cpp")
    seconds = [next(line.seconds for line in p.lines if line.role == "judge") for p in (torch, llama)]
    assert seconds[0] is not None and seconds[1] is not None and 3 * seconds[0] < seconds[1]
    memory = [sum(a.bytes or 0 for a in p.memory if "judge" in a.what) for p in (torch, llama)]
    assert memory[0] - memory[1] == pytest.approx(3.1e9, rel=0.1)
    assert any("de-quantised" in a.what and a.bytes and a.bytes > 3e9 for a in torch.disk)
    oracle = [made(way, "oracle") for way in ("torch", "llama_cpp")]
    assert oracle[0].seconds == oracle[1].seconds, "what only writes is left to llama.cpp"
    at_once = made("torch, writing: torch", "oracle").seconds
    assert at_once is not None and oracle[0].seconds is not None and at_once < oracle[0].seconds


def test_replies_that_stand_in_for_real_ones_are_not_degenerate() -> None:
    job = Job(chat=user("How?"), sampling=Sampling(max_new_tokens=200))
    replies = [reply.text for reply in Tally(LlamaCppConfig(model="oracle")).generate([job, job])]
    assert all(degenerate(text) is None and as_data(text) == text.strip() for text in replies)
    assert digest(replies[0]) != digest(replies[1])
