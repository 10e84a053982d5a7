"""Functions in groups of their own names: models see one flat list, clients get their calls back by group and name."""

_JOINT = "__"


def flat_name(namespace: str, name: str) -> str:
    return f"{namespace}{_JOINT}{name}" if namespace else name
