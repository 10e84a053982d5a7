"""`--mix SHARE:INPUT:OUTPUT`: one of the kinds of requests that come in one stream."""

from collections.abc import Sequence
from dataclasses import dataclass

from baton.errors import ConfigError

FORM, EXAMPLE = "SHARE:INPUT:OUTPUT", "--mix 0.7:300:80 --mix 0.3:6000:200"
MAX_SHARE = 1e6  # so that shares add up to a number


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestKind:
    share: float  # of all kinds' shares together, which need not be 1
    input_len: int  # tokens, mean
    output_len: int  # likewise


def read_mix(texts: Sequence[str]) -> list[RequestKind]:
    """
    Raises:
        ConfigError: One is not of the form, or cannot be; or there is only one.
    """
    kinds = [_read(text) for text in texts]
    if len(kinds) < 2:
        raise ConfigError(
            f"--mix {texts[0]} is one kind of requests, a mix has two or more; give {EXAMPLE}, "
            "or --input-len and --output-len"
        )
    return kinds


def _read(text: str) -> RequestKind:
    try:
        share, input_len, output_len = text.split(":")
        kind = RequestKind(share=float(share), input_len=int(input_len), output_len=int(output_len))
    except ValueError as error:
        raise ConfigError(f"--mix {text} is not {FORM}; give for example {EXAMPLE}") from error
    if not 0 < kind.share <= MAX_SHARE:
        raise ConfigError(f"--mix {text}: share {share} must be above 0 and at most {MAX_SHARE:,.0f}")
    for name, length in (("INPUT", kind.input_len), ("OUTPUT", kind.output_len)):
        if length < 1:
            raise ConfigError(f"--mix {text}: {name} {length} must be 1 token or more")
    return kind
