"""The page of examples/browser in a real Chromium: from another origin, with keys, over gateways that are killed."""

from __future__ import annotations

import contextlib
import functools
import http.server
import threading
from pathlib import Path

import pytest
from playwright.async_api import TimeoutError as TimedOut

from tests import chromium
from tests.chaos.serving import PATIENT, Serving

pytestmark = pytest.mark.skipif(chromium.missing() is not None, reason=str(chromium.missing()))

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "browser"
HELD = Path(__file__).with_name("in_browser.py")
SECRET = "page-0123456789abcdef"
GUARD_MS = 60_000


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def site():
    """The origin of the page: another host name and another port than the gateway's."""
    handler = functools.partial(Quiet, directory=FOLDER)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}"
        server.shutdown()


@pytest.fixture
async def page(tmp_path):
    async with chromium.browser(tmp_path / "profile") as context:
        page = await context.new_page()
        page.set_default_timeout(GUARD_MS)
        yield page


@contextlib.contextmanager
def serving(home, site, app, **settings):
    serving = Serving(home, app=app, workers=1, cors_origins=site, api_keys=f"page:{SECRET}", **PATIENT | settings)
    serving.start()
    try:
        serving.wait_until_up()
        yield serving
    finally:
        serving.close()


async def ask(page, site, gateway, key=SECRET):
    await page.goto(site)
    await page.fill("#gateway", gateway.url)
    await page.fill("#key", key)
    await page.fill("#question", "three")
    await page.click("text=Start")


async def shows(page, name, text):
    """Wait until an output contains a text."""
    contains = "([name, text]) => document.getElementById(name).value.includes(text)"
    try:
        await page.wait_for_function(contains, arg=[name, text])
    except TimedOut:
        raise AssertionError(f"{text!r} is not in {name}: {await page.inner_text('body')}") from None


async def shown(page, name):
    return await page.evaluate("(name) => document.getElementById(name).value", name)


async def test_the_example_is_demoted_and_ends(page, site, tmp_path):
    with serving(tmp_path, site, FOLDER / "app.py") as gateway:
        await ask(page, site, gateway)
        await shows(page, "text", "In short, the answer to three")
        await shows(page, "notice", "longer than usual")
        await shows(page, "state", "completed")
        assert (await shown(page, "text")).endswith("all that was found on three is this.")


@pytest.mark.parametrize("budget", [60, 0.5], ids=["on the fast path", "after the demotion"])
async def test_a_killed_gateway_is_replaced(page, site, tmp_path, monkeypatch, budget):
    monkeypatch.setenv("HELD_BUDGET", str(budget))
    with serving(tmp_path, site, HELD) as gateway:
        await ask(page, site, gateway)
        await shows(page, "text", "one two")
        if budget < 1:
            await shows(page, "notice", "longer than usual")
        gateway.kill_all()
        await shows(page, "state", "reconnecting")
        gateway.start()
        gateway.wait_until_up()
        (tmp_path / "gate").touch()
        await shows(page, "state", "completed")
        assert await shown(page, "text") == "one two three"
        assert SECRET not in gateway.log.read_text() + page.url


async def test_a_run_is_cancelled_from_the_page(page, site, tmp_path, monkeypatch):
    monkeypatch.setenv("HELD_BUDGET", "60")
    with serving(tmp_path, site, HELD) as gateway:
        await ask(page, site, gateway)
        await shows(page, "text", "one two")
        await page.click("#cancel")
        await shows(page, "state", "cancelled")


async def test_what_a_page_may_not_do(page, site, tmp_path, monkeypatch):
    """A wrong key is refused with a reason that the page can read; a page of another origin reads nothing."""
    monkeypatch.setenv("HELD_BUDGET", "60")
    with serving(tmp_path, site, HELD) as gateway:
        await ask(page, site, gateway, key="wrong-0123456789abcdef")
        await shows(page, "notice", "the API key is not known")
        assert await shown(page, "state") == "refused"
        await ask(page, site.replace("localhost", "127.0.0.1"), gateway)
        await shows(page, "state", "reconnecting")


async def test_an_event_source_stops_by_itself_at_the_end(page, site, tmp_path, monkeypatch):
    """It reconnects after the end of every stream; 204 ends that."""
    monkeypatch.setenv("HELD_BUDGET", "60")
    (tmp_path / "gate").touch()
    with serving(tmp_path, site, HELD) as gateway:
        await ask(page, site, gateway)
        await shows(page, "state", "completed")
        seen = await page.evaluate(
            """async ([url, key]) => {
                const headers = { Authorization: `Bearer ${key}` };
                const run = (await (await fetch(`${url}/v1/runs`, { headers })).json()).runs[0].links.self;
                const { ticket } = await (await fetch(`${url}${run}/ticket`, { method: "POST", headers })).json();
                const source = new EventSource(`${url}${run}/events?ticket=${ticket}`);
                const seen = [];
                for (const type of ["run.accepted", "run.completed"])
                    source.addEventListener(type, (message) => seen.push([type, message.lastEventId]));
                await new Promise((resolve) => source.addEventListener("error", () => {
                    if (source.readyState === EventSource.CLOSED) resolve();
                }));
                return seen;
            }""",
            [gateway.url, SECRET],
        )
        assert [kind for kind, _ in seen] == ["run.accepted", "run.completed"]
