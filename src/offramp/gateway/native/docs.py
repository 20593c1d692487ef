"""The page at /docs: one file from the package that loads nothing from other hosts, under a policy that forbids it."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from importlib import resources

from offramp.gateway.call import Call
from offramp.gateway.reply import Reply


async def page(_call: Call) -> Reply:
    """`GET /docs`."""
    html, headers = _page()
    return Reply(200, html, headers, "text/html; charset=utf-8")


@functools.cache
def _page() -> tuple[bytes, dict[str, str]]:
    html = resources.files("offramp.gateway.native").joinpath("docs.html").read_bytes()
    policy = {
        "default-src": "'none'",
        "script-src": _hashes(html, b"script"),
        "style-src": _hashes(html, b"style"),
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return html, {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }


def _hashes(html: bytes, tag: bytes) -> str:
    """The CSP sources of the page's inline blocks; browsers run no other."""
    blocks = re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), html, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(block).digest()).decode()}'" for block in blocks)
