"""`make demo`: durable functions on a server of its own, two crashes, and the proof by SQL. Leaves nothing behind."""

import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import psycopg
from screen import Screen
from stage import DemoError, Stage, script, stage

ENDED = ("completed", "failed", "cancelled")
PATIENCE = 20


class Demo:
    """The acts, in their order."""

    def __init__(self, stage: Stage, screen: Screen) -> None:
        self.stage = stage
        self.screen = screen
        self._began = time.monotonic()

    def set_up(self) -> None:
        """What there is before the first run."""
        self.screen.heading("1  A server, two tables, a worker")
        self.stage.app.execute(script("data.sql"))
        version, users, orders, worker_reads = self.stage.rows(SETTING)[0]
        if worker_reads:
            raise DemoError("the worker's role may read the orders")
        self.screen.say(f"PostgreSQL {version}, and pg_durable in it: plain SQL, no extension.")
        self.screen.say(f"{users:,} customers and {orders:,} orders, in tables of the ordinary role “app”.")
        self.screen.say(
            f"A worker, process {self.stage.start_worker()}. It opens the sessions in which steps run, as app; its own "
            "role, durable_worker, may not read a single order."
        )

    def first_run(self) -> None:
        """The shortest flow that shows something."""
        self.screen.heading("2  The first run: three counts side by side, then a refresh")
        self.screen.say("“&” is “and at the same time”, “~>” is “and then”. app says:")
        run = self.start("hero.sql")
        with self.screen.live():
            self.watch(run, lambda: self.ended(run), "the end of the first run")
        self.show(run)
        self.screen.say("What the run says, next to what the tables say:")
        self.prove("hero_proof.sql", run)
        self.times(run)

    def long_run(self) -> None:
        """A run that outlives two workers."""
        self.screen.heading("3  A longer run, and two crashes")
        self.screen.say(
            "Eight times, bill() adds an eighth of all orders to what the customers owe. Whatever it does twice is "
            "billed twice. Then the run pauses, waits for an approval, and branches:"
        )
        run = self.start("billing.sql")
        self._began = time.monotonic()
        with self.screen.live():
            self.crash_within_a_step(run)
            self.crash_between_steps(run)
            self.watch(run, lambda: self.ended(run), "the end of the long run")
        self.show(run)
        self.screen.heading("4  The proof: every step took effect exactly once")
        self.prove("billing_proof.sql", run)
        self.times(run)

    def crash_within_a_step(self, run: str) -> None:
        """Kills the worker when batch 4 has billed its customers and is not committed."""
        self.watch(run, lambda: self.stage.one(IN_BATCH_4, run=run), "batch 4 to be half done")
        self.show(run)
        self.stage.kill_worker()
        self.event("SIGKILL to the worker. Batch 4 is done, but not committed.")
        self.watch(run, lambda: not self.stage.one(SESSIONS, run=run), "the end of the dead worker's session")
        committed = self.stage.one(BATCHES)
        if committed != 3:
            raise DemoError(f"after the crash {committed} batches are in the journal, not 3")
        self.event("PostgreSQL has noticed and rolled it back: 4 were begun, 3 are in the journal.")
        self.event(f"Another worker, process {self.stage.start_worker()}, goes on with batch 4.")

    def crash_between_steps(self, run: str) -> None:
        """Kills the worker while the run waits, and sends the signal while there is none."""
        self.watch(run, lambda: self.stage.one(WAITS, run=run), "the run to wait for its signal")
        self.show(run)
        self.stage.kill_worker()
        self.event("The run waits for its approval. SIGKILL again.")
        self.stage.one(SIGNAL, run=run)
        self.event("Kim approves, with df.signal, while no worker is alive.")
        self.event(f"A third worker, process {self.stage.start_worker()}, takes it from there.")

    def start(self, name: str) -> str:
        """Shows a flow and starts it, exactly as it stands in the file; the id of the run."""
        self.screen.sql(script(name))
        return str(self.stage.one(script(name)))

    def ended(self, run: str) -> bool:
        return self.stage.one(STATUS, run=run) in ENDED

    def watch(self, run: str, condition: Callable[[], Any], what: str) -> None:
        """Redraws the run's tree until the condition holds."""

        def look() -> Any:
            self.screen.draw(self.stage.one(TREE, run=run), self.stage.state)
            return condition()

        self.stage.until(look, PATIENCE, what)
        self.screen.draw(self.stage.one(TREE, run=run), self.stage.state)

    def show(self, run: str) -> None:
        """The tree at this moment, for an audience that does not see it move; of a run that has failed, why."""
        self.screen.show(self.stage.one(TREE, run=run), self.stage.state)
        status, error = self.stage.rows(ENDED_AS, run=run)[0]
        if status in ("failed", "cancelled"):
            raise DemoError(f"run {run} {'has failed' if status == 'failed' else 'was cancelled'}: {error}")

    def event(self, text: str) -> None:
        """Something that happens to a run, and when."""
        self.screen.say(text, f"{time.monotonic() - self._began:4.1f} s")

    def prove(self, name: str, run: str) -> None:
        """Compares what must be with what is."""
        claims = self.stage.rows(script(name), run=run)
        self.screen.table(
            ("", "must be", "is", ""),
            [(claim, must, found or "-", "✓" if found == must else "✗") for claim, must, found in claims],
        )
        wrong = [f"{claim}: {found} instead of {must}" for claim, must, found in claims if found != must]
        if wrong:
            raise DemoError("; ".join(wrong))

    def times(self, run: str) -> None:
        """When each step began, and how long it took, as the run has recorded it."""
        self.screen.table(("step, as it ran last", "began at", "took"), self.stage.rows(script("steps.sql"), run=run))


