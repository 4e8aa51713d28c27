"""The console in a real browser, before real engines: what a user does, and that nothing in it complains."""

from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from drafthouse.config.security import ApiKeysConfig
from drafthouse.security.api_keys import ApiKeys, hash_of
from tests.engine.served_console import CHROMIUM, CHROMIUM_ARGS, ConsoleCluster, console_config, served_console

KEY = "dh-0123456789012345678901234567890"
WAIT_MS = 60_000
PROMPT = "def quicksort(items):\n"


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, ConsoleCluster]]:
    with served_console(console_config()) as (url, cluster):
        yield url, cluster


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not there: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
        yield browser
        browser.close()


class Watched:
    """A page, and what its console said of faults."""

    def __init__(self, browser: Browser, scheme: str = "light", width: int = 1280) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.faults: list[str] = []
        self.page.on("console", lambda message: self.faults.append(message.text) if message.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))

    def check(self) -> None:
        """Nothing is wrong for those who use a keyboard or a screen reader, and nothing is cut off at the right."""
        results = Axe().run(self.page)
        assert not results.response["violations"], results.generate_report()
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than the window"


@pytest.fixture
def watched(browser: Browser) -> Iterator[Watched]:
    watched = Watched(browser)
    yield watched
    watched.context.close()
    assert watched.faults == []


def ask(page: Page, url: str, tokens: int = 48, **fields: str) -> None:
    page.goto(f"{url}/console")
    expect(page.locator("#model")).to_contain_text("demo")
    page.click("label[for=mode-completion]")
    page.fill("#field-prompt", PROMPT)
    for name, value in {"max_tokens": str(tokens), **fields}.items():
        page.fill(f"#field-{name}", value)


def answer(page: Page) -> None:
    page.click("text=Generate")
    expect(page.locator("button.primary", has_text="Generate")).to_be_visible(timeout=WAIT_MS)


def test_a_prompt_becomes_marked_tokens_that_tell_of_themselves(served: tuple[str, ConsoleCluster], watched: Watched) -> None:
    page = watched.page
    ask(page, served[0], temperature="0.7", seed="7")
    page.check("#field-ignore_eos")
    answer(page)
    tokens = page.locator(".token")
    expect(tokens).to_have_count(48)
    drafted = page.locator(".token:not(.src-target)")
    assert drafted.count() > 4, "nothing was drafted"
    said = drafted.first.get_attribute("aria-label") or ""
    drafted.first.hover()
    inspector = page.locator(".inspector")
    for fact in ("Step", "Place", "Logprob", "depth"):
        expect(inspector).to_contain_text(fact)
    expect(inspector).to_contain_text(said.rpartition(", ")[2])
    expect(inspector.locator(".alternatives li")).not_to_have_count(0)
    page.locator(".tokens").focus()
    page.keyboard.press("Home")
    expect(inspector).to_contain_text("1 of")
    expect(page.locator(".lane .column")).not_to_have_count(0)
    watched.check()


def test_with_drafts_and_without_the_texts_are_equal(served: tuple[str, ConsoleCluster], watched: Watched) -> None:
    page = watched.page
    ask(page, served[0], temperature="0.8")
    page.click("text=Compare on and off")
    expect(page.locator(".verdict")).to_contain_text("The texts are equal")
    texts = page.locator(".tokens").all_text_contents()
    assert len(texts) == 2
    assert texts[0] == texts[1] != ""
    assert page.locator(".output").nth(1).locator(".token:not(.src-target)").count() == 0
    watched.check()


