"""The command line. One module for each command or group of commands.

Results go to standard output; whatever is for a person's eyes only goes to standard error.
"""

from __future__ import annotations

from typing import Any

import click

from ragchat.cli.chat import chat
from ragchat.cli.common import printable
from ragchat.cli.doctor import doctor
from ragchat.cli.ingest import ingest
from ragchat.cli.serve import migrate, serve
from ragchat.cli.token import token
from ragchat.client import ClientError
from ragchat.errors import RagChatError


class _Commands(click.Group):
    """Commands whose errors are one line on standard error and exit code 1."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except (RagChatError, ClientError) as error:
            raise click.ClickException(printable(str(error))) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="ragchat", prog_name="ragchat", message="%(prog)s %(version)s")
def main() -> None:
    """Streaming chat over your documents.

    `ragchat serve` starts the service, `ragchat ingest` gives it documents, `ragchat chat` asks it. Every
    setting is an environment variable; `ragchat doctor` lists them.
    """


for command in (serve, migrate, ingest, chat, token, doctor):
    main.add_command(command)
