"""Renders the templates, in the order of contents.py, into the files of dist/."""

import re
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from generator import contents, flow, flow_docs, guard, model
from generator.sql import FILTERS

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = ROOT / "templates"
TLE_QUOTES = ("$register$", "$pg_durable_script$")


@cache
def release() -> tuple[str, str]:
    """Version and build time, both from the newest heading of the change log, so that builds are reproducible."""
    heading = re.search(r"^## (\S+) - (\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    if heading is None:
        raise ValueError("CHANGELOG.md has no heading of the form '## <version> - <date>'")
    return heading[1], f"{heading[2]} 00:00:00 UTC"


@cache
def environment() -> Environment:
    """Jinja, with the filters that write SQL."""
    env = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    env.filters |= FILTERS
    return env


GRANTED = re.compile(
    r"^-- Granted to (?P<who>[a-z ]+)\.\ncreate or replace (?P<kind>function|procedure|view) df_engine\.(?P<name>\w+)",
    re.M,
)


@cache
def granted() -> dict[str, dict[str, list[str]]]:
    """The private objects that users and workers need, by the comments that say so where they stand."""
    found: dict[str, dict[str, list[str]]] = {kind: {"users": [], "workers": []} for kind in ("routines", "views")}
    for part in contents.PARTS:
        for match in GRANTED.finditer((TEMPLATES / f"{part}.sql.j2").read_text()):
            for who in match["who"].split(" and "):
                found["views" if match["kind"] == "view" else "routines"][who].append(match["name"])
    return {f"granted_{kind}": {who: sorted(set(names)) for who, names in of.items()} for kind, of in found.items()}


def rendered(name: str, **instead: str) -> str:
    """A template with all that templates may name; `instead` replaces facts, such as the version."""
    version, built = release()
    context = {"version": version, "built": built, "flow": flow.context(), **granted(), **model.context(), **instead}
    return guard.guarded(environment().get_template(name).render(context).strip() + "\n")


@cache
def body(**instead: str) -> str:
    """All templates but the psql prologue and epilogue: plain SQL that any driver can send in one transaction."""
    return "\n".join(rendered(f"{part}.sql.j2", **instead) for part in contents.PARTS)


def installer(**instead: str) -> str:
    """The script for psql; tests make those of other versions with `version` and `oldest_upgradable`."""
    version, built = release()
    head = (TEMPLATES / "install" / "psql_head.sql").read_text()
    head = head.replace("@VERSION@", instead.get("version", version)).replace("@BUILT@", built)
    return f"{head}\n{body(**instead)}\ncommit;\n"


def extension(**instead: str) -> str:
    """The script that CREATE EXTENSION runs."""
    return f"{body(**instead)}\n{rendered('install/extension_tail.sql.j2')}"


def control() -> str:
    """The control file of the extension."""
    return (TEMPLATES / "install" / "extension.control").read_text().replace("@VERSION@", release()[0])


def language_extension(**instead: str) -> str:
    """The script that registers the extension with pg_tle, which keeps it in the database instead of in files."""
    script = extension(**instead)
    if any(quote in script for quote in TLE_QUOTES):
        raise ValueError(f"the extension's script contains one of {TLE_QUOTES}, which are to quote it")
    comment = re.search(r"^comment = ('.*')$", control(), re.M)
    if comment is None:
        raise ValueError("extension.control has no comment")
    template = environment().get_template("install/tle.sql.j2")
    return template.render(
        {"version": release()[0], "comment": comment[1], "script": script, "quotes": TLE_QUOTES, **instead}
    )


def ai_installer(**instead: str) -> str:
    """The script for psql that installs the AI pipelines."""
    version, built = release()
    head = (TEMPLATES / "ai" / "psql_head.sql").read_text()
    head = head.replace("@VERSION@", instead.get("version", version)).replace("@BUILT@", built)
    parts = "\n".join(rendered(f"{part}.sql.j2", **instead) for part in contents.AI_PARTS)
    return f"{head}\n{parts}\ncommit;\n"


@cache
def artifacts() -> dict[str, str]:
    """Path in the repository -> content, of every generated file."""
    version, _ = release()
    return {
        "dist/pg_durable.sql": installer(),
        "dist/pg_durable_ai.sql": ai_installer(),
        "dist/pg_durable.tle.sql": language_extension(),
        "dist/extension/pg_durable.control": control(),
        f"dist/extension/pg_durable--{version}.sql": extension(),
        str(flow_docs.PAGE): flow_docs.page((ROOT / flow_docs.PAGE).read_text()),
    }
