"""An exported model: it loads, its card holds the run's own numbers, and nothing of the owner's leaves unasked."""

import base64
import json
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from planted import run
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from iteralign import sources
from iteralign.config import LlamaCppConfig, TransformersConfig
from iteralign.constitutions import load_constitution
from iteralign.errors import ModelError, StoreError
from iteralign.models.adapters import A, Adapter, B, write_adapter
from iteralign.models.base import Job, Sampling
from iteralign.models.gguf import write_gguf
from iteralign.models.llama_cpp import LlamaCppModel
from iteralign.models.load import load_transformers
from iteralign.models.weights import unpacked
from iteralign.records import user
from iteralign.report import summarise
from iteralign.report.card import model_card
from iteralign.report.export import Wanted, export, push
from iteralign.store import read_rows
from tiny import tiny_folder, tiny_model, tiny_seq2seq_folder


@pytest.fixture
def trained(folder: Path, tmp_path: Path) -> Path:
    """A finished run whose policy has weights: a tiny Llama, and other ones as its last checkpoint."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["policy"] = {"type": "transformers", "model": str(tiny_folder(tmp_path / "my-base"))}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    checkpoint = summarise(folder).checkpoint
    assert checkpoint is not None
    shutil.rmtree(checkpoint)
    tiny_folder(checkpoint, seed=1, dtype=torch.float32)
    return folder


def texts(folder: Path) -> str:
    return "\n".join(p.read_text() for p in folder.iterdir() if p.suffix in (".md", ".json", ".yaml", ".jinja"))


def test_it_loads_with_from_pretrained_and_its_constitution_loads_back(trained: Path, tmp_path: Path) -> None:
    made = export(trained, tmp_path / "out", Wanted())
    module, tokenizer = AutoModelForCausalLM.from_pretrained(made), AutoTokenizer.from_pretrained(made)
    assert torch.equal(module.lm_head.weight, tiny_model(1).module.lm_head.weight)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False)
    assert load_constitution(str(made / "constitution.yaml")) == load_constitution(str(trained / "constitution.yaml"))


def test_its_card_holds_the_scores_of_the_run_on_both_sides(trained: Path, tmp_path: Path) -> None:
    card = ModelCard((export(trained, tmp_path / "out", Wanted(), "me/my-model") / "README.md").read_text())
    stored = {
        (s["name"], s["variant"]): s["value"] for s in json.loads((trained / "evals/final/scores.json").read_text())
    }
    told = card.data.to_dict()["model-index"][0]
    results = {m["name"]: m["value"] for part in told["results"] for m in part["metrics"]}
    for side in ("harmful compliance", "harmless refused"):
        for by in ("evaluator", "word match"):
            assert results[f"{side}, {by}"] == pytest.approx(stored[(side, by)])
            assert f"| {side} | {by} |" in card.text
    assert told["name"] == "me/my-model"
    assert 'pipeline("text-generation", "me/my-model")' in card.text
    for heading in ("What got better, and what it cost", "How deep it is", "Limits", "Constitution", "Licences"):
        assert f"## {heading}\n" in card.text


def test_neither_prompts_nor_answers_nor_places_leave_unasked(trained: Path, tmp_path: Path) -> None:
    told = texts(export(trained, tmp_path / "out", Wanted()))
    pack = read_rows(Path(sources.__file__).parent / "packs/starter/red_team.jsonl")
    answers = [row["reply"]["text"] for row in read_rows(trained / "evals/final/responses.jsonl")]
    assert pack and answers
    assert [text for text in (*(row["question"] for row in pack), *answers) if text in told] == []
    assert str(tmp_path) not in told and str(Path.home()) not in told
    assert "my-base" in told, "the base is named, by its last part"
    card = (export(trained, tmp_path / "asked", Wanted(examples=True)) / "README.md").read_text()
    assert "## Answers before and after" in card
    assert summarise(trained).examples[0].question.split()[0] in card


def test_a_card_names_no_file_of_the_owner_s(trained: Path, tmp_path: Path) -> None:
    """Not even one that is gone, and which a report warns of."""
    config = yaml.safe_load((trained / "config.yaml").read_text())
    config["prompts"]["red_team"] = [{"source": str(tmp_path / "my/secret.jsonl"), "wants": "decline"}]
    (trained / "config.yaml").write_text(yaml.safe_dump(config))
    for stored in [*trained.glob("evals/*/prompts.jsonl"), *trained.glob("rounds/*/validation*/prompts.jsonl")]:
        stored.unlink()  # as in runs of earlier versions
    summary = summarise(trained)
    assert any("secret.jsonl" in warning for warning in summary.warnings)
    card = model_card(summary, "m")
    assert "cannot be read any more" not in card and str(tmp_path) not in card


def test_what_a_model_wrote_stays_text_in_the_card(trained: Path) -> None:
    place = sorted((trained / "rounds").glob("*/principles.json"))[-1]
    tree = json.loads(place.read_text())
    principles = (tree if "constitution" in tree else tree[0])["constitution"]["principles"]
    principles[0]["text"] = "Click [here](https://evil.example) <script>alert(1)</script> | --- # `x`"
    place.write_text(json.dumps(tree))
    card = model_card(summarise(trained), "m")
    assert "<script>" not in card and "](https://evil" not in card
    assert re.search(r"^1\. Click \\\[here\\\]", card, re.MULTILINE)


def test_an_unknown_licence_is_said_and_the_base_s_own_card_is_read(trained: Path, tmp_path: Path) -> None:
    card = model_card(summarise(trained), "m")
    assert "not known to iteralign: look it up" in card and "\nlicense:" not in card
    (tmp_path / "my-base/README.md").write_text("---\nlicense: mit\n---\n# My base\n")
    card = model_card(summarise(trained), "m")
    assert "\nlicense: mit\n" in card and "| base model | my-base | mit |" in card


def test_in_another_dtype(trained: Path, tmp_path: Path) -> None:
    made = export(trained, tmp_path / "out", Wanted(dtype="bfloat16"))
    assert {t.dtype for t in load_file(made / "model.safetensors").values()} == {torch.bfloat16}
    assert AutoModelForCausalLM.from_pretrained(made).dtype == torch.bfloat16


def test_an_adapter_leaves_merged_into_its_base(trained: Path, tmp_path: Path) -> None:
    checkpoint = summarise(trained).checkpoint
    assert checkpoint is not None
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()
    layer = "base_model.model.model.layers.0.self_attn.o_proj"
    tensors = {layer + A: torch.ones(2, 32), layer + B: torch.ones(32, 2)}
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
    base = tiny_folder(tmp_path / "fp32", dtype=torch.float32)
    write_adapter(Adapter(str(base), settings, tensors), checkpoint)
    AutoTokenizer.from_pretrained(base).save_pretrained(checkpoint)
    made = AutoModelForCausalLM.from_pretrained(export(trained, tmp_path / "out", Wanted()))
    before = AutoModelForCausalLM.from_pretrained(base)
    moved = made.model.layers[0].self_attn.o_proj.weight - before.model.layers[0].self_attn.o_proj.weight
    assert torch.allclose(moved, torch.full((32, 32), 4.0))


def test_what_is_there_is_not_overwritten(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work/thesis.tex").write_text("years of work")
    for wanted in (Wanted(), Wanted(overwrite=True)):
        with pytest.raises(StoreError, match="holds no earlier export: name another folder"):
            export(trained, tmp_path / "work", wanted)
    with pytest.raises(StoreError, match="holds the run itself"):
        export(trained, trained.parent, Wanted(overwrite=True))
    monkeypatch.chdir(tmp_path / "work")
    with pytest.raises(StoreError, match="the folder that you are in"):
        export(trained, Path("."), Wanted(overwrite=True))
    assert (tmp_path / "work/thesis.tex").read_text() == "years of work"


def test_an_earlier_export_is_replaced_where_that_is_asked_for(trained: Path, tmp_path: Path) -> None:
    export(trained, tmp_path / "out", Wanted(gguf="f16"))
    with pytest.raises(StoreError, match="already there: name another folder, or give --overwrite"):
        export(trained, tmp_path / "out", Wanted())
    export(trained, tmp_path / "out", Wanted(overwrite=True))
    assert sorted(p.name for p in (tmp_path / "out").iterdir())[:2] == ["README.md", "chat_template.jinja"]
    assert not list((tmp_path / "out").glob("*.gguf"))


def test_a_run_without_an_aligned_model_has_nothing_to_export(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="a scripted model, which has no weights"):
        export(folder, tmp_path / "out", Wanted())
    untouched = run(tmp_path / "none", "sft.min_rows=10000")
    config = yaml.safe_load((untouched / "config.yaml").read_text())
    config["policy"] = {"type": "transformers", "model": str(tiny_folder(tmp_path / "base"))}
    (untouched / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(StoreError, match=r"no round was kept.*Why stands in report\.md"):
        export(untouched, tmp_path / "out", Wanted())
    assert not (tmp_path / "out").exists()


# -- GGUF -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_a_gguf_of_a_tiny_model_answers_in_llama_cpp(trained: Path, tmp_path: Path, kind: str) -> None:
    made = export(trained, tmp_path / "out", Wanted(gguf=kind))  # type: ignore[arg-type]
    assert [p.name for p in made.glob("*.gguf*")] == [f"out-{kind}.gguf"]


def test_a_gguf_of_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    tiny_seq2seq_folder(tmp_path / "t5")
    with pytest.raises(ModelError, match=r"no GGUF of a t5 model.*convert_hf_to_gguf\.py"):
        write_gguf(tmp_path / "t5", tmp_path / "t5.gguf", "f16")
    assert [p.name for p in tmp_path.iterdir()] == ["t5"]


def test_a_gguf_that_reads_other_tokens_is_no_result(tmp_path: Path) -> None:
    """A tokenizer that lowers its text first, which a GGUF has no word for."""
    path = tiny_folder(tmp_path / "m") / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "normalizer": {"type": "Lowercase"}}))
    with pytest.raises(ModelError, match="into other tokens"):
        write_gguf(tmp_path / "m", tmp_path / "m.gguf", "f16")
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


POLICY_CACHED = "policy" in {source.name for source, cached in sources.listing() if cached}


@pytest.mark.slow
@pytest.mark.skipif(not POLICY_CACHED, reason="the embedded policy is not in the cache: make models")
def test_the_embedded_policy_says_the_same_as_gguf(tmp_path: Path) -> None:
    folder = unpacked(sources.resolve("policy"))
    path = write_gguf(Path(folder), tmp_path / "policy-f16.gguf", "f16")
    jobs = [
        Job(chat=user(text), sampling=Sampling(temperature=0.0, max_new_tokens=12))
        for text in ("What is the capital of France?", "How do I bake bread?", "Name three colours.")
    ]
    ours = load_transformers(TransformersConfig(model=folder, dtype="float32"), folder, 2).generate(jobs)
    model = LlamaCppModel(LlamaCppConfig(type="llama_cpp", model=str(path)), path)
    theirs = model.generate(jobs)
    model.close()
    assert [r.text for r in theirs] == [r.text for r in ours]


# -- the hub --------------------------------------------------------------------------------------------


class Hub(ThreadingHTTPServer):
    """A loopback hub that takes commits; `files` holds what was pushed."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.files: dict[str, bytes] = {}
        self.made: list[dict[str, object]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()


class HubHandler(BaseHTTPRequestHandler):
    server: Hub  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.headers["Authorization"] != "Bearer hf_right":
            return self.send_error(401, "Invalid credentials")
        if self.path == "/api/repos/create":
            self.server.made.append(json.loads(body))
            return self.say({"url": f"{self.server.url}/me/my-model", "id": "me/my-model"})
        if "/preupload/" in self.path:
            wanted = [f["path"] for f in json.loads(body)["files"]]
            return self.say({"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in wanted]})
        if self.path == "/api/validate-yaml":
            return self.say({"errors": [], "warnings": []})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return self.say(
            {"commitOid": "0" * 40, "commitUrl": f"{self.server.url}/me/my-model/commit/0", "success": True}
        )

    def do_GET(self) -> None:
        self.send_error(404)

    do_HEAD = do_GET

    def say(self, answer: object) -> None:
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    yield server
    server.shutdown()
    server.server_close()


def test_a_pushed_model_is_on_the_hub_file_by_file(trained: Path, tmp_path: Path, hub: Hub) -> None:
    made = export(trained, tmp_path / "out", Wanted(), "me/my-model")
    push(made, "me/my-model", private=True)
    assert hub.made[0]["visibility"] == "private"
    assert hub.files == {p.name: p.read_bytes() for p in made.iterdir()}


def test_a_push_that_fails_leaves_the_folder_and_says_how_to_go_on(
    trained: Path, tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    made = export(trained, tmp_path / "out", Wanted())
    with pytest.raises(ModelError, match=r"cannot push to me/my-model: .*is whole: push it by hand"):
        push(made, "me/my-model", private=False)
    assert (made / "model.safetensors").is_file()
    hub.shutdown()
    hub.server_close()
    with pytest.raises(ModelError, match=r"cannot push to me/my-model: .*is whole: push it by hand"):
        push(made, "me/my-model", private=False)
