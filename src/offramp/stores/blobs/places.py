"""From the setting to the place; obstore is imported only if a bucket needs it."""

from __future__ import annotations

from pathlib import Path

from offramp.errors import MissingExtra
from offramp.ports.extras import install
from offramp.stores.blobs.address import parse_objects
from offramp.stores.blobs.blobs import PlacedBlobs
from offramp.stores.blobs.folder import Folder
from offramp.stores.blobs.memory import Memory


def open_blobs(text: str) -> PlacedBlobs | None:
    """The objects that a setting names; None if it is empty. Connects to nothing yet.

    Args:
        text: see `parse_objects`; `memory:` for one process and its tests.

    Raises:
        SettingsError: it names no place.
        MissingExtra: it names a bucket, and the extra `objects` is not installed.
    """
    if text == "memory:":
        return PlacedBlobs(Memory())
    found = parse_objects(text)
    if found is None:
        return None
    if isinstance(found, Path):
        return PlacedBlobs(Folder(found))
    try:
        from offramp.stores.blobs.remote import Remote
    except ImportError as error:
        raise MissingExtra(f"objects {found.where} needs {error.name}: {install('objects')}") from error
    return PlacedBlobs(Remote(found))
