import json

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.ingress.chat.formats.json_scanner import JsonScanner

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES, st.booleans(), st.text(alphabet=' ,]}"x', max_size=4), st.lists(st.integers(1, 5)))
@settings(max_examples=150, deadline=None)
def test_a_value_ends_where_it_ends(value: object, is_ascii: bool, rest: str, cuts: list[int]) -> None:
    text = json.dumps([value], ensure_ascii=is_ascii)
    scanner = JsonScanner()
    num_read, at = 0, 0
    for cut in [*cuts, len(text) + len(rest)]:
        num_read += scanner.feed((text + rest)[at : at + cut])
        at += cut
        if scanner.is_done:
            break
    assert scanner.is_done
    assert num_read == len(text)


def is_json(text: str) -> bool:
    try:
        json.loads(text, parse_constant=lambda name: int(name))  # NaN and Infinity are none
    except ValueError:
        return False
    return True


@given(st.text(alphabet='{}[],:"\\ \n\x01-+.0123eEtruefalsn/bu', max_size=12) | VALUES.map(json.dumps), st.data())
@settings(max_examples=400, deadline=None)
def test_it_takes_what_is_json_and_nothing_else(text: str, data: st.DataObject) -> None:
    if text and data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(text) - 1))
        text = text[:at] + data.draw(st.sampled_from(' ,:]}"0\\')) + text[at + 1 :]
    scanner = JsonScanner()
    read = scanner.feed(text + " ")  # the space ends a number
    rest = (text + " ")[read:]
    assert (scanner.is_done and not rest.strip(" \t\r\n")) == is_json(text)


def test_depth_has_no_limit() -> None:
    scanner = JsonScanner()
    assert scanner.feed("[" * 100_000 + "]" * 100_000) == 200_000
    assert scanner.is_done
