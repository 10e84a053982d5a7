"""Walks the imports of every module, through the project's own modules, and compares them with the floors.

An import inside a function counts too; one under `if TYPE_CHECKING` does not, nothing runs there.
"""

import ast
import graphlib
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ("baton", "cluster", "workers")
STDLIB = frozenset(sys.stdlib_module_names)

FLOOR_0 = ("baton",)  # the generated contract, and the SDK: grpc and protobuf alone
FLOOR_1 = (
    "workers/adapters/adapter.py",
    "workers/spec.py",
    "workers/role_rules.py",
    "workers/spec_line.py",
    "workers/memory_shares.py",
    "workers/engine/sequence.py",
    "workers/engine/block_hash.py",
    "workers/engine/free_blocks.py",
    "workers/engine/block_manager.py",
    "workers/engine/cache_changes.py",
    "workers/engine/state_slots.py",
    "workers/engine/stateful_blocks.py",
    "workers/engine/scheduler.py",
    "workers/engine/draft.py",
    "workers/engine/drafting.py",
    "workers/speculative/speculation.py",
    "workers/speculative/goodput.py",
    "workers/speculative/account.py",
    "workers/speculative/growing.py",
    "workers/speculative/rest.py",
    "workers/speculative/acceptance.py",
    "workers/speculative/step_times.py",
    "workers/speculative/pace.py",
    "workers/speculative/paced.py",
    "workers/speculative/drafting_times.py",
    "workers/speculative/draft_model.py",
    "workers/speculative/draft_blocks.py",
    "workers/speculative/lines.py",
    "workers/speculative/futures.py",
    "workers/speculative/patience.py",
    "workers/speculative/rest.py",
    "workers/speculative/growing.py",
    "workers/speculative/guess_tree.py",
    "workers/speculative/branch.py",
    "workers/speculative/forecast.py",
    "workers/speculative/forecasts.py",
    "workers/engine/following.py",
    "workers/engine/preparing.py",
    "workers/engine/adapter_table.py",
    "workers/engine/jobs.py",
    "workers/engine/job_trace.py",
    "workers/engine/forking.py",
    "workers/engine/sending.py",
    "workers/engine/receiving.py",
    "workers/engine/serving.py",
    "workers/engine/arrivals.py",
    "workers/engine/duty.py",
    "workers/preempted.py",
    "workers/engine/wire_roles.py",
    "workers/engine/answers.py",
    "workers/engine/batching.py",
    "workers/engine/wire.py",
    "workers/engine/stats.py",
    "workers/engine/load_report.py",
    "workers/engine/measures.py",
    "workers/telemetry/bounds.py",
    "workers/telemetry/histogram.py",
    "workers/kv_transfer/measures.py",
    "workers/engine/cache_news.py",
    "workers/model/contract.py",
    "workers/model/drafts.py",
    "workers/model/sampling_params.py",
    "workers/model/places.py",
    "workers/model/trees.py",
    "workers/kv_transfer/lanes.py",
    "workers/kv_transfer/gang_outgoing.py",
    "workers/kv_transfer/gang_incoming.py",
    "workers/kv_transfer/link.py",
    "workers/kv_transfer/handoff.py",
    "workers/kv_transfer/tombstones.py",
    "workers/kv_transfer/outgoing.py",
    "workers/kv_transfer/incoming.py",
    "cluster/config/api_key.py",
    "cluster/config/schema.py",
    "cluster/router/workers.py",
    "cluster/router/choice.py",
    "cluster/router/marks.py",
    "cluster/router/worker_story.py",
    "cluster/router/track.py",
    "cluster/router/handovers.py",
    "cluster/router/load.py",
    "cluster/router/report_rate.py",
    "cluster/router/table.py",
    "cluster/router/admission.py",
    "cluster/router/lifecycle.py",
    "cluster/router/prompt_news.py",
    "workers/model/prompt_rows.py",
    "cluster/router/prefix_index.py",
    "cluster/router/policy.py",
    "cluster/router/active.py",
    "cluster/router/requests.py",
    "cluster/contracts",
    "cluster/doors/budget.py",
    "cluster/fleet/tick.py",
    "cluster/fleet/rollout.py",
    "cluster/config/effects.py",
    "cluster/fleet/cores.py",
    "cluster/planner",
    "cluster/simulator",
)
FLOOR_3 = (
    "workers/actor.py",
    "workers/draft_actor.py",
    "workers/follower.py",
    "workers/rank.py",
    "workers/process.py",
    "workers/profiled.py",
    "cluster/fleet",
    "cluster/profiling",
)
FLOOR_4 = (
    "cluster/ingress/app.py",
    "cluster/ingress/places.py",
    "cluster/ingress/controller_link.py",
    "cluster/ingress/deployed.py",
    "cluster/ingress/haproxy.py",
    "cluster/cli.py",
    "cluster/commands",
    "cluster/local",
)
PURE_MAY_USE = STDLIB - {"asyncio", "socket", "subprocess", "threading", "concurrent", "multiprocessing"}
CLOCKS = {"time", "monotonic", "perf_counter", "time_ns", "monotonic_ns", "sleep", "now", "utcnow", "today"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for top in PROJECT for path in sorted((ROOT / top).rglob("*.py"))}


