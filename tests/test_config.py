"""A config that is wrong says which key, what came and what is near; every config that we ship is right."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from iteralign.config import LoraConfig, RunConfig, load_config
from iteralign.errors import ConfigError

CONFIGS = Path(__file__).parents[1] / "configs"
SCRIPTED = CONFIGS / "scripted.yaml"


def load(*overrides: str) -> RunConfig:
    return load_config(SCRIPTED, overrides)


def refused(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


SWEEPS = [path for path in sorted(CONFIGS.rglob("*.yaml")) if "variants" in yaml.safe_load(path.read_text())]
RUNS = [path for path in sorted(CONFIGS.rglob("*.yaml")) if path not in SWEEPS]


@pytest.mark.parametrize("path", RUNS, ids=lambda p: p.relative_to(CONFIGS).as_posix())
def test_every_shipped_config_is_read(path: Path) -> None:
    config = load_config(path)
    assert config.name == path.stem
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config


# -- keys and values ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "key", "near"),
    [
        ("round=3", "round", "rounds"),
        ("sft.learning_rte=1e-5", "sft.learning_rte", "sft.learning_rate"),
        ("sft.lora.rnk=4", "sft.lora.rnk", "sft.lora.rank"),
        ("policy.scirpt=x", "policy.scirpt", "policy.script"),
        ("judge.model.scirpt=x", "judge.model.scirpt", "judge.model.script"),
        ("judge.qestions=[declined]", "judge.qestions", "judge.questions"),
        ("discover.sampling.temprature=0", "discover.sampling.temprature", "discover.sampling.temperature"),
        (
            "prompts.red_team=[{source: x, wants: decline, colum: y}]",
            "prompts.red_team.0.colum",
            "prompts.red_team.0.column",
        ),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(override: str, key: str, near: str) -> None:
    said = refused(override)
    assert f"unknown key {key!r}" in said
    assert f"did you mean {near!r}" in said


def test_a_key_that_is_near_to_none_lists_the_known_ones() -> None:
    said = refused("sft.zzz=1")
    assert "known here" in said
    assert "learning_rate" in said


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("rounds=two", ["rounds", "integer", "'two'"]),
        ("rounds=0", ["rounds", "greater than or equal to 1", "0"]),
        ("respond.top_p=1.5", ["respond.top_p", "less than or equal to 1", "1.5"]),
        ("sft=fast", ["sft", "'fast'"]),
        ("policy.type=transformer", ["policy", "'transformers'"]),
        ("policy={type: transformers}", ["policy.model", "required"]),
        ("prompts.red_team=[{source: x}]", ["prompts.red_team.0.wants", "required"]),
        ("revise.keep=worst", ["revise.keep", "'best'", "'worst'"]),
        ("name=a/b", ["name", "a/b"]),
        ("judge.thresholds={declned: 0.4}", ["judge", "declned", "declined"]),
    ],
)
def test_a_wrong_value_names_its_key_what_is_expected_and_what_came(override: str, words: list[str]) -> None:
    said = refused(override)
    assert [w for w in words if w not in said] == []


def test_several_faults_are_told_at_once() -> None:
    said = refused("rounds=0", "sede=1")
    assert "rounds" in said
    assert "'sede'" in said


# -- the file ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"rounds: [1", ["not valid YAML"]),
        (b"", ["expected a mapping"]),
        (b"- rounds\n- policy\n", ["expected a mapping", "list"]),
        (b"GGUF\x03\x00\xff\xfe", ["not a text file"]),
    ],
)
def test_a_file_that_is_no_config_is_named(tmp_path: Path, content: bytes, words: list[str]) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert [w for w in [*words, str(path)] if w not in str(caught.value)] == []


def test_a_missing_file_says_where_the_presets_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml.*configs/"):
        load_config(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="no config file"):
        load_config(tmp_path)


def test_a_config_without_a_name_is_named_after_its_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(SCRIPTED.read_text())
    assert load_config(tmp_path / "mine.yaml").name == "mine"
    assert load_config(tmp_path / "mine.yaml", ["name=other"]).name == "other"
    (tmp_path / "named.yaml").write_text("name: ours\n" + SCRIPTED.read_text())
    assert load_config(tmp_path / "named.yaml").name == "ours"


# -- overrides --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("rounds=3", lambda c: c.rounds == 3),
        ("sft.learning_rate=1e-5", lambda c: c.sft.learning_rate == 1e-5),  # YAML 1.1 reads 1e-5 as a text
        ("sft.lora.rank=4", lambda c: c.sft.lora == LoraConfig(rank=4)),
        ("sft.lora=null", lambda c: c.sft.lora is None),
        ("gates.length_ratio=[0.5, 2]", lambda c: c.gates.length_ratio == (0.5, 2.0)),
        ("prompts.harmless=[]", lambda c: c.prompts.harmless == ()),
        ("evals.hhh=true", lambda c: c.evals.hhh is True),
        ("constitution=a=b.yaml", lambda c: c.constitution == "a=b.yaml"),
    ],
)
def test_an_override_is_read_as_yaml(override: str, found: Any) -> None:
    assert found(load(override))


def test_what_is_set_for_one_role_leaves_another_that_shares_its_anchor_alone(tmp_path: Path) -> None:
    path = tmp_path / "shared.yaml"
    tree = yaml.safe_load(SCRIPTED.read_text())
    del tree["oracle"], tree["judge"]["model"]
    text = yaml.safe_dump(tree).replace(
        "judge:\n", "oracle: &one {type: scripted, script: judge}\njudge:\n  model: *one\n"
    )
    path.write_text(text)
    config = load_config(path, ["oracle.script=oracle"])
    assert config.oracle.model_dump()["script"] == "oracle"
    assert config.judge.model_dump()["model"]["script"] == "judge"


def test_the_last_override_of_a_key_counts() -> None:
    assert load("rounds=3", "rounds=5").rounds == 5


def test_an_override_reaches_into_a_section_that_the_file_leaves_empty() -> None:
    assert load("sft.lora=null", "sft.lora.rank=4").sft.lora == LoraConfig(rank=4)


@pytest.mark.parametrize("override", ["rounds", "=3", "", "rounds.deep=1", "sft=[1", "prompts.red_team.0.limit=5"])
def test_an_override_that_cannot_be_read_is_named(override: str) -> None:
    assert repr(override) in refused(override)


# -- judge and evaluator ------------------------------------------------------------------------------


def with_evaluator(**fields: Any) -> RunConfig:
    tree = yaml.safe_load(SCRIPTED.read_text())
    tree["evaluator"] = {**tree["judge"], **fields}
    return load(f"evaluator={yaml.safe_dump(tree['evaluator'], default_flow_style=True)}")


JUDGE: dict[str, Any] = {"type": "scripted", "script": "judge"}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"questions": ["declined"]},
        {"thresholds": {"declined": 0.4}},
        {"trust_wants": False},
    ],
)
def test_a_judge_does_not_grade_itself(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="judge and evaluator share both model and questions"):
        with_evaluator(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "evaluator.yaml", "questions": ["declined"]},
        {"model": {**JUDGE, "seed": 1}},
        {"model": {"type": "self"}},
    ],
)
def test_another_question_or_another_model_may_grade(fields: dict[str, Any]) -> None:
    assert with_evaluator(**fields).evaluator


def test_the_same_weights_with_another_context_are_no_other_model() -> None:
    judge = "{type: rubric, model: {type: llama_cpp, model: oracle, context: %d}}"
    with pytest.raises(ConfigError, match="share both model and questions"):
        load(f"judge={judge % 2048}", f"evaluator={judge % 4096}")


def test_the_policy_as_judge_does_not_grade_itself_under_another_name() -> None:
    own = "{type: scripted, script: policy}"
    with pytest.raises(ConfigError, match="share both model and questions"):
        load("judge={type: rubric, model: {type: self}}", f"evaluator={{type: rubric, model: {own}}}")


def test_speed_settings_are_no_part_of_what_a_run_is() -> None:
    assert load("runtime.threads=3").digest_fields() == load().digest_fields()
    assert load("runtime.micro_batch=3").digest_fields() != load().digest_fields()


# -- a config over another ------------------------------------------------------------------------------


def test_a_config_takes_another_s_settings_and_changes_some(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far/one.yaml").write_text((SCRIPTED).read_text())
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "base: far/one.yaml\nrounds: 5\nprompts: {held_out: 7}\njudge: {type: paper, model: {type: self}}\n"
    )
    mixed, plain = load_config(mine, ["seed=3"]), load_config(tmp_path / "far/one.yaml")
    assert (mixed.name, mixed.rounds, mixed.seed, mixed.prompts.held_out) == ("mine", 5, 3, 7)
    assert mixed.prompts.red_team == plain.prompts.red_team and mixed.evaluator == plain.evaluator
    assert mixed.judge.type == "paper", "a section of another type is replaced whole"


def test_a_base_that_is_nowhere_or_leads_back_is_named(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("base: gone.yaml\n")
    with pytest.raises(ConfigError, match=r"gone\.yaml, which .*mine\.yaml names as its base"):
        load_config(mine)
    (tmp_path / "gone.yaml").write_text("base: mine.yaml\n")
    with pytest.raises(ConfigError, match="does not lead back here"):
        load_config(mine)


def test_the_paper_s_eighteen_runs_differ_in_base_model_and_set_alone() -> None:
    runs = {path.stem: load_config(path) for path in sorted((CONFIGS / "paper").glob("*.yaml"))}
    models = {c.policy.model for c in runs.values()}  # type: ignore[union-attr]
    sets = {c.prompts.red_team[0].source for c in runs.values()}
    assert (len(runs), len(models), len(sets)) == (18, 6, 3)
    apart = {"name", "rounds", "policy", "prompts"}
    assert len({c.model_copy(update=dict.fromkeys(apart)).model_dump_json(exclude=apart) for c in runs.values()}) == 1
    assert {c.rounds for c in runs.values()} == {98, 10, 1949}
    measured = {(c.evals.hhh, c.evals.hhh_per_round, c.evals.suites) for c in runs.values()}
    assert measured == {(True, 221, "truthfulqa")}, "Table 2, Figure 3, Table 1"
