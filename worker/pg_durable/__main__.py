"""`python -m pg_durable` is the `pg-durable` command."""

import sys

from pg_durable.cli import main

if __name__ == "__main__":
    sys.exit(main())