def floor(path: Path) -> int:
    """The most particular entry decides; a module that none names is a mechanism, floor 2."""
    relative = path.relative_to(ROOT).as_posix()
    floors = {0: FLOOR_0, 1: FLOOR_1, 3: FLOOR_3, 4: FLOOR_4}
    matches = [
        (len(entry), number)
        for number, entries in floors.items()
        for entry in entries
        if relative == entry or relative.startswith(entry + "/")
    ]
    return max(matches)[1] if matches else 2


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def import_nodes(
    tree: ast.AST, *, into_functions: bool = True, for_types: bool = False
) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in ast.iter_child_nodes(tree):
        if is_type_checking(node) and not for_types:
            assert isinstance(node, ast.If)
            for other in node.orelse:
                yield from import_nodes(ast.Module(body=[other], type_ignores=[]), into_functions=into_functions)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif into_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from import_nodes(node, into_functions=into_functions, for_types=for_types)


@cache
def imports(name: str, *, into_functions: bool = True, for_types: bool = False) -> frozenset[str]:
    """Dotted names that a module imports, the project's own resolved to modules."""
    found: set[str] = set()
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    for node in import_nodes(tree, into_functions=into_functions, for_types=for_types):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
            continue
        assert node.level == 0, f"{name}: relative import; name the module in full"
        assert node.module is not None
        for alias in node.names:
            deeper = f"{node.module}.{alias.name}"
            found.add(deeper if deeper in MODULES else node.module)
            if node.module in ("ray", "torch"):
                found.add(deeper)
    return frozenset(found)


@cache
def reach(name: str) -> dict[str, tuple[str, ...]]:
    """Every project module that importing and using `name` may run -> the way there.

    A package above an imported module runs too, but nobody calls its functions: only its own imports count.
    """
    ways: dict[str, tuple[str, ...]] = {}
    seen: set[tuple[str, bool]] = set()
    waiting: list[tuple[str, bool, tuple[str, ...]]] = [(name, True, (name,))]
    while waiting:
        current, used, way = waiting.pop(0)
        if (current, used) in seen:
            continue
        seen.add((current, used))
        ways.setdefault(current, way)
        for parent in packages_above(current):
            waiting.append((parent, False, (*way, parent)))
        for other in imports(current, into_functions=used) & MODULES.keys():
            waiting.append((other, True, (*way, other)))
    return ways


def packages_above(name: str) -> list[str]:
    parts = name.split(".")
    return [package for n in range(1, len(parts)) if (package := ".".join(parts[:n])) in MODULES]


def breaches(name: str, forbidden: tuple[str, ...]) -> list[str]:
    """Ways on which `name` reaches one of the foreign packages."""
    above = set(packages_above(name))
    return [
        " -> ".join((*way, foreign))
        for module, way in reach(name).items()
        for foreign in imports(module, into_functions=module not in above)
        if any(foreign == one or foreign.startswith(one + ".") for one in forbidden)
    ]


def is_package(name: str) -> bool:
    return MODULES[name].name == "__init__.py"


def of_top(top: str) -> list[str]:
    return [name for name in MODULES if name.split(".")[0] == top]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_from_its_own_floor_or_below(name: str) -> None:
    own = floor(MODULES[name])
    above = [way for other, way in reach(name).items() if floor(MODULES[other]) > own and not is_package(other)]
    assert sorted(map(" -> ".join, above)) == []


