"""Adapters of the engine port: they drive deep runs."""
