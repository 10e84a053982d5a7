"""Changes a worker's role between two steps, at the word of whoever keeps the cluster's table. From any thread."""

from collections.abc import Callable
from concurrent.futures import Future

from workers.engine.serving import Serving
from workers.spec import Role


class RoleCommands:
    """
    Args:
        command: Has something done by the engine's thread before its next step.
        give_back: Ends what the role of now has no place for; how many choices those were.
    """

    def __init__(
        self, *, serving: Serving, command: Callable[[Callable[[], None]], None], give_back: Callable[[], int]
    ) -> None:
        self._serving = serving
        self._command = command
        self._give_back = give_back

    def change(self, role: Role, prepare: Callable[[], None]) -> Future[int]:
        """How many choices go on elsewhere. Once cancelled in time, nothing happens at all.

        Args:
            prepare: Called before, by the engine's thread; where it raises, nothing changes.
        """
        future: Future[int] = Future()
        self._command(lambda: self._change(role, prepare, future))
        return future

    def _change(self, role: Role, prepare: Callable[[], None], future: Future[int]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            prepare()
        except Exception as error:
            future.set_exception(error)
            return
        self._serving.set_role(role)
        future.set_result(self._give_back())
