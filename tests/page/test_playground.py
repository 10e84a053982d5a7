"""A chat on the page, in a browser."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.page.conftest import until
from tests.page.site import Site

DONE = 'article.answer[aria-busy="false"]'


@pytest.fixture
def chat(served: Site, page: Any) -> Any:
    served.fake.answer = "The best of times {choice}."
    served.fake.step_s = 0.0
    page.goto(f"{served.url}#playground")
    page.wait_for_selector("#settings option[value=demo]", state="attached")
    return page


def ask(page: Any, text: str = "Once upon a time") -> Any:
    count = page.locator(DONE).count()
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")
    until(page, f"document.querySelectorAll('{DONE}').length === {count + 1}")
    return page.locator(DONE).last


def test_an_answer_comes_as_it_is_written_and_says_how_it_was_made(served: Site, chat: Any) -> None:
    served.fake.step_s = 0.05
    chat.fill("#prompt", "Once upon a time")
    chat.press("#prompt", "Enter")
    until(chat, "/^The best/.test(document.querySelector('.choice > .text')?.textContent ?? '')")
    assert chat.locator("article.answer").get_attribute("aria-busy") == "true"
    chat.wait_for_selector(DONE)
    said = chat.locator("article.answer").inner_text()
    assert "The best of times 0." in said
    for fact in ("First token", "Speed", "tokens/s", "Written", "Ended", "stop"):
        assert fact in said


@pytest.mark.slow
def test_the_talk_goes_on_with_what_was_said(served: Site, chat: Any) -> None:
    ask(chat)
    ask(chat, "And then?")
    chat.click("#clear")
    assert chat.locator("article").count() == 0


@pytest.mark.slow
def test_an_answer_can_be_stopped(served: Site, chat: Any) -> None:
    served.fake.step_s = 0.2
    chat.fill("#prompt", "Once")
    chat.press("#prompt", "Enter")
    chat.click("#stop")
    chat.wait_for_selector(DONE)
    assert "Stopped." in chat.locator("article.answer").inner_text()
    assert served.fake.closed


def test_every_field_reaches_the_server_and_the_snippets(served: Site, chat: Any, tmp_path: Path) -> None:
    chat.evaluate("document.querySelectorAll('#settings > details').forEach((one) => { one.open = true; })")
    wanted = {"temperature": "0.5", "top_p": "0.9", "top_k": "40", "min_p": "0.05", "max_tokens": "6", "seed": "7"}
    wanted |= {"presence_penalty": "0.5", "frequency_penalty": "-0.5", "repetition_penalty": "1.1", "n": "2"}
    wanted |= {"logit_bias": '{"5": -100}', "stop": "it's\nnever", "stop_token_ids": "3", "min_tokens": "1"}
    for name, value in wanted.items():
        chat.get_by_label(name, exact=True).fill(value)
    chat.get_by_label("speculation", exact=True).select_option("none")
    answer = ask(chat, "It's \"$HOME\" `x` \\ 'q'")
    sampling = served.fake.requests[-1].sampling
    assert (sampling.max_tokens, sampling.seed, sampling.n, sampling.top_k) == (6, 7, 2, 40)
    assert (sampling.temperature, sampling.min_p, sampling.repetition_penalty) == pytest.approx((0.5, 0.05, 1.1))
    assert "Answer 2" in answer.inner_text()
    answer.get_by_role("button", name="curl").click()
    curl = answer.locator("pre code").inner_text()
    assert json.loads(said_by_shell(curl))["messages"][-1]["content"] == "It's \"$HOME\" `x` \\ 'q'"
    assert '"Authorization: Bearer $BATON_API_KEY"' in curl
    answer.get_by_role("button", name="Python").click()
    body = said_by_python(answer.locator("pre code").inner_text())
    assert (body["stop"], body["extra_body"]["top_k"]) == (["it's", "never"], 40)
    assert body["messages"][-1]["content"] == "It's \"$HOME\" `x` \\ 'q'"


def said_by_shell(curl: str) -> str:
    """What the command would send: a shell reads it, and another program than curl is run."""
    program = 'curl() { while [ "$1" != -d ]; do shift; done; printf %s "$2"; }\n'
    return subprocess.run(["bash", "-c", program + curl], capture_output=True, text=True, check=True).stdout


def said_by_python(program: str) -> dict[str, Any]:
    sent: dict[str, Any] = {}

    class OpenAI:
        def __init__(self, **options: Any) -> None:
            self.chat = self.completions = self

        def create(self, **body: Any) -> list[Any]:
            sent.update(body)
            return []

    exec(program.replace("from openai import OpenAI", ""), {"OpenAI": OpenAI})  # noqa: S102
    return sent


def test_what_the_server_refuses_is_said_at_its_field(chat: Any) -> None:
    chat.get_by_label("top_p", exact=True).fill("1.5")
    answer = ask(chat)
    assert "top_p" in answer.locator(".wrong").inner_text()
    assert chat.get_by_label("top_p", exact=True).get_attribute("aria-invalid") == "true"
    assert chat.input_value("#prompt") == "Once upon a time"


@pytest.mark.slow
def test_what_is_no_json_is_said_before_anything_is_sent(served: Site, chat: Any) -> None:
    num_sent = len(served.fake.requests)
    chat.get_by_text("All else").click()
    chat.get_by_label("other", exact=True).fill("{no")
    chat.fill("#prompt", "Once")
    chat.press("#prompt", "Enter")
    chat.wait_for_selector("text=other is no JSON")
    assert len(served.fake.requests) == num_sent


def test_what_comes_to_be_known_later_moves_nobody_who_walks_through_tokens(served: Site, chat: Any) -> None:
    held: list[Any] = []
    chat.route("**/cluster/requests/*", lambda route: held.append(route))
    answer = ask(chat)
    answer.get_by_role("button", name="Tokens").click()
    answer.locator(".tokens").focus()
    for _ in range(3):
        chat.keyboard.press("ArrowRight")
    chosen = answer.locator(".token[aria-selected=true]").get_attribute("data-place")
    assert chosen == "3"
    held[0].fulfill(json={"prompts": [], "prefill": "", "decode": "decode-9"})
    until(chat, "document.querySelector('.answer dl').textContent.includes('decode-9')")
    assert answer.locator(".token[aria-selected=true]").get_attribute("data-place") == chosen
    chat.keyboard.press("ArrowRight")
    assert answer.locator(".token[aria-selected=true]").get_attribute("data-place") == "4"
    assert "% likely" in answer.locator(".token-card").inner_text()


def test_what_a_model_says_stays_text(served: Site, chat: Any) -> None:
    served.fake.answer = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    answer = ask(chat)
    assert "<img src=x onerror=alert(1)>" in answer.locator(".text").last.text_content()
    answer.get_by_role("button", name="Tokens").click()
    assert chat.locator("main img, main script").count() == 0


def test_all_goes_by_keyboard_alone(served: Site, page: Any) -> None:
    page.goto(served.url)
    page.wait_for_selector("#settings option[value=demo]", state="attached")
    tab_to(page, "to-playground")
    page.keyboard.press("Enter")
    tab_to(page, "prompt")
    page.keyboard.type("Once upon")
    page.keyboard.press("Enter")
    page.wait_for_selector(DONE)
    tab_to(page, "Tokens", back=True)
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")  # Timeline
    for _ in range(3):
        page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(".token[aria-selected=true]")
    assert re.search(r"% likely", page.locator(".token-card").inner_text())
    assert page.locator(".others li").count() == 5


def tab_to(page: Any, wanted: str, *, back: bool = False) -> None:
    """`wanted`: an id, or what stands on a button."""
    for _ in range(60):
        page.keyboard.press("Shift+Tab" if back else "Tab")
        if page.evaluate("(w) => [document.activeElement.id, document.activeElement.textContent].includes(w)", wanted):
            return
    raise AssertionError(f"{wanted} is not reached by keyboard")
