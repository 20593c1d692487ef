"""Runs, journals, events and leases in one Redis or Valkey, shared by the processes of many machines."""
