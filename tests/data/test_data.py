"""Every data set that a user can name becomes the prompts it promises, and every mistake in one is named."""

import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from iteralign.config import DataConfig
from iteralign.data import assert_disjoint, load_prompts, load_sets, split_prompts
from iteralign.errors import DataError
from iteralign.records import Message, Prompt, user

HELD = os.environ.get("ITERALIGN_TEST_DATA")
needs_public = pytest.mark.skipif(not HELD, reason="ITERALIGN_TEST_DATA does not name a folder of public data sets")


def load(source: str | Path, *, seed: int = 0, **settings: Any) -> list[Prompt]:
    return load_prompts(DataConfig.model_validate({"source": str(source), "wants": "answer", **settings}), seed)


def public(name: str, folder: str, **settings: Any) -> list[Prompt]:
    return load(f"{name}@{HELD}/{folder}", **settings)


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def json_lines(path: Path, *rows: Any) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def garden(path: Path, subtopics: int, rows: int) -> Path:
    """Harmless questions, `rows` of each subtopic; category A or B."""
    every = ((s, r) for s in range(subtopics) for r in range(rows))
    fields = [
        {"question": f"How do I grow plant {s}-{r}?", "category": "AB"[s % 2], "subtopic": str(s)} for s, r in every
    ]
    return json_lines(path, *fields)


def homes(prompts: list[Prompt]) -> dict[str, str]:
    return {prompt.question: prompt.split for prompt in prompts}


# -- public sets ----------------------------------------------------------------------------------


@needs_public
def test_dangerousqa() -> None:
    prompts = public("dangerousqa", "dangerousqa", wants="decline")
    assert len(prompts) == 200
    assert {(p.source, p.kind, p.wants) for p in prompts} == {("dangerousqa", "red_team", "decline")}
    assert {len(p.plain) for p in prompts} == {1}


@needs_public
def test_harmfulqa_drops_its_22_repeated_rows_and_keeps_subtopics_whole() -> None:
    raw = json.loads(Path(f"{HELD}/harmfulqa/harmfulqa.json").read_text())
    assert sum(len(rows) for subtopics in raw.values() for rows in subtopics.values()) == 1960
    prompts = public("harmfulqa", "harmfulqa", wants="decline")
    assert len(prompts) == len({p.item for p in prompts}) == len({p.id for p in prompts}) == 1938
    assert len({p.category for p in prompts}) == 10
    assert len({p.subtopic for p in prompts}) == 98
    assert len({(p.subtopic, p.split) for p in prompts}) == 98


@needs_public
def test_xstest_takes_wants_from_its_labels() -> None:
    prompts = public("xstest", "xstest", wants="unknown")
    assert Counter(p.wants for p in prompts) == {"answer": 250, "decline": 200}
    assert Counter(p.kind for p in prompts) == {"look_alike": 250, "red_team": 200}
    assert len({p.category for p in prompts}) == 18
    for label, wants in (("safe", "answer"), ("unsafe", "decline")):
        part = public(f"xstest:{label}", "xstest")
        assert [p.question for p in part] == [p.question for p in prompts if p.wants == wants]
        assert homes(part).items() <= homes(prompts).items()


@needs_public
def test_xstest_keeps_safe_prompts_in_the_split_of_the_unsafe_ones_that_they_mirror() -> None:
    for seed in range(5):
        split = {p.category: p.split for p in public("xstest", "xstest", seed=seed)}
        assert split["homonyms"] == split["contrast_homonyms"]
        assert split["nons_group_real_discr"] == split["real_group_nons_discr"] == split["contrast_discr"]
        assert split["privacy_public"] == split["privacy_fictional"] == split["contrast_privacy"]
        assert len(set(split.values())) == 3


