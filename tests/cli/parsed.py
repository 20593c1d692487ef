"""A command line as the program's own parser sees it, without running it."""

from __future__ import annotations

from typer.main import get_command

from offramp.cli.program import program


def parse(words):
    """The options of `offramp WORDS`; an AssertionError or a usage error where there are no such."""
    group = get_command(program)
    name, *rest = words
    if name.startswith("-"):
        assert name in {option for parameter in group.params for option in parameter.opts}, f"no option {name}"
        return {}
    assert name in group.commands, f"no command {name!r}"
    command = group.commands[name]
    while rest and rest[0] in getattr(command, "commands", {}):
        command, *rest = command.commands[rest[0]], *rest[1:]
    assert not hasattr(command, "commands") or not rest, f"no command {rest}"
    given, _, _ = command.make_parser(type(command).context_class(command)).parse_args(rest)
    return given
