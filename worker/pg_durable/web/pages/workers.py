"""The workers: who they are, when they were last seen, and what waits for them."""

from starlette.responses import Response
from starlette.routing import Route

from pg_durable.web.view import View, page


@page
async def workers(view: View) -> Response:
    """The page."""
    return view.render(
        "workers.html", title="Workers", workers=await view.rows("workers.workers"),
        lanes=await view.rows("workers.lanes"),
    )  # fmt: skip


ROUTES = [Route("/workers", workers)]