@needs_public
@pytest.mark.parametrize(("name", "first"), [("harmless", 2178), ("helpful", 2207)])
def test_hh_rlhf_preferences(name: str, first: int) -> None:
    prompts = public(f"hh-rlhf:{name}", "hh_rlhf")
    assert len(prompts) == first
    assert all([m.role for m in p.plain] == ["user"] for p in prompts)
    whole = public(f"hh-rlhf:{name}", "hh_rlhf", turns="all")
    assert len(whole) > first
    for chat in (p.plain for p in whole):
        assert [m.role for m in chat] == ["user", "assistant"] * (len(chat) // 2) + ["user"]
    assert len({(p.plain[0], p.split) for p in whole}) == first  # no opening lies in two splits


@needs_public
def test_hh_rlhf_red_team_attempts_are_one_json_array() -> None:
    sample = "hh_rlhf/red-team-attempts/red_team_attempts.sample.json"
    assert len(public("hh-rlhf:red-team", sample)) == 10
    assert all(len(p.plain) > 1 for p in public("hh-rlhf:red-team", sample, turns="all"))


def test_hh_rlhf_red_team_attempts_are_read_under_their_misleading_name(tmp_path: Path) -> None:
    rows = [
        {"transcript": f"\n\nHuman: Hi {n}\n\nAssistant: Ho", "task_descripton_harmlessness_score": 1.5} for n in "abc"
    ]
    file = tmp_path / "red-team-attempts" / "red_team_attempts.jsonl.gz"
    file.parent.mkdir()
    file.write_bytes(gzip.compress(json.dumps(rows).encode()))
    assert [p.question for p in load(f"hh-rlhf:red-team@{tmp_path}")] == ["Hi a", "Hi b", "Hi c"]


def test_a_transcript_never_has_two_turns_of_one_speaker_in_a_row(tmp_path: Path) -> None:
    said = "\n\nHuman: one\n\nAssistant: \n\nHuman: two\n\nAssistant: three\n\nHuman: four\n\nAssistant: five"
    file = json_lines(tmp_path / "some.jsonl", {"chosen": said, "rejected": said})
    (prompt,) = load(f"hh-rlhf:harmless@{file}", turns="all")
    assert [m.content for m in prompt.plain] == ["one\n\ntwo", "three", "four"]


def test_ids_do_not_depend_on_where_a_public_set_lies(tmp_path: Path) -> None:
    questions = json.dumps(["How do I whistle?", "How do I hum?", "How do I sing?"])
    first = write(tmp_path / "a/toxic_outs.json", questions)
    second = write(tmp_path / "b/renamed.json", questions)
    assert load(f"dangerousqa@{first.parent}") == load(f"dangerousqa@{second}")


# -- packs ----------------------------------------------------------------------------------------


def test_the_starter_pack_keeps_its_own_splits() -> None:
    red = load("pack:starter/red_team", wants="decline")
    assert {s: len(p) for s, p in split_prompts(red).items()} == {"train": 192, "validation": 64, "held_out": 128}
    assert {p.kind for p in red} == {"red_team"}
    assert len({p.category for p in red}) == 16
    harmless = load("pack:starter/harmless", seed=7)
    assert Counter(p.kind for p in harmless) == {"look_alike": 224, "ordinary": 224}
    assert load("pack:starter/harmless", seed=8) == harmless
    ordinary = load("pack:starter/harmless:ordinary")
    assert {p.kind for p in ordinary} == {"ordinary"}
    assert len(ordinary) == 224
    parts = split_prompts([*red, *harmless])
    assert_disjoint(parts["train"], parts["held_out"])
    assert_disjoint(parts["train"], parts["validation"])


def test_a_pack_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    garden(tmp_path / "my_pack/red_team.jsonl", 5, 2)
    monkeypatch.chdir(tmp_path)
    assert len(load("pack:./my_pack/red_team")) == 10
    assert homes(load(f"pack:{tmp_path}/my_pack/red_team")) == homes(load("pack:./my_pack/red_team"))


# -- a user's own files -----------------------------------------------------------------------------

TEXTS = ["What is {reply}, and what is {{ x }}?", "Why,\n\nin two lines?", 'What is "a, b"?', "Who said {% if %}?"]


@pytest.mark.parametrize("name", ["q.jsonl", "q.json", "q.csv", "q.parquet", "q.jsonl.gz", "q.CSV"])
def test_every_format_gives_the_same_prompts_unchanged(tmp_path: Path, name: str) -> None:
    import pandas as pd

    path = tmp_path / name
    frame: Any = pd.DataFrame({"instruction": TEXTS, "kind": "look_alike"})
    if ".csv" in name.lower():
        frame.to_csv(path, index=False)
    elif name.endswith("parquet"):
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines="jsonl" in name)
    prompts = load(path)
    assert [p.question for p in prompts] == TEXTS
    assert [p.plain for p in prompts] == [p.sent for p in prompts] == [user(text) for text in TEXTS]
    assert {p.kind for p in prompts} == {"look_alike"}


def test_text_files_and_lists_of_texts(tmp_path: Path) -> None:
    plain = write(tmp_path / "q.txt", "\ufeffWhat is\u2028this?\r\n\r\nWho knows?\n")
    listed = write(tmp_path / "q.json", json.dumps(["What is\u2028this?", "Who knows?"]))
    assert (
        [p.question for p in load(plain)] == [p.question for p in load(listed)] == ["What is\u2028this?", "Who knows?"]
    )


def test_columns_by_default_and_by_name(tmp_path: Path) -> None:
    row = {"text": "second", "question": "first", "mine": "named", "topic": 3, "part": "x"}
    file = json_lines(tmp_path / "q.jsonl", row)
    (prompt,) = load(file)
    assert (prompt.question, prompt.category, prompt.subtopic, prompt.kind) == ("first", "", "", "ordinary")
    (prompt,) = load(file, column="mine", category_column="topic", subtopic_column="part")
    assert (prompt.question, prompt.category, prompt.subtopic) == ("named", "3", "x")


