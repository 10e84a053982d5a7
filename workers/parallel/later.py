"""What a rank does with the parts of ranks after its own: nothing that it computes needs them, so that they are waited
for when the step ends.

Invariant: things are done in the order in which they were put off; so are those that must follow them.
"""

from collections import deque
from collections.abc import Callable


class Later:
    """Of one step; in a step whose prompts are not cut nothing is put off."""

    def __init__(self) -> None:
        self._acts: deque[tuple[Callable[[], bool], Callable[[], None]]] = deque()

    def put_off(self, is_there: Callable[[], bool], act: Callable[[], None]) -> None:
        """Does `act` now if what it needs `is_there`, else when a later call finds it so, or at the end."""
        self._acts.append((is_there, act))
        self.look()

    def after(self, act: Callable[[], None]) -> None:
        """Once all that was put off before is done."""
        self.put_off(lambda: True, act)

    def look(self) -> None:
        """Does what need not wait."""
        while self._acts and self._acts[0][0]():
            self._acts.popleft()[1]()

    def finish(self) -> None:
        """Does the rest, and waits for what it needs. Raises: RuntimeError: a rank is gone."""
        while self._acts:
            self._acts.popleft()[1]()
