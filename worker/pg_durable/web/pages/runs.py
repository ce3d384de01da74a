"""The runs: a table with filters, and what can be done with one or with all that match."""

from starlette.responses import Response
from starlette.routing import Route

from pg_durable.web.view import View, page

PAGE = 50


@page
async def runs(view: View) -> Response:
    """The newest runs that match."""
    asked = view.request.query_params
    rows = await view.rows(
        "runs.page", status=asked.get("status"), label=asked.get("label"), after=asked.get("after"), limit=PAGE
    )
    return view.render("runs.html", title="Runs", runs=rows)


ROUTES = [Route("/runs", runs)]
