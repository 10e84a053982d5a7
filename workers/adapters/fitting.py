"""Whether an adapter fits a base model: each layer that it adapts is there, linear and of its size, none left out.

No torch: the model is a list of names.
"""

from collections.abc import Mapping

from baton.errors import ConfigError
from workers.adapters.peft_folder import AdapterFile, Pair

HEAD = "lm_head"


def check_fits(adapter: AdapterFile, linears: Mapping[str, tuple[int, int]], others: Mapping[str, str]) -> None:
    """
    Args:
        linears: (outputs, inputs) of each linear layer of the base model, by name.
        others: What kind every other module is, by name.
    Raises:
        ConfigError: Names the layer, what is wrong with it, and the fix.
    """
    where = f"adapters.{adapter.name}: {adapter.folder} "
    _check_head(adapter, where)
    for module, pair in adapter.pairs.items():
        if module not in linears:
            raise ConfigError(where + _why_not(module, others))
        _check_size(module, pair, linears[module], where)
    missing = [
        name for name in linears if name not in adapter.pairs and adapter.config.is_target(name, is_head=name == HEAD)
    ]
    if missing:
        raise ConfigError(
            f"{where}lacks the tensors of {len(missing)} layers that target_modules names, the first is {missing[0]}: "
            "it is not whole, or of another base model; copy the folder again, or give one trained on this model"
        )


def check_shapes(adapter: AdapterFile, weights: Mapping[str, tuple[int, ...]]) -> None:
    """Before a model is there: of the layers whose weights the base model's files have under the same name.

    Args:
        weights: Shapes by the names in those files.
    """
    where = f"adapters.{adapter.name}: {adapter.folder} "
    _check_head(adapter, where)
    for module, pair in adapter.pairs.items():
        shape = weights.get(f"{module}.weight", ())
        if len(shape) == 2:
            _check_size(module, pair, (shape[0], shape[1]), where)


def _check_size(module: str, pair: Pair, shape: tuple[int, int], where: str) -> None:
    if (pair.out_features, pair.in_features) != shape:
        raise ConfigError(
            f"{where}adapts {module} as a layer of {pair.in_features} inputs and {pair.out_features} outputs, which "
            f"has {shape[1]} and {shape[0]} here: it is of another base model; give one trained on this model"
        )


def _check_head(adapter: AdapterFile, where: str) -> None:
    if HEAD in adapter.pairs:
        raise ConfigError(
            f"{where}adapts {HEAD}, the output layer, which is not supported; train without it in target_modules"
        )


def _why_not(module: str, others: Mapping[str, str]) -> str:
    kind = others.get(module)
    if kind is not None:
        return f"adapts {module}, a {kind}, no linear layer; train without it in target_modules"
    parent = module.rpartition(".")[0]
    while parent and parent not in others:
        parent = parent.rpartition(".")[0]
    if "Experts" in others.get(parent, "") or ".experts" in module:
        return (
            f"adapts {module}, a weight of experts, which is not supported; train with attention's layers alone in "
            "target_modules"
        )
    return f"adapts {module}, which this model has not: it is of another base model; give one trained on this model"
