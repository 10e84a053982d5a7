"""A command as a user types it: through `cluster.cli.main`, with its exit code and what it prints."""

import io
import os
import sys
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest import mock

from cluster.cli import main


@dataclass(frozen=True, slots=True)
class Typed:
    code: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"exit code {self.code}\n{self.out}{self.err}"


def typed(*words: object, columns: int = 200) -> Typed:
    """`baton WORDS` in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    argv, env = ["baton", *(str(word) for word in words)], {"COLUMNS": str(columns), "BATON_DEBUG": "0"}
    with ExitStack() as stack:
        for context in (
            mock.patch.object(sys, "argv", argv),
            mock.patch.dict(os.environ, env),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            stack.enter_context(context)
        try:
            main()
        except SystemExit as ending:
            code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    return Typed(code, out.getvalue(), err.getvalue())


def refusal(*words: object) -> str:
    """The one line in which `baton WORDS` says no, with exit code 2."""
    ended = typed(*words)
    assert ended.code == 2, ended
    assert "Traceback" not in ended.err
    (line,) = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert ended.err.endswith(f"{line}\n"), "an error has one line"
    return line
