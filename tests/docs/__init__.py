"""What the documentation says and shows is true: pages run, links lead somewhere, names exist."""
