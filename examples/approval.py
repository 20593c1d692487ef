"""A run that waits, parked, for a person's decision, which arrives as a signal. See docs/how-to/approvals.md.

offramp serve examples/approval.py
offramp submit release --input '{"text": "2.0"}' --async --id
offramp signal RUN decision --data '{"approved": true, "by": "ada"}'
"""

from dataclasses import dataclass

import offramp
from offramp import SLA, App
from offramp.errors import SignalTimeout

app = App("approval", classes=[SLA("batch", budget=0)])
DAY_S = 86_400.0


@dataclass
class Decision:
    approved: bool
    by: str


@app.step
def publish(text: str, by: str) -> str:
    return f"{text} is out, approved by {by}"


@app.pipeline(sla="batch", deadline=7 * DAY_S)
async def release(text: str) -> str:
    """Ask for a decision, wait for it, act on it."""
    try:
        decision = await offramp.signal(
            "decision", timeout=3 * DAY_S, ask={"text": f"Publish {text!r}?"}, schema=Decision
        )
    except SignalTimeout:
        return "no answer"
    return await publish(text, decision.by) if decision.approved else f"{decision.by} refused {text}"
