"""The page that shows which adapter keeps which obligation, written from reports."""

from __future__ import annotations

from collections.abc import Sequence

from offramp.conformance.report import Report

_HEAD = """\
# Which adapter keeps which obligation

Written by `python -m offramp.conformance … --matrix docs/contributing/conformance.md` from what the suites found;
a test keeps it so.

- `passed`: every case of the obligation passed.
- `in part`: so did those that apply; others need a capability that the adapter does not declare.
- `refused`: all of them need one, and the adapter says so when it is asked for it.
- `FAILED`, `unproved`: not fit for use.

The obligations are worded in the docstrings of `offramp.ports`; the cases are in `offramp.conformance`. To prove an
adapter of your own, hand a harness to `offramp.conformance.run_store`, `run_engine`, `run_blobs`, `run_clock` or
`run_limits`, or run `python -m offramp.conformance MODULE:HARNESS`.

"On disk" is proved for a process that is killed, not for a machine that loses power.
"""


def page(
    stores: Sequence[Report],
    engines: Sequence[Report],
    blobs: Sequence[Report],
    clocks: Sequence[Report],
    limits: Sequence[Report] = (),
) -> str:
    """The whole page, in Markdown."""
    parts = [_HEAD]
    sections = ("Stores", stores), ("Engines", engines), ("Objects", blobs), ("Clocks", clocks), ("Limits", limits)
    for title, reports in sections:
        if reports:
            parts += [f"## {title}\n", f"{_capabilities(reports)}\n", f"{_table(reports)}\n"]
    return "\n".join(parts)


def _capabilities(reports: Sequence[Report]) -> str:
    lines = [f"- {report.adapter}: {', '.join(sorted(report.capabilities)) or 'none'}" for report in reports]
    return "Declared capabilities:\n\n" + "\n".join(lines)


def _table(reports: Sequence[Report]) -> str:
    names = [report.adapter for report in reports]
    lines = [f"| | obligation | {' | '.join(names)} |", "|---|---|" + "---|" * len(names)]
    lines += [
        f"| {obligation.id} | {obligation.text} | {' | '.join(report.of(obligation.id) for report in reports)} |"
        for obligation in reports[0].obligations
    ]
    return "\n".join(lines)
