from collections.abc import AsyncIterator

import anthropic
import pytest

from cluster.config.schema import RouterConfig
from cluster.ingress.chat.model_formats import ModelFormats
from cluster.ingress.service import Service
from tests.unit.ingress.fakes import FakeDispatcher, demo_tokenizer


@pytest.fixture
def service_and_fake() -> tuple[Service, FakeDispatcher]:
    """A model that thinks between marks and calls as Hermes does."""
    tokenizer = demo_tokenizer()
    fake = FakeDispatcher(tokenizer)
    formats = ModelFormats(tokenizer, tools="hermes", reasoning="qwen3")
    service = Service(dispatcher=fake, tokenizer=tokenizer, model="demo", router=RouterConfig(), formats=formats)
    return service, fake


@pytest.fixture
async def claude(url: str) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client:
        yield client
