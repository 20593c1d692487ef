import contextlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.spinner import Spinner

from offramp.cli.render import STEPS_SHOWN_MAX, Screen, below, styled
from offramp.cli.view import TEXT_PENDING_MAX, Line, RunView, duration, error_text, fold
from offramp.core.events import Event


class Story:
    """Builds the events of a run one after the other."""

    def __init__(self) -> None:
        self.seq = 0
        self.events: list[Event] = []

    def then(self, kind: str, at: float = 0.0, **data) -> "Story":
        self.seq += 1
        self.events.append(Event(kind, "run_X", self.seq, f"2026-11-21T10:00:{at:06.3f}Z", data))
        return self

    def accepted(self, path="fast"):
        return self.then(
            "run.accepted", pipeline="explain", path=path, **{"class": "interactive"}, route={"reasons": ["fits"]}
        )

    def step(self, kind: str, at: float = 0.0, step="write", attempt=1, **data):
        return self.then(f"step.{kind}", at, step=step, key=f"{step}-1", attempt=attempt, **data)

    def shown_by(self) -> tuple[RunView, list[Line]]:
        view, lines = RunView(), []
        for event in self.events:
            view, more = fold(view, event)
            lines += more
        return view, lines

    def texts(self) -> list[str]:
        return [line.text for line in self.shown_by()[1]]


def test_a_label_stands_beside_the_name_of_its_step():
    view, lines = Story().accepted().step("started", 0.1, label="web 'why'\n").shown_by()
    assert lines[-1].text == "write (web 'why')"
    assert [step.name for step in view.running.values()] == ["write (web 'why')"]


def test_the_target_of_a_failover_stands_beside_each_attempt():
    story = Story().accepted().step("started", target="first")
    story.step("retrying", target="first", error={"code": "x", "message": "down"}, delay_ms=0.0)
    story.step("started", attempt=2, target="second").step("completed", 0.4, attempt=2, duration_ms=300.0)
    assert story.texts()[1:] == [
        "write by first",
        "write attempt 1 by first is void: down; again at once",
        "write by second, attempt 2",
        "write in 300 ms, attempt 2",
    ]


def test_a_run_is_told_from_acceptance_to_its_end():
    story = Story().accepted().step("started", 0.1).step("completed", 0.4, duration_ms=300.0)
    view, lines = story.then("run.completed", 0.5, result="x").shown_by()
    assert [line.text for line in lines] == [
        "run_X explain, fast path, class interactive: fits",
        "write",
        "write in 300 ms",
        "completed in 500 ms on the fast path",
    ]
    assert [line.seconds for line in lines] == pytest.approx([0, 0.1, 0.4, 0.5])
    assert view.status == "completed"
    assert view.ended.data == {"result": "x"}
    assert not view.running


def test_text_is_shown_by_the_line_and_flushed_when_its_step_ends():
    story = Story().accepted().step("started")
    for delta in ("one ", "line\n  two", "\nrest"):
        story.step("delta", delta=delta)
    assert story.texts()[2:] == ["write | one line", "write |   two"]
    assert story.shown_by()[0].running["write-1"].pending == "rest"
    assert story.step("completed", duration_ms=1.0).texts()[-2:] == ["write | rest", "write in 1 ms"]


def test_a_wait_for_a_permit_is_told():
    wait = {"resource": "openai", "reason": "rate", "ahead": 12, "expected_ms": 3200.0}
    story = Story().accepted().step("waiting", 0.3, **wait).step("started", 3.5)
    story.step("waiting", 4.0, resource="openai", reason="breaker", ahead=0, expected_ms=None)
    view, lines = story.shown_by()
    assert [line.text for line in lines[1:]] == [
        "write waits for openai (rate, 12 ahead, about 3.2 s)",
        "write",
        "write waits for openai (breaker)",
    ]
    assert [step.data for step in view.running.values()] == ["waits for openai"]


def test_deltas_of_a_lost_attempt_are_void():
    story = Story().accepted().step("started").step("delta", delta="half a li")
    story.step("retrying", error={"message": "boom"}, delay_ms=200.0).step("started", attempt=2)
    story.step("delta", attempt=2, delta="a line").step("completed", attempt=2, duration_ms=5.0)
    assert story.texts()[2:] == [
        "write attempt 1 is void: boom; again in 200 ms",
        "write, attempt 2",
        "write | a line",
        "write in 5 ms, attempt 2",
    ]


def test_a_demotion_says_why_and_moves_the_run_to_the_deep_path():
    story = Story().accepted().step("started")
    story.then("run.demoted", 6.0, reason="budget", budget_ms=6000.0, elapsed_ms=6001.0, message="Takes longer.")
    assert story.texts()[-1] == "demoted to the deep path after 6.0 s (budget, budget 6.0 s): Takes longer."
    assert story.shown_by()[0].path == "deep"
    story.then("run.resumed", 6.1, worker="worker-1", replayed_steps=1, reason="silence")
    assert story.texts()[-1] == "resumed by worker-1, as the process before it fell silent, 1 finished step taken over"
    assert not story.shown_by()[0].running


def test_a_failure_names_the_step_and_the_attempt():
    story = Story().accepted().step("started")
    error = {"code": "step-failed", "message": "ValueError: no", "step": "write", "attempt": 3}
    story.step("failed", 0.2, attempt=3, duration_ms=10.0, error=error).then("run.failed", 0.3, error=error)
    assert story.texts()[-2:] == [
        "write failed after 10 ms, attempt 3: ValueError: no",
        "failed after 300 ms: ValueError: no (step write, attempt 3)",
    ]


