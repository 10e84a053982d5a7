"""Generates `baton/v1/` from `proto/baton/v1/`:  python -m tools.generate_proto [OUT]."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def generate(out: Path) -> None:
    """Writes *_pb2.py, *_pb2.pyi and *_pb2_grpc.py below `out`/baton/v1."""
    sources = sorted(str(path) for path in (ROOT / "proto" / "baton" / "v1").glob("*.proto"))
    outs = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", *outs, *sources], check=True)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
