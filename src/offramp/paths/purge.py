"""The end of a run's data: its objects go first, then the run is emptied.

A run whose objects could not be removed stays as it is, and due: nothing is left behind that no run knows of.
"""

from __future__ import annotations

from offramp.paths.process import Process


async def purge(process: Process) -> None:
    """Empty the runs whose retention is over.

    Raises:
        StoreError: some are left for the next time.
    """
    store, blobs = process.store, process.values.blobs
    now = process.clock.time()
    if blobs is None:
        while runs := await store.purge(now):
            process.metrics.purged(runs)
        return
    while due := await store.due(now):
        await blobs.delete(due)
        process.metrics.purged(await store.purge(now, due))
