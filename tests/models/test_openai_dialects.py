"""What not every server takes or gives: parameters are left out, probabilities are done without."""

import math
from collections.abc import Iterator

import pytest
from chat_server import Answer, Asked, ChatServer, always, fails, says, serving

from iteralign.models.base import Job, Sampling
from iteralign.records import user

YES_NO = ["yes", "no"]


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with serving() as running:
        yield running


def many(n: int) -> list[Job]:
    sampling = Sampling(temperature=0.7, top_p=0.9, max_new_tokens=256)
    return [Job(chat=user(f"q{i}"), sampling=sampling, seed=i) for i in range(n)]


# -- parameters that a server does not take ------------------------------------------------------------


def test_max_completion_tokens_is_used_once_the_server_demands_it(server: ChatServer) -> None:
    said = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    refused = fails(400, said, param="max_tokens", code="unsupported_parameter")
    server.behaviour = lambda asked, times: refused if "max_tokens" in asked.body else says("fine")
    assert [r.text for r in server.model().generate(many(5))] == ["fine"] * 5
    assert len(server.asked) == 6
    assert all(a.body["max_completion_tokens"] == 256 for a in server.asked[1:])


@pytest.mark.parametrize(
    ("refused", "answer"),
    [
        ("temperature", fails(400, "Unsupported value: 'temperature' does not support 0.7 with this model.")),
        ("top_p", fails(400, "Unsupported parameter: 'top_p' is not supported with this model.")),
        (
            "seed",
            Answer(
                {"object": "error", "message": {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"]}]}}, 422
            ),
        ),
    ],
)
def test_a_parameter_that_the_server_does_not_take_is_left_out_with_a_warning(
    server: ChatServer, refused: str, answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    server.behaviour = lambda asked, times: answer if refused in asked.body else says("fine")
    assert [r.text for r in server.model().generate(many(5))] == ["fine"] * 5
    assert len(server.asked) == 6
    assert set(server.asked[0].body) - set(server.asked[1].body) == {refused}
    assert [refused in record.getMessage() for record in caplog.records] == [True]


def test_a_limit_that_is_too_large_is_no_reason_to_leave_it_out(server: ChatServer) -> None:
    said = (
        "'max_tokens' or 'max_completion_tokens' is too large: 256. This model's maximum context length is 128 tokens"
    )
    server.behaviour = always(fails(400, said), of="q0")
    replies = server.model().generate(many(2))
    assert replies[0].finish == "failed"
    assert replies[1].finish == "stop"
    assert all("max_tokens" in asked.body for asked in server.asked)


# -- schemas -------------------------------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"principles": {"type": "array"}}}


def test_a_schema_is_sent_as_servers_take_it_and_only_with_its_job(server: ChatServer) -> None:
    plain, held = many(2)
    server.model().generate([plain, held.model_copy(update={"json_schema": SCHEMA})])
    assert "response_format" not in server.asked[0].body
    form = server.asked[1].body["response_format"]
    assert (form["type"], form["json_schema"]["strict"], form["json_schema"]["schema"]) == ("json_schema", True, SCHEMA)


@pytest.mark.parametrize(
    "said",
    [
        "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model.",
        "Invalid schema for response_format 'answer': In context=(), 'maxItems' is not permitted.",
        'response_format type must be one of "text" or "json_object", but got: json_schema',
        "This response_format type is unavailable now",
        "This model does not support response format `json_schema`.",
    ],
)
def test_a_server_that_takes_no_schema_is_asked_for_text_from_then_on(
    server: ChatServer, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    server.behaviour = lambda asked, times: fails(400, said) if "response_format" in asked.body else says("fine")
    asking = server.model()
    for _ in range(2):
        replies = asking.generate([j.model_copy(update={"json_schema": SCHEMA}) for j in many(3)])
        assert [(r.text, r.finish) for r in replies] == [("fine", "stop")] * 3
    assert ["response_format" in asked.body for asked in server.asked] == [True] + [False] * 6
    assert all(asked.body["top_p"] == 0.9 for asked in server.asked), "nothing else is left out"
    assert ["response_format" in record.getMessage() for record in caplog.records] == [True]


# -- choosing ------------------------------------------------------------------------------------------


def test_the_crumbs_of_a_model_that_thinks_first_are_no_answer(server: ChatServer) -> None:
    tokens = {"<think>": 0.99, "Yes": 2e-7, "No": 1e-8}
    server.behaviour = always(says("<think>", "length", {token: math.log(p) for token, p in tokens.items()}))
    choice = server.model().choose([user("Is it?")], YES_NO)[0]
    assert choice.answer is None
    assert (
        choice.error == "none of the offered answers was likely (2e-07 together): it would rather begin with '<think>'"
    )


def test_probabilities_are_summed_over_spellings(server: ChatServer) -> None:
    tokens = {"Yes": 0.4, " yes": 0.2, "yes": 0.1, "No": 0.06, "NO ": 0.04, "Yesterday": 0.1, "Maybe": 0.1}
    server.behaviour = always(says("Yes", "length", {token: math.log(p) for token, p in tokens.items()}))
    choice = server.model().choose([user("Is it?")], YES_NO)[0]
    assert choice.probabilities == {"yes": 0.875, "no": 0.125}
    assert (choice.answer, choice.mass, choice.error) == ("yes", 0.8, None)
    body = server.asked[0].body
    assert (body["max_tokens"], body["logprobs"], body["top_logprobs"], body["temperature"]) == (1, True, 20, 0.0)


def test_choices_keep_their_order(server: ChatServer) -> None:
    server.behaviour = lambda asked, times: says("", "length", {"yes" if int(asked.text[1:]) % 2 else "no": -0.1})
    choices = server.model().choose([user(f"q{i}") for i in range(10)], YES_NO)
    assert [c.answer for c in choices] == ["no", "yes"] * 5


def test_none_of_the_options_likely_is_no_answer(server: ChatServer) -> None:
    server.behaviour = always(says("Well", "length", {"Well": -0.1, "Hm": -2.0, "never": -9999.0}))
    choice = server.model().choose([user("a")], YES_NO)[0]
    assert choice.answer is None
    assert choice.probabilities is None
    assert choice.error
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "refusal",
    [
        fails(400, "'logprobs' is not supported with this model"),
        fails(403, "You are not allowed to request logprobs from this model"),
        fails(400, "bad request"),
        says("Y", "length"),
    ],
)
def test_without_log_probabilities_the_answer_is_decoded_and_that_is_remembered(
    server: ChatServer, refusal: Answer
) -> None:
    server.behaviour = lambda asked, times: refusal if "logprobs" in asked.body else says("**Yes**, it is.")
    asking = server.model()
    for choice in [*asking.choose([user("a"), user("b")], YES_NO), *asking.choose([user("c")], YES_NO)]:
        assert (choice.answer, choice.probabilities, choice.mass, choice.error) == ("yes", None, None, None)
    with_logprobs = [asked.text for asked in server.asked if "logprobs" in asked.body]
    assert set(with_logprobs) == {"a"}
    assert all(asked.body["max_tokens"] == 8 for asked in server.asked if "logprobs" not in asked.body)


def test_a_server_that_gives_only_five_is_asked_for_five(server: ChatServer) -> None:
    too_many = fails(400, "Cannot request more than 5 logprobs.")
    server.behaviour = lambda asked, times: (
        too_many if asked.body["top_logprobs"] > 5 else says("", "length", {"no": -0.1})
    )
    choices = server.model().choose([user("a"), user("b")], YES_NO)
    assert [c.probabilities for c in choices] == [{"yes": 0.0, "no": 1.0}] * 2
    assert [asked.body["top_logprobs"] for asked in server.asked] == [20, 5, 5]


def test_log_probabilities_are_not_asked_for_when_the_config_says_so(server: ChatServer) -> None:
    server.behaviour = always(says("no."))
    choice = server.model(logprobs=False).choose([user("a")], YES_NO)[0]
    assert (choice.answer, choice.probabilities) == ("no", None)
    assert "logprobs" not in server.asked[0].body


def test_one_empty_or_overlong_chat_does_not_cost_the_others_their_probabilities(server: ChatServer) -> None:
    def behave(asked: Asked, times: int) -> Answer:
        if asked.text == "empty":
            return says("", logprobs={})
        return fails(400, "context too long") if asked.text == "long" else says("yes", "length", {"yes": -0.1})

    server.behaviour = behave
    empty, long, fine = server.model(concurrency=1).choose([user(t) for t in ("empty", "long", "fine")], YES_NO)
    assert empty.answer is None
    assert "expected one of" in (empty.error or "")
    assert long.answer is None
    assert "context too long" in (long.error or "")
    assert fine.probabilities == {"yes": 1.0, "no": 0.0}


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (says("As an AI, I cannot say."), "As an AI"),
        (says(""), "expected one of"),
        (says("", finish="length"), "reasons first"),
        (says("y", finish="content_filter"), "content filter"),
        (fails(500, "out of memory"), "out of memory"),
        (Answer("<html>"), "not a chat completion"),
    ],
)
@pytest.mark.parametrize("logprobs", [True, False])
def test_an_answer_that_cannot_be_read_is_an_error_of_that_choice(
    server: ChatServer, answer: Answer, why: str, logprobs: bool
) -> None:
    server.behaviour = always(answer, of="a")
    choice = server.model(retries=1, logprobs=logprobs).choose([user("a")], YES_NO)[0]
    assert choice.answer is None
    assert choice.probabilities is None
    assert why in (choice.error or "")
