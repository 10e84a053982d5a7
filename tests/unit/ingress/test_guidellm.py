"""GuideLLM, unmodified, against the app on a port; it is in the extra `clients`, and skipped where it is not there."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.ingress.fakes import DEMO, FakeDispatcher

NUM_REQUESTS = 6


def run(url: str, path: str, report: Path) -> subprocess.CompletedProcess[str]:
    """Made-up prompts need a tokenizer, which is the demo model's here."""
    options = {
        "--backend": f"kind=openai_http,target={url},model=demo,request_format={path}",
        "--profile": "kind=concurrent,streams=2",
        "--constraint": f"kind=max_requests,count={NUM_REQUESTS}",
        "--tokenizer": f"kind=hf_auto,model={DEMO}",
        "--data": "kind=synthetic_text,prompt_tokens=24,output_tokens=8",
        "--output": f"kind=json,path={report}",
    }
    words = [word for option in options.items() for word in option]
    command = [sys.executable, "-m", "guidellm", "run", *words, "--disable-console"]
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, env=env, cwd=report.parent, capture_output=True, text=True, timeout=280, check=False)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_guidellm_measures_answers_token_by_token(
    url: str, fake: FakeDispatcher, tmp_path: Path, path: str
) -> None:
    pytest.importorskip("guidellm")
    report = tmp_path / "report.json"
    done = await asyncio.to_thread(run, url, path, report)
    assert done.returncode == 0, done.stderr
    (benchmark,) = json.loads(report.read_text())["benchmarks"]
    answered = benchmark["requests"]["successful"]
    assert len(answered) == NUM_REQUESTS, benchmark["requests"]
    assert len(fake.requests) >= NUM_REQUESTS
    assert all(one["output_tokens"] > 1 and one["time_to_first_token_ms"] > 0.0 for one in answered)
