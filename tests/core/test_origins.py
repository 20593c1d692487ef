from __future__ import annotations

import pytest

from offramp.core.origins import parse_origins


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("", set()),
        ("https://app.example", {"https://app.example"}),
        (" https://App.Example ,http://localhost:5173,", {"https://app.example", "http://localhost:5173"}),
        ("https://app.example:443", {"https://app.example"}),
        ("http://app.example:80", {"http://app.example"}),
        ("http://app.example:443", {"http://app.example:443"}),
        ("http://[::1]:3000", {"http://[::1]:3000"}),
        ("http://[0:0:0:0:0:0:0:1]:03000", {"http://[::1]:3000"}),
        ("http://app.example:080", {"http://app.example"}),
        ("chrome-extension://abcdefgh", {"chrome-extension://abcdefgh"}),
        ("*", {"*"}),
    ],
)
def test_origins_are_as_browsers_send_them(text, origins):
    assert parse_origins(text) == origins


@pytest.mark.parametrize(
    "text",
    [
        "app.example",
        "https://app.example/",
        "https://app.example/page",
        "https://*.example",
        "https://user@app.example",
        "https://bücher.example",
        "null",
        "https://",
        "https://app.example:",
        "https://app.example:99999",
        "http://[::1::]",
        "https://app.example https://other.example",
    ],
)
def test_what_no_browser_sends_is_refused(text):
    with pytest.raises(ValueError, match=r"such as https://app\.example"):
        parse_origins(text)


def test_every_page_is_allowed_alone():
    with pytest.raises(ValueError, match="write it alone"):
        parse_origins("*, https://app.example")
