"""One service for all examples."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.service import Service, serving


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("service")) as service:
        yield service
