"""Imports point down: each part of ragchat knows only what lies below it."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "ragchat"

BASE = {"events", "errors", "settings"}
SERVICE = BASE | {"logs", "stream", "codecs", "store", "auth", "rag", "backends", "runs", "telemetry"}

MAY_IMPORT: dict[str, set[str]] = {
    "events": set(),
    "errors": set(),
    "settings": {"errors"},
    "sse": set(),
    "codecs": {"events"},
    "telemetry": BASE,
    "logs": BASE,
    "stream": BASE | {"logs"},
    "store": BASE,
    "auth": BASE | {"store"},
    "rag": BASE | {"store", "backends.contract"},
    "backends": BASE | {"sse"},
    "backends.extractive": BASE | {"rag"},
    "runs": BASE | {"logs", "stream", "backends", "rag", "store", "auth", "telemetry"},
    "bootstrap": BASE | {"auth", "store", "rag"},
    "transports": SERVICE,
    "api": SERVICE,
    "blueprint": SERVICE | {"transports", "api", "bootstrap"},
    "app": SERVICE | {"blueprint", "api"},
    "server": BASE | {"telemetry"},
    "client": {"sse"},
    "cli": SERVICE | {"blueprint", "app", "api", "bootstrap", "server", "client"},
    "__main__": {"cli"},
    "web": set(),
}
"""What a part may import besides itself: names of parts, or of one module of a part."""


def _name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {_name(file): file for file in sorted(ROOT.rglob("*.py")) if file != ROOT / "__init__.py"}


def _imported(file: Path) -> set[str]:
    """Dotted names of everything that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def _modules_imported(file: Path) -> set[str]:
    """The modules of ours that a file imports; of `ragchat.store.models.Run`, the module is `store.models`."""
    found = set()
    for name in _imported(file):
        ours = name.removeprefix("ragchat.")
        if ours == name:
            continue
        while ours and ours not in MODULES:
            ours = ours.rpartition(".")[0]
        found.add(ours)
    return found


def _within(module: str, part: str) -> bool:
    return module == part or module.startswith(f"{part}.")


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_lies_below_it(module: str) -> None:
    part = module.split(".", maxsplit=1)[0]
    allowed = MAY_IMPORT.get(module, MAY_IMPORT[part]) | {part}
    wrong = {
        imported
        for imported in _modules_imported(MODULES[module])
        if not any(_within(imported, name) for name in allowed)
    }
    assert wrong == set()


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = {module: _modules_imported(file) - {module} for module, file in MODULES.items()}
    graphlib.TopologicalSorter(graph).prepare()


def test_only_the_server_knows_hypercorn() -> None:
    knowing = {
        module for module, file in MODULES.items() if any(_within(name, "hypercorn") for name in _imported(file))
    }
    assert knowing == {"server"}
