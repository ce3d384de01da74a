"""One file for each fault that was found: the name says what was wrong."""
