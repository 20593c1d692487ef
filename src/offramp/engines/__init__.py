"""Adapters of the engine port: what drives deep runs."""
