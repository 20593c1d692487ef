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
    """Copy the database of a data folder to one checked file.

    Gateways and workers may keep running. The new backup replaces one of the same name once it is complete. It does not
    include objects stored elsewhere (--objects).
    """
    from offramp.stores.sqlite import copies

    say(f"{file}: {_done(lambda: copies.back_up(folder, file))}, checked")
    return OK


def restore(file: BackupFile, folder: Folder) -> int:
    """Replace a data folder's database with a backup.

    No process may use it. The previous database is lost. Runs resume from their state in the backup: steps that
    finished after it was made are executed again.
    """
    from offramp.stores.sqlite import copies

    say(f"{folder}: restored {_done(lambda: copies.restore(file, folder))}")
    return OK


def _done(copy: Callable[[], int]) -> str:
    """Copy, and return the size."""
    from offramp.stores.sqlite.copies import WrongFile

    try:
        return f"{copy() >> 10:,} KiB"
    except WrongFile as error:
        raise CommandError(str(error), USAGE) from error
    except StoreError as error:
        raise CommandError(str(error), RUN_ENDED_BADLY) from error
