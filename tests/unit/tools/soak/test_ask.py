"""Answers are held to known ones: whole ones to all of it, those that ended early to its beginning."""

from dataclasses import replace

from tools.soak.ask import Answer, Said, difference, prefix_difference

SAID = Said(text="a little fox", finish="stop", tokens=("a", " little", " fox"), logprobs=(-1.0, -2.0, -0.5))
KNOWN = Answer(choices=(SAID,), num_tokens=3)


def with_said(**fields: object) -> Answer:
    return Answer(choices=(replace(SAID, **fields),), num_tokens=3)  # type: ignore[arg-type]


def test_the_same_answer_does_not_differ() -> None:
    assert difference(KNOWN, KNOWN) == ""
    assert difference(with_said(logprobs=(-1.001, -2.0, -0.5)), KNOWN) == "", "rounding of another batch"


def test_what_differs_is_named() -> None:
    assert "text is 'a little fix'" in difference(with_said(text="a little fix"), KNOWN)
    assert "finish is 'length' instead of 'stop'" in difference(with_said(finish="length"), KNOWN)
    assert "calls is" in difference(with_said(calls=(("forecast", "{}"),)), KNOWN)
    assert "a logprob is off by 0.1000" in difference(with_said(logprobs=(-1.1, -2.0, -0.5)), KNOWN)
    assert "0 logprobs instead of 3" in difference(with_said(logprobs=()), KNOWN)
    assert difference(Answer(choices=()), KNOWN) == "0 choices instead of 1"
    assert difference(replace(KNOWN, num_tokens=4), KNOWN) == "4 tokens counted instead of 3"
    assert difference(replace(KNOWN, num_tokens=None), KNOWN) == "", "the server did not say"


def test_a_beginning_is_one_whatever_its_length() -> None:
    for text, tokens in (("", ()), ("a lit", ("a",)), ("a little fox", ("a", " little", " fox"))):
        assert prefix_difference(with_said(text=text, tokens=tokens, finish="", logprobs=()), KNOWN) == ""
    assert prefix_difference(Answer(choices=()), KNOWN) == ""


def test_a_wrong_beginning_is_named() -> None:
    assert "begins 'a fox'" in prefix_difference(with_said(text="a fox"), KNOWN)
    assert "begins with tokens" in prefix_difference(with_said(tokens=("a", " fox")), KNOWN)
    assert "2 choices instead of 1" in prefix_difference(Answer(choices=(SAID, SAID)), KNOWN)
