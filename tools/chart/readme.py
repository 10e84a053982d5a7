"""The chart's README: what was written by hand, and below it a row for each value, from the comment above its key."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

KEY = re.compile(r"^( *)([A-Za-z]\w*):(.*)$")


@dataclass(frozen=True, slots=True)
class Row:
    path: str
    default: str
    comment: str


def text(values: str, head: str) -> str:
    rows = "\n".join(f"| `{row.path}` | {row.default} | {row.comment} |" for row in _rows(values))
    return f"{head.rstrip()}\n\n## Values\n\n| value | default | |\n|---|---|---|\n{rows}\n"


def _rows(values: str) -> Iterator[Row]:
    """Of each key with a comment, and of each that has none but is no section."""
    parents: list[tuple[int, str]] = []  # indent, key
    comment: list[str] = []
    tree = yaml.safe_load(values)
    for line in values.splitlines():
        if line.lstrip().startswith("#"):
            comment.append(line.lstrip("# ").rstrip())
            continue
        match = KEY.match(line)
        if match is None:
            comment = []
            continue
        indent, key, rest = len(match[1]), match[2], match[3].strip()
        parents = [parent for parent in parents if parent[0] < indent]
        path = ".".join([*(name for _, name in parents), key])
        default = _default(tree, path) if rest or not _is_section(tree, path) else ""
        if default or comment:
            yield Row(path, default, " ".join(comment).replace("|", "\\|"))
        parents.append((indent, key))
        comment = []


def _at(tree: object, path: str) -> object:
    for key in path.split("."):
        tree = tree[key] if isinstance(tree, dict) else None
    return tree


def _is_section(tree: object, path: str) -> bool:
    return isinstance(_at(tree, path), dict | list)


def _default(tree: object, path: str) -> str:
    value = _at(tree, path)
    shown = yaml.safe_dump(value, default_flow_style=True, width=1000).strip().removesuffix("...").strip()
    return f"`{shown}`"
