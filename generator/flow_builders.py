"""The graph builders as the flow language calls them: one line for each signature."""

from dataclasses import dataclass
from typing import Any

# The types of parameters, and what may be written for each. `quoted` is text in double quotes.
TYPES = {
    "graph": ("graph", "string", "json"),
    "text": ("string", "quoted", "json", "name"),
    "sql": ("string", "json"),
    "numeric": ("number",),
    "integer": ("number",),
    "boolean": ("boolean",),
    "interval": ("string",),
    "jsonb": ("json", "string"),
    "text[]": ("json", "string"),
}


@dataclass(frozen=True)
class Parameter:
    """A parameter: its name in the database, its type, its default, and whether it takes all arguments that follow."""

    name: str
    type: str
    default: str | None = None
    optional: bool = False
    alias: str | None = None
    variadic: bool = False


@dataclass(frozen=True)
class Signature:
    """One way of calling a builder; `number` is its place in the generated dispatcher."""

    number: int
    builder: str
    parameters: tuple[Parameter, ...]

    @property
    def graphs(self) -> list[int]:
        """The positions of parameters that are graphs."""
        return [index for index, parameter in enumerate(self.parameters, 1) if parameter.type == "graph"]

    @property
    def call(self) -> str:
        """The call of the builder with arguments from p_args."""
        return f"df.{self.builder}({', '.join(map(argument, self.parameters, range(1, 99)))})"

    @property
    def usage(self) -> str:
        """How the call is written."""
        return f"{self.builder}({', '.join(map(shown, self.parameters))})"


def argument(parameter: Parameter, index: int) -> str:
    if parameter.variadic:
        return "variadic p_args"
    value = f"p_args[{index}]"
    if parameter.type == "text[]":
        value = f"df_engine.flow_list({value})"
    elif parameter.type not in ("graph", "text", "sql"):
        value = f"{value}::{parameter.type}"
    return f"{parameter.name} => {value}"


def shown(parameter: Parameter) -> str:
    label = parameter.alias or parameter.name
    kind = {"graph": "flow", "text[]": "list", "jsonb": "json", "numeric": "number"}.get(parameter.type, parameter.type)
    default = f" = {parameter.default}" if parameter.default else " = null" if parameter.optional else ""
    return f"{kind}, {kind}, ..." if parameter.variadic else f"{label} {kind}{default}"


def parse(line: str) -> tuple[str, tuple[Parameter, ...]]:
    """Reads `name(parameter type [= default], ...)`; `alias/parameter` gives a second name."""
    builder, _, rest = line.partition("(")
    parameters = []
    for part in filter(None, rest.rstrip(")").split(", ")):
        declaration, optional, default = part.partition(" = ")
        label, kind = declaration.split(" ")
        variadic, kind = kind.endswith("..."), kind.removesuffix("...")
        if kind not in TYPES:
            raise ValueError(f"{line}: unknown type {kind}")
        alias, _, name = label.rpartition("/")
        value = None if default in ("", "null") else default
        parameters.append(Parameter(name, kind, value, bool(optional), alias or None, variadic))
    return builder, tuple(parameters)


# The first signature that fits the arguments is called.
SIGNATURES = """
sql(query text)
block(statements text...)
seq(a graph, b graph)
as(fut graph, name text)
sleep(seconds numeric)
sleep(duration text)
sleep_until(due text)
wait_for_schedule(cron_expr text, timezone text = null)
loop(body graph, while/condition graph = null, continue_on_failure boolean = false)
break(value text = null)
if(condition graph, then_branch graph, else_branch graph)
if(condition graph, then_branch graph)
if_rows(result_name text, then_branch graph, else_branch graph)
join(a graph, b graph)
join3(a graph, b graph, c graph)
race(a graph, b graph)
all(branches graph...)
race_all(branches graph...)
any(branches graph...)
chain(steps graph...)
catch(body graph, handler graph, errors text[] = null)
undo(step graph, compensation graph)
timeout(body graph, after numeric, otherwise graph = null)
timeout(body graph, after text, otherwise graph = null)
map(items sql, body graph, parallel integer = 10, on_error text = fail, collect_values boolean = true)
map(items graph, body graph, parallel integer = 10, on_error text = fail, collect_values boolean = true)
wait_for_signal(name text, timeout_seconds integer = null)
wait_for(condition graph, every interval = 1 minute, key text = null, timeout interval = null)
call(flow graph, input text = null, label text = null)
retry(fut graph, max_attempts integer = null, initial_delay interval = null, backoff numeric = null, \
max_delay interval = null, retry_on text[] = null, exhausted text = null)
within(limit_name text, fut graph, key text = null)
http(url text, method text = POST, body text = null, headers jsonb = null, timeout_seconds integer = 30, \
expect text = null)
http_multipart(url text, method text = POST, parts jsonb = null, headers jsonb = null, timeout_seconds integer = 30, \
expect text = null)
"""

BUILDERS: dict[str, list[Signature]] = {}
for _number, _line in enumerate(SIGNATURES.strip().splitlines(), 1):
    _builder, _parameters = parse(_line)
    BUILDERS.setdefault(_builder, []).append(Signature(_number, _builder, _parameters))


# Builders that change the node they are given instead of making a node around it.
MODIFIERS = ("as", "retry", "within")


def catalogue() -> dict[str, Any]:
    """The signatures as the database reads them: builder -> [{number, usage, parameters}]."""
    return {
        builder: [
            {"number": s.number, "usage": s.usage, "parameters": [described(p) for p in s.parameters]}
            for s in signatures
        ]
        for builder, signatures in BUILDERS.items()
    }


def described(parameter: Parameter) -> dict[str, Any]:
    takes = [*TYPES[parameter.type], *(["null"] if parameter.optional else [])]
    return {
        "names": [name for name in (parameter.name, parameter.alias) if name],
        "takes": takes,
        "graph": parameter.type == "graph",
        "default": parameter.default,
        "optional": parameter.optional,
        "variadic": parameter.variadic,
    }
