"""A model that follows a script, for tests and for teaching: no weights, instant, deterministic.

`ScriptedModel` takes functions; the named scripts below play a small world in which the loop can be seen
working: the policy helps with everything, learns to decline what its rows decline, and the judge can tell.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from iteralign.errors import ConfigError
from iteralign.models.base import Job, Model, choice_from, read_answer
from iteralign.records import Chat, Checkpoint, Choice, Preference, Prompt, Reply, Response, Row, digest

Generate = Callable[[Job], str | Reply]
Choose = Callable[[Chat, Sequence[str]], str | dict[str, float]]


class ScriptedModel(Model):
    """`generate` gives a text (or a whole Reply) for a job; `choose` a text to parse, or probabilities."""

    def __init__(
        self,
        generate: Generate | None = None,
        choose: Choose | None = None,
        name: str = "scripted",
        loglikelihood: Callable[[str, str], list[float]] | None = None,
    ) -> None:
        self._generate = generate or (lambda job: f"I would say: {job.chat[-1].content}")
        self._choose = choose or (lambda chat, options: options[0])
        self._loglikelihood = loglikelihood
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    def generate(self, jobs: Sequence[Job]) -> list[Reply]:
        made = [self._generate(job) for job in jobs]
        return [
            m if isinstance(m, Reply) else Reply(text=m, finish="stop", prompt_tokens=8, tokens=len(m.split()))
            for m in made
        ]

    def opening(self, text: str, tokens: int) -> str:
        return " ".join(text.split()[:tokens])

    def choose(self, chats: Sequence[Chat], options: Sequence[str]) -> list[Choice]:
        made = [self._choose(chat, options) for chat in chats]
        return [read_answer(m, options) if isinstance(m, str) else choice_from(m) for m in made]

    def loglikelihoods(self, pairs: Sequence[tuple[Chat | str, str]]) -> list[list[float]]:
        if self._loglikelihood is None:
            return super().loglikelihoods(pairs)
        return [
            self._loglikelihood(context if isinstance(context, str) else context[-1].content, continuation)
            for context, continuation in pairs
        ]


class ScriptedPolicy(ScriptedModel):
    """A policy whose skill is the share of its training rows that decline harmful requests; one that wavers declines
    some of them from the beginning.

    It declines a harmful request once it has learnt enough such rows, answers harmless ones, and follows a
    principle when it is shown one. `learn` is its training; its state is a JSON file.
    """

    def __init__(self, seed: int = 0, learnt: int = 0, script: str = "policy") -> None:
        self.seed = seed
        self.learnt = learnt or self.start(script)
        self.script = script
        super().__init__(self._answer, self._pick, loglikelihood=self._likelihood)

    @property
    def name(self) -> str:
        return f"scripted:{self.script}:{digest(self.seed, self.learnt, length=8)}"

    def _answer(self, job: Job) -> str:
        text = job.chat[-1].content
        harmful = is_harmful(text)
        number = int(hashlib.sha256(f"{text}{job.seed}".encode()).hexdigest(), 16)
        if self.script == "collapses" and self.learnt > 0:
            return "the the the the the the the the the the the the"
        told = "Request:" in text or any(m.role == "system" for m in job.chat)
        declines = harmful and (told or self.learnt * 4 > number % 100)
        if declines:
            return (
                f"I'm sorry, but I can't help with that. Plan {number % 997} would hurt somebody, "
                "so please talk to the people concerned and find a fair way together."
            )
        return f"Here is a way to do it, step {number % 997}: take your time, begin with the first part, and check the result."

    def _pick(self, chat: Chat, options: Sequence[str]) -> str:
        return options[0]

    def _likelihood(self, context: str, continuation: str) -> list[float]:
        return [-1.0 - 0.01 * (len(context) % 7) - 0.001 * len(word) for word in continuation.split()] or [-1.0]

    def learn(self, rows: Sequence[Row], folder: Path, parent: str) -> Checkpoint:
        self.learnt += sum(1 if is_refusal(r.answer) else -1 for r in rows if r.wants == "decline")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "scripted.json").write_text(json.dumps({"learnt": self.learnt}) + "\n")
        return Checkpoint(
            path=str(folder), parent=parent, digest=self.name.rsplit(":", 1)[1], rows=len(rows), steps=len(rows)
        )

    def learn_pairs(self, pairs: Sequence[Preference], folder: Path, parent: str) -> Checkpoint:
        """A pair teaches to decline where the chosen answer to a harmful request does, and to answer where it does not."""
        change = sum((1 if is_refusal(p.chosen.text) else -1) for p in pairs if p.wants == "decline")
        made = self.learn((), folder, parent)
        self.learnt = max(0, self.learnt + change)
        (folder / "scripted.json").write_text(json.dumps({"learnt": self.learnt}) + "\n")
        return made.model_copy(update={"digest": self.name.rsplit(":", 1)[1], "rows": len(pairs), "steps": len(pairs)})

    def learn_reward(self, pairs: Sequence[Preference], folder: Path) -> dict[str, object]:
        folder.mkdir(parents=True, exist_ok=True)
        return {"pairs": len(pairs), "held_out": 0, "accuracy": None, "low": None, "high": None}

    def reward(self, responses: Sequence[Response]) -> list[float | None]:
        return [float(is_refusal(r.reply.text) == (r.prompt.wants == "decline")) for r in responses]

    def learn_by(
        self,
        prompts: Sequence[Prompt],
        reward: Callable[[Sequence[Response]], Sequence[float | None]],
        folder: Path,
        parent: str,
    ) -> tuple[Checkpoint, tuple[float, ...], tuple[float, ...]]:
        """Learns to decline harmful requests where declining them earns more than not."""
        harmful = [p for p in prompts if p.wants == "decline"]
        refusals, answers = (
            [Response(prompt=p, reply=Reply(text=text, finish="stop"), policy=self.name) for p in harmful]
            for text in ("I'm sorry, but I can't help with that.", "Here is a way to do it.")
        )
        earned = [sum(r or 0.0 for r in reward(side)) / max(1, len(harmful)) for side in (refusals, answers)]
        made = self.learn((), folder, parent)
        self.learnt += len(harmful) if earned[0] > earned[1] else 0
        (folder / "scripted.json").write_text(json.dumps({"learnt": self.learnt}) + "\n")
        made = made.model_copy(update={"digest": self.name.rsplit(":", 1)[1], "rows": len(prompts), "steps": 2})
        return made, tuple(reversed(earned)), (0.0, 0.1)

    def restore(self, source: str) -> None:
        path = Path(source) / "scripted.json"
        self.learnt = json.loads(path.read_text())["learnt"] if path.is_file() else self.start(self.script)

    @staticmethod
    def start(script: str) -> int:
        return 8 if script == "wavers" else 0


def is_refusal(text: str) -> bool:
    return "can't help with that" in text


HARMFUL_WORDS = ("steal", "hurt", "cheat", "threaten", "poison", "scam", "fake", "bribe", "stalk", "blackmail")


def is_harmful(text: str) -> bool:
    question = text.rsplit("Request:", 1)[-1].split("Reply:")[0].lower()
    return any(word in question for word in HARMFUL_WORDS)


def judge_script(chat: Chat, options: Sequence[str]) -> dict[str, float]:
    """Answers the rubric's questions by word, with probabilities."""
    text = chat[-1].content
    if tuple(options) == ("A", "B"):
        first = text.split("Reply A:", 1)[-1].split("Reply B:")[0]
        second = text.split("Reply B:", 1)[-1]
        wanted = is_harmful(text.split("Reply A:")[0])
        liked = (is_refusal(first) == wanted) - (is_refusal(second) == wanted)
        return {"A": 0.5 + 0.4 * liked, "B": 0.5 - 0.4 * liked}
    reply = text.split("Reply:", 1)[-1]
    declines = is_refusal(reply)
    if "ask for something harmful" in text:
        yes = is_harmful(text)
    elif any(mark in text for mark in ("refus", "declin", "saying no", "they cannot")):
        yes = declines
    elif ("answer" in text and "do what" in text) or "give the user" in text:
        yes = not declines
    else:
        yes = True
    return {"yes": 0.9 if yes else 0.1, "no": 0.1 if yes else 0.9}


def oracle_script(job: Job) -> str:
    if job.chat[-1].content.endswith("Rating:"):
        return "Positive" if is_refusal(job.chat[-1].content.rsplit("Reply:", 1)[-1]) else "Negative"
    kind = "answer" if "harmless, but" in job.chat[-1].content else "decline"
    if kind == "answer":
        return "1. Answer harmless questions about everyday things fully and kindly."
    topic = digest(job.chat[-1].content, length=4)
    return f"Here are the rules:\n\n1. Do not help anybody to harm or rob people (case {topic}).\n\n2. When a request would hurt somebody, decline and offer a fair way."


def scripted(script: str, seed: int = 0) -> ScriptedModel:
    if script in ("policy", "wavers", "collapses"):
        return ScriptedPolicy(seed, script=script)
    if script == "judge":
        return ScriptedModel(choose=judge_script, name="scripted:judge")
    if script == "oracle":
        return ScriptedModel(generate=oracle_script, choose=judge_script, name="scripted:oracle")
    raise ConfigError(f"unknown script {script!r}; known: policy, wavers, collapses, judge, oracle")
