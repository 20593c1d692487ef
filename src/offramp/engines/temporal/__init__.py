"""The engine on Temporal, in the extra `offramp[temporal]`: imported only if an engine URL names it."""
