"""The LoRA adapters of a config, read before anything starts: all but what only the loaded model can say of them."""

from collections.abc import Mapping
from pathlib import Path

from baton.errors import ConfigError
from cluster.config.schema import BatonConfig
from workers.adapters.adapter import AdapterSpec
from workers.adapters.fitting import check_shapes
from workers.adapters.peft_folder import read_adapter, read_shapes


def find_adapters(config: BatonConfig, model_path: Path) -> tuple[AdapterSpec, ...]:
    """With the hash of what is in each folder.

    Args:
        model_path: Of the base model.
    Raises:
        ConfigError: Names the adapter, what is wrong with it, and the fix.
    """
    check_other_names(config)
    if not config.adapters:
        return ()
    shapes = base_shapes(config, model_path)
    return tuple(find_adapter(name, folder, shapes) for name, folder in config.adapters.items())


def find_adapter(name: str, folder: str, shapes: Mapping[str, tuple[int, ...]]) -> AdapterSpec:
    """`shapes`: of the base model's weights. Raises: ConfigError, as `find_adapters`."""
    adapter = read_adapter(name, Path(folder))
    check_shapes(adapter, shapes)
    return AdapterSpec(name=name, folder=folder, content_hash=adapter.content_hash)


def check_other_names(config: BatonConfig) -> None:
    """Raises: ConfigError: an adapter is called as the model is."""
    if config.shown_name in config.adapters:
        raise ConfigError(
            f"adapters.{config.shown_name}: is the model's own name, which requests would mean; give the adapter "
            "another, or set served_name"
        )


def base_shapes(config: BatonConfig, model_path: Path) -> dict[str, tuple[int, ...]]:
    """Of the weights in the base model's files, where they are safetensors; else the workers look."""
    if config.load_format != "auto":
        return {}
    return {
        name: shape
        for path in sorted(model_path.glob("*.safetensors"))
        for name, shape in read_shapes(path, "model: ").items()
    }
