"""Of every format: what it says does not depend on how the text was cut, and no text is too strange for it."""

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.ingress.chat.events import AnswerParser, CallBegins, Content
from cluster.ingress.chat.formats.answer_parser import answer_parser
from cluster.ingress.chat.formats.find_reasoning import MARKED
from cluster.ingress.chat.formats.find_tools import TOOL_FORMATS
from cluster.ingress.chat.formats.reasoning_format import MarkedThinking
from cluster.ingress.chat.formats.tool_format import ToolFormat
from tests.unit.ingress.formats.reading import TOOLS, read
from tests.unit.ingress.formats.written import FRAGMENTS, WRITTEN

PIECES = ["", " ", "\n", "{", "}", "[", "]", '"', ",", "(", ")", "<", "x", "é", '"a": 1', "\\", "now", "get_weather"]


def texts(fragments: list[str], whole: list[str]) -> st.SearchStrategy[str]:
    """Of whole calls and of their parts in any order, some with a character changed or cut off."""
    some = st.lists(st.sampled_from([*fragments, *whole, *PIECES]), max_size=8).map("".join)
    edited = st.tuples(some, st.integers(0, 400), st.sampled_from(["", "x", "}", '"', "\n"])).map(
        lambda one: one[0][: one[1]] + one[2] + one[0][one[1] + 1 :]
    )
    cut_off = st.tuples(some, st.integers(0, 400)).map(lambda one: one[0][: one[1]])
    return some | edited | cut_off


def pieces(text: str, cuts: list[int]) -> list[str]:
    ends = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    return [text[begin:end] for begin, end in itertools.pairwise(ends)]


def check(make: Callable[[], AnswerParser], text: str, cuts: list[int], *, keeps_text: bool) -> None:
    events = read(make(), [text])
    assert read(make(), list(text)) == events
    assert read(make(), pieces(text, cuts)) == events
    if keeps_text and not any(isinstance(event, CallBegins) for event in events):
        assert events == ([Content(text)] if text else [])


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("form", TOOL_FORMATS, ids=lambda form: str(form.name))
def test_calls_do_not_depend_on_cuts(form: ToolFormat, held: bool) -> None:
    @given(texts(FRAGMENTS[form.name], WRITTEN[form.name]), st.lists(st.integers(0, 300), max_size=12))
    @settings(max_examples=60, deadline=None)
    def run(text: str, cuts: list[int]) -> None:
        check(lambda: form.parser(TOOLS, held=held), text, cuts, keeps_text=form.name != "openai")

    run()


@pytest.mark.parametrize("is_opened", [True, False])
@pytest.mark.parametrize("form", MARKED, ids=lambda form: str(form.name))
def test_thinking_does_not_depend_on_cuts(form: MarkedThinking, is_opened: bool) -> None:
    marks = [*form.begin, *form.end, *form.before, form.begin[0][:3], form.end[0][:3]]

    @given(texts(marks, [f"{form.begin[0]}\nhm\n{form.end[0]}\n\nyes"]), st.lists(st.integers(0, 300), max_size=12))
    @settings(max_examples=40, deadline=None)
    def run(text: str, cuts: list[int]) -> None:
        check(lambda: form.parser(is_opened=is_opened), text, cuts, keeps_text=False)

    run()


@given(
    texts([*FRAGMENTS["hermes"], "<think>", "</think>"], WRITTEN["hermes"]), st.lists(st.integers(0, 300), max_size=12)
)
@settings(max_examples=60, deadline=None)
def test_calls_after_thinking_do_not_depend_on_cuts(text: str, cuts: list[int]) -> None:
    def make() -> AnswerParser:
        parser = answer_parser(MARKED[0], TOOL_FORMATS[0], prompt="<think>", tools=TOOLS)
        assert parser is not None
        return parser

    check(make, text, cuts, keeps_text=False)


@pytest.mark.parametrize("form", TOOL_FORMATS, ids=lambda form: str(form.name))
def test_whole_calls_are_read(form: ToolFormat) -> None:
    for text in WRITTEN[form.name]:
        events = read(form.parser(TOOLS), [text])
        assert [event.name for event in events if isinstance(event, CallBegins)], text


@pytest.mark.parametrize("form", TOOL_FORMATS, ids=lambda form: str(form.name))
def test_tags_are_calls_and_begin_with_a_trigger(form: ToolFormat) -> None:
    tags = [form.tag(tool) for tool in TOOLS]
    text = "".join(tag.begin + '{"city": "é\\"<"}' + tag.end for tag in tags)
    events = read(form.parser(TOOLS), [text])
    assert [event for event in events if isinstance(event, Content)] == []
    assert [event.name for event in events if isinstance(event, CallBegins)] == [tool.name for tool in TOOLS]
    assert [event.text for event in events if not isinstance(event, CallBegins)] == ['{"city": "é\\"<"}'] * 2
    assert all(tag.begin.startswith(form.triggers(TOOLS)) for tag in tags)
