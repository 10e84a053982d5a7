"""Results as they come: one JSON line and one table row each, so that a run cut off still tells something."""

import json
import time
from pathlib import Path
from typing import Any

MARKS = {True: "ok", False: "FAILED", None: ""}


class Report:
    """Writes results.jsonl and results.md into `folder`, and prints."""

    def __init__(self, folder: Path, machine: dict[str, Any], device: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "log.txt"
        self._lines = folder / "results.jsonl"
        self._table = folder / "results.md"
        self.num_failed = 0
        date = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        where = ", ".join(machine["gpus"]) if device == "cuda" and machine["gpus"] else f"no GPU, device {device}"
        versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "transformers") if machine.get(name))
        self.log.write_text("")
        self._lines.write_text(json.dumps({"date": date, "device": device, "machine": machine}) + "\n")
        self._table.write_text(f"# {where}\n\n{date} UTC, {versions}\n\n| part | what | found | |\n|---|---|---|---|\n")
        print(f"{where}; {versions}")

    def add(self, part: str, finding: dict[str, Any]) -> None:
        """A finding as `check.Finding` holds it."""
        name, text, passed = finding["name"], finding["text"], finding["passed"]
        self.num_failed += passed is False
        with self._lines.open("a") as file:
            file.write(json.dumps({"part": part, **finding}) + "\n")
        cells = (part, name, text.replace("|", "/"), MARKS[passed])
        with self._table.open("a") as file:
            file.write(f"| {' | '.join(cells)} |\n")
        print(f"{part:18} {name:32} {text} {MARKS[passed]}".rstrip(), flush=True)

    def end(self, part: str, passed: bool | None, text: str) -> None:
        """How the whole part went."""
        self.add(part, {"name": "", "passed": passed, "text": text, "figures": {}})
