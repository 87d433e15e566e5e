"""Principles open to their failures and to what they changed; all held-out answers; scores over rounds."""

import json
import re
from pathlib import Path

import pytest
from planted import run, texts

from iteralign.report import summarise, write_reports
from iteralign.report.evidence import SHOWN
from iteralign.report.examples import MOST
from iteralign.store import read_rows, write_rows


def test_a_principle_opens_to_the_failures_that_made_it(folder: Path) -> None:
    ledger = read_rows(folder / "ledger.jsonl")
    prompts = {p["id"]: p for path in folder.glob("rounds/*/prompts.jsonl") for p in read_rows(path)}
    last = json.loads(sorted(folder.glob("rounds/*/principles.json"))[-1].read_text())
    ids = {p["text"]: p["id"] for p in last["constitution"]["principles"]}
    summary = write_reports(folder)
    assert summary.constitution
    for principle in summary.constitution:
        own = [e for e in ledger if ids[principle.text] in (e["principle"], e["into"])]
        shown = {p for e in own for p in e["evidence"]}
        found = principle.evidence
        assert 0 < len(found.failures) <= min(SHOWN, found.n_failures)
        questions = {prompts[p]["plain"][-1]["content"] for p in shown}
        assert {f.question for f in found.failures} <= questions
        assert all(f.question in summary.html.read_text().replace("&#39;", "'") for f in found.failures)


def test_and_to_the_answers_that_were_rewritten_under_it_and_learnt(folder: Path) -> None:
    """Of the accepted ones some are left out, as near-copies and copies of benchmark items are."""
    learnt: dict[str, set[tuple[str, str]]] = {}
    for path in folder.glob("rounds/*/rows.jsonl"):
        own = [r for r in read_rows(path) if r["origin"] == "revision"][1:]
        write_rows(path, own)
        for row in own:
            for principle in row["principles"]:
                learnt.setdefault(principle, set()).add((row["prompt"], row["answer"]))
    accepted = sum(row["accepted"] for path in folder.glob("rounds/*/revisions.jsonl") for row in read_rows(path))
    summary = summarise(folder)
    assert [r.state for r in summary.rounds] == ["kept", "kept"]
    assert accepted > sum(p.evidence.n_rewritten for p in summary.constitution) == sum(map(len, learnt.values())) > 0
    shown = [r for p in summary.constitution for r in p.evidence.rewritten]
    assert shown and all(r.before.text != r.after.text for r in shown)


