"""Every benchmark says first what it runs in, and has a short form."""

import ast
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[3] / "bench"
PROCESSES = {
    "answering",
    "engine_sides",
    "handoff_link",
    "ingress_worker",
    "layer_parallel_rank",
    "many_workers_side",
    "rates",
    "role_flip_side",
    "sequence_rank",
    "tensor_parallel_rank",
    "tensor_parallel_sums",
}  # which entries start


def is_entry(path: Path) -> bool:
    return 'if __name__ == "__main__":' in path.read_text() and path.stem not in PROCESSES


ENTRIES = [path for path in sorted(BENCH.glob("*.py")) if is_entry(path)]


def test_the_benchmarks_are_found() -> None:
    assert {"engine", "goodput", "handoff", "interference", "ingress", "startup"} <= {path.stem for path in ENTRIES}


@pytest.mark.parametrize("path", ENTRIES, ids=lambda path: path.stem)
def test_it_has_quick_and_announces_itself(path: Path) -> None:
    tree = ast.parse(path.read_text())
    nodes = list(ast.walk(tree))
    constants = {node.value for node in nodes if isinstance(node, ast.Constant)}
    quick = {
        node.arg for node in nodes if isinstance(node, ast.arg) and ast.unparse(node.annotation or node) == "Quick"
    }
    called = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert "--quick" in constants or quick == {"quick"}
    assert "announce" in called
    assert f"bench.{path.stem}" in (ast.get_docstring(tree) or "")
