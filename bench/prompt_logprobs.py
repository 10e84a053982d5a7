"""What reading a prompt costs with `prompt_logprobs` beside one without: one worker's engine, one core.

    python -m bench.prompt_logprobs [--model smollm2] [--quick]

Sides take turns in one process, on the same prompts, without a prefix cache; figures are medians over rounds of the
time from a prompt's arrival to its end (`max_tokens: 1`). Beside the time stands what the output head takes of it by
itself: a logit for each token of the vocabulary at every place of the prompt, which is what is asked for.
"""

import statistics
import time
from typing import Annotated, Any

import torch
import typer

from baton.v1 import inference_pb2, worker_pb2
from bench.machine import Quick, announce
from cluster.models.find import find_model
from workers.engine.engine import Engine, StepReport
from workers.model.runner import TorchRunner
from workers.spec import EngineSpec, Role, WorkerSpec

SIDES = (None, 0, 1, 20)  # likely tokens for each token of the prompt; None: nothing asked
LENGTHS = (512, 2048)
ABOUT_S = 150.0


class Reader:
    def __init__(self, folder: str, dtype: str) -> None:
        spec = WorkerSpec(
            worker_id="bench-0",
            role=Role.MIXED,
            model=folder,
            served_name="bench",
            dtype=dtype,
            device="cpu",
            engine=EngineSpec(memory_bytes=512 << 20, max_model_len=max(LENGTHS) + 8, prefix_cache=False),
        )
        self.runner = TorchRunner(spec)
        self.runner.warm_up()
        self.num_told = 0
        self._engine = Engine(runner=self.runner, spec=spec, emit=self._take, clock=time.monotonic)

    def read(self, prompt: list[int], num_top: int | None) -> float:
        """Seconds."""
        sampling = inference_pb2.SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)
        if num_top is not None:
            sampling.prompt_logprobs = num_top
        submit = worker_pb2.Submit(request_id="r", prompt_token_ids=prompt, sampling=sampling, timeout_s=3600)
        submit.choices.add(choice=0)
        self.num_told = 0
        began_s = time.perf_counter()
        self._engine.submit("bench", submit)
        while self._engine.step():
            continue
        took_s = time.perf_counter() - began_s
        assert self.num_told == (0 if num_top is None else len(prompt) - 1), f"{self.num_told} tokens told of"
        return took_s

    @torch.inference_mode()
    def head(self, num_tokens: int) -> float:
        """Seconds of the output head alone, 64 tokens at a time."""
        model: Any = self.runner.model
        hidden = torch.randn(64, model.config.hidden_size, dtype=self.runner.dtype)
        began_s = time.perf_counter()
        for _ in range(num_tokens // 64):
            model.lm_head(hidden)
        return time.perf_counter() - began_s

    def _take(self, report: StepReport) -> None:
        for outputs in report.outputs.values():
            self.num_told += sum(len(output.prompt_logprobs.logprobs) for output in outputs)


def main(
    model: Annotated[str, typer.Option("--model", help="A name or a folder.")] = "smollm2",
    dtype: Annotated[str, typer.Option("--dtype")] = "bfloat16",
    quick: Quick = False,
) -> None:
    announce("bench.prompt_logprobs", about_s=ABOUT_S / (5 if quick else 1), dtypes=(dtype,))
    torch.set_num_threads(1)
    reader = Reader(str(find_model(model)), dtype)
    generator = torch.Generator().manual_seed(0)
    for length in LENGTHS[:1] if quick else LENGTHS:
        prompt = torch.randint(1, reader.runner.vocab_size, (length,), generator=generator).tolist()
        times: dict[int | None, list[float]] = {side: [] for side in SIDES}
        heads = []
        for _ in range(3 if quick else 5):
            for side in SIDES:
                times[side].append(reader.read(prompt, side))
            heads.append(reader.head(length))
        without_s = statistics.median(times[None])
        head_s = statistics.median(heads)
        print(
            f"prompt of {length}: without {1e3 * without_s:.0f} ms; the output head of all tokens {1e3 * head_s:.0f} ms"
        )
        for side in SIDES[1:]:
            with_s = statistics.median(times[side])
            print(f"  prompt_logprobs {side:2}: {1e3 * with_s:.0f} ms, {with_s / without_s:.2f} times")


if __name__ == "__main__":
    typer.run(main)
