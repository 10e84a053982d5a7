"""`baton key` as a user types it."""

from pathlib import Path

import pytest

from cluster.doors.key_file import hashed, read_keys
from tests.unit.commands.typed import refusal, typed


def test_a_key_is_made_listed_and_revoked(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    made = typed(
        *("key", "create", "alice", "--file", file, "--model", "demo", "--requests-per-minute", 60),
        *("--tokens-per-minute", 1000, "--max-concurrent", 2, "--expires", "2130-01-31"),
    )
    assert made.code == 0, made
    key = made.out.strip()
    assert key.startswith("bt-")
    assert len(key) == 67
    assert key not in made.err + file.read_text()
    (entry,) = read_keys(str(file))
    assert (entry.name, entry.sha256, entry.models) == ("alice", hashed(key), ("demo",))
    assert (entry.limits.requests_per_minute, entry.limits.tokens_per_minute, entry.limits.max_concurrent) == (
        60,
        1000,
        2,
    )
    listed = typed("key", "list", "--file", file).out
    assert "alice" in listed
    assert "2130-01-31" in listed
    assert entry.sha256 not in listed
    assert typed("key", "revoke", "alice", "--file", file).code == 0
    assert read_keys(str(file)) == ()


def test_an_entry_can_be_printed_for_a_secret_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    made = typed("key", "create", "alice", "--file", file, "--print-only")
    assert hashed(made.out.strip()) in made.err
    assert not file.exists()


def test_what_cannot_be_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    assert "does not exist; `baton key create NAME" in refusal("key", "list", "--file", file)
    typed("key", "create", "alice", "--file", file)
    assert "NAME alice: " in refusal("key", "create", "alice", "--file", file)
    assert "it has alice" in refusal("key", "revoke", "bob", "--file", file)
    assert "NAME: is no name" in refusal("key", "create", "a b", "--file", file)
    assert "--expires soon" not in refusal("key", "create", "bob", "--file", file, "--expires", "soon")
    assert "has passed" in refusal("key", "create", "bob", "--file", file, "--expires", "2020-01-01")
    assert "cannot be written" in refusal("key", "create", "bob", "--file", tmp_path / "none" / "keys.yaml")
    assert typed("key", "create", "bob", "--file", file, "--max-concurrent", 0).code == 2
    file.write_text("keys: [")
    assert "is no YAML" in refusal("key", "create", "bob", "--file", file)


def test_a_key_on_the_command_line_is_warned_of_and_one_of_the_environment_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ("generate", "Once", "--grpc", "127.0.0.1:1", "--max-tokens", 1)
    monkeypatch.setattr("baton._retry.MAX_PAUSE_S", 0.01)
    shown = typed(*words, "--api-key", "bt-shown")
    assert "--api-key shows the key in `ps`" in shown.err
    assert "bt-shown" not in shown.err + shown.out
    monkeypatch.setenv("BATON_API_KEY", "bt-hidden")
    hidden = typed(*words)
    assert "warning" not in hidden.err
    assert "bt-hidden" not in hidden.err + hidden.out


def test_a_key_goes_to_no_other_machine_in_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATON_API_KEY", "bt-hidden")
    for where in (("--url", "http://192.0.2.1:8000"), ("--grpc", "192.0.2.1:9000")):
        line = refusal("generate", "Once", *where)
        assert "192.0.2.1" in line
        assert "plain text" in line
        assert "bt-hidden" not in line


def test_a_variable_may_end_with_a_line_and_what_no_header_can_hold_is_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("baton._retry.MAX_PAUSE_S", 0.01)
    for key, words in (("bt-hidden\n", "no server answers"), ("bt-hid\nden", "a character that no key has")):
        monkeypatch.setenv("BATON_API_KEY", key)
        for where in (("--url", "http://127.0.0.1:1"), ("--grpc", "127.0.0.1:1")):
            shown = typed("generate", "Once", *where)
            assert shown.code
            assert words in shown.err
            assert "bt-hid" not in shown.err + shown.out
