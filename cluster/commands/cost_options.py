"""The options that say what a step costs: a measured profile, or a device's data sheet."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from baton.errors import ConfigError

if TYPE_CHECKING:
    from cluster.planner.costs.fitted import Profile

FAKE = "fake/"  # how fingerprints of `load_format: fake` begin: its shapes are no model's
PANEL = "Costs of a step (one of)"


@dataclass(frozen=True, slots=True, kw_only=True)
class CostOptions:
    hardware: Annotated[
        str | None, typer.Option(help="A device by its data sheet: h200, a100-80g, ...", rich_help_panel=PANEL)
    ] = None
    profile: Annotated[Path | None, typer.Option(help="What `baton profile` measured.", rich_help_panel=PANEL)] = None

    def check(self) -> None:
        """Raises: ConfigError: not one of them."""
        if (self.profile is None) is (self.hardware is None):
            given = "both were given" if self.profile is not None else "neither was given"
            raise ConfigError(f"--hardware NAME or --profile FILE: {given}; give one of them")


def read_profile(path: Path) -> "Profile":
    """Raises: ConfigError: no file, or none that `baton profile` of this version wrote."""
    from cluster.planner.costs.fitted import Profile

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(f"--profile {path} cannot be read: {reason}; make one with `baton profile`") from error
    try:
        profile = Profile.from_text(text, f"--profile {path}")
    except ConfigError as error:
        if error.message.startswith("--profile"):
            raise
        raise ConfigError(f"--profile {path}: {error.message}; run `baton profile` again") from error
    for name in ("token_bytes", "num_layers", "max_model_len"):
        if getattr(profile, name) < 1:
            raise ConfigError(
                f"--profile {path}: {name} {getattr(profile, name)} must be 1 or more; run `baton profile` again"
            )
    return profile


def check_profile(profile: "Profile", model: str) -> None:
    """That the profile is of the model's weights, as far as that shows without torch.

    The fingerprint in a profile is of loaded weights, so where `config.json` is at hand its shapes are compared: they
    tell another model of the same name, not the same model after more training.

    Raises:
        ConfigError: It is of something else.
    """
    from cluster.models.model_file import read_model_spec
    from cluster.planner.models.known_models import CONFIGS
    from workers.model.registry import BUNDLED_NAMES, is_path

    profile.check_model(model)
    is_at_hand = model in BUNDLED_NAMES or model in CONFIGS or is_path(model)
    if not is_at_hand or profile.fingerprint.startswith(FAKE):
        return
    spec = read_model_spec(model, dtype=profile.dtype).with_kv(profile.kv_dtype)
    for what, measured, here in (
        ("layers with KV", profile.num_layers, spec.num_kv_layers),
        ("bytes of KV per token", profile.token_bytes, spec.kv_bytes_per_token),
        ("bytes of states per sequence", profile.state_bytes, spec.state_bytes),
    ):
        if measured != here:
            raise ConfigError(
                f"the profile is of other weights than {model}'s here: {measured} {what}, config.json makes it {here}; "
                f"run `baton profile --model {model}` again"
            )
    if profile.max_model_len > spec.max_model_len:
        raise ConfigError(
            f"the profile is of other weights than {model}'s here: a context of {profile.max_model_len} tokens, "
            f"config.json says {spec.max_model_len}; run `baton profile --model {model}` again"
        )
