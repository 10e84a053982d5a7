"""What becomes of Serve's own servers, in a process that is not Serve's."""

import pytest
from ray.serve._private import default_impl, grpc_util, replica

from cluster.ingress.binding import bind_servers_to


@pytest.fixture
def bound(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (
        (default_impl, "add_grpc_address"),
        (grpc_util, "gRPCGenericServer"),
        (replica, "add_port_to_grpc_server"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))  # and back at the end
    bind_servers_to("127.0.0.1")


@pytest.mark.usefixtures("bound")
async def test_two_servers_never_share_a_port() -> None:
    first, second = (
        grpc_util.gRPCGenericServer(lambda *_: None, extra_options=[("grpc.so_reuseport", "0")]) for _ in range(2)
    )
    port = first.add_insecure_port("127.0.0.1:0")
    with pytest.raises(RuntimeError, match="Failed to bind"):
        second.add_insecure_port(f"127.0.0.1:{port}")
    for server in (first, second):
        await server.stop(None)
