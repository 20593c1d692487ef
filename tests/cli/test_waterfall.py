"""The drawing of a waterfall: within the width, with or without colour and Unicode, and a picture of it."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from offramp.cli.waterfall import (
    EMITTED_MAX,
    FAILURES_MAX,
    LABEL_MAX,
    LINKS_MAX,
    ROWS_MAX,
    WIDTH_ELSEWHERE,
    WIDTH_MAX,
    draw,
)
from tests.core.test_waterfall import INTERRUPTED, Log, ended, logs

WIDTH_LEAST = 40


class Encoded(io.StringIO):
    encoding = "utf-8"


def terminal(width, encoding="utf-8", **options):
    stream = Encoded()
    stream.encoding = encoding
    given = {"color_system": None, "force_terminal": True} | options
    return Console(file=stream, width=width, highlight=False, markup=False, soft_wrap=True, **given)


def drawn(log, width=80, encoding="utf-8", now=0.0):
    return [line.plain for line in draw(log.seen(now=now), terminal(width, encoding))]


def demoted():
    log = Log().executed(0.0, 0.6, "search:1").step(0.0, "started", "search:2")
    log.step(0.3, "retrying", "search:2", error={"code": "step-failed"}, delay_ms=200.0)
    log.step(0.5, "started", "search:2", attempt=2).then(1.0, "run.demoted", reason="budget")
    log.step(1.2, "completed", "search:2", attempt=2)
    log.then(1.3, "run.resumed", worker="worker-1-2f", replayed_steps=2).step(1.3, "started", "write")
    log.then(1.9, "run.resumed", worker="worker-1-3a", replayed_steps=2)
    log.step(1.9, "retrying", "write", error={"code": INTERRUPTED}).executed(1.9, 2.4, "write")
    return ended(log, 2.4)


PICTURE = """\
            0 ms ─────────────── 1.0 s ───────────── 2.0 s ──
▸ research  ────────────────────▼───┅┅▶┄┄┄┄┄┄┄┄┄┄┄▶══════════  2.4 s
  search    ▒▒▒▒▒▒▒▒▒▒▒▒▒       ╎     ╎           ╎            600 ms
▸ search    ██████✗•••███████████████ ╎           ╎            1.2 s  2 attempts
    ✗ attempt 1: step-failed
▸ write                         ╎     ╍╍╍╍╍╍╍╍╍╍╍╍✗██████████  1.1 s

  ▒ step   ▒✗ failed attempt   ╌✗ attempt lost with its process
  · before the next attempt   ─ fast path   ═ deep path   ┄ handoff to a worker
  ┄ its process died or stopped   ▸ █ on the critical path
  ▼ demoted at 1.0 s: budget
  ▶ resumed at 1.3 s: worker-1-2f, 2 steps taken over
  ▶ resumed at 1.9 s: worker-1-3a, 2 steps taken over
where it went  in steps 1.7 s (71%) · waiting 0 ms (0%)
               between processes 700 ms (29%) · overhead 0 ms (0%)
critical path  search failed 300 ms → search retry 200 ms → search 700 ms
               handoff 100 ms → write lost 600 ms → write 500 ms
