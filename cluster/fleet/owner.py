"""Whose cluster a controller keeps: one Ray cluster holds one Baton cluster, and another home must not take it over."""

import hashlib
import socket
from dataclasses import dataclass
from typing import Self

from cluster.host import state


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    home: str  # BATON_HOME of the `baton up` that started it
    machine: str
    key: str  # of the secret, which cannot be told from it

    @classmethod
    def here(cls, secret: str) -> Self:
        """This process's home, on this machine."""
        key = hashlib.sha256(f"baton owner {secret}".encode()).hexdigest()
        return cls(home=str(state.home()), machine=socket.gethostname(), key=key)

    def is_same(self, other: "Owner") -> bool:
        """The same secret, or the same folder: its secret was lost, or the machine has a new name."""
        return self.key == other.key or (self.home, self.machine) == (other.home, other.machine)
