"""The engine on Temporal, in the extra `temporal`: imported only if an engine URL names it."""
