"""Which passages an answer cites: ``[ID:n]`` in its text is the n-th passage, from 0."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

import msgspec

from ragchat.events import DocumentCount, Passage, Reference

_CITATION: Final = re.compile(r"\[ID:\s?(\d{1,6})\]")


def cited(text: str, total: int) -> list[int]:
    """The numbers of the passages that ``text`` cites, each once, in its order; only those below ``total``."""
    numbers = (int(number) for number in _CITATION.findall(text))
    return list(dict.fromkeys(number for number in numbers if number < total))


def cite(reference: Reference, text: str) -> Reference:
    """The final reference of an answer: all its passages, and the documents that ``text`` cites.

    When the text cites nothing, the documents of all passages are counted.
    """
    numbers = cited(text, len(reference.chunks))
    passages = [reference.chunks[number] for number in numbers] or list(reference.chunks)
    return msgspec.structs.replace(reference, doc_aggs=count_documents(passages), final=True)


def count_documents(passages: list[Passage]) -> tuple[DocumentCount, ...]:
    """How many of the passages come from each document, in their order."""
    names = {passage.document_id: passage.document_name for passage in passages}
    counts = Counter(passage.document_id for passage in passages)
    return tuple(DocumentCount(doc_name=names[id_], doc_id=id_, count=count) for id_, count in counts.items())
