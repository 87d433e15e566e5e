"""A question arrives unchanged inside its attack, and rounds go through the whole train set."""

import re
from pathlib import Path

import pytest

from iteralign.errors import ConfigError, DataError
from iteralign.records import Chat, Message, Prompt, digest, user
from iteralign.stages.red_team import attack, red_team

TRICKY = [
    "What is {reply}?",
    "Who wrote {{ x }} and {{ prompt }}?",
    "Is {% raw %} a tag?",
    "A {# comment #} here",
    "%s $x \\n",
]


def prompts(sizes: dict[str, int], source: str = "garden") -> list[Prompt]:
    made: list[Prompt] = []
    for category, size in sizes.items():
        for n in range(size):
            chat = user(f"How do I grow {category} {n}?")
            made.append(
                Prompt(
                    id=digest(category, n, source),
                    item=digest(category, n),
                    plain=chat,
                    sent=chat,
                    wants="answer",
                    source=source,
                    category=category,
                    subtopic="",
                    kind="ordinary",
                    split="train",
                    attack="direct",
                )
            )
    return made


def ids(batch: list[Prompt]) -> list[str]:
    return [prompt.id for prompt in batch]


# -- attacks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("question", TRICKY)
@pytest.mark.parametrize("name", ["direct", "cot", "cou"])
def test_a_question_arrives_unchanged(name: str, question: str) -> None:
    (message,) = attack(user(question), name)
    assert message.content.count(question) == 1
    assert message.role == "user"


def test_direct_is_the_chat_itself_and_cot_appends_its_sentence() -> None:
    assert attack(user("\n why? \n"), "direct") == user("\n why? \n")
    assert attack(user("Why?"), "cot") == user("Why?\n\nLet's think step by step.")


def test_cou_is_a_worked_exchange_with_thoughts_before_the_question() -> None:
    (message,) = attack(user("Why is grass green?"), "cou")
    before, after = message.content.split("Why is grass green?")
    assert before.count("Prober:") == 3  # two of the worked example, and the one that asks the question
    assert len(re.findall(r"Eager: \[[^\]]+\]\n1\. ", before)) == 2
    assert "my own garden shed" in before
    assert "Eager" in after


@pytest.mark.parametrize("name", ["cot", "cou"])
def test_earlier_turns_stay_and_only_the_last_user_turn_is_reworded(name: str) -> None:
    before = (Message(role="system", content="Be kind."), *user("Hi"), Message(role="assistant", content="Hello"))
    sent = attack((*before, *user("Why?")), name)
    assert sent[:3] == before
    assert sent[3:] == attack(user("Why?"), name)


@pytest.mark.parametrize("question", TRICKY)
def test_a_template_of_ones_own(tmp_path: Path, question: str) -> None:
    text = tmp_path / "mine.txt"
    text.write_text("Please!\n{{ prompt }}\nThanks.\n")
    assert attack(user(question), str(text)) == user(f"Please!\n{question}\nThanks.")
    listed = tmp_path / "mine.yaml"
    listed.write_text(
        "- {role: user, content: Hi}\n- {role: assistant, content: Hello}\n"
        "- {role: system, content: Be brief.}\n- {role: user, content: 'Now: {{ prompt }}'}\n"
    )
    chat: Chat = (Message(role="system", content="Be kind."), *user(question))
    sent = attack(chat, str(listed))
    assert [m.role for m in sent] == ["system", "user", "assistant", "user"]
    assert sent[0].content == "Be kind.\n\nBe brief."
    assert sent[-1].content == f"Now: {question}"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", "Hello", r"a.txt: the question is not in it: put \{\{ prompt \}\} where"),
        ("a.txt", "{{ question }}", r"'question' is undefined; known values: .*\bprompt\b"),
        ("a.txt", "one\n{{ prompt", r"a.txt: line 2 of the template"),
        ("a.txt", "{{ prompt.__class__.__mro__ }}", r"not allowed|is undefined|unsafe"),
        ("a.yaml", "role: user", r"expected a list of \{role, content\}"),
        ("a.yaml", "[]", r"expected a list of \{role, content\}"),
        ("a.yaml", "- {role: bot, content: x}", r"expected a list of \{role, content\}; 0.role"),
        ("a.yaml", "- {role: user, content: 'x", r"a.yaml cannot be read"),
    ],
)
def test_a_template_that_cannot_work_is_named(tmp_path: Path, name: str, content: str, said: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ConfigError, match=said):
        attack(user("Why?"), str(path))


def test_an_unknown_attack_names_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match="no attack 'cuo': did you mean cou\\? Expected direct, cot, cou, .*spaced, or the path"
    ):
        attack(user("Why?"), "cuo")


# -- batches --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 5, 7, 24, 60])
def test_rounds_use_every_prompt_before_one_comes_again(count: int) -> None:
    every = prompts({"roses": 40, "herbs": 15, "trees": 5})
    rounds = -(-60 // count)
    batches = [red_team(every, n, count, seed=3) for n in range(2 * rounds)]
    assert {len(batch) for batch in batches} == {count}
    for batch in batches:
        assert len(set(ids(batch))) == count
    for half in (batches[:rounds], batches[rounds:]):
        drawn = [i for batch in half for i in ids(batch)]
        assert len(set(drawn[:60])) == 60
    assert [ids(b) for b in batches[:rounds]] != [ids(b) for b in batches[rounds:]]


def test_a_small_batch_covers_many_categories() -> None:
    every = prompts({f"c{n}": 3 + n for n in range(10)})
    for n in range(3):
        assert len({p.category for p in red_team(every, n, 10, seed=0)}) == 10
    named = [*prompts({"": 50}, "one"), *prompts({"": 50}, "two")]
    assert {p.source for p in red_team(named, 0, 2, seed=0)} == {"one", "two"}


def test_a_batch_depends_on_seed_and_round_and_not_on_the_order_of_the_set() -> None:
    every = prompts({"roses": 20, "herbs": 20})
    batch = ids(red_team(every, 1, 8, seed=0))
    assert ids(red_team(every[::-1], 1, 8, seed=0)) == batch
    assert ids(red_team(every, 1, 8, seed=1)) != batch
    assert not set(ids(red_team(every, 2, 8, seed=0))) & set(batch)


def test_too_few_prompts_give_all_of_them_and_none_is_an_error() -> None:
    few = prompts({"roses": 3})
    assert sorted(ids(red_team(few, 4, 10, seed=0))) == sorted(ids(few))
    assert red_team(few, 0, 0, seed=0) == []
    with pytest.raises(DataError, match="the train split is empty"):
        red_team([], 0, 5, seed=0)
