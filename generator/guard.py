"""What every public function and procedure tells a role that was granted USAGE on df by hand, and needs df.grant_usage.

A public function that acts with its caller's rights and reaches private objects, or the tables of df, begins with this
check. It stands in the text of the function: a function that it called would be out of the caller's reach, too.
"""

import re

CHECK = """\
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
"""
FIRST = "  select df.status("  # what an SQL function begins with, which cannot raise by itself
FUNCTION = re.compile(
    r"^create or replace (?:function|procedure) df\.(?P<name>\w+)\((?P<options>(?:(?!^create )[^$])*?)\bas \$\$\n"
    r"(?P<body>.*?)^\$\$;",
    re.DOTALL | re.MULTILINE,
)
PRIVATE = re.compile(
    r"\bdf_engine\.|\bdf\.(instances|nodes|vars|signals|settings|http_allowlist|secrets|definitions|schedules|schedule_ticks|failed_steps|running_steps|throughput"
    r"|waiting|workers|_worker_epoch|queue|blocked_steps|limits)\b"
)


def guarded(script: str) -> str:
    """The script with the check in each function that needs it."""
    return FUNCTION.sub(function, script)


def function(found: re.Match[str]) -> str:
    """One function; raises ValueError where the check would come too late."""
    name, options, body = found["name"], found["options"], found["body"]
    if "security definer" in options or not PRIVATE.search(body):
        return found[0]
    if "language sql" in options and body.startswith(FIRST) and "df_engine." not in body:
        return found[0]
    declarations, begin, statements = f"\n{body}".partition("\nbegin\n")
    if "language plpgsql" not in options or not begin or PRIVATE.search(declarations):
        raise ValueError(f"df.{name} reaches private objects before it can say that it may not")
    return found[0].replace(body, f"{declarations}{begin}{CHECK}{statements}".removeprefix("\n"))
