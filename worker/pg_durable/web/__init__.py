"""The web page: watching and steering runs in a browser, as a role of the database."""
