"""The `offramp` command, one file per command. It uses the same service and HTTP contract as all other clients.

Lower layers never import this one.
"""


def main() -> None:
    """The console script.

    A child of the process lane imports the script again: nothing of the command line is loaded until this is called.
    """
    from offramp.cli.program import main as run

    run()


__all__ = ["main"]
