"""Which nodes are refused, and that any node can be asked."""

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from ray import cloudpickle

from cluster.fleet.probe import PACKAGES, Asked, NodeFacts, facts_of, question, refusal

OWN = NodeFacts(cores=(0,), versions={"Baton": "0.1.0", "Ray": "2.60.0", "torch": "2.13.0+cpu"}, has_cuda=False)


@pytest.mark.parametrize(
    ("name", "there", "said"),
    [
        ("Baton", "0.2.0", "it has Baton 0.2.0, and the head has 0.1.0; install the same on both"),
        ("Ray", "2.61.0", "it has Ray 2.61.0, and the head has 2.60.0; install the same on both"),
        ("torch", "2.12.0+cpu", "it has torch 2.12.0+cpu, and the head has 2.13.0+cpu; install the same on both"),
        ("torch", "", "it has no torch; install torch 2.13.0+cpu"),
    ],
)
def test_a_node_with_another_version_is_refused_by_name(name: str, there: str, said: str) -> None:
    assert refusal(replace(OWN, versions={**OWN.versions, name: there}), OWN, Asked()) == said


def test_builds_of_one_version_may_differ_and_the_head_need_not_have_torch() -> None:
    cuda = replace(OWN, versions={**OWN.versions, "torch": "2.13.0+cu128"}, has_cuda=True)
    assert not refusal(cuda, OWN, Asked(cuda=True))
    assert not refusal(cuda, replace(OWN, versions={**OWN.versions, "torch": ""}), Asked(cuda=True))
    without = replace(OWN, versions={**OWN.versions, "torch": ""})
    assert refusal(without, without, Asked()) == "it has no torch; install torch"
    assert not refusal(without, OWN, Asked(torch=False)), "workers without a model need none"


def test_a_node_without_cuda_or_without_the_model_is_refused_by_name() -> None:
    assert refusal(OWN, OWN, Asked(cuda=True)).startswith("its torch 2.13.0+cpu finds no CUDA; install its CUDA build")
    assert refusal(replace(OWN, missing=("/models/x",)), OWN, Asked()) == (
        "it has no /models/x; copy the model there, or put it on a shared disk"
    )


def test_a_node_without_baton_answers_too(tmp_path: Path) -> None:
    """The question is code that needs nothing of ours to be read."""
    (tmp_path / "asked").write_bytes(cloudpickle.dumps(question()))
    program = (
        "import pickle, sys; from ray import cloudpickle\n"
        "assert not any(name.partition('.')[0] in ('cluster', 'baton', 'workers') for name in sys.modules)\n"
        "ask = pickle.loads(open(sys.argv[1], 'rb').read())\n"
        "answer = ask(['baton-serve', 'no-such-package'], ['/', '/no/such/path'])\n"
        "assert not any(name.partition('.')[0] in ('cluster', 'workers', 'torch') for name in sys.modules)\n"
        "sys.stdout.buffer.write(pickle.dumps(answer))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "asked")], cwd=tmp_path, capture_output=True, check=True
    )
    answer = pickle.loads(done.stdout)  # noqa: S301, it is our own
    assert answer["missing"] == ["/no/such/path"]
    assert answer["versions"]["no-such-package"] == ""
    assert answer["cores"]


def test_this_machine_is_not_refused_by_itself() -> None:
    facts = facts_of(question()(list(PACKAGES.values()), []))
    assert not refusal(facts, facts, Asked())
