"""The page where a server wants keys, behind a proxy's path, and while it cannot reach its server."""

from pathlib import Path
from typing import Any

import pytest

from tests.doors.keyed import Keyed
from tests.page.conftest import opened, until
from tests.page.site import keyed_site, site, some_workers

ROWS = ".workers tbody tr"


def test_the_page_asks_for_a_key_and_says_which_one_is_wrong(browser: Any, errors: list[str], tmp_path: Path) -> None:
    with keyed_site(tmp_path / "keys.yaml") as (keyed, background):
        right, other = background.run(two_keys(keyed))
        page = opened(browser, errors)
        page.goto(keyed.url)
        page.wait_for_selector("#login:not([hidden])")
        assert page.evaluate("document.activeElement.id") == "login-key"
        assert page.locator("#cluster").is_hidden()
        page.keyboard.type("bt-wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("#login-error:has-text('not known here')")
        page.fill("#login-key", right)
        page.keyboard.press("Enter")
        page.wait_for_selector(ROWS)
        assert page.evaluate("localStorage.length") == 0
        page.reload()  # the tab has kept it
        page.wait_for_selector(ROWS)
        page.goto(f"{keyed.url}#playground")
        page.fill("#prompt", "Once")
        page.press("#prompt", "Enter")
        page.wait_for_selector('article.answer[aria-busy="false"]')
        page.click("#sign-out")
        page.wait_for_selector("#login:not([hidden])")
        page.fill("#login-key", other)
        page.keyboard.press("Enter")
        page.wait_for_selector("text=for none of the models")
        assert page.locator("#send").is_disabled()
        page.close()
    assert errors == []


async def two_keys(keyed: Keyed) -> tuple[str, str]:
    return await keyed.add("alice"), await keyed.add("bob", models=["other"])


def test_the_page_works_below_any_path(browser: Any, errors: list[str]) -> None:
    with site("/some/prefix") as made:
        made.show(some_workers())
        page = opened(browser, errors)
        page.goto(made.url)
        page.wait_for_selector(ROWS)
        page.click("#to-playground")
        page.fill("#prompt", "Once")
        page.press("#prompt", "Enter")
        page.wait_for_selector('article.answer[aria-busy="false"]')
        page.get_by_role("button", name="curl").click()
        assert f"{made.url}v1/chat/completions" in page.locator("pre code").inner_text()
        assert page.get_by_role("link", name="API").evaluate("(link) => link.href") == f"{made.url}docs"
        page.close()
    assert errors == []


@pytest.mark.slow
def test_a_server_that_goes_is_said_to_be_gone_and_found_again(browser: Any) -> None:
    with site() as made:
        made.show(some_workers())
        page = opened(browser, [])
        page.goto(made.url)
        page.wait_for_selector(ROWS)
        made.background.run(leave(made.view.leave))
        page.wait_for_selector("#notices:has-text('about to be replaced')")
        made.view._is_leaving = False
        until(page, "document.querySelector('#health').textContent === 'Ready'")
        until(page, "document.querySelector('#notices').textContent === ''")
        page.close()


async def leave(tell: Any) -> None:
    tell()
