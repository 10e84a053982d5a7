"""What a part is given, and what it says."""

import contextlib
import importlib
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


class SkippedError(Exception):
    """The part, or one item of it, cannot run here; the text says what is missing."""


def require(*modules: str) -> None:
    """Raises: SkippedError: one of them cannot be imported (protobuf says so of generated code newer than itself)."""
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # protobuf's is one of its own
            raise SkippedError(f"{module} cannot be imported: {error}; carry the wheels (--wheels)") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    name: str  # of the item within its part
    passed: bool | None  # None: a figure without a bar, or what was skipped
    text: str
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Args:
    device: cuda, or cpu for a dry run of the same code with tiny shapes.
    tell: Takes each finding as soon as there is one.
    """

    device: str
    tell: Callable[[Finding], None]

    @property
    def is_dry(self) -> bool:
        return self.device == "cpu"

    def figure(self, name: str, text: str, **figures: float) -> None:
        self.tell(Finding(name=name, passed=None, text=text, figures=figures))

    def judge(self, name: str, passed: bool, text: str, **figures: float) -> None:
        self.tell(Finding(name=name, passed=passed, text=text, figures=figures))

    @contextlib.contextmanager
    def item(self, name: str) -> Iterator[None]:
        """What goes wrong within is this item's failure; the part goes on."""
        try:
            yield
        except SkippedError as why:
            self.tell(Finding(name=name, passed=None, text=f"skipped: {why}"))
        except Exception as error:  # whatever it is, it is what this check is there to find
            traceback.print_exc()
            first = (str(error).splitlines() or [""])[0]
            self.tell(Finding(name=name, passed=False, text=f"{type(error).__name__}: {first}"[:300]))
