"""A part for tests: cannot run at all."""

from bench.gpu_check.check import Check, require


def run(check: Check) -> None:
    require("json", "no_such_package_anywhere")
