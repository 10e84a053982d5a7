"""Between the worker's messages and the engine's plain data."""

import math
from collections.abc import Iterator, Sequence

from baton.errors import BatonError, InvalidRequestError
from baton.v1 import inference_pb2, worker_pb2
from workers.adapters.adapter import AdapterName
from workers.engine.batching import End
from workers.engine.sequence import FinishReason
from workers.engine.sequence import Sequence as Seq
from workers.model.contract import Sampled
from workers.model.prompt_rows import PromptRow, PromptScores
from workers.model.sampling_params import SAMPLER_ROWS, SamplingParams

_REASONS = {
    FinishReason.STOP: inference_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: inference_pb2.FINISH_REASON_LENGTH,
    FinishReason.ABORT: inference_pb2.FINISH_REASON_ABORT,
    FinishReason.ERROR: inference_pb2.FINISH_REASON_ERROR,
}
_CHANGES_NO_TOKEN = ("logprobs", "prompt_logprobs", "speculation")


def sampling_params(message: inference_pb2.SamplingParams) -> SamplingParams:
    """Unset fields take their defaults. Ranges were checked by the ingress, and are here: a value out of them would end
    the worker.

    Raises: InvalidRequestError.
    """
    if not message.HasField("max_tokens"):
        raise InvalidRequestError("max_tokens: none given; the ingress sets it", "max_tokens")
    said = {descriptor.name: value for descriptor, value in message.ListFields()}
    for name in said.keys() & SAMPLER_ROWS.keys():
        if (refusal := SAMPLER_ROWS[name].refusal(name, said[name])) is not None:
            raise InvalidRequestError(refusal, name)
    return SamplingParams(**{name: row.read(said[name]) for name, row in SAMPLER_ROWS.items() if name in said})


def sampling_message(params: SamplingParams) -> inference_pb2.SamplingParams:
    """What `sampling_params` reads as the same, but for what changes no token."""
    said = {name: getattr(params, name) for name in SAMPLER_ROWS if name not in _CHANGES_NO_TOKEN}
    said |= {"logit_bias": dict(params.logit_bias), "stop_token_ids": sorted(params.stop_token_ids)}
    return inference_pb2.SamplingParams(**said)


def sequence(submit: worker_pb2.Submit, ingress_id: str, now_s: float) -> Seq:
    """The sequence of the first choice of `submit`. Raises: InvalidRequestError: it is malformed."""
    if not submit.choices:
        raise InvalidRequestError("choices: none given; name at least one", "choices")
    if len(submit.choices) > 1 and any(choice.output_token_ids for choice in submit.choices):
        raise InvalidRequestError("choices: several that have output; submit each alone", "choices")
    if len({choice.choice for choice in submit.choices}) < len(submit.choices):
        raise InvalidRequestError("choices: one of them stands twice; name each once", "choices")
    if math.isnan(submit.timeout_s):
        raise InvalidRequestError("timeout_s: is no number; give seconds", "timeout_s")
    first = submit.choices[0]
    params = sampling_params(submit.sampling)
    if first.output_token_ids and len(first.output_token_ids) >= params.max_tokens:
        raise InvalidRequestError(
            f"max_tokens: {params.max_tokens}, and choice {first.choice} has {len(first.output_token_ids)} already",
            "max_tokens",
        )
    return Seq(
        request_id=submit.request_id,
        choice=first.choice,
        attempt=submit.attempt,
        ingress_id=ingress_id,
        prompt_token_ids=tuple(submit.prompt_token_ids),
        output_token_ids=list(first.output_token_ids),
        params=params,
        arrived_s=now_s,
        deadline_s=now_s + submit.timeout_s,
        num_scored_tokens=submit.num_prompt_logprobs,
        siblings=tuple(choice.choice for choice in submit.choices[1:]),
        grammar=submit.grammar,
    )


def adapter_name(submit: worker_pb2.Submit) -> AdapterName | None:
    """Which one it asks for; None: the model as it is."""
    return AdapterName(submit.adapter.name, submit.adapter.hash) if submit.HasField("adapter") else None


def output(
    seq: Seq, choice: int, token_ids: Sequence[int], sampled: Sequence[Sampled], end: End | None
) -> worker_pb2.TokenOutput:
    """The tokens of one choice, with what was `sampled` of each; they are not appended yet: `index` is the first's.

    An end after the last token is a message of its own, see `end_after`: what ends an answer is no part of its text.
    """
    message = worker_pb2.TokenOutput(
        request_id=seq.request_id,
        choice=choice,
        attempt=seq.attempt,
        index=len(seq.output_token_ids),
        token_ids=token_ids,
    )
    for token in sampled:
        if token.logprob is not None:
            entry = message.logprobs.add()
            entry.sampled.token_id, entry.sampled.logprob = token.token_id, token.logprob
            for token_id, logprob in token.top:
                entry.top.add(token_id=token_id, logprob=logprob)
    if end is not None and not end.is_after:
        message.finish_reason, message.stop_reason = _REASONS[end.reason], end.stop_reason
    return message


def end_after(message: worker_pb2.TokenOutput, end: End) -> worker_pb2.TokenOutput:
    """Follows the `message` with an answer's last tokens."""
    return worker_pb2.TokenOutput(
        request_id=message.request_id,
        choice=message.choice,
        attempt=message.attempt,
        index=message.index + len(message.token_ids),
        finish_reason=_REASONS[end.reason],
    )


def prompt_news(seq: Seq, row: PromptRow, start: int) -> Iterator[worker_pb2.TokenOutput]:
    """How likely the tokens are that a chunk from `start` on tells of; booked as told."""
    place = start + 1
    for scores in row.found:
        yield worker_pb2.TokenOutput(
            request_id=seq.request_id,
            choice=seq.choice,
            attempt=seq.attempt,
            index=len(seq.output_token_ids),
            prompt_logprobs=_prompt_logprobs(place, scores),
        )
        place += len(scores.logprobs)
    seq.num_scored_tokens = place


def _prompt_logprobs(place: int, scores: PromptScores) -> worker_pb2.PromptLogprobs:
    return worker_pb2.PromptLogprobs(
        start=place,
        logprobs=scores.logprobs.tolist(),
        ranks=scores.ranks.tolist(),
        num_top=scores.top_ids.shape[1],
        top_token_ids=scores.top_ids.ravel().tolist(),
        top_logprobs=scores.top_logprobs.ravel().tolist(),
    )


def final(seq: Seq, choice: int, reason: FinishReason, error: BatonError | None = None) -> worker_pb2.TokenOutput:
    """A last message without tokens."""
    message = worker_pb2.TokenOutput(
        request_id=seq.request_id,
        choice=choice,
        attempt=seq.attempt,
        index=len(seq.output_token_ids),
        finish_reason=_REASONS[reason],
    )
    if error is not None:
        message.error.CopyFrom(_error_message(error))
    return message


def refusals(submit: worker_pb2.Submit, error: BatonError) -> Iterator[worker_pb2.TokenOutput]:
    """A last message for each choice of a request that is no sequence."""
    for choice in dict.fromkeys(choice.choice for choice in submit.choices):
        yield worker_pb2.TokenOutput(
            request_id=submit.request_id,
            choice=choice,
            attempt=submit.attempt,
            finish_reason=inference_pb2.FINISH_REASON_ERROR,
            error=_error_message(error),
        )


def _error_message(error: BatonError) -> worker_pb2.WorkerError:
    return worker_pb2.WorkerError(code=error.code, message=error.message, retryable=error.retryable)
