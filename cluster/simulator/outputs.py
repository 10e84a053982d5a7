"""What a simulated worker has to tell the ingress.

Tokens are told when somebody wants to know: the first at once, the others with the last, or when an attempt fails.
"""

from baton.v1.inference_pb2 import FINISH_REASON_LENGTH
from baton.v1.worker_pb2 import TokenOutput
from cluster.simulator.jobs import SimJob, output
from workers.engine.jobs import Job


class Outputs:
    def __init__(self) -> None:
        self._messages: list[TokenOutput] = []

    def take(self) -> list[TokenOutput]:
        """All that is to be told; it is the caller's now."""
        messages = self._messages
        if messages:
            self._messages = []
        return messages

    def pass_on(self, ingress_id: str, message: TokenOutput) -> None:
        """What `Serving` tells: there is one ingress."""
        self._messages.append(message)

    def tell(self, job: SimJob, num_outputs: int, *, finished: bool = False, num_cached_tokens: int = 0) -> None:
        """Tokens up to `num_outputs`."""
        message = output(job.seq, job.num_told, num_outputs)
        message.num_cached_tokens = num_cached_tokens
        if finished:
            message.finish_reason = FINISH_REASON_LENGTH
        job.num_told = num_outputs
        job.told_first = True
        self._messages.append(message)

    def tell_rest(self, job: Job) -> None:
        """Tokens that are written and not told of."""
        assert isinstance(job, SimJob)
        if job.num_told < len(job.seq.output_token_ids):
            self.tell(job, len(job.seq.output_token_ids))

    def take_rest(self, job: Job) -> TokenOutput | None:
        """The same, for the caller to tell; None: there are none."""
        num_messages = len(self._messages)
        self.tell_rest(job)
        return self._messages.pop() if len(self._messages) > num_messages else None
