"""What a served process answers with in test_stored.py: one large result."""

from __future__ import annotations

from offramp import App

app = App("large")


@app.pipeline(budget=0)
async def large(size: int) -> str:
    return "".join(f"{at:015d}\n" for at in range(size // 16))
