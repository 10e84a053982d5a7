from collections.abc import Iterator

import pytest

from cluster.config.schema import StructuredConfig
from cluster.ingress.structured.compiler import GrammarCompiler


@pytest.fixture(scope="package")
def shared_compiler() -> Iterator[GrammarCompiler]:
    """With the defaults; its process is started once."""
    compiler = GrammarCompiler(StructuredConfig(compile_timeout_s=30))
    yield compiler
    compiler.close()
