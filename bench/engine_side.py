"""One engine's process, stopped (SIGSTOP) except while it works; for benchmarks of engines that take turns."""

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NUM_LOG_LINES = 12


class Side:
    """Pinned to its cores; the interpreter may be another environment's."""

    def __init__(
        self,
        name: str,
        python: str,
        settings: Mapping[str, Any],
        cores: Sequence[int],
        folder: Path,
        *,
        kv_gib: int,
        module: str = "bench.engine_sides",
    ) -> None:
        """Starts it, and waits until it is ready.

        Args:
            settings: As `module` takes them; the ranks that `tensor_parallel` asks for have a core each.
            folder: Of its log.
            kv_gib: What vLLM may hold of KV.
            module: Answers each line of JSON with one, the first before it was asked.
        Raises:
            RuntimeError: It ended; says its last lines.
        """
        self.name = name
        self._log = folder / f"{name.replace(' ', '-')}.log"
        self._process = subprocess.Popen(
            [python, "-m", module, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log.open("w"),
            text=True,
            cwd=ROOT,
            env=_environment(cores, kv_gib, settings.get("tensor_parallel", 1)),
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        try:
            self._answer()
        except RuntimeError:
            self.close()
            raise
        self._signal(signal.SIGSTOP)

    def seconds(self, job: Mapping[str, Any]) -> float:
        """Raises: RuntimeError: it ended; says its last lines."""
        return float(self.ask(job)["seconds"])

    def ask(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Raises: RuntimeError: it ended; says its last lines."""
        self._signal(signal.SIGCONT)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        found = self._answer()
        self._signal(signal.SIGSTOP)
        return found

    def close(self) -> None:
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-NUM_LOG_LINES:])
            raise RuntimeError(f"{self.name} ended ({self._end()}) {tail}".rstrip())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _end(self) -> str:
        """How its process ended, in words."""
        code = self._process.wait()
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, number)


def _environment(cores: Sequence[int], kv_gib: int, num_ranks: int) -> dict[str, str]:
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(len(cores) // num_ranks),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_CPU_KVCACHE_SPACE": str(kv_gib),
        "VLLM_CPU_OMP_THREADS_BIND": ("," if num_ranks == 1 else "|").join(map(str, cores)),
    }
