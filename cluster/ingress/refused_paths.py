"""Paths of other servers' APIs that clients ask for and this server has not, with what to use instead."""

from collections.abc import Mapping

_FILES = "this server keeps no files or jobs; `baton batch in.jsonl out.jsonl` works through a file of requests"
_VECTORS = "this server writes text and computes no embeddings or scores; use a server with an embedding model"
_MEDIA = "this server reads and writes text alone; turn speech or pictures into text elsewhere, and send that"
_STORED = "this server stores no conversations; send the messages with each request to /v1/chat/completions"
_INSTEAD: Mapping[str, str] = {
    **dict.fromkeys(("/v1/embeddings", "/v2/embed", "/embed", "/embeddings"), _VECTORS),
    **dict.fromkeys(("/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank", "/pooling", "/classify"), _VECTORS),
    **dict.fromkeys(("/v1/audio", "/v1/images", "/v1/videos", "/v1/realtime"), _MEDIA),
    **dict.fromkeys(("/v1/files", "/v1/uploads", "/v1/batches"), _FILES),
    **dict.fromkeys(("/v1/assistants", "/v1/threads", "/v1/conversations", "/v1/vector_stores"), _STORED),
    "/v1/messages": _FILES,
    "/v1/responses": "this server stores no responses; keep what it answers, and send it back in `input`",
    "/v1/moderations": "this server judges no texts; ask the model itself through /v1/chat/completions",
    "/v1/fine_tuning": "this server trains nothing; train elsewhere and serve what came of it",
    "/v1/edits": "OpenAI has withdrawn it; use /v1/chat/completions",
    "/v1/engines": "OpenAI has withdrawn it; use /v1/models and /v1/completions",
    "/invocations": "send the body to /v1/chat/completions, or to /v1/completions where it has a prompt",
}


def instead_of(path: str) -> str | None:
    """Why there is no such path and what to use, for it or one above it; None where nobody knows it."""
    while path:
        if path in _INSTEAD:
            return _INSTEAD[path]
        path = path.rpartition("/")[0]
    return None
