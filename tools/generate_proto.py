"""Generates `baton/v1/` from `proto/baton/v1/`:  python -m tools.generate_proto [OUT]."""

import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

ROOT = Path(__file__).resolve().parent.parent
PUBLIC = ROOT / "proto" / "baton" / "v1" / "inference.proto"


def generate(out: Path) -> None:
    """Writes *_pb2.py, *_pb2.pyi and *_pb2_grpc.py below `out`/baton/v1."""
    sources = sorted(str(path) for path in (ROOT / "proto" / "baton" / "v1").glob("*.proto"))
    _protoc(*(f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")), *sources)


def public_file() -> FileDescriptorProto:
    """The public proto, comments included."""
    with tempfile.NamedTemporaryFile(suffix=".binpb") as file:
        _protoc("--include_source_info", f"--descriptor_set_out={file.name}", str(PUBLIC))
        return FileDescriptorSet.FromString(Path(file.name).read_bytes()).file[0]


def _protoc(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", *arguments], check=True)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
