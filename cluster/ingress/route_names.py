"""Short labels of paths, of bounded variety, for the metrics."""

_NAMES = {
    "/v1/completions": "completions",
    "/v1/chat/completions": "chat",
    "/tokenize": "tokenize",
    "/detokenize": "detokenize",
}


def route_name(path: str) -> str:
    return _NAMES.get(path, "other")
