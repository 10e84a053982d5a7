"""An error as the API of a request's path has it: Anthropic's below /v1/messages, else OpenAI's."""

from typing import Any

from starlette.types import Scope

from baton.errors import BatonError
from cluster.ingress.errors import error_body, error_headers
from cluster.ingress.messages_errors import is_of_messages, messages_error
from cluster.ingress.request_ids import request_id_of


def error_answer(scope: Scope, error: BatonError) -> tuple[dict[str, Any], dict[str, str]]:
    """Body and headers."""
    if not is_of_messages(scope["path"]):
        return error_body(error), error_headers(error)
    request_id = request_id_of(scope)
    return messages_error(error, request_id), error_headers(error) | {"request-id": request_id}
