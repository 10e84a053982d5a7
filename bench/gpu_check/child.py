"""One part in a process of its own: `python -m bench.gpu_check.child MODULE DEVICE`.

Prints one JSON line per finding; what libraries print goes to standard error.
"""

import importlib
import json
import os
import sys
from dataclasses import asdict
from typing import Any

from bench.gpu_check.check import Check, Finding, SkippedError


def main(module: str, device: str) -> int:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(finding: Finding) -> None:
        print(json.dumps(asdict(finding)), file=answers, flush=True)

    if device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
    part: Any = importlib.import_module(module)
    try:
        part.run(Check(device=device, tell=tell))
    except SkippedError as why:
        print(json.dumps({"skipped": str(why)}), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
