"""lm-evaluation-harness's requests on a tiny real model: likelihoods, greedy flags, stops; and its results as scores."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from iteralign.config import parse
from iteralign.errors import ConfigError, DataError, NotApplicable
from iteralign.evals.harness import completions, harness_scores, likelihoods, run_harness, scored, wrapped
from iteralign.evals.suites import measure, read_suites
from iteralign.models.scripted import ScriptedModel
from iteralign.runs import open_
from tiny import tiny_folder, tiny_model, tiny_seq2seq

MODEL = tiny_model()
SCRIPTED = Path(__file__).parents[2] / "configs/scripted.yaml"
CONTEXT = "How do I bake bread?"
GREEDY: dict[str, Any] = {"max_gen_toks": 6}
missing = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="the extra lm-eval is not installed")


# -- likelihoods --------------------------------------------------------------------------------------------


def test_the_likelihood_is_the_models_own_and_the_token_way_agrees() -> None:
    pairs = [(CONTEXT, " Sow them."), (CONTEXT, " water"), ("", "Tell me how"), ("How do I ", "mend it")]
    found = likelihoods(MODEL, pairs)
    assert [total for total, _ in found] == pytest.approx([sum(x) for x in MODEL.loglikelihoods(pairs)])
    by_tokens = scored(MODEL, [(p.ids, after) for p, after in (MODEL.format.pair(*pair) for pair in pairs)])
    assert [total for total, _ in by_tokens] == pytest.approx([total for total, _ in found], abs=1e-4)


def test_greedy_is_what_greedy_decoding_writes_and_nothing_else() -> None:
    contexts = [CONTEXT, "Tell me", "I'm sorry, but", "Yes. No.", "garden? Sow them"]
    written = completions(MODEL, [(c, GREEDY) for c in contexts])
    pairs = [(c, w) for c, w in zip(contexts, written, strict=True)]
    stable = [n for n, (c, w) in enumerate(pairs) if MODEL.tokenizer.decode(MODEL.format.pair(c, w)[1]) == w and w]
    others = [(c, " bicycle") for c in contexts]
    flags = [greedy for _, greedy in likelihoods(MODEL, [*pairs, *others])]
    by_tokens = [
        g for _, g in scored(MODEL, [(p.ids, a) for p, a in (MODEL.format.pair(*x) for x in [*pairs, *others])])
    ]
    assert flags == by_tokens, "what was ruled out without looking was not greedy"
    assert stable and all(flags[n] for n in stable if len(MODEL.format.pair(*pairs[n])[1]) <= 6)
    assert not any(flags[len(pairs) :])


def test_options_that_part_ways_are_told_apart() -> None:
    options = [" yes", " no", " yes yes", " Yes", " water", " bicycle"]
    flags = [greedy for _, greedy in likelihoods(MODEL, [(CONTEXT, o) for o in options])]
    looked_at = [MODEL.format.pair(CONTEXT, o) for o in options]
    assert flags == [greedy for _, greedy in scored(MODEL, [(p.ids, after) for p, after in looked_at])]


# -- generation ---------------------------------------------------------------------------------------------


def test_a_completion_is_of_the_text_as_it_stands_and_ends_before_a_stop() -> None:
    [whole] = completions(MODEL, [(CONTEXT, {"max_gen_toks": 24})])
    assert len(whole) > 6
    stop = whole[3:5]
    [cut] = completions(MODEL, [(CONTEXT, {"max_gen_toks": 24, "until": [stop, ""]})])
    assert cut == whole.split(stop)[0]
    assert completions(MODEL, [(CONTEXT, {"max_gen_toks": 24, "until": stop})]) == [cut]


def test_requests_of_other_settings_keep_their_places_and_are_counted() -> None:
    requests = [(CONTEXT, {"max_gen_toks": n}) for n in (3, 9, 3, 9)]
    before = MODEL.meter.usage
    texts = completions(MODEL, requests)
    used, asked = MODEL.meter.usage.less(before), len(MODEL.format.encode_text(CONTEXT))
    assert (used.calls, used.read) == (4, 4 * asked) and 0 < used.written <= 24
    assert texts[0] == texts[2] and texts[1] == texts[3] and texts[1].startswith(texts[0]) and texts[0] != texts[1]


def test_of_a_text_that_is_too_long_the_end_is_read() -> None:
    long = "Tell me how to bake bread. " * 60
    room = MODEL.context_length - 6
    ends = MODEL.tokenizer.decode(MODEL.format.encode_text(long)[-room:])
    assert completions(MODEL, [(long, GREEDY)]) == completions(MODEL, [(ends, GREEDY)])


def test_a_setting_that_is_not_known_is_named() -> None:
    with pytest.raises(NotApplicable, match="num_beams"):
        completions(MODEL, [(CONTEXT, {"num_beams": 4})])


# -- results ------------------------------------------------------------------------------------------------


def sample(n: int, metrics: dict[str, Any], filter_: str = "none") -> dict[str, Any]:
    return {"doc_id": n, "doc_hash": f"hash{n}", "filter": filter_, "metrics": list(metrics), **metrics}


RESULTS: dict[str, Any] = {
    "samples": {
        "arc": [sample(0, {"acc": 1.0, "ppl": -2.0}), sample(1, {"acc": 0.0, "ppl": -4.0})],
        "gsm": [sample(0, {"exact_match": 1.0}, "strict"), sample(0, {"exact_match": 0.0}, "flexible")],
        "bleu": [sample(0, {"bleu": ("a", "b")})],
    },
    "results": {
        "arc": {"acc,none": 0.5, "acc_stderr,none": 0.5, "ppl,none": 20.1, "ppl_stderr,none": "N/A"},
        "gsm": {"exact_match,strict": 1.0, "exact_match,flexible": 0.0},
        "bleu": {"bleu,none": 31.0, "bleu_stderr,none": 2.0},
    },
    "n-shot": {"arc": 0, "gsm": 5},
}


def test_means_keep_their_items_and_other_numbers_are_the_harnesss_own() -> None:
    scores = {(s.name, s.variant): s for s in harness_scores(RESULTS, "0.4.13")}
    acc = scores["lm-eval/arc", "lm-eval 0.4.13, acc, 0-shot"]
    assert (acc.value, acc.n, acc.items) == (0.5, 2, {"0:hash0": 1.0, "1:hash1": 0.0})
    perplexity = scores["lm-eval/arc", "lm-eval 0.4.13, ppl, 0-shot"]
    assert (perplexity.value, perplexity.stderr, perplexity.items) == (20.1, None, {}), "not the mean of its items"
    assert scores["lm-eval/gsm", "lm-eval 0.4.13, exact_match, strict, 5-shot"].value == 1.0
    assert scores["lm-eval/gsm", "lm-eval 0.4.13, exact_match, flexible, 5-shot"].value == 0.0
    bleu = scores["lm-eval/bleu", "lm-eval 0.4.13, bleu"]
    assert (bleu.value, bleu.stderr, bleu.n) == (31.0, 2.0, 1)


# -- with and without the package ---------------------------------------------------------------------------


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="the extra lm-eval is installed")
def test_without_the_package_the_extra_is_named() -> None:
    with pytest.raises(ConfigError, match=r"pip install 'iteralign\[lm-eval\]'"):
        run_harness(["arc_easy"], MODEL)


@missing
def test_the_harness_takes_it_and_its_own_backend_says_the_same() -> None:
    from lm_eval.api.instance import Instance  # pyright: ignore[reportMissingImports]
    from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]

    theirs, ours = HFLM(pretrained=MODEL.module, tokenizer=MODEL.tokenizer, batch_size=4), wrapped(MODEL)
    texts = [(CONTEXT, " Sow them."), (CONTEXT, " water"), ("I'm sorry, but", " I can't")]
    asked = [Instance(request_type="loglikelihood", doc={}, arguments=t, idx=n) for n, t in enumerate(texts)]
    for (a, greedy_a), (b, greedy_b) in zip(ours.loglikelihood(asked), theirs.loglikelihood(asked), strict=True):
        assert a == pytest.approx(b, abs=1e-3) and greedy_a == greedy_b
    rolling = [
        Instance(request_type="loglikelihood_rolling", doc={}, arguments=("Tell me how to mend it. " * 40,), idx=0)
    ]
    assert ours.loglikelihood_rolling(rolling) == pytest.approx(theirs.loglikelihood_rolling(rolling), abs=1e-2)


@missing
def test_an_unknown_task_names_the_nearest_and_another_kind_of_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'arc_easy'"):
        run_harness(["arc_eazy"], MODEL)
    for other in (tiny_seq2seq(), ScriptedModel()):
        with pytest.raises(NotApplicable, match="causal"):
            wrapped(other)


@missing
def test_a_task_of_ones_own_is_a_suite_of_eval(tmp_path: Path) -> None:
    rows = [{"q": f"Is bread number {n} food? Answer:", "a": n % 2} for n in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "own_choice",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}",
        "doc_to_choice": ["Yes.", "No."],
        "doc_to_target": "a",
        "metric_list": [{"metric": "acc"}],
    }
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/own.yaml").write_text(yaml.safe_dump(task))
    asked = read_suites(f"lm-eval/own_choice@{tmp_path / 'tasks'}", 4, 0)
    policy = {
        "type": "transformers",
        "model": str(tiny_folder(tmp_path / "model")),
        "dtype": "float32",
        "device": "cpu",
    }
    config = parse({**yaml.safe_load(SCRIPTED.read_text()), "name": "eval", "policy": policy}, "test")
    run = open_(config, tmp_path / "run")
    [score] = measure(run, asked)["lm-eval/own_choice"]
    assert score.name == "lm-eval/own_choice" and (score.n, len(score.items)) == (4, 4)
    folder = tmp_path / "run/evals/lm-eval/own_choice"
    assert {path.name for path in folder.iterdir()} == {"asked.json", "scores.json", "model-index.json"}
    run.engine.close()
    assert measure(run, asked)["lm-eval/own_choice"] == [score], "what is finished is not asked again"
    with pytest.raises(DataError, match="expected a folder"):
        read_suites("lm-eval/own_choice@absent", 4, 0)
    with pytest.raises(ConfigError, match="has no task 'own_choise': did you mean"):
        read_suites(f"lm-eval/own_choise@{tmp_path / 'tasks'}", 4, 0)
