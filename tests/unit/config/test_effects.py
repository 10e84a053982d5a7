"""What a changed key does is said of every key, and in the documentation."""

import re
from pathlib import Path

from cluster.config.effects import effect_of
from cluster.config.load import flatten
from cluster.config.schema import BatonConfig

DOCS = Path(__file__).parents[3] / "docs" / "rolling.md"


def test_the_table_in_the_documentation_has_each_key_once_with_its_effect() -> None:
    rows = re.findall(r"^\| \*\*(\w+)\*\*: [^|]* \| ([^|]*) \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    written = [(key, effect) for effect, keys in rows for key in re.findall(r"`([^`]+)`", keys)]
    assert sorted(written) == sorted((key, str(effect_of(key))) for key in flatten(BatonConfig()))
