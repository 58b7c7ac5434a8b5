"""How well ragchat finds and quotes, beside bm25s, on a folder of questions in SQuAD format.

    python benchmarks/retrieval.py FOLDER [--database URL]

FOLDER holds ``xquad.<language>.json`` files. Every passage becomes a file, the files are ingested with
``ragchat ingest``, and every question is asked: the passage it stands under is the right one. In the same run
bm25s (with PyStemmer for English and jieba's search mode for Chinese) searches the same passages. The exit code
is 1 when ragchat is behind in any figure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import bm25s
import jieba
import Stemmer

from ragchat.auth.identity import DEFAULT_TENANT
from ragchat.backends.contract import Prompt
from ragchat.backends.extractive import compose
from ragchat.events import Passage
from ragchat.rag.contract import Query
from ragchat.rag.retrieve import IndexRetriever
from ragchat.store.database import Database
from ragchat.store.documents import dataset_named

DEPTH = 10
"""How many passages are asked for; a right one further down counts as not found."""


class Question(NamedTuple):
    text: str
    answers: tuple[str, ...]
    passage: int


class Language(NamedTuple):
    name: str
    passages: list[str]
    questions: list[Question]


class Quality(NamedTuple):
    recall_1: float
    recall_5: float
    mrr: float

    def __str__(self) -> str:
        return f"R@1 {self.recall_1:.4f}   R@5 {self.recall_5:.4f}   MRR {self.mrr:.4f}"


def load(path: Path) -> Language:
    passages: list[str] = []
    questions: list[Question] = []
    for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                answers = tuple(answer["text"] for answer in qa["answers"])
                questions.append(Question(qa["question"], answers, len(passages)))
            passages.append(paragraph["context"])
    return Language(path.suffixes[0][1:], passages, questions)


def ingest(languages: Sequence[Language], folder: Path, url: str) -> dict[str, float]:
    """Write the passages out, ingest them, and return the seconds that each language took."""
    seconds = {}
    environment = {**os.environ, "RAGCHAT_DATABASE_URL": url, "RAGCHAT_DATA_DIR": str(folder)}
    subprocess.run([sys.executable, "-m", "ragchat", "migrate"], env=environment, check=True)
    for language in languages:
        files = folder / language.name
        files.mkdir()
        for number, passage in enumerate(language.passages):
            (files / f"{number}.txt").write_text(passage, encoding="utf-8")
        command = [sys.executable, "-m", "ragchat", "ingest", str(files), "--dataset", language.name]
        started = time.perf_counter()
        subprocess.run(command, env=environment, check=True)
        seconds[language.name] = time.perf_counter() - started
    return seconds


def judge(ranks: Sequence[int | None]) -> Quality:
    """Quality from the rank (from 0) of each question's right passage, None where it was not found."""
    found = [rank for rank in ranks if rank is not None]
    return Quality(
        sum(rank == 0 for rank in found) / len(ranks),
        sum(rank < 5 for rank in found) / len(ranks),
        sum(1 / (rank + 1) for rank in found) / len(ranks),
    )


def rank_of(right: int, found: Sequence[int]) -> int | None:
    return found.index(right) if right in found else None


async def measure(language: Language, database: Database) -> tuple[Quality, list[float], float, float]:
    """Quality, sorted seconds per question, the share of answers that hold the expected words, and the share of
    questions whose passage passes the default threshold."""
    retriever = IndexRetriever(database)
    dataset = (await dataset_named(database, DEFAULT_TENANT, language.name)).id
    ranks, seconds, hits, passed = [], [], [], 0
    for question in language.questions:
        query = Query(
            tenant=DEFAULT_TENANT, question=question.text, datasets=(dataset,), limit=DEPTH, threshold=0.0
        )
        started = time.perf_counter()
        passages = await retriever.retrieve(query)
        seconds.append(time.perf_counter() - started)
        ranks.append(rank_of(question.passage, [number_of(passage) for passage in passages]))
        shown = [passage for passage in passages if passage.similarity >= 0.2][:6]
        if question.passage in map(number_of, shown):
            passed += 1
            hits.append(holds(compose(Prompt(question=question.text, turns=(), passages=tuple(shown))), question))
    return judge(ranks), sorted(seconds), sum(hits) / len(hits), passed / len(language.questions)


def number_of(passage: Passage) -> int:
    return int(passage.document_name.removesuffix(".txt"))


def holds(answer: str, question: Question) -> bool:
    """Whether the answer has the expected words in it, whatever the case and the white space."""
    said = _plain(re.sub(r"\[ID:\d+\]", "", answer))
    return any(_plain(expected) in said for expected in question.answers)


def _plain(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def peer(language: Language) -> tuple[Quality, float]:
    """bm25s over the same passages: its quality, and the seconds that its index took."""
    cut = _tokenizer(language.name)
    started = time.perf_counter()
    index = bm25s.BM25()
    index.index(cut(language.passages), show_progress=False)
    seconds = time.perf_counter() - started
    asked = cut([question.text for question in language.questions])
    found, _ = index.retrieve(asked, k=DEPTH, show_progress=False)
    ranks = [rank_of(question.passage, list(row)) for question, row in zip(language.questions, found, strict=True)]
    return judge(ranks), seconds


def _tokenizer(language: str) -> Callable[[list[str]], object]:
    if language == "zh":
        jieba.setLogLevel("ERROR")
        return lambda texts: [[word for word in jieba.cut_for_search(text) if word.strip()] for text in texts]
    stemmer = Stemmer.Stemmer("english")
    return lambda texts: bm25s.tokenize(
        texts, stopwords=None, stemmer=stemmer, show_progress=False, return_ids=False
    )


async def run(folder: Path, url: str | None) -> bool:
    """Print the figures, and return whether ragchat is nowhere behind."""
    languages = [load(path) for path in sorted(folder.glob("xquad.*.json"))]
    if not languages:
        raise SystemExit(f"{folder} holds no xquad.<language>.json.")
    ahead = True
    with tempfile.TemporaryDirectory() as temporary:
        url = url or f"sqlite://{temporary}/ragchat.db"
        seconds = ingest(languages, Path(temporary), url)
        database = Database(url)
        await database.open()
        try:
            for language in languages:
                ours, latencies, hit_rate, passed = await measure(language, database)
                theirs, their_seconds = peer(language)
                ahead = ahead and all(mine >= other for mine, other in zip(ours, theirs, strict=True))
                p50, p99 = (latencies[int(len(latencies) * part)] * 1000 for part in (0.5, 0.99))
                print(f"\n{language.name}: {len(language.passages)} passages, {len(language.questions)} questions")
                print(f"  ragchat  {ours}   ingest {seconds[language.name]:.1f} s")
                print(f"  bm25s    {theirs}   index {their_seconds:.1f} s (in memory)")
                print(f"  query    p50 {p50:.1f} ms   p99 {p99:.1f} ms")
                print(f"  right passage above the threshold of 0.2: {passed:.1%}")
                print(f"  extractive answer holds the expected words (of those): {hit_rate:.1%}")
        finally:
            await database.close()
    return ahead


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--database", help="an empty database instead of a temporary SQLite file")
    arguments = parser.parse_args()
    if not asyncio.run(run(arguments.folder, arguments.database)):
        sys.exit("ragchat is behind bm25s.")


if __name__ == "__main__":
    main()
