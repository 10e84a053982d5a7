"""The chat templates of a model's folder, by name: what makes one prompt of messages.

Templates come from the folder alone; a request names one and never brings its own text, which would be a program of
somebody else's on this machine.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Template, TemplateError
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment

from baton.errors import ConfigError, InvalidRequestError
from cluster.ingress.fields import shorten
from cluster.ingress.model_json import read_json
from cluster.ingress.template_language import template_environment

DEFAULT = "default"
_ASKS_FOR_NULL = re.compile(r"content['\"]?\]?\s+is\s+(not\s+)?none")
# What a template, a program of somebody else's, may end with where it is given what it did not expect.
_FAULTS = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTemplate:
    """One template.

    Attributes:
        knows_tools: It writes the tools of a request into the prompt, and reads calls and results.
        knows_developer: It has a word for the role developer; elsewhere that is the system's.
        knows_null: It asks whether a content is null; elsewhere that would be written as a word.
    """

    text: str
    compiled: Template
    knows_tools: bool
    knows_developer: bool
    knows_null: bool

    def render(self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
        """Raises: InvalidRequestError: it refuses these messages."""
        try:
            return self.compiled.render({"tools": None, "documents": None, **variables, "messages": messages})
        except _FAULTS as error:
            raise InvalidRequestError(
                f"messages does not fit this model's chat template: {error}; change the roles or their order, "
                "or chat_template_kwargs",
                field="messages",
            ) from error


class ChatTemplates:
    """Safe to share between requests."""

    def __init__(self, folder: Path) -> None:
        """Raises: ConfigError: A template does not compile, or the list of them is not what transformers writes."""
        settings = read_json(folder / "tokenizer_config.json")
        environment = template_environment()
        sources = {**_of_settings(folder, settings), **dict(_of_files(folder))}
        self._templates = {name: _compiled(environment, folder, name, text) for name, text in sources.items()}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._templates))

    def find(self, name: str) -> ChatTemplate:
        """By name; empty: the default. Raises: InvalidRequestError: the model has no such template."""
        template = self._templates.get(name or DEFAULT)
        if template is not None:
            return template
        known = ", ".join(self.names)
        if not known:
            raise InvalidRequestError(
                "messages needs a chat template and this model's folder has none; send a prompt to /v1/completions",
                field="messages",
            )
        if not name:
            raise InvalidRequestError(
                f"chat_template is missing and this model has no default one; name one of {known}",
                field="chat_template",
            )
        raise InvalidRequestError(
            f"chat_template is {shorten(name)}; it names one of this model's templates: {known}", field="chat_template"
        )


def _of_settings(folder: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """One text, or a list of {"name", "template"}."""
    found = settings.get("chat_template")
    if found is None:
        return {}
    items = [{"name": DEFAULT, "template": found}] if isinstance(found, str) else found
    sources: dict[str, str] = {}
    for index, item in enumerate(items if isinstance(items, list) else [items]):
        name, text = (item.get("name"), item.get("template")) if isinstance(item, Mapping) else (None, None)
        if not isinstance(name, str) or not isinstance(text, str):
            raise ConfigError(
                f"model: {folder}/tokenizer_config.json: chat_template[{index}] is {shorten(item)}; it must be a text, "
                "or a list of objects with the texts name and template"
            )
        sources[name] = text
    return sources


def _of_files(folder: Path) -> Iterator[tuple[str, str]]:
    """As transformers writes them today; they go before those of tokenizer_config.json."""
    paths = {DEFAULT: folder / "chat_template.jinja"}
    paths |= {path.stem: path for path in sorted(folder.glob("additional_chat_templates/*.jinja"))}
    for name, path in paths.items():
        if path.is_file():
            try:
                yield name, path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise ConfigError(f"model: {path} is not UTF-8 text; fetch the model again") from error


def _compiled(environment: ImmutableSandboxedEnvironment, folder: Path, name: str, text: str) -> ChatTemplate:
    try:
        used = find_undeclared_variables(environment.parse(text))
        compiled = environment.from_string(text)
    except TemplateError as error:
        raise ConfigError(f"model: the chat template {name!r} in {folder} does not compile ({error})") from error
    return ChatTemplate(
        text=text,
        compiled=compiled,
        knows_tools="tools" in used,
        knows_developer="developer" in text,
        knows_null=_ASKS_FOR_NULL.search(text) is not None,
    )
