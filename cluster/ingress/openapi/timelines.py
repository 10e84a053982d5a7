"""Shapes of what is told of requests: see docs/observability.md. Times are seconds since the request arrived."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Seconds = Annotated[float, Field(description="Since the request arrived.")]
Count = Annotated[int, Field(ge=0)]


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RequestSummary(Shape):
    request_id: str
    x_request_id: str | None
    trace_id: str | None
    replica: str
    model: str
    route: str
    key: str | None = Field(description="The name of its API key.")
    arrived_at: float = Field(description="Seconds since the epoch.")
    status: str = Field(description="running, ok, cancelled, or an error's code.")
    error: str | None
    e2e_s: Seconds
    ttft_s: Seconds | None
    tpot_s: float | None = Field(description="Mean gap between tokens of a choice, in seconds.")
    num_prompt_tokens: Count
    num_cached_tokens: Count
    num_output_tokens: Count
    num_drafted_tokens: Count
    num_accepted_tokens: Count
    num_attempts: Count
    prefill: str | None = Field(description="Of the last attempt; null: who decodes reads the prompt.")
    decode: str | None
    draft: str | None


class RequestList(Shape):
    requests: list[RequestSummary]


class TimelinePhase(Shape):
    name: str
    start_s: Seconds
    end_s: Seconds


class TimelineChunk(Shape):
    start_s: Seconds
    end_s: Seconds
    num_tokens: Count
    num_context_tokens: Count
    num_steps: Count


class TimelineWorker(Shape):
    worker: str
    reads: bool
    received_s: Seconds
    scheduled_s: Seconds
    heard_s: Seconds
    chunks: list[TimelineChunk]
    offered_s: Seconds | None
    granted_s: Seconds | None
    arrived_s: Seconds | None
    num_bytes: Count
    num_preemptions: Count


class TimelineTransfer(Shape):
    start_s: Seconds
    end_s: Seconds
    hidden_s: float = Field(description="Of it, while the prompt was still being read.")
    num_bytes: Count


class TimelineAttempt(Shape):
    attempt: Count
    choices: list[Count]
    sent_s: Seconds
    prefill: str | None
    decode: str
    draft: str | None
    num_expected_cached_tokens: Count
    num_cached_tokens: Count | None
    ended_s: Seconds | None
    end: str | None = Field(description="ok, lost, preempted, cancelled, or an error's code.")
    error: str | None
    workers: list[TimelineWorker]
    transfer: TimelineTransfer | None


class TimelineChoice(Shape):
    choice: Count
    finish_reason: str | None
    first_token_s: Seconds | None
    last_token_s: Seconds | None
    num_outputs: Count
    num_tokens: Count
    num_drafted: Count
    num_accepted: Count
    outputs_per_mark: Count
    outputs: list[list[float]] = Field(description="Rows of `output_columns`.")


class TimelinePrompt(Shape):
    num_tokens: Count
    queued_s: Seconds | None
    admitted_s: Seconds | None
    attempts: list[TimelineAttempt]
    choices: list[TimelineChoice]


class RequestTimeline(RequestSummary):
    phases: list[TimelinePhase]
    output_columns: list[str]
    prompts: list[TimelinePrompt]
