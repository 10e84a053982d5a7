"""Plain YAML of the chart, for those who do not run Helm: a file for each of the chart's ci/.

    python -m tools.manifests FOLDER [VALUES.yaml ...]

A file that makes Secrets is left out: they would stand in it in plain text.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.get_helm import find_helm

CHART = Path(__file__).parents[1] / "helm" / "baton"


def value_files() -> list[Path]:
    return [path for path in sorted((CHART / "ci").glob("*.yaml")) if path.stem != "made-secrets"]


def render(helm: str, values: Path) -> str:
    """Without the test, which is for `helm test`. Raises: subprocess.CalledProcessError: Helm refuses the values."""
    command = [helm, "template", "baton", str(CHART), "--values", str(values), "--no-hooks"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def main(folder: str = "", *values: str) -> int:
    helm = find_helm()
    if not folder or helm is None:
        print(__doc__ if not folder else "helm is not here; `python -m tools.get_helm` fetches it", file=sys.stderr)
        return 2
    return _write(helm, Path(folder), [Path(path) for path in values] or value_files())


def _write(helm: str, folder: Path, files: Sequence[Path]) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    for values in files:
        try:
            text = render(helm, values)
        except subprocess.CalledProcessError as error:
            print(f"{values}: {error.stderr.strip()}", file=sys.stderr)
            return 1
        target = folder / f"{values.stem}.yaml"
        target.write_text(text, encoding="utf-8")
        print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
