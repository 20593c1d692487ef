"""Draws a run's waterfall: one line per step or wait, its spans over time, the critical path, a legend and totals.

Owns glyphs, colours and columns; `core/waterfall.py` decides what happened when.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich.console import Console
from rich.text import Text

from offramp.cli.output import one_line
from offramp.cli.view import duration, error_text
from offramp.core.timescale import Scale
from offramp.core.waterfall import Row, Span, SpanKind, Waterfall

ROWS_MAX = 100
"""The maximum of steps and waits drawn: those on the critical path and the longest."""
LABEL_MAX = 28
WIDTH_MAX = 160
WIDTH_ELSEWHERE = 100
BARS_MIN = 10
NARROW = 60
"""Below this number of columns, only durations stand beside the bars."""
TICKS_APART = 14
LINKS_MAX = 12
"""The maximum of named parts of the critical path."""


FAILURES_MAX = 5
"""The maximum of failed attempts that are explained below a step."""
EMITTED_MAX = 200
"""Characters of what a running step emitted last."""


class Look(NamedTuple):
    """The glyphs of a kind of span, also on the critical path, with and without Unicode, and its meaning."""

    glyph: str
    critical: str
    plain: str
    plain_critical: str
    style: str
    meaning: str


_LOOKS: dict[SpanKind, Look] = {
    "attempt": Look("▒", "█", "=", "#", "blue", "step"),
    "failed": Look("▒", "█", "=", "#", "red", "failed attempt"),
    "lost": Look("╌", "╍", "?", "?", "yellow", "attempt lost with its process"),
    "cancelled": Look("╌", "╌", "/", "/", "dim", "cancelled"),
    "retry": Look("·", "•", ".", ".", "yellow", "before the next attempt"),
    "permit": Look("∙", "◦", ";", ";", "magenta", "waiting for a permit of a resource"),
    "queued": Look("░", "▓", ":", "%", "magenta", "waiting: in the queue, for a time, for a signal"),
    "wait": Look("░", "▓", ":", "%", "magenta", "waiting: in the queue, for a time, for a signal"),
    "parked": Look("░", "▓", ":", "%", "magenta", "waiting: in the queue, for a time, for a signal"),
    "fast": Look("─", "─", "-", "-", "", "fast path"),
    "deep": Look("═", "═", "_", "_", "", "deep path"),
    "handoff": Look("┄", "┅", "~", "~", "yellow", "handoff to a worker"),
    "moved": Look("┄", "┅", "~", "~", "red", "its process died or stopped"),
}
_CUT: dict[SpanKind, tuple[str, str]] = {"failed": ("✗", "x"), "lost": ("✗", "x")}
_MARKS = {"demoted": ("▼", "v", "bold yellow"), "resumed": ("▶", ">", "bold cyan")}
_GUIDE = ("╎", "|")
_CRITICAL = "bold"
_SAID: frozenset[SpanKind] = frozenset({"failed", "lost", "cancelled", "retry", "permit"})
_FINE = frozenset({"completed", "received", "due"})


def draw(waterfall: Waterfall, on: Console) -> Iterable[Text]:
    """The lines of the waterfall, at most as long as the console is wide."""
    width = min(on.width, WIDTH_MAX) if on.is_terminal else WIDTH_ELSEWHERE
    return _Drawing(waterfall, width, unicode="utf" in on.encoding.lower()).lines()


class _Drawing:
    """One waterfall at one width."""

    def __init__(self, waterfall: Waterfall, width: int, *, unicode: bool) -> None:
        self._waterfall = waterfall
        self._unicode = unicode
        self._critical = {(link.row, link.start, link.end) for link in waterfall.critical if link.row is not None}
        self._rows = _chosen(waterfall, {number for number, _, _ in self._critical})
        self._says = {number: self._note(number, row, brief=width < NARROW) for number, row in self._rows}
        names = [len(one_line(row.name)) for _, row in self._rows]
        self._label = min(LABEL_MAX, max(6, width // 4), max(names))
        beside = max(len(text) for text in self._says.values())
        self._bars = max(BARS_MIN, width - self._label - beside - 6)
        self._width = width
        self._scale = Scale(waterfall.took, waterfall.busy, self._bars)
        self._seen: set[SpanKind] = set()

    def lines(self) -> Iterable[Text]:
        yield self._axis()
        for number, row in self._rows:
            yield self._line(number, row)
            yield from self._beside(row)
        left_out = len(self._waterfall.rows) - len(self._rows)
        if left_out:
            yield Text(f"  and {left_out} shorter ones", style="dim")
        yield Text("")
        if legend := self._legend():
            yield from self._wrapped(legend, "   ")
        dot, arrow = (" · ", " → ") if self._unicode else (", ", " > ")
        yield from self._wrapped(self._sums(), dot, "where it went  ")
        if path := self._path():
            yield from self._wrapped(path, arrow, "critical path  ")

    # The rows.

    def _line(self, number: int, row: Row) -> Text:
        on_path = any(each == number for each, _, _ in self._critical)
        line = Text("")
        line.append(("▸ " if self._unicode else "> ") if on_path else "  ", style=_CRITICAL)
        line.append(_fitted(one_line(row.name), self._label, unicode=self._unicode), style=_CRITICAL if on_path else "")
        line.append("  ")
        line.append_text(self._bar(number, row))
        line.append("  ")
        line.append(self._says[number], style="" if row.status in _FINE or row.kind == "run" else "bold")
        line.rstrip()
        return line

    def _beside(self, row: Row) -> Iterable[Text]:
        """The reason of each failed attempt, and what a running one emitted last, below the row, which has no room."""
        cross, dots = ("✗", "…") if self._unicode else ("x", "...")
        left_out = len(row.failures) - FAILURES_MAX
        if left_out > 0:
            yield Text(f"    {dots} {left_out} earlier failed attempts", style="dim")
        for failed in row.failures[-FAILURES_MAX:]:
            reason = error_text({**failed.error, "step": None, "attempt": 1})
            yield from self._indented(f"{cross} attempt {failed.attempt}: {reason}", "red")
        if row.emitted is not None:
            ago = duration(max(0.0, self._waterfall.took - row.emitted.at) * 1000)
            text = one_line(row.emitted.text)
            cut = f"{dots}{text[-EMITTED_MAX:]}" if len(text) > EMITTED_MAX else text
            yield from self._indented(f"emitted last, {ago} ago: {cut}", "italic")

    def _indented(self, text: str, style: str) -> Iterable[Text]:
        shown = text if self._unicode else text.encode("ascii", "replace").decode()
        for line in textwrap.wrap(shown, self._width, initial_indent=" " * 4, subsequent_indent=" " * 6):
            yield Text(line, style=style)

    def _bar(self, number: int, row: Row) -> Text:
        cells = [(" ", "")] * self._bars
        pick = 0 if self._unicode else 1
        for mark in self._waterfall.marks:
            cells[self._scale.cell(mark.at)] = (_GUIDE[pick], "dim")
        styled = [(span, self._style(number, span)) for span in row.spans]
        for span, (glyph, style) in styled:
            for cell in self._scale.cells(span.start, span.end):
                cells[cell] = (glyph, style)
        for span, (_, style) in styled:
            if span.kind in _CUT:  # over a span that follows in the same cell
                cells[self._scale.cells(span.start, span.end)[-1]] = (_CUT[span.kind][pick], style)
        if row.kind == "run":
            for mark in self._waterfall.marks:
                cells[self._scale.cell(mark.at)] = (_MARKS[mark.kind][pick], _MARKS[mark.kind][2])
        bar = Text("")
        for glyph, style in cells:
            bar.append(glyph, style=style)
        return bar

    def _style(self, number: int, span: Span) -> tuple[str, str]:
        """The glyph and style of a span."""
        self._seen.add(span.kind)
        look = _LOOKS[span.kind]
        if (number, span.start, span.end) not in self._critical:
            return look.glyph if self._unicode else look.plain, look.style
        return look.critical if self._unicode else look.plain_critical, f"{_CRITICAL} {look.style}".strip()

    def _note(self, number: int, row: Row, *, brief: bool) -> str:
        unknown = self._waterfall.status != "running" and any(span.open for span in row.spans)
        took = "" if unknown else duration(row.took * 1000)
        notes = [] if number == 0 or row.status in _FINE else [row.status]
        if row.attempts > 1:
            notes.insert(0, f"{row.attempts} attempts")
        if row.target is not None:
            notes.append(f"by {one_line(row.target)}")
        return took if brief else "  ".join(part for part in (took, ", ".join(notes)) if part)

    def _axis(self) -> Text:
        scale, dash = self._scale, "─" if self._unicode else "-"
        cells = [dash] * self._bars
        for cut in scale.shortened():
            for cell in cut:
                cells[cell] = "≈" if self._unicode else "~"
        for cell, at in scale.ticks(TICKS_APART):
            text = f" {duration(at * 1000)} " if cell else f"{duration(at * 1000)} "
            if cell + len(text) <= self._bars:
                cells[cell : cell + len(text)] = text
        line = Text(" " * (self._label + 4))
        line.append("".join(cells), style="dim")
        return line

    # The legend.

    def _legend(self) -> list[Text]:
        parts: list[Text] = []
        meanings: set[str] = set()
        for kind, look in _LOOKS.items():
            if kind not in self._seen or look.meaning in meanings:
                continue
            meanings.add(look.meaning)
            glyph = look.glyph if self._unicode else look.plain
            if kind in _CUT:
                glyph += _CUT[kind][0 if self._unicode else 1]
            parts.append(Text.assemble((glyph, look.style), f" {look.meaning}"))
        if self._critical:
            attempt, pointer = ("█", "▸") if self._unicode else ("#", ">")
            parts.append(Text.assemble((f"{pointer} {attempt}", _CRITICAL), " on the critical path"))
        if self._scale.shortened():
            parts.append(Text(f"{'≈' if self._unicode else '~'} drawn shortened"))
        for mark in self._waterfall.marks:
            fancy, plain, style = _MARKS[mark.kind]
            text = f" {mark.kind} at {duration(mark.at * 1000)}: {one_line(mark.text)}"
            parts.append(Text.assemble((fancy if self._unicode else plain, style), text))
        return parts

    def _sums(self) -> list[Text]:
        named = zip(("in steps", "waiting", "between processes", "overhead"), self._waterfall.totals, strict=True)
        return [Text(f"{name} {self._share(took)}") for name, took in named]

    def _path(self) -> list[Text]:
        parts = [Text(self._named(row, start, end)) for row, start, end in self._waterfall.critical if row is not None]
        more = len(parts) - LINKS_MAX
        if more > 0:
            parts[LINKS_MAX // 2 : LINKS_MAX // 2 + more + 1] = [Text(f"{more + 1} more")]
        return parts

    def _share(self, seconds: float) -> str:
        share = round(100 * seconds / self._waterfall.took) if self._waterfall.took > 0 else 0
        return f"{duration(seconds * 1000)} ({share}%)"

    def _named(self, row: int, start: float, end: float) -> str:
        kind = next(span.kind for span in self._waterfall.rows[row].spans if (span.start, span.end) == (start, end))
        name = [one_line(self._waterfall.rows[row].name)] * bool(row)
        said = [*name, *([kind] if kind in _SAID or not row else []), duration((end - start) * 1000)]
        return " ".join(said)

    def _wrapped(self, parts: Sequence[Text], between: str, head: str = "  ") -> Iterable[Text]:
        """Parts side by side, on as many lines as the width requires."""
        line, empty = Text(head, style=""), True
        for part in parts:
            if not empty and len(line) + len(between) + len(part) > self._width:
                yield line
                line, empty = Text(" " * len(head)), True
            if not empty:
                line.append(between, style="dim")
            line.append_text(part)
            empty = False
        yield line


def _chosen(waterfall: Waterfall, critical: set[int | None]) -> list[tuple[int, Row]]:
    """The drawn rows, numbered, in order."""
    rows = list(enumerate(waterfall.rows))
    if len(rows) <= ROWS_MAX + 1:
        return rows
    best = sorted(rows[1:], key=lambda each: (each[0] not in critical, -each[1].took))[:ROWS_MAX]
    return [rows[0], *sorted(best)]


def _fitted(name: str, width: int, *, unicode: bool) -> str:
    if len(name) <= width:
        return name.ljust(width)
    return name[: width - 1] + ("…" if unicode else "~")
