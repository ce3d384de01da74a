"""Facts about the language of graphs: keys of the envelope, retry policies, operators."""

ENVELOPE_KEYS = (
    "node_type", "left_node", "right_node", "condition_node", "extra_nodes", "query", "result_name", "retry",
    "within",
)  # fmt: skip

# What a list of errors must satisfy, and how that is said.
ERROR_LIST = (
    '$.type() == "array" && !exists($[*] ? (@.type() != "string" || !(@ like_regex '
    '"^([0-9A-Z]{5}|[0-9A-Z]{2}|connection|timeout|transient|http:[1-5]([0-9][0-9]|xx))$")))',
    "must list SQLSTATEs, classes of them, connection, timeout, transient, http:404 or http:4xx",
)

# Key of a retry policy, the jsonpath predicate its value must satisfy, and how that is said.
RETRY_KEYS = (
    ("max_attempts", '$.type() == "number" && $ >= 1 && $ <= 1000 && $.floor() == $',
     "must be an integer from 1 to 1000"),
    ("initial_delay", '$.type() == "number" && $ >= 0 && $ <= 86400', "must be from 0 to 86400 s"),
    ("backoff", '$.type() == "number" && $ >= 1', "must be a number of at least 1"),
    ("max_delay", '$.type() == "number" && $ >= 0 && $ <= 86400', "must be from 0 to 86400 s"),
    ("retry_on", *ERROR_LIST),
    ("exhausted", '$.type() == "string" && ($ == "fail" || $ == "pause")', "must be fail or pause"),
)  # fmt: skip

# What to do about an UNDO that is where none can be.
UNDO_HINT = (
    "It can be in sequences, conditions, branches of df.all and &, and in df.catch: put df.undo around the whole, "
    "or start what is inside as a run of its own."
)

# Names that a run binds itself.
BUILT_IN_NAMES = ("input", "item", "item_no", "error")

# What an operand is called where its operator is how users know the function.
OPERANDS = {
    ("seq", "a"): "the first step of ~>",
    ("seq", "b"): "the second step of ~>",
    ("join", "a"): "the first branch of &",
    ("join", "b"): "the second branch of &",
    ("race", "a"): "the first branch of |",
    ("race", "b"): "the second branch of |",
    ("as_op", "fut"): "the step on the left of |=>",
    ("as_op", "name"): "the name on the right of |=>",
    ("if_then_op", "condition"): "the condition on the left of ?>",
    ("if_then_op", "then_branch"): "the branch on the right of ?>",
    ("if_else_op", "partial_if"): "the left side of !>",
    ("if_else_op", "else_branch"): "the branch on the right of !>",
    ("loop_prefix_op", "body"): "the body of @>",
}


def operand(function: str, argument: str) -> str:
    """How messages call an argument of a builder."""
    return OPERANDS.get((function, argument), f"argument {argument} of df.{function}")


# Symbol, function behind it, type of the left operand, meaning.
OPERATORS = (
    ("~>", "seq", "text", "a, then b: df.seq(a, b)"),
    ("|=>", "as_op", "text", "names the result of a graph: df.as(a, name)"),
    ("&", "join", "text", "both in parallel: df.join(a, b)"),
    ("|", "race", "text", "in parallel, the first one decides: df.race(a, b)"),
    ("?>", "if_then_op", "text", "an IF: b if a is true, else null, or what !> adds: df.if(condition, then_branch)"),
    ("!>", "if_else_op", "text", "the else-branch of an IF: df.if(condition, then_branch, else_branch)"),
    ("@>", "loop_prefix_op", "none", "repeats a graph: df.loop(a)"),
)
