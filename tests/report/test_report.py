"""A report says what the rows say, both sides of it, and what they do not show."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from chat_server import Answer, Asked, fails, says, serving
from planted import CONFIG, as_it_was, flat, measure, on_screen, plant, refuse, rows_of, run, texts
from scipy.stats import binomtest
from typer.testing import CliRunner

from iteralign.cli import app
from iteralign.errors import ConfigError
from iteralign.evals.answers import Answered, item_scores
from iteralign.records import Score
from iteralign.report import summarise, write_reports
from iteralign.report.card import model_card
from iteralign.report.html import html_report
from iteralign.report.markdown import escaped, markdown_report
from iteralign.report.summary import read_config, read_prompts
from iteralign.report.table import checkpoint_text, line, settings
from iteralign.report.wording import p_value, points
from iteralign.stats import holm
from iteralign.store import read_rows

# -- the numbers ----------------------------------------------------------------------------------


def test_numbers_are_those_of_the_rows(folder: Path):
    odd = {p for n, p in enumerate(sorted(rows_of(folder, "final"))) if n % 3}
    plant(folder, "final", lambda v: refuse(v) if v.response.prompt.id in odd else as_it_was(v))
    config, _ = read_config(folder)
    prompts, _ = read_prompts(folder, config)
    before, after = rows_of(folder, "base"), rows_of(folder, "final")
    harmful = [i for i in before if prompts[i].wants == "decline"]
    harmless = [i for i in before if prompts[i].wants == "answer"]
    pages = texts(folder)
    for ids, fault, name in ((harmful, "harmful", "harmful compliance"), (harmless, "unhelpful", "harmless refused")):
        a, b = ([side[i][1]["fault"] == fault for i in ids] for side in (before, after))
        n, fewer = len(ids), sum(x > y for x, y in zip(a, b, strict=True))
        more = sum(x < y for x, y in zip(a, b, strict=True))
        p = p_value(float(binomtest(fewer, fewer + more).pvalue)) if fewer + more else "1"
        sides = " | ".join(f"{sum(x)}/{n} ({100 * sum(x) / n:.0f}%)" for x in (a, b))
        row = f"| {name} | evaluator | {sides} | {n} | 0 | {fewer + more} (+{fewer}/−{more}) | "
        row += f"{points((sum(b) - sum(a)) / n, n)} ("
        assert row in pages["md"]
        assert f") | {escaped(p)} | " in next(x for x in pages["md"].splitlines() if x.startswith(row))
        for page in ("html", "wide screen"):
            assert f"{sum(a)}/{n} ({100 * sum(a) / n:.0f}%)" in pages[page]
            assert f"{fewer + more} (+{fewer}/−{more})" in pages[page]
    differ = sum(before[i][0] != after[i][0] for i in before)
    assert f"differs from before: {differ} of {len(before)}" in flat(pages["md"])


def test_every_row_has_its_n_and_holm_is_over_the_whole_table(folder: Path):
    summary = write_reports(folder)
    raw = {f"{m.name}{m.variant}": m.change.p for m in summary.measures if m.change is not None and m.change.n}
    assert {f"{m.name}{m.variant}": m.p_holm for m in summary.measures} == holm(raw)
    for m in summary.measures:
        shown = line(m)
        assert m.change is not None
        assert shown.n == str(m.change.n) and shown.before.startswith(tuple("0123456789"))
        assert f"/{m.change.n} (" in shown.before


def test_hhh_is_clustered_and_better_upwards(folder: Path):
    def likelihoods(right: int) -> list[Score]:
        names, ways = ("hhh/harmless", "hhh/overall"), {"question": "?", "options": ("a", "b"), "right": (0,)}
        made = [{"id": f"i{k}", "cluster": f"c{k // 2}", "outcomes": {"per token": k < right}} for k in range(60)]
        return item_scores([Answered.model_validate({**row, **ways, "names": names, "form": "chat"}) for row in made])

    plant(folder, "base", as_it_was, likelihoods(20))
    plant(folder, "final", as_it_was, likelihoods(50))
    found = measure(write_reports(folder), "hhh/overall", "chat, per token")
    assert found.change is not None and "over 30 clusters" in found.change.test
    assert (found.change.n_improved, found.change.n_worsened) == (30, 0)
    assert (line(found).before, line(found).after, line(found).direction) == ("20/60 (33%)", "50/60 (83%)", "better")


def test_rounds_count_what_the_files_hold(folder: Path):
    summary = write_reports(folder)
    for r in summary.rounds:
        place = folder / f"rounds/{r.number:05d}"
        assert r.failed == sum(v["label"] == "fails" for v in read_rows(place / "verdicts.jsonl"))
        assert r.answers == sum(len(s.asked) for s in r.sides) == len(read_rows(place / "prompts.jsonl"))
        revisions, rows = read_rows(place / "revisions.jsonl"), read_rows(place / "rows.jsonl")
        assert (r.candidates, r.accepted) == (len(revisions), sum(v["accepted"] for v in revisions))
        assert sum(n for _, n in r.rows) == len(rows)
        assert r.near_copies == r.accepted - sum(row["origin"] == "revision" for row in rows)
        for figure in r.figures:
            assert figure.n
            assert figure.name in summary.markdown.read_text()
    ledger = read_rows(folder / "ledger.jsonl")
    assert sum(r.proposed for r in summary.rounds) == sum(e["event"] == "proposed" for e in ledger)
    assert [p.text for p in summary.constitution] == [
        p["text"] for p in yaml.safe_load((folder / "constitution.yaml").read_text())["principles"]
    ]


GIVEN = "constitution=helpful_harmless_honest"
SELF = [
    "recipe=self_improve",
    GIVEN,
    "learn=sft+dpo",
    "policy.script=wavers",
    "revise.draws=1",
    "revise.prompt=cai.yaml",
]


def test_several_answers_to_a_prompt_are_several_answers_and_one_prompt(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", "recipe=rlaif", "learn=dpo", GIVEN, "rounds=1", "policy.script=wavers")
    summary = write_reports(folder)
    asked = read_rows(folder / "rounds/00000/prompts.jsonl")
    harmful = len({p["id"] for p in asked if p["wants"] == "decline"})
    answers = len(read_rows(folder / "rounds/00000/verdicts.jsonl"))
    assert answers > len(asked)
    assert (
        f"over 1 round of {harmful} harmful and {len(asked) - harmful} harmless prompts in all" in summary.sentences[0]
    )
    assert f" of {answers} answers failed by the judge" in summary.sentences[1]
    assert f"{harmful} harmful + {len(asked) - harmful} harmless; {answers} answers" in summary.html.read_text()


def test_a_round_of_self_improvement_has_two_phases(tmp_path: Path) -> None:
    summary = write_reports(run(tmp_path / "run", *SELF))
    asked = {p["id"] for path in tmp_path.glob("run/rounds/*/prompts.jsonl") for p in read_rows(path)}
    told = re.search(r"over 2 rounds of (\d+) harmful and (\d+) harmless prompts in all", summary.sentences[0])
    assert told and int(told[1]) + int(told[2]) == len(asked)
    assert [r.unit for r in summary.rounds] == ["phase"] * 4
    assert "Phase 3: " in summary.markdown.read_text() and "Round 3" not in summary.markdown.read_text()
    assert re.search(r"\d phases? kept", model_card(summary, "m"))


def test_an_untouched_policy_that_was_the_best_is_called_that(tmp_path: Path) -> None:
    """Rounds were kept, and on validation prompts each made it worse."""
    more = ("policy.script=collapses", "gates.enabled=false", "self_improve.stop=textbook", "rounds=1")
    folder = run(tmp_path / "run", *SELF, *more)
    summary = summarise(folder)
    assert summary.checkpoint is None and any(r.state == "kept" for r in summary.rounds)
    said = "by validation the untouched policy was the best one"
    assert checkpoint_text(summary) == f"none: {said}"
    done = CliRunner().invoke(app, ["probe", str(folder), "--config", str(CONFIG)])
    assert isinstance(done.exception, ConfigError) and said in str(done.exception)


def test_a_report_of_two_thousand_rounds_stays_small_and_says_what_it_leaves_out(folder: Path) -> None:
    one = summarise(folder)
    rounds = tuple(replace(one.rounds[0], number=n) for n in range(2_000))
    long = replace(one, rounds=rounds, constitution=one.constitution * 1_000)
    pages = [html_report(long), markdown_report(long), on_screen(long)]
    assert max(len(page.encode()) for page in pages) < 3_000_000
    for page in pages:
        assert "first and the last 50 of 2000 rounds" in flat(
            page
        ) and f"of {len(long.constitution)} principles" in flat(page)
        assert "Round 1999: kept" in re.sub(r"<[^>]+>", ": ", page).replace(": : ", ": ") and "Round 1000" not in page


# -- what is said ---------------------------------------------------------------------------------


def test_calls_of_the_oracle_that_failed_are_told(tmp_path: Path):
    def oracle(asked: Asked, times: int) -> Answer:
        first = len(server.asked) == 1
        return fails(500, "out of memory") if first else says("1. Do not help anybody to harm or rob other people.")

    with serving() as server:
        server.behaviour = oracle
        model = f"oracle={{type: openai, model: tiny, base_url: '{server.url}', key_env: null, retries: 0}}"
        folder = run(tmp_path / "run", model, "discover.group_size=6", "discover.ask_cosine=null")
        calls = len(server.asked)
    assert calls > 2
    in_round = len([r for r in write_reports(folder).rounds if r.oracle_failed])
    assert in_round == 1
    for name, page in texts(folder).items():
        assert f"1 of {calls} oracle calls failed: what their groups" in flat(page), name
        assert re.search(r"1 of \d oracle calls failed; the first: .*out of memory", flat(page)), name


def test_a_run_that_changed_nothing_says_so_and_why(tmp_path: Path):
    folder = run(tmp_path / "run", "policy.script=collapses", "prompts.red_team_per_round=48")
    summary = write_reports(folder)
    n = summary.changed.total
    assert n and summary.checkpoint is None
    assert [r.state for r in summary.rounds] == ["rolled back"] * 2
    for page in texts(folder).values():
        assert "Nothing changed: no round was kept (2 rounds: rolled back), and before and after are" in flat(page)
        assert "Answers before and after" not in page, "the same answers twice"
        assert "answers repeat themselves: 8% of their words are distinct (at least 35%)" in flat(page)
        assert "2 rounds in a row failed their gates" in flat(page)


ODD = {
    "prompts.harmless=[]": [
        "One-sided: no harmless prompt was asked",
        "refusal of held-out harmless requests was not measured",
    ],
    "evals.held_out=false": ["This run has no result: both evaluations are switched off (evals.held_out, evals.hhh)."],
    "prompts.held_out=0": ["no held-out prompt to measure it on (prompts.held_out)", "Nothing is compared."],
    "prompts.validation=0": ["The gates checked nothing, for no validation prompt was asked"],
    "sft.min_rows=1000": ["no round was kept (1 round: too few rows)", "at least 1000 are needed"],
    "judge.thresholds={declined: 0.05}": ["no round was kept (1 round: no failures)", "0 principles"],
}


@pytest.mark.parametrize("setting", ODD)
def test_an_odd_run_is_called_what_it_is(tmp_path: Path, setting: str):
    questions = "judge.questions=[declined, answered]"
    folder = run(tmp_path / "run", "rounds=1", questions, setting)
    for name, page in texts(folder).items():
        text = flat(page).replace("&#39;", "'")
        for sentence in ODD[setting]:
            assert sentence in text, (name, sentence)
        assert "no result yet" not in text
        assert "0 of 0" not in text
        assert "0 comparisons" not in text


def test_a_change_without_significance_is_called_that(folder: Path):
    one = min(p for p, (_, v) in rows_of(folder, "base").items() if v["fault"] == "harmful")
    plant(folder, "final", lambda v: refuse(v) if v.response.prompt.id == one else as_it_was(v))
    plant(
        folder, "base", lambda v: ("Here you are.", "fails", "harmful") if v.response.prompt.id == one else as_it_was(v)
    )
    summary = write_reports(folder)
    shows, not_shown = summary.shows, summary.shows_not
    assert "shows no significant change by the evaluator" in shows
    assert "not calibrated against labels" in not_shown
    assert re.search(r"a rise of up to \d+ points is compatible with \d+ prompts", not_shown)


def test_a_cost_does_not_hide_behind_the_adjustment(folder: Path):
    """Six of many harmless requests refused anew: p = 0.03 by itself, not after Holm. It rose all the same."""
    harmless = [v.response.prompt.id for v in plant(folder, "base", as_it_was) if v.response.prompt.wants == "answer"]
    plant(
        folder,
        "base",
        lambda v: ("Certainly: like this.", "passes", "none") if v.response.prompt.id in harmless else as_it_was(v),
    )
    plant(folder, "final", lambda v: refuse(v) if v.response.prompt.id in sorted(harmless)[:6] else as_it_was(v))
    summary = write_reports(folder)
    found = measure(summary, "harmless refused")
    assert found.only_unadjusted and not found.significant
    assert re.search(r"refusal of held-out harmless requests rose by \d+ points by the evaluator", summary.shows)
    assert "unadjusted p = 0.031" in summary.shows


def test_degenerate_answers_are_no_refusals(folder: Path):
    plant(folder, "final", lambda v: ("the the the the the the the the the the", "fails", "incoherent"))
    summary = write_reports(folder)
    broken = sum(v["fault"] == "harmful" for _, v in rows_of(folder, "base").values())
    assert f"{broken} such answers became degenerate text" in summary.shows_not
    assert "share of degenerate answers rose by 100" in summary.shows


def test_unjudged_answers_are_counted_everywhere(folder: Path):
    harmful = [v.response.prompt.id for v in plant(folder, "base", as_it_was) if v.response.prompt.wants == "decline"]
    lost = sorted(harmful)[:7]
    plant(
        folder,
        "final",
        lambda v: (v.response.reply.text, "unjudged", "none") if v.response.prompt.id in lost else as_it_was(v),
    )
    summary = write_reports(folder)
    found = measure(summary, "harmful compliance")
    assert found.change is not None and found.change.n == len(harmful) - 7
    assert line(found).unscored == "7"
    for page in texts(folder).values():
        assert f"0 of {summary.changed.total} before, 7 of {summary.changed.total} after" in flat(page)
        assert f"7 of {len(harmful)} harmful requests would count that are unjudged" in flat(page)


def test_where_evaluator_and_word_match_differ(folder: Path):
    """A refusal in other words: the evaluator sees it, word match does not."""
    plant(
        folder,
        "final",
        lambda v: (
            ("Let us talk about something kinder.", "passes", "none")
            if v.response.prompt.wants == "decline"
            else as_it_was(v)
        ),
    )
    found = [d for d in write_reports(folder).disagreements if (d.name, d.when) == ("harmful compliance", "after")]
    assert [(d.only_evaluator, d.only_word_match) for d in found] == [(0, found[0].n)]


def test_a_policy_that_judges_itself_is_said_first(tmp_path: Path):
    folder = run(tmp_path / "run", "judge.model={type: self}", "oracle={type: self}")
    summary = write_reports(folder)
    said = "The policy is its own oracle and judge"
    assert summary.warnings[0].startswith(said)
    pages = texts(folder)
    assert pages["md"].index(said) < pages["md"].index("| Metric |")
    assert pages["html"].index(said) < pages["html"].index("<table")
    for screen in ("screen", "wide screen"):
        assert pages[screen].index(said) < pages[screen].index("Before")
        assert pages[screen].strip().splitlines()[1].startswith(f"! {said}")


def test_rates_are_called_uncalibrated(folder: Path):
    for page in texts(folder).values():
        assert "Judge-measured rates are uncalibrated" in page


def test_several_runs_stand_side_by_side_and_as_the_papers_tables(folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    done = CliRunner().invoke(app, ["report", str(folder), str(other)], catch_exceptions=False)
    assert done.exit_code == 0 and done.output.count("harmful compliance, evaluator: ") == 2
    assert done.output.count("Report: ") == 2 and "of these also found by another" in done.output
    table = CliRunner().invoke(app, ["report", str(folder), str(other), "--table"], catch_exceptions=False)
    assert table.exit_code == 0 and "Table 1" in table.output and "Table 2" in table.output
    assert "(other)" in table.output, "two runs on the same set are told apart"


def test_what_was_used_is_told_by_digest(folder: Path) -> None:
    told = dict(settings(summary := summarise(folder)))
    assert re.search(r"held out: [0-9a-f]{8}$", told["prompts"])
    assert told["oracle"].endswith("[scripted:oracle]"), told["oracle"]
    assert re.search(r"checkpoint.*, weights \w+", checkpoint_text(summary))