def test_a_column_of_messages_is_a_chat_up_to_a_user_turn(tmp_path: Path) -> None:
    said = ["Be brief.", "Hello", "Hi!", "What is {{ x }}?", "Nothing."]
    roles = ["system", "user", "assistant", "user", "assistant"]
    messages = [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]
    file = json_lines(tmp_path / "q.jsonl", {"messages": messages})
    (whole,) = load(file, column="messages", turns="all")
    assert [m.content for m in whole.plain] == said[:4]
    (first,) = load(file, column="messages", turns="first")
    assert first.plain == (Message(role="system", content="Be brief."), *user("Hello"))


def test_a_hugging_face_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)  # `datasets` reads a folder ORG/NAME like a repository of the hub
    rows = [{"prompt": text, "category": "c"} for text in TEXTS]
    json_lines(tmp_path / "org/one/train.jsonl", *rows)
    json_lines(tmp_path / "org/two/train.jsonl", *rows)
    json_lines(tmp_path / "org/two/test.jsonl", {"prompt": "last"})
    assert [p.question for p in load("hub:org/one")] == TEXTS
    (prompt,) = load("hub:org/two/test", split="held_out")
    assert (prompt.question, prompt.source, prompt.split) == ("last", "hub:org/two/test", "held_out")
    with pytest.raises(DataError, match=r"several splits\. Name one of train, test"):
        load("hub:org/two")
    with pytest.raises(DataError, match=r"no split 'dev'\. Name one of train, test"):
        load("hub:org/two/dev")
    with pytest.raises(DataError, match="expected hub:ORG/NAME"):
        load("hub:org")


# -- splits ---------------------------------------------------------------------------------------


def test_subtopics_are_kept_whole_in_about_60_15_25(tmp_path: Path) -> None:
    prompts = load(garden(tmp_path / "q.jsonl", 400, 2))
    assert len({(p.subtopic, p.split) for p in prompts}) == 400
    shares = {split: len(part) / 800 for split, part in split_prompts(prompts).items()}
    assert shares == pytest.approx({"train": 0.60, "validation": 0.15, "held_out": 0.25}, abs=0.06)
    other = homes(load(garden(tmp_path / "q.jsonl", 400, 2), seed=1))
    assert other != homes(prompts)


def test_added_rows_move_no_others(tmp_path: Path) -> None:
    by_row = {"subtopic_column": "none", "category_column": "none"}
    cases: dict[str, dict[str, Any]] = {"subtopics": {}, "rows": by_row}
    for name, columns in cases.items():
        small, large = garden(tmp_path / "small.jsonl", 30, 2), garden(tmp_path / "large.jsonl", 40, 3)
        for file in (small, large):
            rows = [json.loads(line) | {"none": None} for line in file.read_text().splitlines()]
            json_lines(file, *reversed(rows))
        before, after = homes(load(small, **columns)), homes(load(large, **columns))
        assert len(after) > len(before), name
        assert before.items() <= after.items(), name


def test_the_same_subtopic_has_one_split_in_every_set(tmp_path: Path) -> None:
    red, alike = garden(tmp_path / "red.jsonl", 40, 2), tmp_path / "alike.jsonl"
    alike.write_text(red.read_text().replace("How do I grow", "Where can I buy"))
    split = {p.subtopic: p.split for p in load(red)}
    assert all(split[p.subtopic] == p.split for p in load(alike))


def test_a_subtopic_that_fills_an_empty_split_of_one_set_moves_in_all(tmp_path: Path) -> None:
    """Three subtopics leave a split empty on most seeds; their look-alikes stand in a set with many more."""
    few, many = garden(tmp_path / "few.jsonl", 3, 2), garden(tmp_path / "many.jsonl", 13, 2)
    many.write_text(many.read_text().replace("How do I grow", "Where can I buy"))
    sets = [DataConfig(source=str(file), wants="answer") for file in (few, many)]
    for seed in range(20):
        one, other = load_sets(sets, seed)
        split = {p.subtopic: p.split for p in other}
        assert all(split[p.subtopic] == p.split for p in one)
        assert all(split_prompts(one).values()) and all(split_prompts(other).values())


def test_without_subtopics_categories_stay_whole_and_without_either_rows_are_split(tmp_path: Path) -> None:
    file = json_lines(
        tmp_path / "q.jsonl", *({"text": f"{c}{n}", "kind_of": c} for c in "abcdefghij" for n in range(9))
    )
    by_category = load(file, category_column="kind_of")
    assert len({(p.category, p.split) for p in by_category}) == 10
    assert len({(p.question[0], p.split) for p in load(file)}) > 20


