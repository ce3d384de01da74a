"""Random graphs, and two independent ways of writing them: as an envelope and as flow text."""

import json
import random
from typing import Any

Node = dict[str, Any]

TEXTS = [
    "SELECT 1", "select 'it''s', $n, {v}", "insert into t values ($$x$$)", "", " ", "a\nb", "tab\there", "ä € 𝄞",
    "back\\slash", "-- no comment", "/* none */", "{}", '{"a": 1}', '{"node_type":"X"}', "[1]", '"quoted"',
    '{"node_type": "SLEEP", "query": "5"}', "$", "$$", "$a$ $a$", "'", "''", "'''", "\\", "\x01", "~> 'x' |=> y",
    "select $x.a, $x?", "E'\\n'", "df.sleep(5)", "x" * 130,
]  # fmt: skip
STATEMENTS = [text for text in TEXTS if not text.startswith('{"')]
NAMES = ["a", "_x1", "Total", "break", "null", "df", "sleep", "n" * 63]
SIGNALS = ["go", "it's", "two words", 'quo"te']


def compact(value: Any) -> str:
    """JSON as the builders write it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def graph(rng: random.Random, size: int) -> Node:
    """A random graph of about `size` nodes, its keys in the order of the envelope."""
    node = leaf(rng) if size <= 1 else inner(rng, size)
    if rng.random() < 0.3:
        retry = node.pop("retry", None)
        node["result_name"] = rng.choice(NAMES)
        if retry is not None:
            node["retry"] = retry
    return node


def inner(rng: random.Random, size: int) -> Node:
    kind = rng.choice(
        ["THEN"] * 5 + ["IF", "IF", "WHEN", "JOIN", "JOIN", "RACE", "LOOP", "WHILE", "ROWS", "WAIT", "CALL"]
    )
    if kind == "WAIT":
        return wait(rng)
    if kind == "CALL":
        return call(rng, graph(rng, min(size - 1, 6)))
    if kind == "LOOP":
        return {"node_type": "LOOP", "left_node": graph(rng, size - 1)}
    counts = {"THEN": 2, "RACE": 2, "WHILE": 2, "ROWS": 2, "WHEN": 2, "IF": 3, "JOIN": rng.choice([2, 2, 3, 4, 5])}
    sizes = shares(rng, size - 1, counts[kind])
    children = [graph(rng, share) for share in sizes]
    if kind == "WHILE":
        return {"node_type": "LOOP", "left_node": children[0], "condition_node": children[1]}
    if kind == "WHEN":
        return {"node_type": "IF", "left_node": children[0], "condition_node": children[1]}
    node: Node = {"node_type": "IF" if kind == "ROWS" else kind, "left_node": children[0], "right_node": children[1]}
    if kind == "ROWS":
        node["query"] = compact({"condition_type": "result_has_rows", "result_name": rng.choice([*NAMES, *SIGNALS])})
    elif kind == "IF":
        node["condition_node"] = children[2]
    elif children[2:]:
        node["extra_nodes"] = children[2:]
    return node


def wait(rng: random.Random) -> Node:
    """A wait for a condition, which is one SQL step."""
    condition: Node = {"node_type": "SQL", "query": rng.choice(TEXTS)}
    if rng.random() < 0.3:
        condition["result_name"] = rng.choice(NAMES)
    if rng.random() < 0.3:
        condition["retry"] = policy(rng)
    config: dict[str, Any] = {"every": rng.choice([60, 0.5, 86400])}
    config |= {k: v for k, v in {"key": rng.choice(SIGNALS), "timeout": 3600}.items() if rng.random() < 0.5}
    node = {"node_type": "WAIT_FOR", "condition_node": condition, "query": compact(config)}
    return {**node, "retry": policy(rng)} if rng.random() < 0.3 else node


def call(rng: random.Random, flow: Node) -> Node:
    """A call of a flow, with or without input and label."""
    config = {"flow": compact(flow), "input": rng.choice(['{"a": 1}', "$x", '"it\'s"']), "label": rng.choice(SIGNALS)}
    kept = {key: value for key, value in config.items() if key == "flow" or rng.random() < 0.5}
    return {"node_type": "CALL", "query": compact(kept)}


def shares(rng: random.Random, size: int, count: int) -> list[int]:
    cuts = sorted(rng.randint(0, max(size - count, 0)) for _ in range(count - 1))
    return [1 + b - a for a, b in zip([0, *cuts], [*cuts, max(size - count, 0)], strict=True)]


def leaf(rng: random.Random) -> Node:
    kind = rng.choice(["SQL"] * 6 + ["SLEEP", "SLEEP", "SIGNAL", "BREAK", "WAIT_SCHEDULE", "RETRY", "HTTP", "BLOCK"])
    if kind in ("SQL", "RETRY"):
        node: Node = {"node_type": "SQL", "query": rng.choice(TEXTS)}
        return {**node, "retry": policy(rng)} if kind == "RETRY" else node
    query: Any = {
        "SLEEP": rng.choice(
            ["0", "0.25", "5", "3600", "3155760000", {"duration": "$x.pause"}, {"until": "2030-01-01T00:00:00Z"}]
        ),
        "SIGNAL": {"signal_name": rng.choice(SIGNALS), "timeout_seconds": rng.choice([None, 1, 600])},
        "BREAK": {"break_value": rng.choice([None, *TEXTS])},
        "WAIT_SCHEDULE": {"cron_expr": "*/5 * * * *"} | rng.choice([{}, {"timezone": "Europe/Berlin"}]),
        "HTTP": http(rng),
        "BLOCK": {"statements": rng.sample(STATEMENTS, rng.randint(1, 3))},
    }[kind]
    return {"node_type": kind, "query": query if isinstance(query, str) else compact(query)}


def policy(rng: random.Random) -> Node:
    keys = {"max_attempts": 3, "initial_delay": 0.5, "backoff": 2, "max_delay": 60, "retry_on": ["23505", "http:4xx"]}
    keys["exhausted"] = "pause"
    return {key: value for key, value in keys.items() if rng.random() < 0.5}


def http(rng: random.Random) -> Node:
    return {
        "url": rng.choice(["https://api.github.com/zen", "http://{host}/a?b='c'"]),
        "method": rng.choice(["POST", "GET"]),
        "body": rng.choice([None, "", '{"a": "$x"}']),
        "headers": rng.choice([None, {"Accept": "application/json"}]),
        "timeout_seconds": rng.choice([30, 5]),
    }


class Writer:
    """Writes a graph as flow text in one of the many ways there are."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def gap(self) -> str:
        choices = [" ", " ", " ", "\n", "\t", " -- it's a comment\n", " /* 'a' ~> ** */ ", "\r\n  "]
        return self.rng.choice(choices)

    def join(self, *parts: str) -> str:
        return "".join(part + self.gap() for part in parts[:-1]) + parts[-1]

    def quoted(self, text: str) -> str:
        """A text in one of the quotes that can hold it."""
        ways = ["'" + text.replace("'", "''") + "'"]
        ways.append("E'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'")
        for tag in ("$$", "$a$", "$body_1$"):
            if (text + tag).index(tag) == len(text):
                ways.append(f"{tag}{text}{tag}")
        return self.rng.choice(ways)

    def call(self, name: str, positional: list[str], **named: str) -> str:
        arguments = [*positional, *(f"{key}{self.gap()}=>{self.gap()}{value}" for key, value in named.items())]
        prefix = self.rng.choice(["", "", "df.", "DF."])
        return (
            prefix + self.rng.choice([name, name.upper()]) + f"({self.gap()}" + f",{self.gap()}".join(arguments) + ")"
        )

    def write(self, node: Node, level: int = 0) -> str:
        """A node where an operand of at least `level` is wanted: 0 flow ... 6 atom."""
        if "result_name" in node:
            inner = {key: value for key, value in node.items() if key != "result_name"}
            name = node["result_name"]
            bare = name if name.lower() not in ("break", "null") else f'"{name}"'
            written = self.rng.choice([bare, f"'{name}'", f'"{name}"'])
            mine, text = 5, self.join(self.write(inner, 6), "|=>", written)
        else:
            mine, text = self.plain(node)
        if mine < level or self.rng.random() < 0.1:
            return self.join("(", text, ")")
        return text

    def plain(self, node: Node) -> tuple[int, str]:
        """The level of a node without its name, and its text."""
        if "retry" in node:
            inner = {key: value for key, value in node.items() if key != "retry"}
            return 6, self.call("retry", [self.write(inner)], **self.policy(node["retry"]))
        kind = node["node_type"]
        if kind in ("THEN", "RACE", "JOIN", "IF", "LOOP"):
            return self.operator(node)
        if kind == "WAIT_FOR":
            config = json.loads(node["query"])
            given = {key: self.quoted(f"{config[key]} s") for key in ("every", "timeout") if key in config}
            given |= {"key": self.quoted(config["key"])} if "key" in config else {}
            return 6, self.call("wait_for", [self.write(node["condition_node"])], **given)
        if kind == "CALL":
            config = json.loads(node["query"])
            given = {key: self.quoted(config[key]) for key in ("input", "label") if key in config}
            return 6, self.call("call", [self.write(json.loads(config["flow"]))], **given)
        return 6, self.statement(node["query"]) if kind == "SQL" else self.leaf(kind, node["query"])

    def statement(self, query: str) -> str:
        if '"node_type"' in query or self.rng.random() < 0.05:
            return self.call("sql", [self.quoted(query)])
        return self.quoted(query)

    def policy(self, policy: Node) -> dict[str, str]:
        written = {key: str(value) for key, value in policy.items()}
        for key in ("initial_delay", "max_delay"):
            if key in policy:
                written[key] = self.quoted(f"{policy[key]} s")
        if "retry_on" in policy:
            written["retry_on"] = self.rng.choice(['["23505", "http:4xx"]', "'{23505,http:4xx}'"])
        if "exhausted" in policy:
            written["exhausted"] = self.quoted("pause")
        return written

    def operator(self, node: Node) -> tuple[int, str]:
        kind = node["node_type"]
        if kind == "LOOP":
            return self.loop(node)
        left, condition = node["left_node"], node.get("condition_node")
        right: Any = node.get("right_node")
        extra = node.get("extra_nodes", [])
        if "query" in node:
            name = json.loads(node["query"])["result_name"]
            return 6, self.call("if_rows", [self.quoted(name), self.write(left), self.write(right)])
        if self.rng.random() < 0.15 and len(extra) < 2:
            return 6, self.builder(kind, left, right, condition, extra)
        return self.infix(kind, left, right, condition, extra)

    def loop(self, node: Node) -> tuple[int, str]:
        if "condition_node" not in node:
            return 0, self.join("@>", self.write(node["left_node"]))
        label = self.rng.choice(["while", "condition"])
        return 6, self.call("loop", [self.write(node["left_node"])], **{label: self.write(node["condition_node"])})

    def infix(self, kind: str, left: Node, right: Any, condition: Any, extra: list[Node]) -> tuple[int, str]:
        if kind == "IF":
            otherwise = ["!>", self.write(right)] if right else []
            return 1, self.join(self.write(condition, 2), "?>", self.write(left, 2 if right else 0), *otherwise)
        if kind == "THEN":
            return 2, self.join(self.write(left, 2), "~>", self.write(right, 3))
        if kind == "RACE":
            return 3, self.join(self.write(left, 3), "|", self.write(right, 4))
        branches = [self.write(branch, 5) for branch in (left, right, *extra)]
        return 4, f"{self.gap()}&{self.gap()}".join(branches)

    def builder(self, kind: str, left: Any, right: Any, condition: Any, extra: list[Node]) -> str:
        written = [self.write(child) for child in (left, right, *extra) if child]
        if kind == "IF":
            branches = dict(zip(("then_branch", "else_branch"), written, strict=False))
            return self.call("if", [self.write(condition)], **branches)
        return self.call({"THEN": "seq", "RACE": "race"}.get(kind, "join3" if extra else "join"), written)

    def sleep(self, query: str) -> str:
        if query.startswith("{"):
            config = json.loads(query)
            return self.call("sleep" if "duration" in config else "sleep_until", [self.quoted(*config.values())])
        # up to PostgreSQL 14 the text of an interval may say no more than 2^31 seconds
        spellings = [query, self.quoted(query + " s")] if float(query) < 2**31 else [query]
        return self.call("sleep", [self.rng.choice(spellings)])

    def leaf(self, kind: str, query: str) -> str:
        if kind == "SLEEP":
            return self.sleep(query)
        config = json.loads(query)
        if kind == "BLOCK":
            return self.call("block", [self.quoted(text) for text in config["statements"]])
        if kind == "BREAK":
            return self.stop(config["break_value"])
        if kind == "SIGNAL":
            timeout = config["timeout_seconds"]
            given = {} if timeout is None else {"timeout_seconds": str(timeout)}
            return self.call("wait_for_signal", [self.quoted(config["signal_name"])], **given)
        if kind == "WAIT_SCHEDULE":
            return self.call("wait_for_schedule", [self.quoted(value) for value in config.values()])
        headers = config["headers"] and self.rng.choice(
            [json.dumps(config["headers"]), self.quoted(json.dumps(config["headers"]))]
        )
        return self.call(
            "http",
            [self.quoted(config["url"])],
            method=self.quoted(config["method"]),
            body="null" if config["body"] is None else self.quoted(config["body"]),
            headers=headers or "null",
            timeout_seconds=str(config["timeout_seconds"]),
        )

    def stop(self, value: str | None) -> str:
        if value is None:
            return self.rng.choice(["break", "BREAK", "break()", "break(null)"])
        return self.rng.choice([f"break {self.quoted(value)}", self.call("break", [self.quoted(value)])])
