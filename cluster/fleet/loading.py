"""How far a worker that starts is with its weights, and how fast they come; pure."""

from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """Of all ranks of a worker together.

    Attributes:
        weights_bytes: 0: not known yet.
        began: When bytes were first told of, in seconds, and how many were in place by then.
    """

    loaded_bytes: int = 0
    weights_bytes: int = 0
    bytes_per_s: float = 0.0  # since it began
    began: tuple[float, int] | None = None

    def told(self, ranks: Iterable[tuple[int, int]], now_s: float) -> "Loading":
        """What it is once each rank has told (bytes in place, bytes in all)."""
        counts = list(ranks)
        done, total = sum(one for one, _ in counts), sum(one for _, one in counts)
        if not total:
            return self
        began = self.began or (now_s, done)
        took_s = now_s - began[0]
        speed = (done - began[1]) / took_s if took_s > 0 and done > self.loaded_bytes else self.bytes_per_s
        return replace(self, loaded_bytes=done, weights_bytes=total, bytes_per_s=speed, began=began)


NOT_LOADING = Loading()
