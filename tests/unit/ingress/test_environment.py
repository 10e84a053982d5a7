from pathlib import Path

import pytest

from baton.errors import ConfigError
from cluster.config.schema import RouterConfig
from cluster.ingress.environment import find_haproxy, serve_environment


def test_every_port_that_serve_opens_beside_the_public_ones_is_the_os_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = serve_environment(".", haproxy=find_haproxy() is not None)
    ports = [value for name, value in settings.items() if name.endswith("_PORT")]
    assert len(set(ports)) == len(ports)
    assert not set(ports) & {"8404", "8500", "9101", "9500"}


def test_without_haproxy_the_python_proxy_still_binds_where_it_should() -> None:
    settings = serve_environment("/nowhere", "10.0.0.1", haproxy=False)
    assert settings["RAY_SERVE_ENABLE_HA_PROXY"] == "0"
    assert settings["BATON_INGRESS_HOST"] == "10.0.0.1"
    assert settings["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"] == "cluster.ingress.binding.on_proxy_start"


@pytest.mark.skipif(find_haproxy() is None, reason="no HAProxy binary on this platform")
def test_a_folder_too_long_for_a_socket_is_refused() -> None:
    with pytest.raises(ConfigError, match="longer than 27 bytes"):
        serve_environment("/tmp/" + "x" * 30, haproxy=True)


@pytest.mark.skipif(find_haproxy() is None, reason="no HAProxy binary on this platform")
def test_a_haproxy_that_a_change_of_replicas_replaced_stays_longer_than_any_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = serve_environment(".", haproxy=True)
    assert int(settings["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"]) > RouterConfig().request_timeout_s
