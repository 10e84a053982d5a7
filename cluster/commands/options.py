"""Options that several cluster commands share."""

from pathlib import Path
from typing import Annotated

import typer

from baton.errors import ConfigError
from cluster.config.schema import BatonConfig

ConfigPath = Annotated[
    Path | None,
    typer.Argument(metavar="CLUSTER.YAML", help="Without one: the model smollm2, 1 + 1 workers."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the file, e.g. pools.decode.workers=2."),
]
DrainTimeout = Annotated[float, typer.Option(min=0.0, help="Seconds that running requests may go on.")]


def load_config(path: Path | None, overrides: list[str] | None, *, model: str | None = None) -> BatonConfig:
    """
    Args:
        model: Instead of the file's.
    Raises:
        ConfigError: See `cluster.config.load.load`; or the model is named twice.
    """
    from cluster.config.load import load

    pairs = {}
    for text in overrides or ():
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise ConfigError(f"--set {text}: is not KEY=VALUE; e.g. --set http.port=0")
        pairs[key.strip()] = value
    if model is not None:
        if "model" in pairs:
            raise ConfigError(f"--model {model} and --set model={pairs['model']} name two models; give one of them")
        pairs["model"] = model
    return load(path, pairs)
