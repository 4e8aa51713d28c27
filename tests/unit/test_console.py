"""The console's files over real ASGI: what is served, to whom, with which headers; and that they ask for nothing from elsewhere."""

import asyncio
import re

import httpx
import pytest

from deployments.api.console.routes import MEDIA_TYPES, PAGE, STATIC
from deployments.gateway.replica import CurrentApp
from drafthouse.config.security import ApiKeysConfig
from drafthouse.security.api_keys import ApiKeys, hash_of
from tests.unit.openai_gateway import error_of, gateway, request

KEY = "dh-0123456789012345678901234567890"
NAMES = sorted(path.name for path in STATIC.iterdir() if path.name != PAGE)
LINES = 250


def test_the_page_and_each_of_its_files_come_with_their_types_and_their_policy() -> None:
    for name in ("", *NAMES):
        answer = request(f"/console/{name}" if name else "/console")
        file = STATIC / (name or PAGE)
        assert (answer.status_code, answer.content) == (200, file.read_bytes()), name
        assert answer.headers["content-type"] == MEDIA_TYPES[file.suffix]
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
        assert policy.pop("default-src") == policy.pop("frame-ancestors") == "'none'"
        assert {name: value for name, value in policy.items() if value != "'self'"} == {"base-uri": "'none'", "form-action": "'none'"}
        assert {"script-src", "style-src", "connect-src"} <= set(policy)
        assert request(f"/console/{name}" if name else "/console", method="HEAD").status_code == 200


def test_a_browser_that_has_a_file_is_told_so() -> None:
    first = request("/console/app.js")
    again = request("/console/app.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert request("/console/app.js", headers={"if-none-match": '"another"'}).status_code == 200
    assert first.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("name", ["absent.js", "routes.py", "..%2Froutes.py", "%2Fetc%2Fpasswd", "index.html"])
def test_what_is_no_file_of_the_console_is_not_there(name: str) -> None:
    assert error_of(request(f"/console/{name}"))[0] == 404


def test_it_is_off_by_configuration() -> None:
    for path in ("/console", "/console/app.js"):
        assert error_of(request(path, console=False))[0] == 404
        assert "/console" not in request("/openapi.json", console=False).json()["paths"]


def test_with_keys_the_files_need_none_and_what_they_ask_for_does() -> None:
    keys = ApiKeys(ApiKeysConfig(hashes=(hash_of(KEY),)))
    assert request("/console", keys=keys).status_code == request("/console/app.js", keys=keys).status_code == 200
    for path in ("/v1/models", "/v1/cluster", "/console/absent.js", "/docs"):
        assert request(path, keys=keys).status_code == 401, path
    assert request("/console", keys=keys, console=False).status_code == 401
    paths = request("/openapi.json", keys=keys, headers={"authorization": f"Bearer {KEY}"}).json()["paths"]
    assert "security" not in paths["/console"]["get"]
    assert "security" not in paths["/console/{name}"]["get"]


def test_below_a_route_prefix_every_link_leads_to_a_file() -> None:
    async def test() -> None:
        async with gateway() as (app, _):
            transport = httpx.ASGITransport(CurrentApp(app), root_path="/prefix")
            async with httpx.AsyncClient(transport=transport, base_url="http://test/prefix/") as client:
                page = await client.get("console")
                links = re.findall(r'(?:href|src)="([^"#]+)"', page.text)
                assert len(links) > 3
                for link in links:
                    assert (await client.get(link)).status_code == 200, link

    asyncio.run(test())


def test_every_module_that_is_imported_is_there_and_nothing_comes_from_elsewhere() -> None:
    for path in STATIC.iterdir():
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) < LINES, path.name
        for named in re.findall(r'from "([^"]+)"', text):
            assert named.startswith("./"), path.name
            assert named.removeprefix("./") in NAMES, named
        assert set(re.findall(r"https?://[^\"'\s)]+", text)) <= {"http://www.w3.org/2000/svg"}, path.name


def test_a_models_text_is_never_read_as_markup() -> None:
    for path in STATIC.glob("*.js"):
        for name in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "localStorage"):
            assert name not in path.read_text(encoding="utf-8"), path.name
    page = (STATIC / PAGE).read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|\sstyle=", page)
