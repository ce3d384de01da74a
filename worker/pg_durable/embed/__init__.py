"""`pg-durable embed`: a small embedding model at an address of OpenAI's form, for tests, demos and small corpora.

Everything but the sub-command's line needs the extra `ai`, and is imported when the sub-command runs.
"""
