"""A headless Chromium for the tests of the page, which are skipped where there is none."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.page.site import Site, site, some_workers

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or "/usr/bin/chromium"


@pytest.fixture(scope="module")  # its loop would stand in the way of tests that have their own
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not Path(CHROMIUM).exists():
        pytest.skip("there is no chromium")
    with playwright.sync_playwright() as started:
        made = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture(scope="module")
def served() -> Iterator[Site]:
    with site() as made:
        made.show(some_workers())
        yield made


@pytest.fixture
def errors() -> list[str]:
    """What the browser had to complain of: violations of the policy, faults of scripts."""
    return []


@pytest.fixture
def page(browser: Any, errors: list[str]) -> Iterator[Any]:
    made = opened(browser, errors)
    yield made
    made.close()
    assert errors == []


def opened(browser: Any, errors: list[str], **options: Any) -> Any:
    """A page of its own, at most 10 s of patience, whose complaints go to `errors`."""
    made = browser.new_page(**{"viewport": {"width": 1280, "height": 800}, **options})
    made.set_default_timeout(10_000)
    made.on("pageerror", lambda error: errors.append(str(error)))
    made.on("console", lambda message: _note(errors, message))
    return made


def until(page: Any, holds: str) -> None:
    """Waits for an expression to hold; the page's policy forbids what playwright's own waiting does."""
    for _ in range(200):
        if page.evaluate(holds):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never: {holds}")


def _note(errors: list[str], message: Any) -> None:
    """A request that is refused, or a timeline that nobody keeps, is no fault of the page."""
    if message.type == "error" and "the server responded with a status of" not in message.text:
        errors.append(message.text)
