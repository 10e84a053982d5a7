"""Where a model's folder is: a bundled name, one that `baton fetch` brought, a local folder, a GGUF file, or a Hub id.

Imports no torch: the control plane resolves names too.
"""

import contextlib
import json
from pathlib import Path

from baton.errors import ConfigError
from workers.model.cache_folder import cache_folder
from workers.model.gguf.folder import SUFFIX, find_gguf, gguf_folder
from workers.model.quantized.formats import scheme_of

BUNDLED = Path(__file__).parent / "bundled"
BUNDLED_NAMES = ("demo", "demo-draft", "demo-hybrid")
FETCHED = {"smollm2": "smollm2-0.1.2-2"}  # name -> its folder in the cache; the last number is of our conversion
PATTERNS = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")


def resolve_model(name: str) -> Path:
    """The folder that holds `config.json` of the model.

    Raises:
        ConfigError: No such folder, or a Hub id that is neither in the local cache nor can be fetched.
    """
    if name in BUNDLED_NAMES:
        return _checked(BUNDLED / name, f"model: the bundled model {name!r} is not installed")
    if name in FETCHED:
        return _fetched(name)
    path = Path(name).expanduser()
    file = find_gguf(path)
    if file is not None:
        return gguf_folder(file)
    if path.is_dir():
        return _checked(path.resolve(), f"model: {name!r}")
    if path.suffix == ".json" and path.is_file():
        raise ConfigError(f"model: {name!r} is enough for `baton plan`; to serve it, give its folder, with weights")
    if path.suffix.lower() == SUFFIX:
        raise ConfigError(f"model: {name!r} is no file; give the path of a GGUF file that is there")
    if name.startswith(("/", ".", "~")) or name.count("/") != 1:
        raise ConfigError(f"model: {name!r} is no folder; give {_choices()}")
    return _from_hub(name)


def fetched_folder(name: str) -> Path:
    """Where `baton fetch` puts this model; it is whole if it is there."""
    return cache_folder("models") / FETCHED[name]


def is_path(name: str) -> bool:
    """Whether a model's name means something on this machine's disk, rather than a known name or a Hub id."""
    return name not in BUNDLED_NAMES and name not in FETCHED and Path(name).expanduser().exists()


def _fetched(name: str) -> Path:
    folder = fetched_folder(name)
    if not folder.is_dir():
        raise ConfigError(f"model: {name!r} has not been fetched to {folder}; run `baton fetch {name}`")
    return folder


def _checked(folder: Path, what: str) -> Path:
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{what}: {folder} has no config.json; give {_choices()}")
    return folder


def _choices() -> str:
    names = ", ".join((*FETCHED, *BUNDLED_NAMES))
    return f"a bundled name ({names}), a folder with config.json and safetensors, a GGUF file, or a Hub id"


def _from_hub(repo_id: str) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        with contextlib.suppress(EntryNotFoundError):  # `_checked` says it
            _check_weights(Path(hf_hub_download(repo_id, "config.json")))
        folder = Path(snapshot_download(repo_id, allow_patterns=list(PATTERNS)))
    except LocalEntryNotFoundError as error:
        raise ConfigError(
            f"model: {repo_id!r} is not in the local Hub cache and the Hub cannot be reached; "
            "download it on a machine with a network and give its folder"
        ) from error
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"model: {repo_id!r} was not found on the Hub ({reason}); give {_choices()}") from error
    return _checked(folder, f"model: {repo_id!r}, as the Hub has it")


def _check_weights(config: Path) -> None:
    """Before gigabytes of them are fetched. Raises: ConfigError: they are quantized in a way that is not served."""
    with contextlib.suppress(ValueError):  # no JSON: whoever reads the folder says it
        told = json.loads(config.read_text(encoding="utf-8"))
        if isinstance(told, dict):
            scheme_of(told)