@pytest.mark.parametrize("status", ["cancelled", "expired"])
def test_what_was_pending_is_shown_when_the_run_ends_without_its_step(status):
    story = Story().accepted().step("started").step("delta", delta="last words")
    assert story.then(f"run.{status}", 1.0, error={"message": "why"}).texts()[-2:] == [
        "write | last words",
        f"{status} after 1.0 s: why",
    ]


def test_waits_are_told_and_what_is_waited_for_is_shown():
    story = Story().accepted("deep").then("wait.started", 1.0, wait="signal", name="go", key="a", until=None)
    story.then("wait.started", 1.0, wait="sleep", name=None, key="b", until=None)
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(below(story.shown_by()[0], 0.0, Spinner("line"), console))
    assert "waiting: signal go, a sleep" in console.export_text()
    story.then("wait.ended", 2.0, wait="sleep", name=None, key="b", reason="due")
    story.then("wait.ended", 3.0, wait="signal", name="go", key="a", reason="received")
    assert story.texts()[1:] == ["waits for signal go", "sleeps", "a sleep is over", "signal go came"]
    assert story.shown_by()[0].waits == {}


def test_an_event_that_was_seen_changes_nothing():
    story = Story().accepted().step("started")
    view, _ = story.shown_by()
    assert fold(view, story.events[0]) == (view, [])


def test_an_event_of_a_later_version_is_passed_over():
    view, lines = Story().accepted().then("run.promoted", worker=3).shown_by()
    assert view.seq == 2
    assert len(lines) == 1


def test_progress_is_shown_on_one_line_and_kept_short():
    story = Story().accepted().step("started").step("delta", delta={"done": 3, "of": 10})
    assert story.texts()[-1] == "write | done 3, of 10"
    assert len(story.step("delta", delta=["x" * 1000]).texts()[-1]) < 220


def test_a_model_cannot_drive_the_terminal():
    story = Story().accepted().step("started")
    story.step("delta", delta="\x1b[2Jhello\x07\x1b]0;title\x07\x9b31m world\r\n")
    assert story.texts()[-1] == "write | hello31m world"


def test_a_line_without_end_does_not_grow_for_ever():
    story = Story().accepted().step("started").step("delta", delta="x" * (TEXT_PENDING_MAX + 1))
    view, lines = story.shown_by()
    assert view.running["write-1"].pending == ""
    assert len(lines[-1].text) > TEXT_PENDING_MAX


@given(st.lists(st.text(alphabet="ab \n", max_size=8), max_size=12))
def test_however_text_is_cut_the_same_lines_come_out(parts):
    story = Story().accepted().step("started")
    for part in parts:
        story.step("delta", delta=part)
    story.step("completed", duration_ms=1.0)
    shown = [line.text.removeprefix("write |").removeprefix(" ") for line in story.shown_by()[1] if line.mark == "text"]
    wanted = "".join(parts).split("\n")
    assert shown == [line.rstrip() for line in (wanted if wanted[-1] else wanted[:-1])]


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0 ms"),
        (999.4, "999 ms"),
        (999.6, "1.0 s"),
        (99_940, "99.9 s"),
        (99_960, "1 min 40 s"),
        (7_260_000, "2 h 01 min"),
    ],
)
def test_durations(milliseconds, text):
    assert duration(milliseconds) == text


def test_an_error_without_a_reason_still_reads():
    assert error_text(None) == error_text({}) == "no reason given"


def screen_of(story: Story, **options) -> tuple[Screen, str]:
    stream = io.StringIO()
    with Screen(stream, **options) as screen:
        for event in story.events:
            screen.show(event)
        screen.note("a remark")
    return screen, stream.getvalue()


def test_elsewhere_than_on_a_terminal_there_are_plain_lines_only():
    _, text = screen_of(Story().accepted().step("started", 0.5).then("run.completed", 1.25, result=1))
    assert "\x1b" not in text
    assert [line.strip() for line in text.splitlines()] == [
        "0.00 s  • run_X explain, fast path, class interactive: fits",
        "0.50 s  ▸ write",
        "1.25 s  ✓ completed in 1.2 s on the fast path",
        "a remark",
    ]


def test_what_goes_on_is_shown_with_its_running_time_and_last_words():
    view, _ = Story().accepted().step("started", 1.0).step("delta", 2.0, delta="so far").shown_by()
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(below(view, 0.5, Spinner("line"), console))
    shown = console.export_text()
    assert "write" in shown
    assert "1.5 s" in shown
    assert "so far" in shown


def test_more_steps_than_there_is_room_for_are_counted():
    story = Story().accepted()
    for number in range(STEPS_SHOWN_MAX + 3):
        story.step("started", step=f"s{number}")
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(below(story.shown_by()[0], 0.0, Spinner("line"), console))
    assert "and 3 more" in console.export_text()


def test_a_terminal_is_left_as_it_was_found():
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    with contextlib.suppress(KeyboardInterrupt), Screen(stream, live=True) as screen:
        screen.show(Story().accepted().events[0])
        raise KeyboardInterrupt
    hidden, shown = stream.getvalue().count("\x1b[?25l"), stream.getvalue().count("\x1b[?25h")
    assert hidden == shown == 1


def test_without_unicode_the_marks_are_ascii():
    assert styled(Line(1.0, "done", "naïve"), unicode=False).plain.isascii()
