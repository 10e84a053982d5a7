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
ModelEntry = Annotated[
    str | None, typer.Option("--model-entry", metavar="NAME", help="Of a file with several: the entry of `models`.")
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


def load_one_model(
    path: Path | None, overrides: list[str] | None, *, entry: str | None, model: str | None = None
) -> BatonConfig:
    """As `load_config`, of one model.

    Args:
        entry: Of `models`, where the file has them.
    Raises: ConfigError: there are several and none is named, or there is none of that name.
    """
    config = load_config(path, overrides, model=model)
    if not config.models:
        if entry is not None:
            raise ConfigError(f"--model-entry {entry}: the config has no `models`; leave it out")
        return config
    known = ", ".join(config.models)
    if entry is None:
        raise ConfigError(f"models: are several, and this command looks at one; choose with --model-entry: {known}")
    if entry not in config.models:
        raise ConfigError(f"--model-entry {entry}: is no entry of `models`; choose one of {known}")
    return config.models[entry].config
