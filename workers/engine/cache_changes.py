"""What a prefix cache has gained and lost since it was last told, net, in order."""


class CacheChanges:
    def __init__(self) -> None:
        self._added: dict[int, None] = {}
        self._removed: dict[int, None] = {}

    def add(self, block_hash: int) -> None:
        if block_hash in self._removed:
            del self._removed[block_hash]
        else:
            self._added[block_hash] = None

    def remove(self, block_hash: int) -> None:
        if block_hash in self._added:
            del self._added[block_hash]
        else:
            self._removed[block_hash] = None

    def drain(self) -> tuple[list[int], list[int]]:
        """Hashes added and removed since the last call."""
        added, removed = list(self._added), list(self._removed)
        self._added.clear()
        self._removed.clear()
        return added, removed
