"""The `offramp` command: one file a command, over the same Service and the same HTTP contract as everybody else.

Lower layers never import this one.
"""


def main() -> None:
    """The console script.

    A child of the process lane imports the script again: nothing of the command line is loaded until this is called.
    """
    from offramp.cli.program import main as run

    run()


__all__ = ["main"]
