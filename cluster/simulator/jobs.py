"""What simulated workers serve, and the message that tells of it."""

from dataclasses import dataclass
from functools import cache

from baton.v1.worker_pb2 import Submit, TokenOutput
from workers.engine.jobs import Job
from workers.engine.sequence import Sequence
from workers.model.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True)
class Request:
    """What a worker must know of a request that its Submit does not carry here."""

    num_prompt_tokens: int
    num_output_tokens: int
    block_hashes: list[int]  # of all blocks that prompt and output will fill; shared, not to be changed


@dataclass(slots=True, kw_only=True, eq=False)
class SimJob(Job):
    num_told: int = 0  # output tokens that the ingress was told of, or that another worker tells of
    told_first: bool = False


@cache
def params(max_tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, ignore_eos=True)


def new_job(request: Request, submit: Submit, ingress_id: str, now_s: float) -> SimJob:
    """Of a Submit that comes now."""
    outputs = list(submit.choices[0].output_token_ids)
    seq = Sequence(
        request_id=submit.request_id,
        choice=0,
        attempt=submit.attempt,
        ingress_id=ingress_id,
        prompt_token_ids=range(request.num_prompt_tokens),  # type: ignore[arg-type]  # never read
        output_token_ids=outputs,
        params=params(request.num_output_tokens),
        arrived_s=now_s,
        deadline_s=now_s + submit.timeout_s,
        block_hashes=request.block_hashes,
    )
    return SimJob(seq=seq, choices=[0], num_told=len(outputs))


def output(seq: Sequence, start: int, end: int) -> TokenOutput:
    """Tokens [start, end): how many is all that anybody looks at."""
    return TokenOutput(
        request_id=seq.request_id, choice=0, attempt=seq.attempt, index=start, token_ids=[0] * (end - start)
    )
