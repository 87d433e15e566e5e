"""A report cuts harmful text, interprets nothing that others wrote, fits the screen, and tells what is missing."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt
from planted import CONFIG, as_it_was, flat, measure, on_screen, plant, refuse, rows_of, run, texts

from iteralign.config import load_config
from iteralign.errors import StoreError
from iteralign.records import Fault, Label
from iteralign.report import summarise, write_reports
from iteralign.report.corrected import calibrated
from iteralign.report.markdown import escaped, quoted
from iteralign.report.summary import read_config, read_prompts
from iteralign.report.table import line, mended
from iteralign.report.wording import clean, cut
from iteralign.runs import open_
from iteralign.store import read_rows, write_rows, write_text

# -- examples and harmful text --------------------------------------------------------------------


def test_the_worst_change_is_shown(folder: Path):
    config, _ = read_config(folder)
    prompts, _ = read_prompts(folder, config)
    one = min((i for i in rows_of(folder, "base") if prompts[i].wants == "answer"), key=lambda i: prompts[i].item)
    plant(
        folder, "base", lambda v: ("Yes: brush it.", "passes", "none") if v.response.prompt.id == one else as_it_was(v)
    )
    plant(folder, "final", lambda v: refuse(v) if v.response.prompt.id == one else as_it_was(v))
    shown = write_reports(folder).examples
    assert len({e.question for e in shown}) == 3
    assert shown[2].title == "The worst change: a harmless request is refused now"
    assert (shown[2].question, shown[2].before.outcome, shown[2].after.outcome) == (
        prompts[one].question,
        "answered",
        "refused",
    )
    assert shown == summarise(folder).examples


LONG = " ".join(f"planted{n:02d}" for n in range(40))


@pytest.mark.parametrize(("label", "fault"), [("fails", "harmful"), ("passes", "none"), ("unjudged", "none")])
def test_harmful_text_is_cut_unless_asked_for(folder: Path, label: Label, fault: Fault):
    """Also where the evaluator was taken in, or said nothing, and no word of refusal is in the text."""
    for side in ("base", "final"):
        plant(folder, side, lambda v: (LONG, label, fault) if v.response.prompt.wants == "decline" else as_it_was(v))
    for page in texts(folder).values():
        assert "planted11" in page
        assert "planted12" not in page
    assert "<details><summary>Folded and cut" in (folder / "report.html").read_text()
    for page in texts(folder, full=True).values():
        assert "planted39" in page


def test_a_refusal_that_turns_harmful_is_cut_too(folder: Path):
    for side in ("base", "final"):
        plant(folder, side, lambda v: (f"I'm sorry, but I cannot. {LONG}", "fails", "harmful"))
    for page in texts(folder).values():
        assert "planted20" not in page


def test_a_text_without_spaces_is_cut():
    assert len(cut("x" * 5000)) < 140
    assert cut("one two") == "one two"
    assert cut(LONG).split()[-2:] == ["planted11", "…[cut]"]


NASTY = (
    "<script>alert(1)</script> | a | b | `code` [link](http://evil.example) **bold** {{ 7 * 7 }} {% raw %} "
    "[bold red]markup[/bold red] \x1b[31mred\x1b[0m \u202eback @someone\n\n# heading\n- list\n1. one\n| x |\n---\n```"
)


def test_what_others_wrote_is_never_interpreted(folder: Path):
    for side in ("base", "final"):
        plant(
            folder, side, lambda v: (NASTY, "passes", "none") if v.response.prompt.wants == "answer" else as_it_was(v)
        )
    for path in folder.glob("rounds/*/principles.json"):
        path.write_text(path.read_text().replace("When a request", "<script>alert(2)</script> | When a request"))
    pages = texts(folder)
    for page in pages.values():
        assert "\x1b" not in page and "\u202e" not in page
    assert "<script" not in pages["html"] and "<script" not in pages["md"]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in pages["html"]
    assert "{{ 7 * 7 }}" in pages["html"] and "49" not in re.sub(
        r"\d+/\d+.*", "", pages["screen"].split("Answers before")[1]
    )
    assert "[bold red]markup[/bold red]" in flat(pages["screen"])
    for head in ("| Metric", "| Setting", "| Validation"):
        table = pages["md"][pages["md"].index(head) :].split("\n\n")[0].splitlines()
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table}) == 1
    answer = pages["md"].split("Answers before and after")[1]
    assert not re.search(r"^(> )?(# heading|- list|1\. one|\| x|---$|```)", answer, re.MULTILINE)
    assert "http://evil" not in pages["md"] and "@someone" not in pages["md"]
    rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(pages["md"])
    assert not re.search(r"<(script|a|img|b|i|u|pre)\b|<h\d>heading|<code>code|<strong>bold", rendered)
    assert "&lt;script&gt;alert(1)&lt;/script&gt; | a | b | `code` [link]" in rendered
    assert rendered.count("<table>") == len(re.findall(r"^\| --- \|", pages["md"], re.MULTILINE))


def test_markdown_escapes():
    assert escaped("a|b\n`c` <i> *x* _y_ 3.14") == "a\\|b \\`c\\` &lt;i&gt; \\*x\\* \\_y\\_ 3.14"
    assert (escaped("+60 (1)"), escaped("1. x")) == ("+60 (1)", "1. x")
    assert quoted("- a\n\n2) b\n+ c\n=====") == ["> \\- a  ", "> 2\\) b  ", "> \\+ c  ", "> \\====="]
    assert quoted("") == ["> (empty)"]
    assert clean("a\r\nb\x07\x9bc") == "a\nb\ufffd\ufffdc"


def test_the_page_loads_nothing_and_holds_no_password(folder: Path):
    text = (folder / "config.yaml").read_text()
    secret = "judge:\n  type: rubric\n  model: {type: openai, model: m, base_url: 'https://me:hunter2@host/v1'}"
    write_text(folder / "config.yaml", re.sub(r"judge:\n(  .*\n)+?(?=evaluator)", f"{secret}\n", text))
    page = texts(folder)["html"]
    assert "hunter2" not in page
    assert "https://…@host/v1" in page
    assert not re.search(r"<(script|link|img|iframe|object)|src=|href=(?!.#)|url\((?!#)|@import|\son\w+=", page)


# -- the screen, and unfinished runs --------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 120])
def test_the_screen_fits_and_is_plain_outside_a_terminal(folder: Path, width: int):
    plant(
        folder,
        "final",
        lambda v: (v.response.reply.text, "unjudged", "none") if v.response.prompt.wants == "decline" else refuse(v),
    )
    summary = write_reports(folder)
    screen = on_screen(summary, width)
    assert "\x1b" not in screen
    body, _, paths = screen.partition("Checkpoint ")
    assert max(len(x) for x in body.splitlines()) <= width
    assert str(summary.html) in paths and str(summary.markdown) in paths and str(summary.checkpoint) in paths
    assert len([x for x in body.splitlines() if re.match(r"  (evaluator|word match|form rules) ", x)]) == len(
        summary.measures
    )


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_an_unfinished_run_gives_a_partial_report_and_is_left_as_it_is(folder: Path):
    shutil.rmtree(folder / "evals/final")
    for name in ("constitution.md", "constitution.yaml", "ledger.jsonl"):
        (folder / name).unlink()
    late = folder / "rounds/00001"
    for name in ("trained.json", "gate.json", "rows.jsonl"):
        (late / name).unlink()
    (late / "revisions.jsonl").unlink()
    (late / "revisions.part").write_bytes(b'[{"id": "torn')
    before = files(folder)
    pages = texts(folder)
    after = files(folder)
    assert {k: v for k, v in after.items() if not k.startswith("report.")} == before
    for page in pages.values():
        assert "This report is partial: round 1 is not finished (next: revisions)" in flat(page)
        assert "the final scores are missing (evals/final)" in flat(page)
        assert "nothing was measured both before and after" in flat(page)
        assert "Answers before and after" not in page and "All held-out answers" not in page  # there is no after
    summary = summarise(folder)
    assert summary.constitution and summary.rounds[1].state == "unfinished"
    shown = line(measure(summary, "harmful compliance"))
    assert shown.before != "–" and (shown.after, shown.difference, shown.p) == ("–", "–", "–")


def test_a_run_that_has_only_begun(tmp_path: Path):
    open_(load_config(CONFIG, []), tmp_path / "run")
    for page in texts(tmp_path / "run").values():
        assert "the untouched policy's scores are missing (evals/base)" in flat(page).replace("&#39;", "'")
        assert "2 of 2 rounds have not begun" in flat(page)


def test_a_run_stopped_for_unjudged_answers_says_so(folder: Path):
    shutil.rmtree(folder / "rounds/00001")
    shutil.rmtree(folder / "evals/final")
    here = folder / "rounds/00000"
    for name in ("principles.json", "revisions.jsonl", "rows.jsonl", "trained.json", "tried-1.json", "gate.json"):
        (here / name).unlink(missing_ok=True)
    rows = read_rows(here / "verdicts.jsonl")
    write_rows(here / "verdicts.jsonl", [{**r, "label": "unjudged", "fault": "none", "reason": LONG} for r in rows])
    pages = texts(folder)
    for page in pages.values():
        assert f"The run was stopped: round 0: {len(rows)} of {len(rows)} responses could not be judged" in flat(page)
        assert "planted12" not in page


def test_rows_over_the_length_limit_are_told_and_only_where_there_are_any(folder: Path):
    assert not any("Over sft.max_length" in flat(page) for page in texts(folder).values())
    path = folder / "rounds/00001/trained.json"
    write_text(path, json.dumps({**json.loads(path.read_text()), "cut": 3, "rejected": 1}))
    for page in texts(folder).values():
        assert re.search(r"over sft\.max_length.*3 rows cut to their last turns, 1 left out", flat(page), re.IGNORECASE)


def test_what_was_spent_is_added_up_by_stage(folder: Path):
    """A stage that was worked at twice has told so twice, and the last line may be torn."""
    usage = {"calls": 40, "read": 1500, "written": 300, "dollars": 0.03, "unpriced": 0}
    told = [("responses", 60), ("trained", 3.0), ("responses", 15.5)]
    lines = [json.dumps({"time": 1, "event": "stage", "stage": s, "seconds": t, **usage}) for s, t in told]
    (folder / "events.jsonl").write_text("\n".join(['{"time": 1, "event": "no failures", "round": 3}', *lines, '{"ev']))
    spent = summarise(folder).spent
    assert [(s.stage, s.seconds, s.usage.calls, s.usage.read) for s in spent] == [
        ("responses", 75.5, 80, 3000),
        ("trained", 3.0, 40, 1500),
    ]
    pages = texts(folder)
    assert "1 min 16 s" in pages["html"]
    for name in ("html", "md"):
        assert "4,500" in pages[name] and "0.09" in flat(pages[name])


def gate_row(kept: bool, share: float, reasons: list[str]) -> str:
    figures = {"benign_refusal": 0.25, "length": 20.0}
    gate = {"kept": kept, "reasons": reasons, "too_far": bool(reasons), "share": share, "figures": figures}
    return json.dumps(gate)


@pytest.mark.parametrize("kept", [True, False])
def test_a_round_that_backtracked_says_from_where_to_where(folder: Path, kept: bool):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["gates"]["backtrack"] = [0.75, 0.5]
    write_text(folder / "config.yaml", yaml.safe_dump(config))
    place = folder / "rounds/00001"
    shutil.copytree(place / "validation", place / "validation-0.5")
    (place / "gate.json").unlink()
    (place / "tried-1.json").write_text(gate_row(False, 1.0, ["refusal rose from 5% to 40%"]))
    (place / "tried-0.75.json").write_text(gate_row(False, 0.75, ["refusal rose from 5% to 30%"]))
    unfinished = summarise(folder).rounds[1]
    assert (unfinished.state, unfinished.next_stage) == ("unfinished", "gate")
    decided = gate_row(kept, 0.5, [] if kept else ["refusal rose from 5% to 25%"])
    (place / "tried-0.5.json").write_text(decided)
    (place / "gate.json").write_text(decided)
    if kept:
        made = json.loads((place / "trained.json").read_text())
        (place / "backtracked.json").write_text(json.dumps({**made, "path": "elsewhere/checkpoint-backtracked"}))
    summary = write_reports(folder)
    assert summary.rounds[1].state == ("kept" if kept else "rolled back")
    assert (summary.checkpoint == place / "checkpoint-backtracked") == kept
    assert [(f.name, f.fresh, f.n) for f in summary.rounds[1].figures] == [
        ("harmless refused, evaluator", 0.25, 12),
        ("words of an answer", 20.0, 24),
    ]
    for page in texts(folder).values():
        assert "at 100% of the weight change: refusal rose from 5% to 40%" in flat(page)
        assert "at 75% of the weight change: refusal rose from 5% to 30%" in flat(page)
        assert ("50% of it was kept" in flat(page)) == kept


def test_gates_by_word_match_alone_are_reported_as_that(tmp_path: Path):
    folder = run(tmp_path / "run", "gates.evaluator=false", "prompts.red_team_per_round=48", "seed=1")
    figures = [r.figures for r in write_reports(folder).rounds if r.figures]
    assert figures
    assert {(f.name, f.n) for f in figures[-1]} == {
        ("harmful compliance, word match", 12),
        ("harmless refused, word match", 12),
        ("distinct words of an answer", 24),
        ("words of an answer", 24),
        ("degenerate answers", 24),
    }


def test_a_run_shows_its_questions_when_their_file_is_gone(folder: Path):
    path = folder / "config.yaml"
    write_text(path, path.read_text().replace("pack:starter/red_team", "pack:starter/gone"))
    summary = write_reports(folder)
    assert summary.examples and not any("cannot be read" in w for w in summary.warnings)


def test_prompts_that_are_gone_cost_the_examples_only(folder: Path):
    """In runs of earlier versions, which kept no questions beside the answers."""
    for stored in [*folder.glob("evals/*/prompts.jsonl"), *folder.glob("rounds/*/validation*/prompts.jsonl")]:
        stored.unlink()
    path = folder / "config.yaml"
    write_text(path, path.read_text().replace("pack:starter/red_team", "pack:starter/gone"))
    summary = write_reports(folder)
    assert summary.examples == ()
    assert any("the prompt sets cannot be read any more" in w for w in summary.warnings)
    assert measure(summary, "harmful compliance").change is not None


def test_what_is_no_run_or_was_damaged_is_named(folder: Path, tmp_path: Path):
    with pytest.raises(StoreError, match="holds no config.yaml"):
        write_reports(tmp_path)
    (folder / "evals/final/scores.json").write_text("{")
    with pytest.raises(StoreError, match=r"evals/final/scores\.json"):
        write_reports(folder)


def test_sections_stand_in_a_readers_order(folder: Path) -> None:
    page = write_reports(folder).html.read_text()
    titles = [re.sub(r"<[^>]+>|[:\d].*", "", t).strip() for t in re.findall(r"<h2>(.*?)</h2>", page)]
    wanted = ["Over the rounds", "Constitution", "Answers before and after", "Rounds"]
    wanted += [
        "How far judge and evaluator can be trusted",
        "Settings and environment",
        "To do it again",
    ]
    assert [t for t in titles if t in wanted] == wanted
    assert page.index('class="finding"') < page.index('<table class="measures">') < page.index("<h2>Over the rounds")


def test_what_was_mended_is_counted_by_failure_and_not_by_revision(folder: Path) -> None:
    here = folder / "rounds/00000"
    revisions = [row for row in read_rows(here / "revisions.jsonl") if row["accepted"]]
    fails = {row["response"] for row in read_rows(here / "verdicts.jsonl") if row["label"] == "fails"}
    [first, *_] = mended(write_reports(folder).rounds).rows
    assert (
        first[1].startswith(f"{len(fails)} of") and int(first[2]) == len({r["origin"] for r in revisions} & fails) > 0
    )


def test_an_uncalibrated_judge_is_called_that_beside_the_evaluator(folder: Path) -> None:
    summary = write_reports(folder)
    assert any(note.startswith("The judge, which says") and "uncalibrated" in note for note in summary.notes)
    table = calibrated(summary.calibrations)
    assert [row[:2] for row in table.rows] == [("judge", "uncalibrated"), ("evaluator", "uncalibrated")]
    assert "| judge | uncalibrated |" in summary.markdown.read_text()
