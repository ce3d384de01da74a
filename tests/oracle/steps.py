"""SQL steps: each is a statement and its model. Every execution leaves a row in fx that shows the names it saw.

A column is an expression of SQL and a function of the same value from what the oracle knows at that moment.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.oracle.values import Names, Value, characters, insert, look_up

PEEK = "$a? $b? $c?"
RUN, OWN_RUN = "{sys_instance_id}", "split_part(current_setting('application_name'), ':', 2)"
VARIABLES = {"v_num": "7", "v_ref": "<$a?>", "v_brace": "{v_num}"}
LIMIT = 25
"""No run leaves more effects than that: then its steps fail."""

TRANSIENT_CLASSES = ("08", "40", "53")
TRANSIENT = ("55P03", "57P01", "57P02", "57P03")


class StepFailed(Exception):
    """A step's statement failed; the arguments are the SQLSTATE and a fragment of the message."""


@dataclass
class Moment:
    """What a statement sees when it runs, and what it asks for."""

    names: Names
    variables: dict[str, str]
    executions: int = 0
    effects: int = 0
    tries: int = 0
    cancel: str | None = None
    signals: list[tuple[str, str]] = field(default_factory=list)

    def text(self, text: str) -> str:
        return insert(text, self.names, self.variables)

    def seen(self) -> str:
        return self.text(PEEK)


@dataclass(frozen=True)
class Column:
    sql: str
    model: Callable[[Moment], Any]
    name: str = "v"


def const(sql: str, value: Any, name: str = "v") -> Column:
    return Column(sql, lambda _: value, name)


def read(reference: str) -> Column:
    """A reference in code."""

    def model(moment: Moment) -> Any:
        value = look_up(reference, moment.names)
        return None if value is None else characters(value)

    return Column(f"cast({reference} as text)", model)


def quoted(text: str) -> Column:
    """References and placeholders in a literal."""
    return Column(f"'{text}'", lambda moment: moment.text(text))


def fewer(count: int) -> Column:
    """Whether this step has been executed fewer times before."""
    sql = f"(select count(*) < {count} from fx where run = '{{sys_instance_id}}' and step = '@')"
    return Column(sql, lambda moment: moment.executions < count)


def at_least(count: int) -> Column:
    """Whether this step has been executed so many times before."""
    sql = f"(select count(*) >= {count} from fx where run = '{{sys_instance_id}}' and step = '@')"
    return Column(sql, lambda moment: moment.executions >= count, "asked")


def send(name: str, data: str) -> Column:
    def model(moment: Moment) -> str:
        moment.signals.append((name, data))
        return "OK"

    return Column(f"df.signal('{{sys_instance_id}}', '{name}', '{data}')", model)


def cancel(reason: str) -> Column:
    def model(moment: Moment) -> bool:
        moment.cancel = reason
        return True

    return Column(f"df.cancel('{{sys_instance_id}}', '{reason}') is not null", model)


def first_effect(label: str) -> str:
    """Under which name a block leaves the effect of its first statement."""
    return f"{label}b"


@dataclass(frozen=True)
class Step:
    """A statement that selects columns, `rows` times; None: it returns no row set. `trips`: its first tries fail.

    `blind`: it has no references, unless a column has, and so it runs as it is.
    """

    columns: tuple[Column, ...] = ()
    rows: int | None = 1
    trips: int = 0
    code: str = "40001"
    policy: dict[str, Any] | None = None
    blind: bool = False

    @property
    def sees(self) -> bool:
        """Whether its effect shows the names it saw."""
        return RUN in self.statement("")

    def statement(self, label: str) -> str:
        statement = self.seeing(label)
        bare = statement.replace(f"'{RUN}'", OWN_RUN).replace(PEEK, "")
        return bare if self.blind and not set("${;") & set(bare) else statement

    def statements(self, label: str) -> list[str]:
        """Of a block: one that leaves an effect of its own comes first."""
        return [Step(rows=None).seeing(first_effect(label)), self.statement(label)]

    def seeing(self, label: str) -> str:
        tries = f", trip('tries_{label}', {self.trips}, '{self.code}')" if self.trips else ""
        effect = (
            f"insert into fx (run, step, seen{', tries' if tries else ''}) "
            f"values ('{{sys_instance_id}}', '{label}', '{PEEK}'{tries})"
        )
        if self.rows is None:
            return effect
        columns = ", ".join(f'{column.sql.replace("@", label)} as "{column.name}"' for column in self.columns)
        return f"with e as ({effect}) select {columns} from generate_series(1, {self.rows})"

    def run(self, moment: Moment, block: bool = False) -> Value:
        """One try; raises StepFailed or Refused. A block has one effect more."""
        row = {column.name: column.model(moment) for column in self.columns} if self.rows is not None else {}
        if moment.tries < self.trips:
            raise StepFailed(self.code, "statement 2 of 2: tripped" if block else "tripped")
        if moment.effects + block >= LIMIT:
            raise StepFailed("OR001", "too many effects")
        count = self.rows or 0
        names = tuple(column.name for column in self.columns) if self.rows is not None else ()
        return Value({"rows": [row] * count, "row_count": count}, names)

    def retryable(self, code: str) -> bool:
        transient = code[:2] in TRANSIENT_CLASSES or code in TRANSIENT
        if self.policy is None or "retry_on" not in self.policy:
            return transient or self.policy is not None
        listed = self.policy["retry_on"]
        return code in listed or code[:2] in listed or (transient and "transient" in listed)

    @property
    def attempts(self) -> int:
        return int((self.policy or {}).get("max_attempts", 5))

    def longest_delay(self, attempt: int) -> float:
        policy = {"initial_delay": 1, "backoff": 2, "max_delay": 60, **(self.policy or {})}
        return float(min(policy["max_delay"], policy["initial_delay"] * policy["backoff"] ** (attempt - 1)))
