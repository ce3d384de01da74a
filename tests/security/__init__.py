"""What one role cannot do to another, to the worker or to the owner."""