@pytest.mark.parametrize("name", [name for name, path in MODULES.items() if floor(path) == 1])
def test_a_pure_core_uses_the_standard_library_and_numpy_alone(name: str) -> None:
    foreign = {other for other in imports(name) if other.split(".")[0] not in PROJECT}
    assert sorted(other for other in foreign if other.split(".")[0] not in PURE_MAY_USE | {"numpy"}) == []


@pytest.mark.parametrize("name", [name for name, path in MODULES.items() if floor(path) == 1])
def test_a_pure_core_asks_no_clock_and_no_global_random(name: str) -> None:
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    asked = [
        call
        for call in calls
        if (call.split(".")[0] in ("time", "datetime") and call.split(".")[-1] in CLOCKS)
        or (call.startswith("random.") and call != "random.Random")
        or (call.startswith(("numpy.random.", "np.random.")) and not call.endswith(("Generator", "default_rng")))
    ]
    assert asked == []
    taken = {
        f"{node.module}.{alias.name}"
        for node in import_nodes(tree)
        if isinstance(node, ast.ImportFrom) and node.module in ("time", "random", "numpy.random")
        for alias in node.names
    }
    assert taken <= {"random.Random", "numpy.random.Generator"}


@pytest.mark.parametrize("name", of_top("cluster"))
def test_the_control_plane_never_reaches_torch(name: str) -> None:
    assert breaches(name, ("torch", "transformers")) == []


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("workers.engine.")])
def test_the_engine_holds_no_torch(name: str) -> None:
    assert breaches(name, ("torch", "transformers")) == []


def test_models_know_no_engine() -> None:
    """The engine runs models; a model that imported the engine would close a circle."""
    users = [name for name in of_top("workers") if name.startswith("workers.model")]
    assert [name for name in users if any(other.startswith("workers.engine") for other in imports(name))] == []


@pytest.mark.parametrize("name", of_top("workers"))
def test_the_data_plane_never_reaches_serve(name: str) -> None:
    assert breaches(name, ("ray.serve",)) == []


@pytest.mark.parametrize("name", of_top("baton"))
def test_the_sdk_needs_grpc_and_protobuf_alone(name: str) -> None:
    foreign = {other.split(".")[0] for module in reach(name) for other in imports(module)}
    assert sorted(foreign - STDLIB - {"baton", "grpc", "google"}) == []
    assert {other.split(".")[0] for other in reach(name)} == {"baton"}


@pytest.mark.parametrize("package", ["", *(name for name in MODULES if is_package(name))])
def test_the_rooms_of_a_package_form_no_circle(package: str) -> None:
    """Each module and each package directly below one is a room; a room imports what its inhabitants import.

    Imports for types alone count too: who needs another's type knows it.
    """
    uses: dict[str, set[str]] = {}
    for name in MODULES:
        for other in imports(name, for_types=True):
            here, there = room(name, package), room(other, package)
            if here and there and here != there:
                uses.setdefault(here, set()).add(there)
    try:
        graphlib.TopologicalSorter(uses).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def room(name: str, package: str) -> str | None:
    """Of the module, in `package`; None for one outside, and for the package itself."""
    prefix = f"{package}." if package else ""
    if not name.startswith(prefix) or name.split(".")[0] not in PROJECT or name == package:
        return None
    return prefix + name[len(prefix) :].split(".")[0]


def test_only_entries_and_the_fleet_import_ray() -> None:
    users = {name for name in MODULES if any(other.split(".")[0] == "ray" for other in imports(name))}
    low = {name for name in users if floor(MODULES[name]) < 3}
    assert sorted(low - SERVE_BINDING) == []


# Runs inside Serve's own processes, and reaches into its private modules from there.
SERVE_BINDING = {"cluster.ingress.binding", "cluster.ingress.leaving", "cluster.ingress.stopping"}


def test_the_walk_sees_lazy_imports_and_skips_type_checking() -> None:
    tree = ast.parse(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import torch\nelse:\n    import json\n"
        "def f():\n    try:\n        import ray\n    except ImportError:\n        import csv\n"
    )
    names = [alias.name for node in import_nodes(tree) for alias in node.names]
    assert names == ["TYPE_CHECKING", "json", "ray", "csv"]
