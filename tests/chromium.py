"""A Chromium for the tests: the one of the system, driven by playwright."""

from __future__ import annotations

import contextlib
import shutil

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
)
READY_S = 60.0


def binary():
    """Where it is; None if there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


def missing():
    """Why tests in a browser cannot run here; None if they can."""
    return None if binary() else "no Chromium: apt-get install chromium (docs/contributing/development.md)"


@contextlib.asynccontextmanager
async def browser(folder):
    """A browser with an empty profile in this folder."""
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        context = await playwright.chromium.launch_persistent_context(
            folder, executable_path=binary(), args=list(FLAGS), timeout=READY_S * 1000
        )
        try:
            yield context
        finally:
            await context.close()
