"""Answers and what a judge says of them: at once where the judge computes elsewhere, one after the other where it does not."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from iteralign.config import OpenAIConfig, PanelConfig, RubricConfig, ScriptedConfig
from iteralign.errors import ModelError
from iteralign.records import Prompt, Response, Verdict
from iteralign.stages.respond import answered_and_judged, computes_elsewhere
from iteralign.store import Store
from make import prompt, response, verdict

PROMPTS = [prompt(f"Question {n}?") for n in range(10)]


def answer(prompts: Sequence[Prompt]) -> list[Response]:
    return [response(p) for p in prompts]


def judge(responses: Sequence[Response]) -> list[Verdict]:
    return [verdict(r) for r in responses]


def go(
    folder: Path,
    answers: Callable[[list[Prompt]], list[Response]] = answer,
    judges: Callable[[list[Response]], list[Verdict]] = judge,
    elsewhere: bool = True,
) -> list[Verdict]:
    store = Store(folder, micro_batch=3)
    return answered_and_judged(store, PROMPTS, answers, judges, batch=4, elsewhere=elsewhere)


def test_a_judge_elsewhere_reads_the_first_answers_while_the_next_are_written(tmp_path: Path) -> None:
    judged_one = threading.Event()

    def waits(prompts: list[Prompt]) -> list[Response]:
        assert prompts[0] is PROMPTS[0] or judged_one.wait(10), "nothing was judged while this one was answering"
        return answer(prompts)

    def tells(responses: list[Response]) -> list[Verdict]:
        judged_one.set()
        return judge(responses)

    assert [v.response.prompt for v in go(tmp_path, waits, tells)] == PROMPTS


def test_a_judge_on_this_machine_waits_for_all_answers(tmp_path: Path) -> None:
    def late(responses: list[Response]) -> list[Verdict]:
        assert (tmp_path / "responses.jsonl").exists(), "the policy was still at work"
        return judge(responses)

    assert [v.response.prompt for v in go(tmp_path, judges=late, elsewhere=False)] == PROMPTS


def test_the_files_are_the_same_either_way(tmp_path: Path) -> None:
    assert go(tmp_path / "a") == go(tmp_path / "b", elsewhere=False)
    for name in ("responses.jsonl", "verdicts.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("first, second", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("who", ["policy", "judge"])
def test_what_failed_goes_on_where_it_stopped(tmp_path: Path, first: bool, second: bool, who: str) -> None:
    def breaks(prompts: list[Prompt]) -> list[Response]:
        if PROMPTS[8] in prompts:
            raise ModelError("the policy broke")
        return answer(prompts)

    def objects(responses: list[Response]) -> list[Verdict]:
        if PROMPTS[4] in [r.prompt for r in responses]:
            raise ModelError("the judge broke")
        return judge(responses)

    with pytest.raises(ModelError, match=f"the {who} broke"):
        go(tmp_path / "a", *((breaks, judge) if who == "policy" else (answer, objects)), elsewhere=first)
    assert not (tmp_path / "a/verdicts.jsonl").exists()

    asked: list[Prompt] = []

    def counts(prompts: list[Prompt]) -> list[Response]:
        asked.extend(prompts)
        return answer(prompts)

    assert go(tmp_path / "a", counts, elsewhere=second) == go(tmp_path / "b")
    assert not {*PROMPTS[:4]} & {*asked}, "the first micro-batch was answered before"
    for name in ("responses.jsonl", "verdicts.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_judge_computes_elsewhere_where_all_that_it_asks_are_servers() -> None:
    server, here = RubricConfig(model=OpenAIConfig(model="big")), RubricConfig(model=ScriptedConfig())
    assert computes_elsewhere(server) and computes_elsewhere(PanelConfig(judges=(server, server)))
    assert not computes_elsewhere(here) and not computes_elsewhere(PanelConfig(judges=(server, here)))
