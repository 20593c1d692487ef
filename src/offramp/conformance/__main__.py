"""`python -m offramp.conformance MODULE:HARNESS …`: prove adapters, say what failed, exit 1 if something did.

A name may stand for one harness or for a list of them. `--matrix FILE` writes the page of obligations as well.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from offramp.conformance.matrix import page
from offramp.conformance.report import Report
from offramp.conformance.suites import run_blobs, run_clock, run_engine, run_limits, run_store


def named(name: str) -> list[Any]:
    """The harnesses at `MODULE:NAME`."""
    module, _, attribute = name.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise SystemExit(f"expected MODULE:HARNESS, got {name!r}: {error}") from error
    return list(found) if isinstance(found, Sequence) else [found]


async def prove(harnesses: Sequence[Any]) -> tuple[list[Report], ...]:
    """Reports of the stores, the engines, the places for objects, the clocks and the limits among them."""
    stores, engines, blobs, clocks, limits = [], [], [], [], []
    for harness in harnesses:
        # Only objects can be spoilt, only a store else is opened again, only for a clock can time be let pass.
        if hasattr(harness, "spoil"):
            blobs.append(await run_blobs(harness))
        elif hasattr(harness, "reopen"):
            stores.append(await run_store(harness))
        elif hasattr(harness, "let_pass"):
            clocks.append(await run_clock(harness))
        elif hasattr(harness, "meet"):
            limits.append(await run_limits(harness))
        else:
            engines.append(await run_engine(harness))
    return stores, engines, blobs, clocks, limits


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when every adapter conforms."""
    parser = argparse.ArgumentParser(prog="python -m offramp.conformance", description="Prove adapters.")
    parser.add_argument("harness", nargs="+", metavar="MODULE:HARNESS", help="a harness, or a list of them")
    parser.add_argument("--matrix", type=Path, metavar="FILE", help="write the page of adapters and obligations")
    given = parser.parse_args(arguments)
    sys.path.insert(0, "")
    kinds = asyncio.run(prove([harness for name in given.harness for harness in named(name)]))
    reports = [report for kind in kinds for report in kind]
    for report in reports:
        sys.stdout.write(f"{report}\n")
    if given.matrix is not None:
        given.matrix.write_text(page(*kinds), encoding="utf-8")
    return 0 if all(report.ok for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
