"""The tables of settings, events and limits in the docs say what the code says."""

from __future__ import annotations

import json
import re

import pytest

from offramp import errors
from offramp.core.events import EVENTS, TYPES
from offramp.core.slo import RULES
from offramp.gateway import problems
from offramp.gateway.surface import SOCKET
from offramp.telemetry import names
from offramp.telemetry.instruments import INSTRUMENTS
from tests.docs import tables
from tests.docs.pages import PAGES, ROOT, blocks
from tests.gateway.wire import ROUTES


def page(name):
    (path,) = (ROOT / "docs").rglob(name)
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", tables.PARTS)
def test_a_part_is_what_the_code_says(name):
    place, made = tables.PARTS[name]
    text = (ROOT / place).read_text(encoding="utf-8")
    assert tables.part_of(text, name) == made(), "write it anew: python tests/docs/tables.py"


def test_every_event_has_an_example_with_all_its_fields():
    assert [type(body) for body in tables.EXAMPLES] == list(EVENTS)
    shown = [json.loads(block.code) for block in blocks(ROOT / "docs" / "reference" / "events.md", "json")]
    assert [event["type"] for event in shown] == list(TYPES)


def test_every_route_is_on_the_page():
    text = page("http.md")
    missing = []
    for route in ROUTES:
        method = "GET" if route.method == SOCKET else route.method
        path = route.template.replace("{run_id}", "{id}")
        if f"{method} {path}" not in text and f"`{path}`" not in text:
            missing.append(f"{method} {path}")
    assert missing == []


def test_every_refusal_is_on_the_page_with_its_status():
    kinds = [each for module in (errors, problems) for each in vars(module).values() if isinstance(each, type)]
    codes = {(kind.status, kind.code) for kind in kinds if issubclass(kind, errors.RequestError)}
    lines = [line for line in page("http.md").splitlines() if line.startswith("| ")]
    missing = [
        (status, code)
        for status, code in sorted(codes)
        if not any(str(status) in line.split("|")[1] and f"`{code}`" in line for line in lines)
    ]
    assert missing == []


def test_every_name_of_a_span_or_attribute_is_on_the_page():
    text = page("telemetry.md")
    dotted = re.compile(r"[a-z_]+(\.[a-z_]+)+")
    tables = [value for name, value in vars(names).items() if name.isupper()]
    found = {name for value in tables for name in _strings(value) if dotted.fullmatch(name)}
    assert {"offramp.step", "gen_ai.operation.name", "session.id"} <= found
    assert sorted(name for name in found if f"`{name}" not in text) == []


def _strings(value):
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, tuple) else []


OF_A_POD = {"namespace", "container"}
"""Labels that Prometheus adds to what it scrapes in a cluster."""


def test_every_metric_that_a_page_names_is_one_with_these_labels():
    known = {instrument.shown_name: instrument for instrument in INSTRUMENTS}
    known |= {
        f"{each.name}{suffix}": each for each in INSTRUMENTS if each.buckets for suffix in ("_count", "_sum", "_bucket")
    }
    named = [
        (path.name, *found.groups())
        for path in PAGES
        for found in re.finditer(r"\b(offramp_[a-z_]+)(?:\{([^}]*)\})?", path.read_text(encoding="utf-8"))
    ]
    assert len(named) > len(INSTRUMENTS)
    assert [(place, name) for place, name, _ in named if name not in known] == []
    for place, name, labels in named:
        used = set(re.findall(r"(\w+)=", labels or ""))
        assert used <= {*known[name].labels, "le", *OF_A_POD}, f"{place}: {name} has no labels {used}"


def test_the_alerts_on_the_page_are_the_rules():
    rules = re.findall(
        r'severity: (\w+)|offramp_slo_burn_rate\{window="(\w+)"\}\) > ([\d.]+)', page("service-levels.md")
    )
    shown = []
    for severity, window, threshold in rules:
        if severity:
            shown[-1].insert(0, severity)
        elif shown and len(shown[-1]) == 2:
            shown[-1] += [window, float(threshold)]
        else:
            shown.append([window, float(threshold)])
    assert shown == [[rule.severity, rule.long, rule.threshold, rule.short, rule.threshold] for rule in RULES]
