"""How the installers are built."""
