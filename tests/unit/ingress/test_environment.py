import subprocess
from pathlib import Path

import pytest

from baton.errors import ConfigError
from cluster.ingress.binding import haproxy_wrapper
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


def test_haproxys_statistics_move_to_loopback_and_its_frontends_stay(tmp_path: Path) -> None:
    script, config = tmp_path / "haproxy", tmp_path / "haproxy.cfg"
    config.write_text(
        "    bind :9101\n  bind *:8404\n    bind 10.0.0.1:8000\n    bind *:9000 proto h2\n"
        "    errorfile 502 /a/500.http\n"
    )
    script.write_text(haproxy_wrapper("/bin/echo", "/b/503.http"))
    done = subprocess.run(["sh", script, "-db", "-f", config, "-x", "a b"], capture_output=True, text=True, check=True)
    assert done.stdout == f"-db -f {config} -x a b\n"
    assert config.read_text() == (
        "    bind 127.0.0.1:9101\n  bind 127.0.0.1:8404\n    bind 10.0.0.1:8000\n    bind *:9000 proto h2\n"
        "    errorfile 502 /b/503.http\n"
    )
