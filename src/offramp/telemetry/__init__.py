"""What the service tells about itself; nothing here changes what it does."""