def test_steps_are_seen_as_trees_forwards_and_backwards(served: tuple[str, ConsoleCluster], watched: Watched) -> None:
    page = watched.page
    ask(page, served[0], temperature="0")
    answer(page)
    page.locator(".token:not(.src-target)").first.click()
    page.click(".inspector button")
    title, step = page.locator(".step-head h2"), page.locator(".step-head h2").text_content
    expect(page.locator(".node.accepted")).not_to_have_count(0)
    expect(page.locator(".node.bonus, .node.accepted").last).to_be_visible()
    expect(page.locator(".edge.lit")).not_to_have_count(0)
    expect(page.locator(".node-facts")).to_contain_text("Confidence")
    here = step()
    page.keyboard.press("]")
    expect(title).not_to_have_text(here or "")
    page.click("[aria-label='Step before']")
    expect(title).to_have_text(here or "")
    page.locator(".node.on").focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".node-facts")).to_contain_text("the last before the step")
    watched.check()


def test_the_cluster_is_asked_for_only_while_it_is_seen(served: tuple[str, ConsoleCluster], watched: Watched) -> None:
    page, asked = watched.page, list[str]()
    page.on("request", lambda request: asked.append(request.url) if "/v1/cluster" in request.url else None)
    ask(page, served[0], tokens=8)
    answer(page)
    assert asked == []
    page.click("text=Cluster")
    for name in ("verifier-1", "drafter-1", "gateway-1", "Goodput", "Price of a node", "drafts for verifier-1"):
        expect(page.locator("#view-cluster")).to_contain_text(name)
    watched.check()
    page.click("text=Playground")
    before = len(asked)
    page.wait_for_timeout(2500)  # longer than between two questions
    assert len(asked) == before


def test_the_apis_errors_are_shown_in_its_words_beside_the_field(served: tuple[str, ConsoleCluster], watched: Watched) -> None:
    page = watched.page
    ask(page, served[0], temperature="-1")
    answer(page)
    expect(page.locator(".request .error")).to_contain_text("temperature")
    expect(page.locator("#field-temperature")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#field-temperature")).to_be_focused()
    watched.faults[:] = [fault for fault in watched.faults if "400" not in fault]  # the browser's own line for the status


def test_what_a_model_says_is_no_markup(served: tuple[str, ConsoleCluster], watched: Watched) -> None:
    page, evil = watched.page, "<img src=x onerror=alert(1)>"
    ask(page, served[0], temperature="0")
    page.click("text=Form of the output")
    page.fill("#field-structured_outputs-choice", evil)
    answer(page)
    expect(page.locator(".tokens")).to_contain_text(evil)
    assert page.locator(".tokens img").count() == 0
    assert page.locator(".token.src-forced").count() > 3


@pytest.mark.parametrize(("scheme", "width"), [("dark", 1280), ("dark", 390), ("light", 390)])
def test_dark_and_on_a_phone_it_can_be_read(served: tuple[str, ConsoleCluster], browser: Browser, scheme: str, width: int) -> None:
    watched = Watched(browser, scheme, width)
    page = watched.page
    ask(page, served[0], tokens=24)
    answer(page)
    page.locator(".token").nth(3).click()
    watched.check()
    for view in ("Tree", "Cluster"):
        page.click(f".tabs >> text={view}")
        expect(page.locator(f"#view-{view.lower()}")).to_be_visible()
        watched.check()
    watched.context.close()
    assert watched.faults == []


def test_with_keys_it_asks_for_one_and_keeps_it_in_the_tab(browser: Browser) -> None:
    with served_console(console_config(), ApiKeys(ApiKeysConfig(hashes=(hash_of(KEY),)))) as (url, _):
        watched = Watched(browser)
        page = watched.page
        page.goto(f"{url}/console")
        expect(page.locator("#key-dialog")).to_be_visible()
        expect(page.locator("#key-why")).to_contain_text("API key")
        watched.check()
        page.fill("#key-input", KEY)
        page.keyboard.press("Enter")
        expect(page.locator("#model")).to_contain_text("demo")
        page.fill("#field-max_tokens", "4")
        answer(page)
        expect(page.locator(".token")).to_have_count(4)
        assert page.evaluate("[sessionStorage.length, localStorage.length]") == [1, 0]
        watched.context.close()
        assert [fault for fault in watched.faults if "401" not in fault] == []
