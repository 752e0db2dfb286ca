"""One stack for all tests of this folder: it takes half a minute to start."""

from collections.abc import Iterator

import pytest

from tests.stack.services import Stack, running_stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    yield from running_stack(tmp_path_factory.mktemp("stack"))
