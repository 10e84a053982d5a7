"""Short labels of paths, of bounded variety, for the metrics."""

_NAMES = {
    "/v1/completions": "completions",
    "/v1/chat/completions": "chat",
    "/v1/messages": "messages",
    "/v1/messages/count_tokens": "count_tokens",
    "/v1/responses": "responses",
    "/v1/responses/input_tokens": "count_tokens",
    "/tokenize": "tokenize",
    "/detokenize": "detokenize",
    "/v1/load_lora_adapter": "load_adapter",
    "/v1/unload_lora_adapter": "unload_adapter",
}


def route_name(path: str) -> str:
    return _NAMES.get(path, "other")
