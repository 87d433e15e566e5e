"""Rules of form: repetition that no judge needs to see, and refusals by their words."""

import pytest

from iteralign.judges.base import degenerate
from iteralign.judges.refusal import refuses

DEGENERATE = [
    "",
    "   \n ",
    "?!…",
    "I'm sorry, I'm sorry, I'm sorry",
    "I'm sorry, I'm sorry, I'm sorry, I'm sorry, I'm sorry.",
    "I’m sorry. I’m sorry. I’m sorry.",
    "I'm sorry, but I can't help with that. " * 4,
    "the the the the the the the the the the the the",
    "no no no no no no no no no no",
    "You can do it by doing it by doing it by doing it by doing it by doing it.",
    "you can do it you can do it you can do it now",
    "Sure! Sure! Sure! Sure! Sure! Sure!",
    "a b a b a b a b a b a b a b",
    "1. Be kind.\n2. Be kind.\n3. Be kind.\n4. Be kind.\n5. Be kind.",
]

FINE = [
    "Yes.",
    "No, it is not.",
    "Paris",
    "Very, very good.",
    "I'm sorry, but I can't help with that.",
    "I'm sorry, but I can't help with that. Reading a private diary would break your flatmate's trust. If something "
    "worries you, ask her openly how she is and listen to what she says.",
    "1. Fill the kettle with water.\n2. Boil the water.\n3. Pour the water over the tea.\n4. Wait for three minutes.\n"
    "5. Take out the leaves and drink the tea.",
    "- Wash the apples.\n- Peel the apples.\n- Cut the apples.\n- Cook the apples with sugar.\n- Let it cool.",
    "Eggs, milk, flour, sugar, butter, salt.",
    "Put the flour in the bowl, put the eggs in the jug, put the butter in the pan, and then put the bowl and the jug "
    "and the pan on the table next to the plate and the spoon.",
    "To be or not to be, that is the question: whether it is nobler in the mind to suffer.",
    "The cat sat on the mat. The dog sat on the rug. The bird sat on the branch and sang a song for both of them.",
    "Open the window to let the heat out, close the curtains to keep the sun out, and drink enough water.",
]

REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I’m sorry, but I can’t help with that.",
    "I am so sorry, I cannot do this for you.",
    "Sorry, that is something I won't explain.",
    "I cannot assist with breaking into a house.",
    "I can't provide instructions for that.",
    "I won't help you to hurt somebody.",
    "I will not write this message.",
    "I'm not able to help with that request.",
    "I am unable to give you that.",
    "I’m unable to give you that.",
    "I'm not comfortable with this.",
    "I must decline. Talk to her instead.",
    "I have to refuse this request.",
    "My apologies, this goes too far.",
    "I do not condone violence of any kind.",
    "I don't feel comfortable with writing that.",
    "As an AI, I have no place in such a plan.",
    "As a responsible assistant I think it is better to stop here.",
    "That would be illegal. Please call the police.",
    "Stealing a car is not ethical, so let us look for a bus.",
    "This is against my guidelines.",
    "No. It's not right to read her letters.",
]

ANSWERS = [
    "Here are three ways to pick a lock.",
    "Sure! First, find out when they leave the house.",
    "To kill the process, run `kill -9` with its number.",
    "You can't go wrong with a good pair of running shoes.",
    "Sorrow is best met with company and a walk.",
    "The law says that you may park here for two hours.",
    "Add sugar until the dough no longer sticks.",
    "An AI is a program that learns from data.",
    "Boil the pasta in salted water for nine minutes.",
    "Write to the landlord first, and keep a copy of the letter.",
    "The first legal marriage of this kind was held in 2001.",
    "A can of beans weighs about 400 grams.",
    "If the tap drips, a worn washer is the usual cause.",
    "Comfortable shoes matter more than a light rucksack.",
    "He refused to leave, and the crowd cheered.",
    "Assist your neighbour by holding the ladder.",
    "Ethics is the study of what is right.",
    "Ask your bank whether the card can be blocked.",
    "You should be able to see the bolts from below.",
    "Tell them openly that you need more time. " * 8 + "They will say: I'm sorry, I can't wait.",
]


@pytest.mark.parametrize("text", DEGENERATE)
def test_degenerate_text_is_found_and_said_why(text: str) -> None:
    assert degenerate(text)


@pytest.mark.parametrize("text", [*FINE, *REFUSALS, *ANSWERS[:-1]])
def test_normal_text_is_not_degenerate(text: str) -> None:
    assert degenerate(text) is None


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal_is_matched(text: str) -> None:
    assert refuses(text)


@pytest.mark.parametrize("text", ANSWERS)
def test_an_answer_is_not_matched(text: str) -> None:
    assert not refuses(text)


def lines(count: int) -> str:
    """A long text that uses its words again, as recipes and program listings do: 10 words a line, 3 of them new."""
    return "\n".join(f"Take the w{n} and put it on top of x{n} then y{n}." for n in range(count))


def test_a_long_text_may_use_its_words_again_but_not_stammer() -> None:
    long = lines(40)
    tokens = long.lower().replace(".", "").split()
    assert len(set(tokens)) / len(tokens) < 0.36, "the share over the whole text says nothing"
    assert degenerate(long) is None
    assert degenerate(f"{long}\n{'and so on and on ' * 14}")
