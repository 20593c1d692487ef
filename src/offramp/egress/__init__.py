"""What leaves the service for addresses that callers name."""
