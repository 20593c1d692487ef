"""`offramp doctor` on the store of large values: whether objects can be written, read and removed."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from pathlib import Path

from offramp.cli.findings import Finding
from offramp.errors import MissingExtra, ObjectLost, ObjectsUnavailable, SettingsError
from offramp.settings import Settings


def check_objects(settings: Settings) -> Iterator[Finding]:
    """Check the store that `objects` names; leaves nothing in it."""
    from offramp.execution.clock import SystemClock
    from offramp.execution.values import Values
    from offramp.stores.blobs.address import parse_objects
    from offramp.stores.blobs.places import open_blobs

    away = settings.engine.startswith("temporal:")
    if not settings.objects:
        if away:
            yield Finding(
                "note",
                "objects",
                "not given: no input, argument or result above 256 KiB can go through Temporal",
                "give --objects s3://bucket/prefix, or a folder while everything is on this machine",
            )
        return
    try:
        blobs = open_blobs(settings.objects)
        place = parse_objects(settings.objects)
    except (SettingsError, MissingExtra) as error:
        yield Finding("broken", "objects", str(error), "see docs/reference/objects.md")
        return
    if blobs is None or place is None:
        return
    values = Values(blobs, settings.objects_above, 0.0, SystemClock())
    try:
        asyncio.run(values.probe(f"probe-doctor-{secrets.token_hex(4)}"))
    except (ObjectLost, ObjectsUnavailable) as error:
        yield Finding("broken", "objects", str(error), "steps with large results wait for it, then fail")
        return
    finally:
        values.close()
    yield Finding("ok", "objects", f"{blobs.where}: an object was written, read and removed")
    if isinstance(place, Path) and away:
        yield Finding(
            "risk",
            "objects",
            f"{blobs.where} is a folder, and workers on Temporal may be on several machines",
            "give all of them one bucket, or a folder that each machine mounts",
        )
    elif not isinstance(place, Path) and place.plain_http and not place.is_near:
        yield Finding(
            "risk",
            "objects",
            f"{blobs.where} is reached without TLS: values can be read in transit",
            "use an https:// endpoint",
        )
