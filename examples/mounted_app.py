"""An application of its own, with its own users, that has ragchat mounted under /assistant.

    pip install ragchat
    hypercorn mounted_app:app

Open http://127.0.0.1:8000/login?name=ada first. From then on the browser may ask:
http://127.0.0.1:8000/assistant/v1/conversation/completion?chat_id=default&question=Hello
"""

import os

from quart import Quart, Request, Websocket, redirect, request, session
from quart.typing import ResponseReturnValue

from ragchat import Principal, RagChat

app = Quart(__name__)
app.secret_key = os.environ.get("SECRET_KEY", "only for this example")


async def who_is_it(_connection: Request | Websocket) -> Principal | None:
    """Tell ragchat who asks. This application knows its users by its session cookie, so nobody needs a token."""
    name = session.get("name")
    return Principal(user=name) if name else None


# It opens its database when the application starts, and closes it when it ends.
app.register_blueprint(RagChat(identify=who_is_it).blueprint, url_prefix="/assistant")


@app.get("/")
async def home() -> str:
    """The application's own page."""
    return f"Hello {session.get('name', 'stranger')}, the assistant is at /assistant/."


@app.get("/login")
async def login() -> ResponseReturnValue:
    """Let anybody in by name. A real application asks for more."""
    session["name"] = request.args["name"]
    return redirect("/")
