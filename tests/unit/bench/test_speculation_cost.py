"""What is compared is what was asked for."""

import pytest
import typer

from bench.speculation import way_of
from bench.speculation_cost import sorts_of
from tests.unit.engine.driver import make_spec

KNOWN = {"story": ["Once"], "question": ["Why?"]}


def test_a_way_has_the_width_after_its_colon() -> None:
    widths = {name: way_of(make_spec(), name, 8).speculation.tree_width for name in ("ngram", "ngram:4", "auto:auto")}
    assert widths == {"ngram": 1, "ngram:4": 4, "auto:auto": None}


def test_sorts_of_prompts_are_all_or_those_that_are_named_and_known() -> None:
    assert sorts_of("", KNOWN) == KNOWN
    assert sorts_of("question", KNOWN) == {"question": ["Why?"]}
    with pytest.raises(typer.BadParameter, match="'novel' is not one of story, question"):
        sorts_of("question,novel", KNOWN)
