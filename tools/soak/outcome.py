"""How one request went, as its client saw it."""

import enum
from dataclasses import dataclass


class Ending(enum.StrEnum):
    FINISHED = "finished"  # whole, by the protocol's own sign
    LEFT = "left"  # its client went away, as it was to
    DEADLINE = "deadline"  # the client's own, which was to come
    STATUS = "status"  # an error of the server's, before or within a stream
    CUT = "cut"  # the connection ended after something of the answer had come
    LOST = "lost"  # the connection ended before
    REFUSED = "refused"  # no connection
    SILENT = "silent"  # nothing ended for longer than anything may take


@dataclass(slots=True, kw_only=True)
class Outcome:
    """Times are seconds since the load began.

    Attributes:
        number: Of the ask; negative: no ask of the corpus, but a bad request.
        manner: How the client behaved.
        status: HTTP's; 0: there was none.
        error: What was said, or what happened to the connection.
        differs: What of the answer is not as known; of one that ended early, of its beginning.
    """

    number: int
    family: str
    api: str
    manner: str
    request_id: str
    begin_s: float
    first_s: float | None = None
    end_s: float = 0.0
    ending: Ending = Ending.FINISHED
    status: int = 0
    error: str = ""
    differs: str = ""
    num_tokens: int = 0
    is_retryable: bool = False  # the server said that the same may be tried again
