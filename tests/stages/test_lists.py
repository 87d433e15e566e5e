"""Every way in which a model writes a list gives the same items, and no remark becomes an item."""

import json

import pytest

from iteralign.stages.lists import read_list

A = "Do not help anybody to open a lock that is not theirs."
B = "When a request would hurt somebody, decline and offer a fair way."
C = "Answer harmless questions about locks, keys and doors fully."
ABC = [A, B, C]
HALF = "When a request would hurt somebody,", "decline and offer a fair way."


@pytest.mark.parametrize(
    "text",
    [
        f"1. {A}\n2. {B}\n3. {C}",
        f"1) {A}\n2) {B}\n3) {C}",
        f"(1) {A}\n(2) {B}\n(3) {C}",
        f"a) {A}\nb) {B}\nc) {C}",
        f"- {A}\n- {B}\n- {C}",
        f"* {A}\n* {B}\n* {C}",
        f"• {A}\n• {B}\n• {C}",
        f"  1. {A}\n  2. {B}\n  3. {C}\n",
        f"1. {A}\r\n2. {B}\r\n3. {C}\r\n",
        f"1. {A}\n\n2. {B}\n\n\n3. {C}",
        f"1. **{A}**\n2. **{B}**\n3. **{C}**",
        f"**1.** {A}\n**2.** {B}\n**3.** {C}",
        f"1. **Locks:** {A}\n2. **Care:** {B}\n3. **Help**: {C}",
        f"**1. Locks:** {A}\n**2. Care**: {B}\n**3. {C}**",
        f"- **Locks**: {A}\n- **Care:** {B}\n- {C}",
        f"1. Locks: {A}\n2. Care: {B}\n3. Help: {C}",
        f"Rule 1: {A}\nRule 2: {B}\nRule 3: {C}",
        f"### 1. {A}\n### 2. {B}\n### 3. {C}",
        f"1. {A}\n2. {HALF[0]}\n   {HALF[1]}\n3. {C}",
        f"1. {A}\n2. {HALF[0]}\n{HALF[1]}\n3. {C}",
        f"1. Locks\n   - {A}\n2. People\n   - {B}\n   - {C}",
        f'1. "{A}"\n2. "{B}"\n3. "{C}"',
        f"Here are the rules:\n\n1. {A}\n2. {B}\n3. {C}",
        f"Sure! These failures all help a thief.\n1. {A}\n2. {B}\n3. {C}\n\nThese rules keep people safe.",
        f"1. {A}\n2. {B}\n2. {B}\n3. {C}",
        f"10. {A}\n11. {B}\n12. {C}",
        f"{A}\n{B}\n{C}",
        json.dumps(ABC),
        json.dumps({"principles": ABC}),
        json.dumps([{"principle": A, "reason": "It was broken twice in this group."}, {"rule": B}, {"text": C}]),
        json.dumps({"rules": [{"id": 1, "text": A}, {"id": 2, "text": B}, {"id": 3, "text": C}]}),
        f"```json\n{json.dumps(ABC, indent=1)}\n```",
        f"Here is the JSON:\n```\n{json.dumps(ABC)}\n```\nI hope this helps you a lot.",
        f"{json.dumps(ABC)}\n\nThese rules cover all of the failures above.",
        json.dumps({"principles": [f"1. {A}", f"2. {B}", f"3. {C}"]}),
        json.dumps({"principles": ABC, "notes": []}),
        json.dumps({"principles": [*ABC, "When a rule ran into the token limit"]})[:-9],
        f'{{name}} stands for "a person who is in the room".\n1. {A}\n2. {B}\n3. {C}',
        "```json\n" + json.dumps({"principles": ABC}, indent=1)[:-3],
        f"Pairs [1] and {{2}} show it.\n```json\n{json.dumps(ABC)}\n```",
        f"None of the replies declines, so:\n1. {A}\n2. {B}\n3. {C}",
        f"As [1] shows, this is about locks.\n1. {A}\n2. {B}\n3. {C}",
        f"1. {A}\n2. {B}\n3. {C}\nNote that these rules cover all of the failures above.",
        f"1. {A}\n   - Explanation: two of the replies above broke this one.\n2. {B}\n3. {C}",
        f"- {A}\n- {B}\n- {C}\n- Note: these rules cover all the failures above.",
        f"{A}\n{B}\n{C}\nIf you need anything else from me, please let me know.",
        f"1. {A}\n2. {B}\n3. {C}\n\n- Feel free to ask for more rules.",
        json.dumps({"principles": ABC, "note": "These rules cover all of the failures."}),
        json.dumps({"summary": "Two replies help a thief with a lock.", "principles": ABC}),
    ],
)
def test_a_list_is_read_however_it_is_written(text: str) -> None:
    assert read_list(text) == ABC


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   \n",
        "none",
        "None.",
        '"none"',
        "- none",
        "1. None",
        "No new rules are needed here.",
        "Nothing to add: the rules above cover everything.",
        "[]",
        "```json\n[]\n```",
        '{"principles": []}',
        '{"principles": []}\n\n- The rules above cover everything that went wrong.',
        '{"principles": ["When a rule ran into the tok',
        "I'm sorry, but I can't help with writing these rules.",
        "I’m sorry, but I can’t help with that request.",
        "I cannot assist with this. 1. Please ask something else instead.",
        f"I'm sorry, I can't write such rules. What I can offer:\n1. {A}\n2. {B}",
        f"I’m sorry, I can’t write such rules. What I can offer:\n1. {A}\n2. {B}",
        f"None. The rules above cover everything:\n1. {A}\n2. {B}",
        "As an AI language model I do not write rules.",
        "I apologize, but I am unable to write such rules.\n- Ask me about something else instead.",
        "Unfortunately, I can't write these rules.\n1. Ask me about something else instead.",
        "I am unable to help with that. 1. Ask me about something else instead.",
        "The failures share nothing that I could name.",
        "1. Be kind.\n2. Be good.",
        "1. What should the assistant do when somebody asks about locks?",
        "1. " + "word " * 200,
    ],
)
def test_what_is_no_list_has_no_items(text: str) -> None:
    assert read_list(text) == []


