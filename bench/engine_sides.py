"""The engines that `bench.engine` compares, each in its own process: `python -m bench.engine_sides SIDE FOLDER`.

Reads one JSON line per job, {"prompts": [[token id]], "num_outputs": [int]}, answers {"seconds": float}. Only the
standard library is imported before a side is chosen: one of them lives in another Python environment.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Generate = Callable[[Sequence[Sequence[int]], Sequence[int]], None]  # greedy, past the end token
MAX_MODEL_LEN = 4096
MAX_BATCHED_TOKENS = 2048  # prompt tokens of one step, on the sides that have such a limit
NUM_THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ours(folder: Path) -> Generate:
    """The engine that workers run, without the wire."""
    import torch

    from baton.v1 import inference_pb2, worker_pb2
    from workers.engine.engine import Engine, StepReport
    from workers.model.runner import TorchRunner
    from workers.spec import EngineSpec, Role, WorkerSpec

    torch.set_num_threads(NUM_THREADS)
    spec = WorkerSpec(
        worker_id="bench-0",
        role=Role.MIXED,
        model=str(folder),
        served_name="bench",
        dtype="bfloat16",
        device="cpu",
        load_format="dummy",
        engine=EngineSpec(
            memory_bytes=1 << 30,
            max_model_len=MAX_MODEL_LEN,
            max_batched_tokens=MAX_BATCHED_TOKENS,
            prefix_cache=False,
        ),
    )
    runner = TorchRunner(spec)
    runner.warm_up()
    received = 0

    def take(report: StepReport) -> None:
        nonlocal received
        for outputs in report.outputs.values():
            for output in outputs:
                if output.HasField("error"):
                    raise RuntimeError(f"request {output.request_id} failed: {output.error.message}")
                received += len(output.token_ids)

    engine = Engine(runner=runner, spec=spec, emit=take, clock=time.monotonic)
    num_jobs = 0

    def generate(prompts: Sequence[Sequence[int]], num_outputs: Sequence[int]) -> None:
        nonlocal num_jobs, received
        num_jobs += 1
        received = 0
        for i, (prompt, count) in enumerate(zip(prompts, num_outputs, strict=True)):
            sampling = inference_pb2.SamplingParams(max_tokens=count, temperature=0, seed=0, ignore_eos=True)
            submit = worker_pb2.Submit(
                request_id=f"{num_jobs}-{i}", prompt_token_ids=prompt, sampling=sampling, timeout_s=600
            )
            submit.choices.add(choice=0)
            engine.submit("bench", submit)
        while received < sum(num_outputs):
            engine.step()

    return generate


def _plain_model(folder: Path) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.set_num_threads(NUM_THREADS)
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(folder)
    factory: Any = AutoModelForCausalLM
    return factory.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa").eval()


def padded(folder: Path) -> Generate:
    """transformers' `generate`: prompts padded on the left, and as many steps as the longest answer takes."""
    import torch

    model = _plain_model(folder)

    @torch.inference_mode()
    def generate(prompts: Sequence[Sequence[int]], num_outputs: Sequence[int]) -> None:
        width, count = max(map(len, prompts)), max(num_outputs)
        ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        found = model.generate(
            ids, attention_mask=mask, max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0
        )
        if found.shape[1] != width + count:
            raise RuntimeError(f"generate made {found.shape[1] - width} tokens, not {count}")

    return generate


def batched(folder: Path) -> Generate:
    """transformers' continuous batching, which `generate_batch` starts and stops; here it stays up between jobs."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    model = _plain_model(folder)
    make_config: Any = GenerationConfig
    config = make_config(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=1)
    limits = ContinuousBatchingConfig(page_size=32, num_blocks=512, max_batch_tokens=MAX_BATCHED_TOKENS)
    manager = model.init_continuous_batching(generation_config=config, continuous_batching_config=limits)
    manager.start()

    def generate(prompts: Sequence[Sequence[int]], num_outputs: Sequence[int]) -> None:
        for prompt, count in zip(prompts, num_outputs, strict=True):
            manager.add_request(list(prompt), max_new_tokens=count)
        made, left = 0, len(prompts)
        while left:
            result = manager.get_result(timeout=1)
            if result is None and not manager.is_running():
                raise RuntimeError("transformers' continuous batching ended")
            if result is not None and result.is_finished():
                left -= 1
                made += len(result.generated_tokens)
        if made != sum(num_outputs):
            raise RuntimeError(f"continuous batching made {made} tokens, not {sum(num_outputs)}")

    return generate


def vllm(folder: Path) -> Generate:
    from vllm import LLM, SamplingParams  # type: ignore[import-not-found]

    llm = LLM(
        model=str(folder),
        load_format="dummy",
        dtype="bfloat16",
        max_model_len=MAX_MODEL_LEN,
        max_num_batched_tokens=MAX_BATCHED_TOKENS,
        enable_prefix_caching=False,
        skip_tokenizer_init=True,
    )

    def generate(prompts: Sequence[Sequence[int]], num_outputs: Sequence[int]) -> None:
        params = [
            SamplingParams(temperature=0, max_tokens=count, ignore_eos=True, detokenize=False) for count in num_outputs
        ]
        found = llm.generate([{"prompt_token_ids": list(p)} for p in prompts], params, use_tqdm=False)
        made = sum(len(each.outputs[0].token_ids) for each in found)
        if made != sum(num_outputs):
            raise RuntimeError(f"vLLM made {made} tokens, not {sum(num_outputs)}")

    return generate


SIDES: dict[str, Callable[[Path], Generate]] = {
    "baton": ours,
    "transformers": padded,
    "transformers-batch": batched,
    "vllm": vllm,
}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")  # what libraries print goes to stderr
    os.dup2(2, 1)
    generate = SIDES[sys.argv[1]](Path(sys.argv[2]))
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        start = time.perf_counter()
        generate(job["prompts"], job["num_outputs"])
        print(json.dumps({"seconds": time.perf_counter() - start}), file=answers, flush=True)


if __name__ == "__main__":
    main()