"""


def rows_in(lines):
    """Without the axis, and what is below a row."""
    return [line for line in lines[1 : lines.index("")] if not line.startswith("    ")]


def test_the_reason_is_beside_each_failed_attempt_and_within_the_width():
    log = Log()
    where = {"file": "desk/search.py", "line": 41, "function": "fetch"}
    for attempt in range(1, FAILURES_MAX + 3):
        error = {"code": "step-failed", "message": f"ConnectionError: {attempt} " + "refused " * 20, "where": where}
        log.step(attempt, "started", attempt=attempt).step(attempt + 0.5, "retrying", attempt=attempt, error=error)
    lines = drawn(ended(log.step(9, "started", attempt=9).step(9.5, "completed", attempt=9), 9.5))
    below = [line for line in lines if line.startswith("    ") and line != lines[0]]
    assert "2 earlier failed attempts" in below[0]
    assert [line.split()[2] for line in below if "✗" in line] == ["3:", "4:", "5:", "6:", "7:"]
    assert "desk/search.py:41 in fetch" in " ".join(line.strip() for line in below)
    assert max(map(len, below)) <= 80


def test_a_step_that_hangs_shows_what_it_emitted_last():
    log = Log().step(0.0, "started").step(1.0, "delta", delta="void").step(1.5, "retrying", error={}, delay_ms=0.0)
    log.step(1.5, "started", attempt=2)
    for number in range(EMITTED_MAX):
        log.step(2.0, "delta", attempt=2, delta=f"w{number} ")
    lines = drawn(log, 160, now=12.0)
    shown = " ".join(line.strip() for line in lines[1 : lines.index("")] if line.startswith("    "))
    assert "emitted last, 10.0 s ago: …" in shown
    assert shown.endswith(f"w{EMITTED_MAX - 1}")
    assert "void" not in shown
    log.step(13.0, "delta", attempt=2, delta={"done": 3})
    assert 'emitted last, 1.0 s ago: {"done":3}' in "".join(drawn(log, 400, now=14.0))
    log.step(15.0, "completed", attempt=2)
    assert "emitted" not in "".join(drawn(log, 400, now=16.0))


def test_a_picture():
    assert "\n".join(drawn(demoted())) + "\n" == PICTURE


@given(logs(), st.integers(WIDTH_LEAST, 250), st.sampled_from(["utf-8", "ascii"]), st.floats(0, 50))
def test_the_rows_fit_the_terminal_whatever_the_log_says(log, width, encoding, now):
    lines = drawn(log, width, encoding, now)
    rows = lines[: lines.index("")]
    assert len(rows_in(lines)) == len(log.seen(now=now).rows)
    assert max(map(len, rows)) <= min(width, WIDTH_MAX)
    assert encoding == "utf-8" or "".join(lines).isascii()


@given(logs())
def test_the_rows_on_the_critical_path_are_marked_without_any_colour(log):
    found = log.seen(now=20.0)
    on_path = {link.row for link in found.critical if link.row is not None}
    rows = rows_in(drawn(log, now=20.0))
    assert {number for number, line in enumerate(rows) if line.startswith("▸")} == on_path


def test_of_a_long_critical_path_the_ends_are_named():
    log = Log()
    for number in range(LINKS_MAX + 5):
        log.executed(number / 10, (number + 1) / 10, f"s{number}")
    text = " ".join(drawn(ended(log, 2.0), 160))
    path = text.partition("critical path  ")[2].split(" → ")
    assert len(path) == LINKS_MAX
    assert (path[0], path[LINKS_MAX // 2], path[-1].strip()) == ("s0 100 ms", "6 more", f"s{LINKS_MAX + 4} 100 ms")


def test_colours_are_for_terminals():
    found = demoted().seen()
    elsewhere, screen = Console(file=Encoded(), width=240), terminal(80, color_system="standard")
    for console in (elsewhere, screen):
        for line in draw(found, console):
            console.print(line)
    assert "\x1b" not in elsewhere.file.getvalue()
    assert "\x1b[" in screen.file.getvalue()


def test_what_is_not_a_terminal_is_as_wide_as_a_page():
    lines = [line.plain for line in draw(demoted().seen(), Console(file=Encoded(), width=240))]
    assert WIDTH_ELSEWHERE - 20 <= max(map(len, lines)) <= WIDTH_ELSEWHERE


@pytest.mark.parametrize("more", [0, 1, 2])
def test_of_many_rows_the_critical_and_the_longest_are_drawn(more):
    log = Log()
    count = ROWS_MAX + more
    for number in range(count):
        log.step(0.001 * number, "started", f"s{number}")
    for number in range(count):
        log.step(1.0 + 0.001 * number, "completed", f"s{number}")
    lines = drawn(ended(log, 2.0), 100)
    rows = lines[: lines.index("")]
    assert len(rows) == 2 + ROWS_MAX + (more > 0)
    assert (f"  and {more} shorter ones" in rows) == (more > 0)
    assert any(line.startswith(f"▸ s{count - 1} ") for line in rows)


def test_a_long_name_is_cut():
    log = ended(Log().executed(0.0, 1.0, "n" * 90), 1.0)
    assert ("n" * (LABEL_MAX - 1) + "…  ") in drawn(log, 160)[2]
    assert ("n" * 9 + "~  ") in drawn(log, 40, "ascii")[2]


def test_a_step_whose_end_nobody_knows_has_no_duration():
    log = Log().step(0.0, "started", "slow").executed(0.0, 0.3, "quick")
    assert drawn(ended(log, 0.3))[2].endswith("  cancelled")


def test_a_run_without_steps_is_one_row():
    lines = drawn(ended(Log(), 0.5))
    assert lines[1].split() == ["research", "─" * 60, "500", "ms"]


def test_the_target_of_a_failover_stands_beside_its_bar():
    log = Log().step(0.0, "started", target="first")
    log.step(0.3, "retrying", error={"code": "step-failed"}, delay_ms=0.0, target="first")
    log.step(0.3, "started", attempt=2, target="second").step(0.6, "completed", attempt=2, duration_ms=300.0)
    [row] = [line for line in drawn(ended(log, 0.6)) if line.startswith(("  write", "▸ write"))]
    assert row.endswith("600 ms  2 attempts, by second")