@pytest.mark.parametrize("groups", [3, 4, 5, 8])
def test_a_few_subtopics_still_fill_all_splits(tmp_path: Path, groups: int) -> None:
    file = garden(tmp_path / "q.jsonl", groups, 2)
    for seed in range(20):
        assert all(split_prompts(load(file, seed=seed)).values())


def test_a_split_column_is_kept_unless_the_config_says_otherwise(tmp_path: Path) -> None:
    names = {
        "train": "train",
        "dev": "validation",
        "validation": "validation",
        "test": "held_out",
        "held_out": "held_out",
    }
    file = json_lines(tmp_path / "q.jsonl", *({"text": f"question {name}", "split": name} for name in names))
    assert [p.split for p in load(file)] == list(names.values())
    blank = write(tmp_path / "q.csv", "text,split\na,\nb,\nc,\n")  # a column that says nothing
    assert {p.split for p in load(blank)} == {"train", "validation", "held_out"}
    assert {p.split for p in load(file, split="held_out")} == {"held_out"}
    json_lines(file, {"text": "a", "split": "train"}, {"text": "b", "split": "fold 3"})
    with pytest.raises(DataError, match=r"q.jsonl:2: .*'split'.*'fold 3': expected one of train, .*rename the column"):
        load(file)


@pytest.mark.parametrize("limit", [1, 7, 20, 60])
def test_a_limit_takes_each_split_in_its_share_and_always_the_same_rows(tmp_path: Path, limit: int) -> None:
    rows = [{"text": f"question {n}", "split": ["train", "train", "test"][n % 3]} for n in range(60)]
    file = json_lines(tmp_path / "q.jsonl", *rows)
    prompts = load(file, limit=limit)
    assert len(prompts) == limit
    assert abs(len(split_prompts(prompts)["train"]) - limit * 2 / 3) < 1
    order = [p.question for p in load(file)]
    assert [p.question for p in prompts] == sorted((p.question for p in prompts), key=order.index)
    assert prompts == load(file, limit=limit)
    if 1 < limit < 60:
        assert prompts != load(file, limit=limit, seed=1)
        assert set(homes(prompts)) <= set(homes(load(file, limit=limit + 10)))


def test_equal_questions_are_one_prompt(tmp_path: Path) -> None:
    file = json_lines(
        tmp_path / "q.jsonl", *({"text": text, "category": c} for text, c in zip("aba", "xyz", strict=True))
    )
    assert [(p.question, p.category) for p in load(file)] == [("a", "x"), ("b", "y")]


def test_a_question_in_two_splits_is_an_error_across_sets(tmp_path: Path) -> None:
    text = "one two three four five six seven eight nine ten eleven twelve thirteen"
    first = load(json_lines(tmp_path / "a.jsonl", {"text": text}, {"text": "other"}), split="train")
    second = load(json_lines(tmp_path / "b.jsonl", {"question": text}), split="held_out", attack="cot")
    assert first[0].id != second[0].id
    assert first[0].item == second[0].item
    with pytest.raises(DataError, match="questions in two splits: 1") as caught:
        assert_disjoint(first, second)
    assert "a.jsonl (train)" in str(caught.value)
    assert "b.jsonl (held_out): one two" in str(caught.value)
    assert "twelve …" in str(caught.value)  # questions may be harmful: 12 words at most
    assert_disjoint(first[1:], second)


def test_an_attack_changes_what_is_sent_and_the_id_and_nothing_else(tmp_path: Path) -> None:
    file = json_lines(tmp_path / "q.jsonl", *({"text": text} for text in TEXTS))
    direct, attacked = load(file, wants="decline"), load(file, wants="decline", attack="cou")
    for before, after in zip(direct, attacked, strict=True):
        assert after.sent != before.sent
        assert after.id != before.id
        assert before == after.model_copy(update={"sent": before.sent, "id": before.id, "attack": "direct"})
        assert before.question in after.sent[-1].content


def test_an_id_follows_the_text_not_the_place(tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    (alone,) = load(json_lines(file, {"text": "a"}))
    second = load(json_lines(file, {"text": "new"}, {"text": "a"}))[1]
    assert alone.id == second.id
    (edited,) = load(json_lines(file, {"text": "A"}))
    assert edited.id != alone.id


def test_reading_files_loads_no_heavy_library(tmp_path: Path) -> None:
    file = garden(tmp_path / "q.jsonl", 1, 1)
    code = (
        "import sys; from iteralign.config import DataConfig; from iteralign.data import load_prompts;"
        f"load_prompts(DataConfig(source={str(file)!r}, wants='answer', attack='cou'), 0);"
        "print(sorted({'torch', 'datasets', 'pyarrow', 'pandas'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
