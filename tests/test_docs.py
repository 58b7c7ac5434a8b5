"""What the documents say is what the code does. `python -m tests.test_docs` writes the table of settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import SecretStr
from quart import Quart

from ragchat import RagChat
from ragchat.errors import RagChatError, RequestError
from ragchat.settings import PREFIX, Settings, load

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
TABLE = re.compile(r"(<!-- settings: .*? -->\n).*?(<!-- /settings -->)", re.DOTALL)


def settings_table() -> str:
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.default
        if isinstance(default, SecretStr):
            default = default.get_secret_value()
        if isinstance(default, tuple):
            default = ",".join(default)
        shown = f"`{str(default).lower() if isinstance(default, bool) else default}`" if default != "" else ""
        rows.append(f"| `{PREFIX}{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(rows) + "\n"


def with_table(readme: str) -> str:
    return TABLE.sub(lambda match: match[1] + settings_table() + match[2], readme)


def test_the_readme_has_every_setting_with_its_default() -> None:
    readme = (ROOT / "README.md").read_text()
    assert TABLE.search(readme)
    assert with_table(readme) == readme, "run `python -m tests.test_docs`"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_setting_that_a_document_names_exists(document: Path) -> None:
    named = set(re.findall(rf"{PREFIX}([A-Z_]+)", document.read_text()))
    assert {name.lower() for name in named} - {"url", "token"} <= set(Settings.model_fields)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target


def test_the_protocol_names_every_route() -> None:
    app = Quart("documented")
    app.register_blueprint(RagChat(load()).blueprint)
    protocol = (ROOT / "docs/protocol.md").read_text()
    routes = {re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule) for rule in app.url_map.iter_rules()}
    for route in routes - {"/static/{filename}", "/static/{name}"}:
        assert f" {route}`" in protocol, route


def test_the_protocol_explains_every_error_code() -> None:
    def codes(error: type[RagChatError]) -> set[int]:
        return {error.code}.union(*(codes(sub) for sub in error.__subclasses__()))

    protocol = (ROOT / "docs/protocol.md").read_text()
    explained = {int(code) for code in re.findall(r"^\| (\d{3}) \|", protocol, re.MULTILINE)}
    assert codes(RequestError) <= explained


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(with_table(path.read_text()))
