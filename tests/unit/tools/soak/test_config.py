"""Configs that a soak cannot use are refused by name."""

import pytest
import typer

from tools.soak.__main__ import _read


def test_a_config_computes_in_float32_unless_it_says_otherwise() -> None:
    assert _read("")["dtype"] == "float32"
    assert _read("dtype: bfloat16")["dtype"] == "bfloat16"


@pytest.mark.parametrize("text", ["[1]", "pools: 3", "models: {a: {}}", "auth: {keys_file: /k}", "tls: {key: /k}"])
def test_what_it_cannot_use_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"no mapping of keys|is set, which a soak does not know"):
        _read(text)
