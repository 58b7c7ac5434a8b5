"""ragchat, and beside it eventsource.html, a page that asks over server-sent events.

    pip install ragchat
    ragchat token create --name page
    hypercorn eventsource:app

Open http://127.0.0.1:8000/eventsource.html#token=ragchat-… with that token in place of the dots.
"""

from pathlib import Path

from quart import Response, send_file

from ragchat import create_app

app = create_app()


@app.get("/eventsource.html")
async def page() -> Response:
    """The page, from the same origin as the answers."""
    return await send_file(Path(__file__).with_suffix(".html"))
