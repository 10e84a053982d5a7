"""The typed events of a streamed response. What a delta's event has beside its text is made once per part."""

from typing import Any

from cluster.ingress.answer_parts import Kind, Logprobs, Part
from cluster.ingress.responses_api.output import OutputItems
from cluster.ingress.sse import dump_text, dumps, typed_event

_PIECES = {
    Kind.TEXT: "response.output_text",
    Kind.REASONING: "response.reasoning_text",
    Kind.CALL: "response.function_call_arguments",
}


class ResponseEvents:
    """An answer's `Writer`. Numbers all events of its stream from 0."""

    def __init__(self, output: OutputItems) -> None:
        self._output = output
        self._number = 0
        self._head = self._middle = ""  # of the open part's deltas: before the text, and between it and the number

    def event(self, kind: str, **body: Any) -> str:
        number, self._number = self._number, self._number + 1
        return typed_event(kind, {"sequence_number": number, **body})

    def begin(self, part: Part) -> str:
        place = self._place(part)
        kind = f"{_PIECES[part.kind]}.delta"
        self._head = f'event: {kind}\ndata: {dumps({"type": kind, **place})[:-1]},"delta":'
        self._middle = ',"logprobs":' if part.kind is Kind.TEXT else ',"sequence_number":'
        added = self.event("response.output_item.added", output_index=part.index, item=self._output.begun(part))
        if part.kind is Kind.CALL:
            return added
        return added + self.event("response.content_part.added", **place, part=self._output.content(part))

    def add(self, part: Part, text: str, logprobs: Logprobs) -> str:
        number, self._number = self._number, self._number + 1
        if part.kind is not Kind.TEXT:
            return f"{self._head}{dump_text(text)}{self._middle}{number}}}\n\n"
        shown = dumps(self._output.logprobs(logprobs)) if logprobs else "[]"
        return f'{self._head}{dump_text(text)}{self._middle}{shown},"sequence_number":{number}}}\n\n'

    def end(self, part: Part) -> str:
        place, done = self._place(part), f"{_PIECES[part.kind]}.done"
        ended = ""
        if part.kind is Kind.CALL:
            ended = self.event(done, **place, arguments=part.text)
        else:
            more = {"logprobs": self._output.logprobs(part.logprobs)} if part.kind is Kind.TEXT else {}
            ended = self.event(done, **place, text=part.text, **more)
            ended += self.event("response.content_part.done", **place, part=self._output.content(part))
        return ended + self.event("response.output_item.done", output_index=part.index, item=self._output.ended(part))

    def _place(self, part: Part) -> dict[str, Any]:
        place = {"item_id": self._output.item_id(part), "output_index": part.index}
        return place if part.kind is Kind.CALL else {**place, "content_index": 0}
