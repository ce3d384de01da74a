"""AI pipelines with a real model on real servers."""
