"""``ragchat ingest``: documents from files and folders into a dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import click
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from ragchat.auth.identity import DEFAULT_TENANT
from ragchat.bootstrap import DEFAULT_CHAT, bootstrap
from ragchat.cli.common import not_blank, prepare, printable, with_database
from ragchat.errors import DocumentError, TooLargeError
from ragchat.rag.ingest import Ingested, Ingester
from ragchat.rag.parse import MEDIA_TYPES
from ragchat.settings import Settings
from ragchat.store.database import Database
from ragchat.store.documents import dataset_named
from ragchat.store.models import Dataset
from ragchat.store.sessions import find_chat, give_dataset

_TYPES: Final = f"Files of these types are read: {', '.join(MEDIA_TYPES)}."


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--dataset", "name", required=True, callback=not_blank, help="Name of the dataset; made when there is none."
)
@click.option(
    "--chat", "chat_id", default=DEFAULT_CHAT, show_default=True,
    help="Id of the chat that shall read the dataset; '' for none.",
)  # fmt: skip
def ingest(paths: tuple[Path, ...], name: str, chat_id: str) -> None:
    """Read files and folders (text, Markdown, HTML, PDF) into a dataset.

    What has not changed since the last time is skipped. Of folders, hidden files and files of other types are
    left out; a file of another type that is named fails. The exit code is 1 when a file failed or there was none.
    """
    settings = prepare()
    outcomes = with_database(settings, lambda database: _ingest(database, settings, paths, name, chat_id))
    if not outcomes:
        raise click.ClickException(f"Nothing to ingest was found. {_TYPES}")
    click.echo(", ".join(f"{outcomes[kind]} {kind}" for kind in ("added", "updated", "unchanged", "failed")))
    if outcomes["failed"]:
        raise click.exceptions.Exit(1)


async def _ingest(
    database: Database, settings: Settings, paths: Sequence[Path], name: str, chat_id: str
) -> Counter[str]:
    await bootstrap(database)
    if chat_id:
        await find_chat(database, DEFAULT_TENANT, chat_id)
    console = Console(stderr=True, soft_wrap=True, markup=False, highlight=False, emoji=False)
    files = []
    for path, reason in find(paths):
        if reason:
            _say(console, "skipped", path, reason)
        else:
            files.append(path)
    if not files:
        return Counter()
    target = _Target(database, settings, name)
    outcomes = await _ingest_files(console, target, files)
    if not chat_id or target.dataset is None or outcomes.keys() == {"failed"}:
        return outcomes
    if await give_dataset(database, DEFAULT_TENANT, chat_id, target.dataset.id):
        click.echo(f"The chat {chat_id!r} reads the dataset {name!r} from now on.")
    return outcomes


class _Target:
    """The dataset that files go into; a new one is made for the first file that can be read."""

    def __init__(self, database: Database, settings: Settings, name: str) -> None:
        self._database = database
        self._ingester = Ingester(
            database, chunk_tokens=settings.chunk_tokens, max_bytes=settings.max_document_bytes
        )
        self._name = name
        self.dataset: Dataset | None = None

    async def ingest(self, path: Path) -> Ingested:
        """Ingest a file.

        Raises:
            DocumentError, TooLargeError, OSError: see `Ingester.ingest_file`; also for types that are not read.
        """
        if path.exists() and not _is_read(path):
            raise DocumentError(f"is of no type that is read. {_TYPES}")
        dataset = self.dataset or await self._find() or await self._make_for(path)
        self.dataset = dataset
        return await self._ingester.ingest_file(path, tenant=DEFAULT_TENANT, dataset_id=dataset.id)

    async def _find(self) -> Dataset | None:
        return await self._database.run(lambda: Dataset.get_or_none(tenant=DEFAULT_TENANT, name=self._name))

    async def _make_for(self, path: Path) -> Dataset:
        await self._ingester.check_file(path)
        return await dataset_named(self._database, DEFAULT_TENANT, self._name)


async def _ingest_files(console: Console, target: _Target, files: Sequence[Path]) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        for path in progress.track(files, description="Reading"):
            try:
                ingested = await target.ingest(path)
            except (DocumentError, TooLargeError) as error:
                outcomes["failed"] += 1
                _say(console, "failed", path, str(error).removeprefix(f"{path.name}: "))
            except OSError as error:
                outcomes["failed"] += 1
                _say(console, "failed", path, f"can't be opened: {error.strerror}.")
            else:
                outcomes[ingested.outcome] += 1
    return outcomes


class Found(NamedTuple):
    """A file, and why it is left out where it is."""

    path: Path
    reason: str = ""


def find(paths: Iterable[Path]) -> Iterator[Found]:
    """The files of ``paths`` and of the folders among them. Files that are named are never left out."""
    for path in paths:
        if path.is_dir():
            yield from _in_folder(path)
        else:
            yield Found(path)


def _in_folder(folder: Path) -> Iterator[Found]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        yield Found(folder, f"can't be opened: {error.strerror}.")
        return
    for entry in entries:
        if entry.name.startswith("."):
            yield Found(entry, "is hidden.")
        elif entry.is_dir():
            yield from [Found(entry, "is a link to a folder.")] if entry.is_symlink() else _in_folder(entry)
        elif not _is_read(entry):
            yield Found(entry, "is of no type that is read.")
        else:
            yield Found(entry)


def _is_read(path: Path) -> bool:
    return path.suffix.lower() in MEDIA_TYPES


def _say(console: Console, outcome: str, path: Path, reason: str) -> None:
    console.print(f"{outcome}  {printable(click.format_filename(path))}: {printable(reason)}")