def test_what_a_rolled_back_round_was_trained_on_is_not_learnt(folder: Path) -> None:
    for path in folder.glob("rounds/*/gate.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "kept": False, "reasons": ["too much"]}))
    assert [p.evidence.n_rewritten for p in summarise(folder).constitution if p.evidence.n_rewritten] == []


def test_of_several_samples_of_a_prompt_each_revision_finds_its_own(tmp_path: Path) -> None:
    more = ("recipe=rlaif", "learn=dpo", "constitution=helpful_harmless_honest", "prefer.revised=true", "rounds=1")
    folder = run(tmp_path / "run", *more, "policy.script=wavers")
    pairs = [p for p in read_rows(folder / "rounds/00000/preferences.jsonl") if p["origin"] == "revision"]
    assert json.loads((folder / "rounds/00000/gate.json").read_text())["kept"] and pairs
    found = [p.evidence for p in summarise(folder).constitution]
    assert sum(e.n_rewritten for e in found) >= len(pairs) > 0


def test_harmful_text_in_the_evidence_is_cut(folder: Path) -> None:
    long = "First take the key and then " + "go on with the plan and " * 8
    for path in folder.glob("rounds/*/responses.jsonl"):
        rows = read_rows(path)
        for row in rows:
            row["reply"]["text"] = long
        write_rows(path, rows)
    assert [
        name for name, page in texts(folder).items() if "go on with the plan and go on with the plan and" in page
    ] == []
    assert "go on with the plan and go on with the plan and" in texts(folder, full=True)["html"]


def test_all_held_out_answers_are_there_with_filters_that_need_no_script(folder: Path) -> None:
    summary = write_reports(folder)
    page = summary.html.read_text()
    assert summary.pairs.total == len(summary.pairs.shown) == 40
    assert len(re.findall(r'<section class="card pair o\d+ c\d+(?: p\d+)*">', page)) == 40
    for n, name in enumerate(sorted({p.title for p in summary.pairs.shown})):
        assert f'id="o{n}"> {name}</label>' in page
        assert f".all:has(#o{n}:checked) .pair:not(.o{n})" in page


def test_a_report_of_forty_thousand_prompts_stays_small_and_says_what_it_leaves_out(folder: Path) -> None:
    for side in ("base", "final"):
        place = folder / "evals" / side
        responses, verdicts = read_rows(place / "responses.jsonl"), read_rows(place / "verdicts.jsonl")
        times = 40_000 // len(responses) + 1
        write_rows(
            place / "responses.jsonl",
            [{**r, "id": f"{r['id']}-{n}", "prompt": f"{r['prompt']}-{n}"} for n in range(times) for r in responses],
        )
        write_rows(
            place / "verdicts.jsonl",
            [{**v, "response": f"{v['response']}-{n}"} for n in range(times) for v in verdicts],
        )
        known = [p for path in folder.glob("evals/validation/prompts.jsonl") for p in read_rows(path)]
    from iteralign.report.summary import read_config, read_prompts

    config, _ = read_config(folder)
    prompts, _ = read_prompts(folder, config)
    assert known is not None
    rows = [{**p.row(), "id": f"{p.id}-{n}", "item": f"{p.item}-{n}"} for n in range(times) for p in prompts.values()]
    write_rows(folder / "evals/base/prompts.jsonl", rows)
    summary = write_reports(folder)
    assert summary.pairs.total >= 40_000 and len(summary.pairs.shown) == MOST
    assert summary.html.stat().st_size < 5_000_000
    assert f"{MOST} of {summary.pairs.total} (those with the lowest item ids)" in " ".join(
        summary.html.read_text().split()
    )


def test_long_answers_leave_a_report_small(folder: Path) -> None:
    """Angle brackets alone, which take four characters each in HTML."""
    for side in ("base", "final"):
        path = folder / "evals" / side / "responses.jsonl"
        responses = read_rows(path)
        write_rows(path, [{**r, "reply": {**r["reply"], "text": "<" * 40_000}} for r in responses])
    for place in (folder / "rounds").iterdir():
        responses = read_rows(place / "responses.jsonl")
        write_rows(place / "responses.jsonl", [{**r, "reply": {**r["reply"], "text": "<" * 40_000}} for r in responses])
    summary = write_reports(folder)
    assert 0 < len(summary.pairs.shown) <= summary.pairs.total
    assert summary.html.stat().st_size < 5_000_000
    assert "more characters)" in summary.html.read_text()


def test_the_room_for_answers_is_counted_in_bytes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for side in ("base", "final"):
        path = folder / "evals" / side / "responses.jsonl"
        write_rows(path, [{**r, "reply": {**r["reply"], "text": "語 " * 900}} for r in read_rows(path)])
    monkeypatch.setattr("iteralign.report.examples.ROOM", 40_000)
    shown = summarise(folder).pairs.shown
    texts = [text for p in shown for text in (p.question, p.before.text, p.after.text)]
    assert 0 < sum(len(text.encode()) for text in texts) < 40_000


def test_scores_over_rounds_are_drawn_and_told(folder: Path) -> None:
    page = write_reports(folder).html.read_text()
    [label] = re.findall(
        r'<svg class="chart" style="max-width: 32rem" role="img" aria-label="(Validation prompts: [^"]*)"', page
    )
    assert "harmful compliance, evaluator 0: " in label and " 1: " in label and " 2: " in label


def test_a_round_that_was_rolled_back_leaves_the_curve_flat(folder: Path) -> None:
    gate = folder / "rounds/00001/gate.json"
    told = json.loads(gate.read_text())
    gate.write_text(json.dumps({**told, "kept": False, "reasons": ["too much"]}))
    page = write_reports(folder).html.read_text()
    [points] = re.findall(r"harmless refused, evaluator (0: [\d. :]*)", page)
    values = re.findall(r"\d: (\d\.\d\d)", points)
    assert len(values) == 3 and values[1] == values[2]


@pytest.mark.parametrize("command", ["iteralign run scripted.yaml --run-dir"])
def test_how_to_do_it_again_is_told(folder: Path, command: str) -> None:
    assert command in write_reports(folder).html.read_text()