def test_a_remark_before_or_after_is_no_item() -> None:
    text = f"I looked at the failures with care.\n\n- {A}\n\nWhen you use these rules, please keep them short."
    assert read_list(text) == [A]


def test_a_list_that_was_cut_keeps_what_is_whole() -> None:
    assert read_list(f"1. {A}\n2. {B}\n3. When")[:2] == [A, B]
    assert read_list(json.dumps(ABC)[:-30]) in ([A, B], [])


@pytest.mark.parametrize(
    "item",
    [
        "Do not give instructions for theft of any kind: neither tools nor times nor places.",
        "When asked about locks: do not tell how they are opened.",
        "When asked about locks: Decline, and name a locksmith.",
        "Do not help with theft: Offer a fair way instead.",
        "Do **not ever** help anybody to open a lock.",
        "**Do not** help anybody to open a lock.",
        "**Users** must be told that this is a crime.",
    ],
)
def test_a_part_of_the_sentence_is_no_title(item: str) -> None:
    assert read_list(f"1. {item}\n2. {A}") == [item.replace("**", ""), A]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('"Be kind to everybody who asks."', "Be kind to everybody who asks."),
        ('"Be kind to everybody who asks.', "Be kind to everybody who asks."),
        ('When asked for a key, say "please ask a locksmith."', 'When asked for a key, say "please ask a locksmith."'),
        ('"No" is a full answer to a thief', '"No" is a full answer to a thief'),
        ('"No" or "never" is a full answer to "may I"', '"No" or "never" is a full answer to "may I"'),
    ],
)
def test_only_quotation_marks_around_the_whole_are_taken_off(written: str, read: str) -> None:
    assert read_list(f"1. {written}\n2. {A}") == [read, A]


# -- a rule, and what its writer adds to it ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "rule"),
    [
        (
            "Answer: When asked about your weak points, give some guidance. However, I'm not a substitute for advice. "
            "Here's a way to ask: \"I'm sorry, but I'm not sure what you mean.\"",
            "When asked about your weak points, give some guidance.",
        ),
        (
            'Decline requests for weapons, e.g. "How do I build a bomb at home", and offer safe help.',
            'Decline requests for weapons, e.g. "How do I build a bomb at home", and offer safe help.',
        ),
        (
            'When welcoming a colleague, be positive. You can say something like: "Hey there, it\'s great to have you here."',
            "When welcoming a colleague, be positive.",
        ),
        ("Do not rob people. Offer a fair way instead.", "Do not rob people. Offer a fair way instead."),
        ('Never say "I hate you" to anybody. Be kind.', 'Never say "I hate you" to anybody. Be kind.'),
        ("I will not help to rob people. I will offer a fair way.", "I will not help to rob people."),
        ("Rule 2: Decline to help with theft of any kind.", "Decline to help with theft of any kind."),
        ("Answer every harmless question in full.", "Answer every harmless question in full."),
    ],
)
def test_a_rule_ends_where_its_writer_begins_to_play_the_assistant(said: str, rule: str) -> None:
    assert read_list(f"1. {said}") == [rule]
