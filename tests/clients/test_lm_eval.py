"""lm-evaluation-harness, unmodified, against a served model: the scores of its own `hf` backend on the same folder."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.served import ServedCluster
from tests.unit.ingress.fakes import DEMO

pytest.importorskip("lm_eval", reason="needs lm-eval: pip install '.[clients]'")

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(600)]
TASK = """\
task: local_choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - {{metric: acc}}
  - {{metric: acc_norm}}
"""
STORY = "It was the best of times, it was the worst of times, it was the age of wisdom. "  # in the second block and on
QUESTIONS: list[tuple[str, list[str], int]] = [
    ("Once upon a", [" time", " table", " tree of iron"], 0),
    ("The sun rises in the", [" east", " morning of the next day", " pocket"], 0),
    ("He opened the door and", [" went in", " purple seven", ", naïvely, ate 東京 🙂"], 0),
    (STORY * 6 + "It was the age of", [" foolishness", " wisdom", " twelve"], 1),
    (STORY * 6 + "It was the season of", [" light", " darkness", " Light and of other things that there were"], 0),
    ("She said", [" that she would come", " nothing", ":\n\n'No.'"], 1),
]


@pytest.fixture(scope="module")
def served() -> Iterator[ServedCluster]:
    cluster = ServedCluster()
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


def evaluate(folder: Path, name: str, model: str, arguments: str, batch_size: int = 1) -> dict[str, Any]:
    """Scores, and of each choice of each question (log likelihood, whether it is the greedy one)."""
    out = folder / name
    command = [sys.executable, "-m", "lm_eval", "run", "--model", model, "--model_args", arguments]
    command += ["--batch_size", str(batch_size), "--device", "cpu"]
    command += ["--tasks", "local_choices", "--include_path", str(folder), "--output_path", str(out), "--log_samples"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "home")}
    done = subprocess.run(
        command, env=os.environ | offline, capture_output=True, text=True, timeout=300, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = out.rglob("results_*.json")
    (samples,) = out.rglob("samples_*.jsonl")
    scores = json.loads(results.read_text())["results"]["local_choices"]
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    told = {line["doc_id"]: line["filtered_resps"] for line in lines}
    return {
        "scores": {key: value for key, value in scores.items() if key.startswith("acc")},
        "likelihoods": [(float(value), str(greedy)) for doc_id in sorted(told) for value, greedy in told[doc_id]],
    }


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("task")
    data = folder / "questions.jsonl"
    rows = [{"question": question, "choices": choices, "answer": answer} for question, choices, answer in QUESTIONS]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "local_choices.yaml").write_text(TASK.format(data=data))
    return folder


@pytest.fixture(scope="module")
def theirs(task: Path) -> dict[str, Any]:
    return evaluate(task, "theirs", "hf", f"pretrained={DEMO},dtype=float32")


@pytest.mark.parametrize("batch_size", [1, 4])
def test_choices_score_as_in_its_own_backend(
    served: ServedCluster, task: Path, theirs: dict[str, Any], batch_size: int
) -> None:
    base_url = f"{served.http}/v1/completions"
    remote = f"model=demo,base_url={base_url},tokenizer={DEMO},num_concurrent=2"
    ours = evaluate(task, f"ours-{batch_size}", "local-completions", remote, batch_size)
    assert ours["scores"] == theirs["scores"]
    assert len(ours["likelihoods"]) == sum(len(choices) for _, choices, _ in QUESTIONS)
    for (value, greedy), (expected, is_greedy) in zip(ours["likelihoods"], theirs["likelihoods"], strict=True):
        assert value == pytest.approx(expected, abs=1e-3)  # sums over tokens, in float32 on both sides
        assert greedy == is_greedy
