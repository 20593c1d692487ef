"""Draws the README's picture from the events of a real run: `python tools/draw_run.py`, with `--record` for a new run.

The run is five rounds of examples/quickstart.py, on a gateway and a worker of `offramp serve`. Its events are in
docs/pictures/demoted.jsonl, and the same events give the same picture.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import httpx

ROOT = Path(__file__).resolve().parent.parent
EVENTS = ROOT / "docs" / "pictures" / "demoted.jsonl"
PICTURE = EVENTS.with_suffix(".svg")

LEFT, RIGHT, WIDTH = 96, 24, 800
TOP, ROW, BAR = 92, 22, 14

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.faint { fill: #59636e } .title { font-weight: 600; font-size: 13px }
.gateway { fill: #0969da } .worker { fill: #1a7f37 }
.mark { stroke: #bc4c00; stroke-width: 2; stroke-dasharray: 4 3 } .demoted { fill: #bc4c00; font-weight: 600 }
.ground { fill: #0969da; opacity: .07 } .deep { fill: #1a7f37; opacity: .07 }
.event { stroke: #59636e } .axis { stroke: #d1d9e0 }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc } .faint { fill: #9198a1 } .gateway { fill: #4493f8 } .worker { fill: #3fb950 }
  .mark { stroke: #f0883e } .demoted { fill: #f0883e } .event { stroke: #9198a1 } .axis { stroke: #3d444d }
  .ground { fill: #4493f8; opacity: .12 } .deep { fill: #3fb950; opacity: .12 }
}
"""


def recorded() -> list[dict[str, Any]]:
    """The events of a new run."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "offramp",
            "serve",
            "examples/quickstart.py:app",
            "--port",
            "0",
            "--data",
            folder,
        ]
        serve = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        try:
            url = _awaited(serve, r"at (http://\S+),")
            _awaited(serve, r"(worker 1 +ready)")
            body = {"input": {"question": "Why?", "rounds": 5}, "follow": True}
            path, headers = "/v1/pipelines/research/runs", {"Accept": "text/event-stream"}
            with httpx.stream("POST", url + path, json=body, headers=headers, timeout=30) as answer:
                return [json.loads(line[5:]) for line in answer.iter_lines() if line.startswith("data:")]
        finally:
            serve.terminate()
            serve.communicate()


def _awaited(serve: subprocess.Popen[str], pattern: str) -> str:
    assert serve.stderr is not None  # noqa: S101 - it is a pipe
    for line in serve.stderr:
        if found := re.search(pattern, line):
            return found[1]
    raise SystemExit("offramp serve ended")


def drawn(events: list[dict[str, Any]]) -> str:
    """The picture as SVG."""
    times = [datetime.fromisoformat(event["at"]) for event in events]
    seconds = [(at - times[0]).total_seconds() for at in times]
    scale = (WIDTH - LEFT - RIGHT) / seconds[-1]
    place = [round(LEFT + each * scale, 1) for each in seconds]
    kinds = [event["type"] for event in events]
    demoted, resumed = kinds.index("run.demoted"), kinds.index("run.resumed")
    bottom = TOP + ROW * kinds.count("step.started")
    middle, end = place[resumed], place[-1]
    said = f"seq 1 to {len(events)} without a gap, and one outcome: {events[-1]['result']}"
    parts = [
        _text(LEFT, 20, "One run, one id, one stream: five rounds of research on a budget of two seconds", "title"),
        f'<rect class="ground" x="{LEFT}" y="30" width="{middle - LEFT:.1f}" height="{bottom - 30}"/>',
        f'<rect class="deep" x="{middle}" y="30" width="{end - middle:.1f}" height="{bottom - 30}"/>',
        _text(LEFT + 8, 48, "fast path, in the gateway", "faint"),
        _text(end - 8, 48, "deep path, in a worker", "faint", "end"),
        f'<line class="mark" x1="{place[demoted]}" y1="30" x2="{place[demoted]}" y2="{bottom}"/>',
        _text(place[demoted] - 8, 66, f"{seconds[demoted]:.1f} s: run.demoted", "demoted", "end"),
        _text(place[demoted] - 8, 82, "steps in flight finish here", "faint", "end"),
        _text(middle + 8, 66, "run.resumed", "demoted"),
        _text(middle + 8, 82, f"{events[resumed]['replayed_steps']} steps not repeated", "faint"),
        *_bars(events, place, resumed),
        _text(LEFT - 8, bottom + 24, "events", "faint", "end"),
        *(f'<line class="event" x1="{x}" y1="{bottom + 12}" x2="{x}" y2="{bottom + 28}"/>' for x in place),
        f'<line class="axis" x1="{LEFT}" y1="{bottom + 34}" x2="{end}" y2="{bottom + 34}"/>',
        *(
            _text(round(LEFT + second * scale, 1), bottom + 50, f"{second} s", "faint", "middle")
            for second in range(int(seconds[-1]) + 1)
        ),
        _text(LEFT, bottom + 72, said),
    ]
    size = f'viewBox="0 0 {WIDTH} {bottom + 84}" width="{WIDTH}" height="{bottom + 84}"'
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n'
        f"<title>A run that is demoted</title>\n<style>{STYLE}</style>\n{body}\n</svg>\n"
    )


def _bars(events: list[dict[str, Any]], place: list[float], resumed: int) -> Iterator[str]:
    """The steps in the order of their start, in the colour of the process that executed them."""
    ends = {event["key"]: x for event, x in zip(events, place, strict=True) if event["type"] == "step.completed"}
    started = [number for number, event in enumerate(events) if event["type"] == "step.started"]
    for row, number in enumerate(started):
        step, x, y = events[number], place[number], TOP + ROW * row
        where = "worker" if number > resumed else "gateway"
        yield _text(LEFT - 8, y + 12, step["step"], "faint", "end")
        yield f'<rect class="{where}" x="{x}" y="{y}" width="{ends[step["key"]] - x:.1f}" height="{BAR}" rx="3"/>'


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


if __name__ == "__main__":
    if "--record" in sys.argv[1:]:
        lines = [json.dumps(event, ensure_ascii=False, separators=(",", ":")) for event in recorded()]
        EVENTS.write_text("\n".join(lines) + "\n", encoding="utf-8")
    PICTURE.write_text(drawn([json.loads(line) for line in EVENTS.read_text("utf-8").splitlines()]), encoding="utf-8")
