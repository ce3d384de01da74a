"""What the databases of a worker share."""
