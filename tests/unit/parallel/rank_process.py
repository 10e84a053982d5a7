"""One rank's process, which is in one gang after the other: `python -m tests.unit.parallel.rank_process`.

Reads a worker's spec per line, is that rank until its gang ends, and prints a line: "ended", or what went wrong.
"""

import sys
from typing import Any

import torch

from baton.errors import BatonError
from workers.parallel.member import enter
from workers.parallel.runner import follow
from workers.spec_line import parse


def be_rank(line: str) -> str:
    spec, _ = parse(line)
    try:
        share, gang = enter(spec, lambda error: None)
    except BatonError as error:
        return f"refused: {error.message}"
    try:
        follow(share, gang)
    except (BatonError, RuntimeError) as error:
        return f"lost: {str(error).splitlines()[0]}"
    finally:
        gang.close()
    runner: Any = share
    return f"ended: {getattr(runner, 'num_blocks', 0)} blocks"


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        print(be_rank(line), flush=True)


if __name__ == "__main__":
    main()
