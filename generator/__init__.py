"""The build: grammars and templates in, the installer `dist/pg_durable.sql` out."""
