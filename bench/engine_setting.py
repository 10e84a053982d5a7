"""What all sides of `bench.engine` are given."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.engine_points import Point, PointKind
from bench.rates import Rates
from cluster.planner.models.model_spec import ModelSpec
from workers.model.cache_folder import cache_folder

MIN_MODEL_LEN = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What all sides are given."""

    name: str
    folder: Path
    model: ModelSpec
    is_dummy: bool
    points: Sequence[Point]
    cores: Sequence[int]
    rates: Rates

    @property
    def kv_bytes(self) -> int:
        """Of the largest point or one longest sequence, in float32, and blocks that are not full."""
        longest = self.max_model_len * self.model.kv_bytes_per_token * 2
        return round(1.1 * max(self.kv_bytes_of(self.points), longest))

    @property
    def max_model_len(self) -> int:
        return max(*(point.longest for point in self.points), MIN_MODEL_LEN)

    def kv_bytes_of(self, points: Sequence[Point]) -> int:
        return max(point.kv_tokens for point in points) * self.model.kv_bytes_per_token * 2

    def settings(self, side: str, dtype: str, gguf: Path | None, form: str) -> dict[str, Any]:
        return {
            "side": side,
            "folder": str(self.folder),
            "dtype": dtype,
            "load_format": "dummy" if self.is_dummy else "auto",
            "vocab": self.model.vocab_size,
            "kv_bytes": self.kv_bytes // (1 if dtype == "float32" else 2),
            "max_model_len": self.max_model_len,
            "max_sequences": max(
                (point.size for point in self.points if point.kind is not PointKind.PREFILL), default=1
            ),
            "gguf": str(gguf),
            "form": form,
            "cache": str(cache_folder("bench")),
        }
