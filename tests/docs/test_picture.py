"""The README's picture: drawn from the events that are kept with it, which are those of a real run."""

from __future__ import annotations

import json
from xml.etree import ElementTree as ET

from tests.docs.pages import ROOT
from tools import draw_run

NAMES = {"svg": "http://www.w3.org/2000/svg"}


def test_the_picture_is_drawn_from_its_events():
    events = [json.loads(line) for line in draw_run.EVENTS.read_text(encoding="utf-8").splitlines()]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    picture = draw_run.drawn(events)
    assert draw_run.PICTURE.read_text(encoding="utf-8") == picture, "draw it again: python tools/draw_run.py"
    kinds = [rect.get("class") for rect in ET.fromstring(picture).iterfind("svg:rect", NAMES)]
    assert (kinds.count("gateway"), kinds.count("worker")) == (8, 3)
    assert "docs/pictures/demoted.svg" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_new_run_can_be_drawn():
    events = draw_run.recorded()
    assert ET.fromstring(draw_run.drawn(events)).find("svg:title", NAMES) is not None
    kept = [json.loads(line)["type"] for line in draw_run.EVENTS.read_text(encoding="utf-8").splitlines()]
    assert {event["type"] for event in events} == set(kept)
