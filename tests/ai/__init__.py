"""The AI pipelines."""
