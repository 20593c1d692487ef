"""Protocols that adapters fulfil; the obligations in their docstrings are numbered."""
