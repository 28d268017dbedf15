"""The recorded replies of memcached are those of the installed memcached."""

import pytest

from tests import memcache_corpus as corpus
from tests.servers import MemcachedServer


@pytest.fixture(scope="module")
def server():
    with MemcachedServer(*corpus.ARGUMENTS) as server:
        yield server


def test_recorded_replies_are_those_of_memcached(server):
    recorded, found = corpus.record(), corpus.answers(server)
    stale = [name for name in {**recorded, **found} if recorded.get(name) != found.get(name)]
    assert not stale, (
        f"recorded with memcached {corpus.recorded_version()}, {corpus.version(server)} replies "
        "differently: run python -m tests.memcache_corpus and review the difference"
    )


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_replies_do_not_depend_on_how_the_conversation_is_cut(server, size):
    """The proxy cuts requests anywhere, and must still get the same replies."""
    recorded = corpus.record()
    for conversation in corpus.CORPUS.values():
        if max(map(len, conversation.steps)) > 100 * size:
            continue
        corpus.forget(server)
        found = corpus.converse(
            server.port,
            conversation,
            lambda data: corpus.pieces_at(data, range(size, len(data), size)),
        )
        assert found == recorded[conversation.name], conversation.name
