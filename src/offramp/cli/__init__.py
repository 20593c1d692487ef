"""The `offramp` command: one file a command, over the same Service and the same HTTP contract as everybody else.

Lower layers never import this one.
"""

from offramp.cli.program import main

__all__ = ["main"]
