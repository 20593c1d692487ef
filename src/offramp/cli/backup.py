"""`offramp backup` and `offramp restore`: the database of a data folder as one file, and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from offramp.cli.output import OK, RUN_ENDED_BADLY, USAGE, CommandError, say
from offramp.errors import StoreError

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The data folder of the service (its --data).")]
BackupFile = Annotated[Path, typer.Argument(metavar="FILE", help="The backup.")]


def backup(folder: Folder, file: BackupFile) -> int:
    """Copy the database of a data folder to one file, and check the copy.

    Gateways and workers may go on meanwhile. An earlier backup of that name is replaced once the new one is complete.
    Objects that are kept elsewhere (--objects) are not in it.
    """
    from offramp.stores.sqlite import copies

    say(f"{file}: {_done(lambda: copies.back_up(folder, file))}, checked")
    return OK


def restore(file: BackupFile, folder: Folder) -> int:
    """Put a backup in the place of a data folder's database, once no process uses it.

    What was in the folder's database is gone afterwards. Runs go on from what the backup has of them: steps that
    finished after it was made are executed again.
    """
    from offramp.stores.sqlite import copies

    say(f"{folder}: restored {_done(lambda: copies.restore(file, folder))}")
    return OK


def _done(copy: Callable[[], int]) -> str:
    """The size of what was copied."""
    from offramp.stores.sqlite.copies import WrongFile

    try:
        return f"{copy() >> 10:,} KiB"
    except WrongFile as error:
        raise CommandError(str(error), USAGE) from error
    except StoreError as error:
        raise CommandError(str(error), RUN_ENDED_BADLY) from error
