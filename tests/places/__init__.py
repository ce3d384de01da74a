"""Where it is installed and how it gets there: logins, poolers, standbys, extensions, upgrades, packages."""
