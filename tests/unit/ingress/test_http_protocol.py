"""What the server does with a connection whose other end is gone before it has read so."""

import asyncio
import errno
from typing import Any
from unittest.mock import Mock

from cluster.ingress.http_protocol import BoundedProtocol


async def test_a_connection_that_was_reset_amid_an_answer_is_no_fault_of_the_application() -> None:
    protocol: Any = object.__new__(BoundedProtocol)
    protocol.loop, protocol._timer, protocol.timeout_keep_alive_task = asyncio.get_running_loop(), None, None
    protocol.transport = Mock()
    protocol.transport.is_closing.return_value = False
    protocol.transport.write_eof.side_effect = OSError(errno.ENOTCONN, "Transport endpoint is not connected")
    protocol._end_writing()
    assert protocol._timer is not None
    protocol._stop_timer()
