"""From a folder to a model that is ready to run, or an error that names what is wrong with it.

Model code is transformers' own. Weights come from safetensors, from a GGUF file, or from a seed (`load_format: dummy`).
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from baton.errors import ConfigError
from workers.model import binding, specs, start_report
from workers.model.device_limits import check_gpu
from workers.model.device_memory import available_bytes, mib
from workers.model.fingerprint import fingerprint, indices, samples_of
from workers.model.gguf.folder import gguf_source
from workers.model.hybrid.families import state_shapes
from workers.model.kv_store import LayerShape, Shape
from workers.model.lora.linears import Linears, linears_of
from workers.model.places import Place
from workers.model.state_shape import StateShape
from workers.model.stored import NotPlainError, Stored, load_stored
from workers.model.tensor_parallel.build import build_share
from workers.model.tensor_parallel.division import ByHeads, Division
from workers.model.tensor_parallel.fill import draw, drawn_modules, fill_dummy, fill_stored, sampled_of_all
from workers.model.tensor_parallel.ranks import Ranks
from workers.model.tensor_parallel.shard import Shard
from workers.model.tensor_parallel.share import num_kv_heads
from workers.spec import WorkerSpec

logger = logging.getLogger(__name__)

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    model: nn.Module  # a causal language model of transformers, in eval mode
    config: Any
    shapes: Sequence[Shape]  # of what this process holds
    whole_shapes: Sequence[Shape]  # of all ranks together
    num_shares: int  # in how many the layers' KV heads are divided
    begin: Callable[[], None]  # from now on all ranks compute together
    layers: Sequence[int]  # whose KV or states this process keeps
    place: Place  # of the heads that it keeps of them
    eos_token_ids: frozenset[int]
    fingerprint: str
    linears: Linears  # that adapters may be for
    dtype: torch.dtype
    device: torch.device


def load_model(spec: WorkerSpec, ranks: Ranks | None = None, division: Division | None = None) -> LoadedModel:
    """Loads `spec.model` on `spec.device`, or what one of several ranks holds of it.

    Args:
        division: What that is; None: by heads, as `spec.gang.tensor_parallel` says.

    Raises:
        ConfigError: Names the file, feature, device, degree or number of bytes that is missing or cannot be served.
    """
    folder = Path(spec.model)
    device = _device(spec.device)
    dtype = _dtype(spec.dtype)
    if device.type == "cuda":
        name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
        check_gpu(name, capability, spec.dtype, torch.cuda.get_arch_list())
    config = read_config(folder)
    specs.weight_scheme(folder)
    division = division or ByHeads(spec.gang.tensor_parallel, ranks)
    division.check(config)
    if spec.engine.max_model_len is not None:
        specs.check_length(config, spec.engine.max_model_len)
    binding.register()
    if ranks is None:
        weights = _whole(config, spec, dtype, device)
    else:
        weights = _share(config, spec, dtype, device, ranks, division)
    model = weights.model.eval().requires_grad_(False)
    shapes = binding.probe(model, device)
    num_shares = num_kv_heads(config) // num_kv_heads(model.config)
    return LoadedModel(
        model=model,
        config=config,
        shapes=shapes,
        whole_shapes=_whole_shapes(shapes, weights.whole, num_shares),
        num_shares=num_shares,
        begin=weights.begin,
        layers=division.layers(len(shapes)),
        place=division.place,
        eos_token_ids=specs.eos_token_ids(folder, config),
        fingerprint=fingerprint(config, dtype, weights.whole, weights.samples),
        linears=linears_of(weights.whole, weights.shards),
        dtype=dtype,
        device=device,
    )


def _whole_shapes(shapes: Sequence[Shape], whole: nn.Module, num_shares: int) -> Sequence[Shape]:
    """Of all ranks together, of which this one's layers are `shapes`."""
    states = state_shapes(whole)
    return [
        states[layer]
        if isinstance(shape, StateShape)
        else LayerShape(num_kv_heads=shape.num_kv_heads * num_shares, head_dim=shape.head_dim)
        for layer, shape in enumerate(shapes)
    ]


