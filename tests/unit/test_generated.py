from pathlib import Path

import pytest

from tools.generate_proto import ROOT, generate


def test_the_checked_in_protobuf_code_is_what_the_protos_give(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    generate(tmp_path)
    fresh = {path.name: path.read_text() for path in (tmp_path / "baton" / "v1").iterdir()}
    kept = {path.name: path.read_text() for path in (ROOT / "baton" / "v1").glob("*_pb2*")}
    assert fresh.keys() == kept.keys()
    assert [name for name in fresh if fresh[name] != kept[name]] == [], "run `python -m tools.generate_proto`"
