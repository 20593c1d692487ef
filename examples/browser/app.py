"""An answer in three parts, word by word. It does not make its budget of two seconds, so the page shows a demotion.

export OFFRAMP_API_KEYS="page:$(openssl rand -hex 16)"
offramp serve examples/browser/app.py --cors http://localhost:5173
python -m http.server 5173 --bind 127.0.0.1 --directory examples/browser
"""

import asyncio

from offramp import SLA, App, emit

app = App("browser", classes=[SLA("interactive", p95=2.0, budget=2.0)])
PARTS = ("In short, the answer to", "In more detail, what is known about", "And in the end, all that was found on")


@app.step(timeout=60)
async def write(part: str, question: str) -> str:
    words = f"{part} {question} is this. ".split()
    for word in words:
        emit(word + " ")
        await asyncio.sleep(0.1)  # stands in for a model
    return " ".join(words)


@app.pipeline(sla="interactive")
async def answer(question: str) -> str:
    """Write the parts one after the other."""
    return " ".join([await write(part, question) for part in PARTS])