class _Weights(NamedTuple):
    model: nn.Module
    whole: nn.Module  # the same, or of a share the model on the device `meta`
    samples: Tensor
    begin: Callable[[], None]
    shards: Mapping[str, Shard]  # of each weight that this rank has a part of; none: it has all


def _whole(config: Any, spec: WorkerSpec, dtype: torch.dtype, device: torch.device) -> _Weights:
    if spec.load_format == "dummy":
        model = _dummy(config, spec, dtype, device)
        return _Weights(model, model, samples_of(model), lambda: None, {})
    model, whole = _stored(config, spec, dtype, device)
    return _Weights(model, whole, samples_of(whole, model), lambda: None, {})


def _share(
    config: Any, spec: WorkerSpec, dtype: torch.dtype, device: torch.device, ranks: Ranks, division: Division
) -> _Weights:
    """What this rank holds."""
    folder = Path(spec.model)
    if gguf_source(folder):
        raise ConfigError(
            f"{division.name}: {ranks.size} is not supported for GGUF files, which are read whole; give a folder with "
            f"safetensors, or set {division.name}: 1"
        )
    files = _weight_files(folder) if spec.load_format != "dummy" else []
    made = (_auto_model(), config, ranks, division)
    share = build_share(*made, dtype=dtype, device=device, attention=binding.ATTENTION)
    num_shares = num_kv_heads(config) // num_kv_heads(share.model.config)
    _check_memory(share.num_parameters * dtype.itemsize, spec, device, num_shares)
    if spec.load_format == "dummy":
        fill_dummy(share, spec.seed, device)
    else:
        num_bytes = fill_stored(share, files, specs.weight_scheme(folder), device)
        logger.info("read this rank's weights rank=%d num_bytes=%d", ranks.rank, num_bytes)
    shards = {name: shard for name, (_, shard) in share.weights.items()}
    return _Weights(share.model, share.whole, sampled_of_all(share, ranks, indices), share.total.begin, shards)


def _device(name: str) -> torch.device:
    if name not in ("cpu", "cuda"):
        raise ConfigError(f"device: {name!r} is unknown; set cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device: cuda is asked for, but torch {torch.__version__} sees no CUDA device; set device: cpu, or "
            "install a CUDA build of torch on a machine with a GPU"
        )
    return torch.device(name)


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ConfigError(f"dtype: {name!r} is unknown; set one of {', '.join(DTYPES)}")
    return DTYPES[name]


