"""The engine on Temporal, behind the extra `offramp[temporal]`: imported only where an engine URL names it."""
