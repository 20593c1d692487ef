"""Settings for a command, with the folder of an embedded engine resolved into `data`. Opens nothing."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from offramp.cli.output import CommandError
from offramp.core.scaling import Span, parse_workers, span_of
from offramp.settings import Settings, unread_warning
from offramp.stores.redis.address import Address, is_redis, without_password

if TYPE_CHECKING:
    from collections.abc import Mapping

    from offramp.core.sla import SLA

logger = logging.getLogger("offramp")


def warn_of_unread() -> None:
    """Log one line if there are variables that look like settings but are not."""
    if misspelt := unread_warning():
        logger.warning("%s", misspelt)


def data_place(settings: Settings) -> str:
    """Where runs are stored, as text for a person."""
    return Address.parse(settings.store).shown if settings.store else settings.data


def crew_of(classes: Mapping[str, SLA], settings: Settings) -> Span:
    """How many workers `serve` keeps: at least the sum of the classes' `min_warm`.

    Raises:
        CommandError: the setting allows fewer.
    """
    try:
        return span_of(parse_workers(settings.workers), sum(sla.min_warm for sla in classes.values()))
    except ValueError as error:
        raise CommandError(str(error)) from None


def load_settings(**given: Any) -> Settings:
    """Settings from all sources; `embedded:DIR` becomes `data`.

    Raises:
        CommandError: the options name two folders, or an unknown store.
        SettingsError: a value is invalid, or names an unknown engine.
    """
    from offramp.wiring import data_folder

    settings = Settings.load(**given)
    folder = str(data_folder(settings))
    if is_redis(settings.store):
        Address.parse(settings.store)
    elif settings.store:
        # Refuses `memory:` too: the command line starts several processes.
        raise CommandError(
            f"no store {without_password(settings.store)!r}: it is redis://host:port/db, or left out, and then SQLite "
            "under --data"
        )
    if settings.engine.startswith("temporal:"):
        return settings
    if given.get("data") not in {None, settings.engine.partition(":")[2] or given["data"]}:
        raise CommandError(f"--engine {settings.engine} and --data {given['data']} name two folders: leave one out")
    return replace(settings, data=folder, engine="embedded:")
