"""The chat page, from the package's own files: no other host is ever asked for anything."""

from __future__ import annotations

from importlib.resources import files

from quart import Response, abort

_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


class Page:
    """``/`` and ``/static/…``."""

    def __init__(self) -> None:
        folder = files("ragchat.web")
        self._files = {
            item.name: (item.read_bytes(), kind)
            for item in folder.iterdir()
            for suffix, kind in _TYPES.items()
            if item.name.endswith(suffix)
        }

    async def index(self) -> Response:
        """The page."""
        return await self.file("index.html")

    async def file(self, name: str) -> Response:
        """One of the page's files."""
        if name not in self._files:
            abort(404)
        body, kind = self._files[name]
        return Response(body, content_type=f"{kind}; charset=utf-8", headers=_HEADERS)
