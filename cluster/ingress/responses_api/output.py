"""Parts of an answer as output items of /v1/responses."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from cluster.ingress.answer_parts import Kind, Logprobs, Part
from cluster.ingress.logprob_json import token_json
from cluster.ingress.responses_api.sealed import sealed
from cluster.ingress.tokenizer import Tokenizer

Status = Literal["in_progress", "completed", "incomplete"]
_PREFIXES = {Kind.TEXT: "msg", Kind.REASONING: "rs", Kind.CALL: "fc"}


class OutputItems:
    """
    Args:
        seal: Thoughts get `encrypted_content` too.
        groups: Of functions in a namespace: see `tools`.
    """

    def __init__(
        self, request_id: str, tokenizer: Tokenizer, *, seal: bool, groups: Mapping[str, tuple[str, str]]
    ) -> None:
        self._request_id = request_id
        self._groups = groups
        self._tokenizer = tokenizer
        self._seal = seal

    def item_id(self, part: Part) -> str:
        return f"{_PREFIXES[part.kind]}_{self._request_id}_{part.index}"

    def begun(self, part: Part) -> dict[str, Any]:
        """As it is before its first piece."""
        item = self.item(part, "in_progress")
        if part.kind is not Kind.CALL:
            item["content"] = []
        return item

    def ended(self, part: Part) -> dict[str, Any]:
        return self.item(part, "incomplete" if part.is_cut else "completed")

    def item(self, part: Part, status: Status) -> dict[str, Any]:
        head = {"id": self.item_id(part), "status": status}
        if part.kind is Kind.TEXT:
            return {**head, "type": "message", "role": "assistant", "content": [self.content(part)]}
        if part.kind is Kind.CALL:
            namespace, name = self._groups.get(part.name, ("", part.name))
            call = {"call_id": part.call_id, "name": name, "arguments": part.text}
            return {**head, "type": "function_call", **call, **({"namespace": namespace} if namespace else {})}
        thought: dict[str, Any] = {**head, "type": "reasoning", "summary": [], "content": [self.content(part)]}
        if self._seal:
            thought["encrypted_content"] = sealed(part.text)
        return thought

    def content(self, part: Part) -> dict[str, Any]:
        """The one content of a text or a thought, with what has come of it."""
        if part.kind is Kind.REASONING:
            return {"type": "reasoning_text", "text": part.text}
        return {"type": "output_text", "text": part.text, "annotations": [], "logprobs": self.logprobs(part.logprobs)}

    def logprobs(self, logprobs: Logprobs) -> Sequence[dict[str, Any]]:
        return [
            {
                **token_json(entry.sampled, self._tokenizer),
                "top_logprobs": [token_json(top, self._tokenizer) for top in entry.top],
            }
            for entry in logprobs
        ]