def main() -> int:
    """Plays all acts; 0 only if everything held."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    screen = Screen()
    began = time.monotonic()
    try:
        with stage() as server:
            demo = Demo(server, screen)
            demo.set_up()
            demo.first_run()
            demo.long_run()
    except KeyboardInterrupt:
        screen.say("Interrupted. Server and worker are stopped, their files removed.")
        return 130
    except (DemoError, psycopg.Error, OSError) as error:
        screen.say(f"This does not hold: {error}", "✗", "bold red", above=1)
        return 1
    screen.say(
        f"All of it held, in {time.monotonic() - began:.0f} s. The server is gone, nothing is left behind.",
        "✓",
        "bold green",
        above=1,
    )
    screen.heading("What to try next")
    for command, gives in NEXT.items():
        screen.say(gives, f"{command:33}")
    return 0


SETTING = """
SELECT current_setting('server_version'), (SELECT count(*) FROM users), (SELECT count(*) FROM orders),
       has_table_privilege('durable_worker', 'orders', 'SELECT')"""
STATUS = "SELECT df.status(%(run)s)"
ENDED_AS = "SELECT status, error FROM df.instances WHERE id = %(run)s"
TREE = "SELECT df.explain(%(run)s)"
SIGNAL = """SELECT df.signal(%(run)s, 'approve', '"Kim"')"""
BATCHES = "SELECT count(*) FROM journal WHERE entry LIKE 'batch %'"
WAITS = "SELECT node_id FROM df.waiting WHERE instance_id = %(run)s AND kind = 'signal'"
SESSIONS = """
SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'pg_durable:' || %(run)s || ':%%'"""
IN_BATCH_4 = f"""
{SESSIONS} AND wait_event = 'PgSleep' AND (SELECT count(*) FROM journal) = 3"""
NEXT = {
    ".venv/bin/pg-durable dev": "a server and a worker that stay, and how to connect with psql",
    ".venv/bin/python -m examples etl": "one of the scenarios in docs/scenarios.md",
    "examples/demo/billing.sql": "what you just saw; billing_proof.sql is its proof",
    "README.md": "pg_durable on your own PostgreSQL",
}

if __name__ == "__main__":
    sys.exit(main())
