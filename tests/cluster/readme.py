"""The code blocks of README.md, for the tests that run them."""

import re
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def pointed_at(code: str, http: str, grpc: str) -> str:
    """`code` with the default addresses and model replaced by those of a test's cluster."""
    return code.replace("http://127.0.0.1:8000", http).replace("127.0.0.1:9000", grpc).replace("smollm2", "demo")
