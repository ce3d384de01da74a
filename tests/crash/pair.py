"""A server and, where asked for, its hot standby, which takes its place when it is lost."""

import psycopg
from psycopg.conninfo import make_conninfo

from tests.cluster import SYNCHRONOUS, Cluster, under_test
from tests.support import wait_until


class Pair:
    """Two clusters that change places. Connection strings name both, and mean the one that can be written to."""

    def __init__(self, standby: bool) -> None:
        self._clusters = [Cluster(under_test(), {"fsync": "on", "full_page_writes": "on"}) for _ in range(2)]
        self._clusters[0].initialise().start()
        self.has_standby = standby
        if standby:
            self._add_standby()

    def dsn(self, database: str = "postgres", user: str = "postgres") -> str:
        """The connection string of a database as a role."""
        hosts = ",".join(sorted(str(cluster.home) for cluster in self._clusters))
        return make_conninfo("", host=hosts, dbname=database, user=user, target_session_attrs="read-write")

    def crash(self) -> None:
        """Stops the primary as if its machine had lost power."""
        self._clusters[0].stop("immediate")

    def restart(self) -> None:
        """Starts the primary again."""
        self._clusters[0].restart()

    def fail_over(self) -> None:
        """The primary is lost: the standby is promoted, and a new one made in the place of the primary."""
        self.crash()
        self._clusters.reverse()
        self._clusters[0].promote()
        self._add_standby()

    def remove(self) -> None:
        """Leaves nothing behind."""
        for cluster in self._clusters:
            cluster.remove()

    def _add_standby(self) -> None:
        """Nobody is told of a commit that the standby does not have."""
        primary, standby = self._clusters
        standby.options.pop("synchronous_standby_names", None)
        standby.follow(primary)
        primary.wait_for_standby()
        with psycopg.connect(primary.dsn(), autocommit=True) as conn:
            wait_until(lambda: conn.execute(SYNCHRONOUS).fetchone() == (1,), 60, "the standby")
