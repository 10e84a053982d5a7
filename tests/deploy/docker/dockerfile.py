"""The Dockerfile as its stages and their instructions, each on one line. No more of the syntax than ours has."""

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy" / "docker"


@dataclass(frozen=True, slots=True)
class Instruction:
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Stage:
    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)

    def of(self, name: str) -> list[str]:
        return [one.text for one in self.instructions if one.name == name]


def stages() -> dict[str, Stage]:
    found: dict[str, Stage] = {}
    stage: Stage | None = None
    for line in _lines((FOLDER / "Dockerfile").read_text()):
        name, _, text = line.partition(" ")
        if name == "FROM":
            base, _, own = text.partition(" AS ")
            stage = found[own] = Stage(own, base)
        elif stage is not None:
            stage.instructions.append(Instruction(name, text.strip()))
    return found


def arguments() -> dict[str, str]:
    """ARG name -> default, of the whole file."""
    return dict(re.findall(r"^ARG (\w+)=(\S+)$", (FOLDER / "Dockerfile").read_text(), re.MULTILINE))


def lineage(name: str) -> list[Stage]:
    """The stage and those it is built on, the last first."""
    known = stages()
    found = [known[name]]
    while found[-1].base in known:
        found.append(known[found[-1].base])
    return found


def _lines(text: str) -> list[str]:
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return [line.strip() for line in re.sub(r"\s*\\\n\s*", " ", kept).splitlines() if line.strip()]
