"""Where a model's folder is: a bundled name, a local folder, or a Hub id.

Imports no torch: the control plane resolves names too.
"""

from pathlib import Path

from baton.errors import ConfigError

BUNDLED = Path(__file__).parent / "bundled"
BUNDLED_NAMES = ("demo", "demo-draft")
PATTERNS = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")


def resolve_model(name: str) -> Path:
    """The folder that holds `config.json` of the model.

    Raises:
        ConfigError: No such folder, or a Hub id that is neither in the local cache nor can be fetched.
    """
    if name in BUNDLED_NAMES:
        return _checked(BUNDLED / name, f"model: the bundled model {name!r} is not installed")
    if Path(name).expanduser().is_dir():
        return _checked(Path(name).expanduser().resolve(), f"model: {name!r}")
    if name.startswith(("/", ".", "~")) or name.count("/") != 1:
        raise ConfigError(f"model: {name!r} is no folder; give {_choices()}")
    return _from_hub(name)


def _checked(folder: Path, what: str) -> Path:
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{what}: {folder} has no config.json; give {_choices()}")
    return folder


def _choices() -> str:
    return f"a bundled name ({', '.join(BUNDLED_NAMES)}), a folder with config.json and safetensors, or a Hub id"


def _from_hub(repo_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo_id, allow_patterns=list(PATTERNS)))
    except LocalEntryNotFoundError as error:
        raise ConfigError(
            f"model: {repo_id!r} is not in the local Hub cache and the Hub cannot be reached; "
            "download it on a machine with a network and give its folder"
        ) from error
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"model: {repo_id!r} was not found on the Hub ({reason}); give {_choices()}") from error
