"""Whether a value of JSON is so small that work on all of it is done before a stream would notice."""

from collections.abc import Mapping
from typing import Any

MAX_VALUES = 1_000
MAX_CHARACTERS = 32 << 10


def is_light(value: Any, *, max_values: int = MAX_VALUES, max_characters: int = MAX_CHARACTERS) -> bool:
    """Whether it has at most so many values, and characters in texts and names; looks at no more than these."""
    waiting, num_values, num_characters = [value], 0, 0
    while waiting:
        one = waiting.pop()
        num_values += 1
        if isinstance(one, str):
            num_characters += len(one)
        elif isinstance(one, Mapping | list | tuple):
            if num_values + len(waiting) + len(one) > max_values:
                return False
            if isinstance(one, Mapping):
                num_characters += sum(map(len, one))
                waiting += one.values()
            else:
                waiting += one
        if num_characters > max_characters:
            return False
    return True