def read_config(folder: Path) -> Any:
    """Of a model that can be served, transformers' config. Raises: ConfigError."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if not (folder / "config.json").is_file():
        raise ConfigError(f"model: {folder} has no config.json; give a bundled name, a model folder, or a Hub id")
    try:
        config = specs.text_config(AutoConfig.from_pretrained(folder, local_files_only=True))
    except (ValueError, KeyError, OSError) as error:
        raise ConfigError(f"model: {folder}/config.json cannot be read: {str(error).splitlines()[0]}") from error
    except StrictDataclassError as error:  # a field that transformers does not take
        told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        specs.check_layer_types(told.get("model_type", ""), told.get("layer_types") or ())
        words = " ".join(str(error).split())
        raise ConfigError(f"model: {folder}/config.json cannot be read: {words}") from None
    specs.check_supported(config, set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    is_known = getattr(model_class, "_supports_attention_backend", False) or config.model_type in specs.LINEAR_FAMILIES
    if not is_known:
        raise ConfigError(
            f"model: {model_class.__name__} does not go through transformers' attention interface; give another model"
        )
    return config


def _stored(config: Any, spec: WorkerSpec, dtype: torch.dtype, device: torch.device) -> Stored:
    folder = Path(spec.model)
    if spec.load_format != "auto":
        raise ConfigError(f"load_format: {spec.load_format!r} is unknown; set auto or dummy")
    source = gguf_source(folder)
    if source is None:
        files = _weight_files(folder)
        auto_model = _auto_model()
        try:
            return load_stored(
                lambda: auto_model.from_config(config, dtype=dtype, attn_implementation=binding.ATTENTION),
                files,
                specs.weight_scheme(folder),
                dtype=dtype,
                device=device,
                keeps=partial(_keeps, dtype, device),
                check_memory=lambda num_bytes: _check_memory(num_bytes, spec, device),
            )
        except NotPlainError:
            logger.info("weights are left to transformers to load model=%s", folder)
    num_parameters = source.num_parameters if source else specs.num_parameters(specs.weight_files(folder))
    _check_memory(num_parameters * dtype.itemsize, spec, device)
    model, report = _dequantized(folder, config, dtype) if source else _from_safetensors(folder, dtype)
    missing = sorted(report["missing_keys"])
    if missing:
        raise ConfigError(
            f"model: {folder} lacks {len(missing)} weights of {type(model).__name__}, the first is {missing[0]}; "
            "fetch the folder again"
        )
    module: nn.Module = model.to(device)
    return Stored(module, module)


def _weight_files(folder: Path) -> list[Path]:
    """Raises: ConfigError: there are none, or one is cut short."""
    files = specs.weight_files(folder)
    specs.num_parameters(files)
    return files


def _keeps(dtype: torch.dtype, device: torch.device, values: torch.dtype) -> bool:
    """Whether weights that are stored as `values` stay so on the device."""
    if device.type != "cuda":
        return False
    from workers.model.cuda.scaled import can_keep

    return can_keep(values, dtype, torch.cuda.get_device_capability(device))


def _from_safetensors(folder: Path, dtype: torch.dtype) -> tuple[nn.Module, dict[str, Any]]:
    model, report = _auto_model().from_pretrained(
        folder,
        dtype=dtype,
        attn_implementation=binding.ATTENTION,
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
    )
    return model, report


def _dequantized(folder: Path, config: Any, dtype: torch.dtype) -> tuple[nn.Module, dict[str, Any]]:
    from workers.model.gguf.reading import load_gguf, read_once

    _auto_model()
    with read_once():
        return load_gguf(folder, config, dtype, binding.ATTENTION)


def _dummy(config: Any, spec: WorkerSpec, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """Random weights, the same on every worker that has the same config, seed and kind of device."""
    from transformers.initialization import no_init_weights

    auto_model = _auto_model()
    with torch.device("meta"):
        empty = auto_model.from_config(config, dtype=dtype, attn_implementation=binding.ATTENTION)
    _check_memory(sum(p.numel() for p in empty.parameters()) * dtype.itemsize, spec, device)
    with no_init_weights(), device:
        model: nn.Module = auto_model.from_config(config, dtype=dtype, attn_implementation=binding.ATTENTION)
    model.tie_weights()  # type: ignore[operator]
    for name, module in drawn_modules(model):
        draw(model, name, module, spec.seed, device)
    return model


def _auto_model() -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    quiet: Any = logging
    quiet.disable_progress_bar()
    return AutoModelForCausalLM


def _check_memory(weights_bytes: int, spec: WorkerSpec, device: torch.device, num_shares: int = 1) -> None:
    """`num_shares`: in how many engine.memory is divided, of which this process takes one."""
    available = available_bytes(device)
    kv_bytes = spec.engine.memory_bytes // num_shares
    report = start_report.current()
    report.note(start_report.WEIGHTS, weights_bytes)
    report.note(start_report.KV, kv_bytes)
    needed = weights_bytes + kv_bytes
    if needed > available:
        raise ConfigError(
            f"engine.memory: {mib(kv_bytes)} of KV blocks and {mib(weights_bytes)} of weights make "
            f"{mib(needed)}, but only {mib(available)} are available on {device.type}; "
            "lower engine.memory, or give a smaller model"
        )
