"""`make bench`: what the design promises, each as a ratio measured side by side on one server."""
