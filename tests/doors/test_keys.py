"""The keys file, and which key a request carries."""

import time
from pathlib import Path

import pytest
import yaml

from baton.errors import ConfigError, UnauthenticatedError
from cluster.config.api_keys import parse_keys, plain_keys
from cluster.config.load import dump, from_tree, loads
from cluster.doors.key_file import change_keys, hashed, new_key, read_keys
from cluster.doors.key_ring import KeyRing

KEY = "bt-" + "5" * 64


def entry(**fields: object) -> dict[str, object]:
    return {"name": "alice", "sha256": hashed(KEY)} | fields


def test_a_key_is_found_by_its_header_whatever_the_case_of_its_scheme() -> None:
    ring = KeyRing(parse_keys([entry(), entry(name="bob", sha256=hashed(new_key()))], "auth.keys"))
    for header in (f"Bearer {KEY}", f"bearer {KEY} "):
        assert ring.find(header).name == "alice"


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        KEY,
        f"Basic {KEY}",
        "Bearer",
        "Bearer ",
        f"Bearer {KEY[:-1]}",
        f"Bearer {KEY}0",
        "Bearer \ud800",
        "B" * 5000,
    ],
)
def test_another_header_is_refused_and_not_shown(header: str | None) -> None:
    ring = KeyRing(parse_keys([entry()], "auth.keys"))
    with pytest.raises(UnauthenticatedError) as caught:
        ring.find(header)
    assert "bt-" not in str(caught.value)
    assert "555" not in str(caught.value)


def test_a_key_ends_when_it_expires() -> None:
    (key,) = parse_keys([entry(expires="2030-01-31")], "auth.keys")
    assert KeyRing([key], clock=lambda: key.expires_s - 1).find(f"Bearer {KEY}") is key
    with pytest.raises(UnauthenticatedError, match="alice has expired"):
        KeyRing([key], clock=lambda: key.expires_s).find(f"Bearer {KEY}")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"sha256": hashed(KEY)}, r"keys\[0\].name: is no name"),
        (entry(name="a b"), r"keys\[0\].name: is no name"),
        (entry(name=KEY[:40]), "begins as a key does"),
        (entry(sha256=KEY), "is no SHA-256"),
        ({"name": "alice"}, r"keys\[0\].sha256: is no SHA-256"),
        (entry(key=KEY), "a key itself is never written down"),
        (entry(modells=[]), "did you mean `models`"),
        (entry(models="demo"), "is no list of model names"),
        (entry(requests_per_minute=0), "requests_per_minute: 0 is no limit"),
        (entry(max_concurrent=True), "max_concurrent: True is no limit"),
        (entry(tokens_per_minute=1.5), "tokens_per_minute: 1.5 is no limit"),
        (entry(expires="soon"), "expires: is no date"),
        (entry(expires=0), "expires: is no date"),
        (entry(expires=False), "expires: is no date"),
        (entry(**{KEY: "alice"}), r"keys\[0\].\?: unknown key"),
        ("alice", "is no entry of a key"),
    ],
)
def test_a_wrong_entry_is_refused_by_name_and_no_key_is_shown(row: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        parse_keys([row], "auth.keys")
    assert KEY not in str(caught.value)


def test_two_keys_cannot_have_one_name_or_one_hash() -> None:
    with pytest.raises(ConfigError, match=r"\[1\].name: has the name of auth.keys\[0\]"):
        parse_keys([entry(), entry(sha256=hashed(new_key()))], "auth.keys")
    with pytest.raises(ConfigError, match=r"\[1\].sha256: has the hash of"):
        parse_keys([entry(), entry(name="bob")], "auth.keys")


def test_a_key_in_a_place_where_none_belongs_is_not_shown() -> None:
    for tree in ({"auth": KEY}, {"auth": {"public_metrics": KEY}}, {"http": {"port": KEY}}):
        with pytest.raises(ConfigError, match="bt-") as caught:
            from_tree(tree)
        assert KEY[:12] not in str(caught.value)


def test_keys_in_a_config_are_read_and_written_back() -> None:
    row = entry(models=["demo"], requests_per_minute=60, tokens_per_minute=1000, max_concurrent=2, expires="2030-01-31")
    config = from_tree({"auth": {"keys": [row], "keys_file": "keys.yaml"}})
    assert loads(dump(config)) == config
    assert config.auth.keys[0].limits.max_concurrent == 2
    assert config.auth.keys_file == str(Path("keys.yaml").absolute())
    assert plain_keys(config.auth.keys)[0]["expires"] == "2030-01-31T00:00:00+00:00"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("keys: [", "is no YAML"),
        ("- a", "has not `keys:` alone"),
        ("key: []", "has not `keys:` alone"),
        ("keys: 3", "is no list of keys"),
        ("keys: []\nkeys: []", "a field that stands twice"),
        ("keys: [{name: alice, expires: 2030-02-31}]", "has a value that cannot be"),
        ("keys: !!int alice", "has a value that cannot be"),
        ("keys: !!bool alice", "has a value that cannot be"),
        ("keys: !!timestamp alice", "has a value that cannot be"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE\n", "^((?!MIIE).)*$"),
    ],
)
def test_a_broken_file_is_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_keys(str(path))
    with pytest.raises(ConfigError, match="does not exist; `baton key create"):
        read_keys(str(tmp_path / "other"))


def test_a_file_is_its_owners_alone_and_keeps_the_mode_that_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    change_keys(path, lambda keys: [*keys, *parse_keys([entry()], "x")])
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    change_keys(path, lambda keys: [*keys, *parse_keys([entry(name="bob", sha256=hashed("x"))], "x")])
    assert path.stat().st_mode & 0o777 == 0o640
    assert [key.name for key in read_keys(str(path))] == ["alice", "bob"]
    assert KEY not in path.read_text()
    assert set(yaml.safe_load(path.read_text())["keys"][0]) == {"name", "sha256"}


def test_a_key_costs_a_request_microseconds() -> None:
    ring = KeyRing(parse_keys([entry(name=f"k{n}", sha256=hashed(str(n))) for n in range(1000)] + [entry()], "k"))
    header = f"Bearer {KEY}"
    begin_s = time.perf_counter()
    for _ in range(2000):
        ring.find(header)
    assert (time.perf_counter() - begin_s) / 2000 < 100e-6  # some 4 us on a quiet machine, however many keys there are
