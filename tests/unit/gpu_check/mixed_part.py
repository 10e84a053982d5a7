"""A part for tests: an item that passes, one that fails, one that raises, one that cannot run."""

from bench.gpu_check.check import Check, SkippedError


def run(check: Check) -> None:
    print("what libraries print is no finding")
    check.judge("good", True, "as it should be", seconds=1.5)
    check.judge("bad", False, "not | as it should be")
    with check.item("raises"):
        raise ValueError("the first line\nand a second")
    with check.item("absent"):
        raise SkippedError("no such library")
