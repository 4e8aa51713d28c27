"""Makes the pictures of docs/console.md: `python -m tests.engine.console_pictures --model smollm2`. Needs Debian's chromium."""

import pathlib
from typing import Annotated

import typer
from playwright.sync_api import Browser, Page, sync_playwright

from tests.engine.served_console import CHROMIUM, CHROMIUM_ARGS, console_config, served_console

PICTURES = pathlib.Path(__file__).parents[2] / "docs" / "pictures"
WAIT_MS = 180_000
BUSY = """model => {
  const body = { model, prompt: "def walk(tree):", max_tokens: 200, ignore_eos: true };
  fetch("v1/completions", { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" } });
}"""
DESKTOP, PHONE = (1440, 1000), (390, 844)


def opened(browser: Browser, url: str, scheme: str, size: tuple[int, int]) -> Page:
    viewport = {"width": size[0], "height": size[1]}
    page = browser.new_page(viewport=viewport, color_scheme=scheme, device_scale_factor=2 if size == PHONE else 1)  # type: ignore[arg-type]
    page.set_default_timeout(WAIT_MS)
    page.goto(f"{url}/console")
    page.wait_for_selector("#model:not(:empty)", state="attached")
    return page


def compare(page: Page, demo: bool) -> None:
    """Runs the request with drafts and without, and looks at a drafted token."""
    if demo:
        page.click("label[for=mode-completion]")
    page.fill("#field-temperature", "0.7")
    page.fill("#field-seed", "4")
    page.click("text=Compare on and off")
    page.wait_for_selector(".verdict:not([hidden])")
    page.locator(".token:not(.src-target)").nth(6).hover()


def take(browser: Browser, url: str, demo: bool, folder: pathlib.Path) -> None:
    for scheme in ("light", "dark"):
        page = opened(browser, url, scheme, DESKTOP)
        compare(page, demo)
        page.screenshot(path=folder / f"console-{scheme}.png", full_page=True)
        if scheme == "light":
            page.click(".inspector button")
            page.screenshot(path=folder / "console-tree.png", full_page=True)
        page.click(".tabs >> text=Cluster")
        for _ in range(8):  # something to see
            page.evaluate(BUSY, "demo" if demo else "smollm2")
            page.wait_for_timeout(2100)
        page.screenshot(path=folder / f"console-cluster{'' if scheme == 'light' else '-dark'}.png", full_page=True)
    page = opened(browser, url, "light", PHONE)
    compare(page, demo)
    page.locator(".results").scroll_into_view_if_needed()
    page.evaluate("document.querySelector('.results').scrollIntoView()")
    page.screenshot(path=folder / "console-phone.png")


def pictures(
    model: Annotated[str, typer.Option(help="demo, or smollm2")] = "demo",
    folder: Annotated[pathlib.Path, typer.Option(help="Where they go.")] = PICTURES,
) -> None:
    """Make the pictures of docs/console.md."""
    folder.mkdir(parents=True, exist_ok=True)
    with served_console(console_config(model), measured=True) as (url, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
        take(browser, url, model == "demo", folder)
        browser.close()


if __name__ == "__main__":
    typer.run(pictures)
