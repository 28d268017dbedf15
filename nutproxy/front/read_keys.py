# nutproxy/front/read_keys.py: who has read which key
"""The table of the keys that clients with client-side caching have read (tracking.py).

    key ─> Reader, or a dict of Readers ─> the client, or None

An entry is a key and a client. When a client leaves, or is told to forget everything, its Reader
becomes void. Its entries do not count any more, and a job removes them.

The table is in many dicts, so that none is large: a dict that grows moves all of its items at once.
"""

import cython
from cython.cimports.nutproxy.front.tracked import Reader
from cython.cimports.nutproxy.io.jobs import Job
from cython.cimports.nutproxy.stats.slab import POOL_TRACKED_KEYS

# With a million entries each of them has 4,000.
DICTS = cython.declare(cython.size_t, 256)


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def place_of(key: bytes) -> cython.size_t:
    """The dict of this key."""
    return cython.cast(cython.size_t, hash(key)) % DICTS


@cython.final
@cython.cclass
class ReadKeys:
    """Described in read_keys.pxd."""

    def __init__(self, limit: cython.size_t):
        self.limit = limit

    def prepare(self):
        if self.dicts is None:
            self.dicts = [{} for _ in range(DICTS)]
        return 0

    def counted(self, change):
        self.entries += change
        self.stats[POOL_TRACKED_KEYS] = self.entries
        return 0

    def note(self, reader, key):
        items: dict = self.dicts[place_of(key)]
        found = items.get(key)
        before: Reader
        if found is reader:
            return False
        if found is None:
            items[key] = reader
        elif isinstance(found, dict):
            if reader in found:
                return False
            found[reader] = None
        else:
            before = found
            if before.client is None:
                items[key] = reader
                return False
            items[key] = {before: None, reader: None}
        self.counted(1)
        return self.entries > self.limit

    def remove(self, reader, key):
        items: dict = self.dicts[place_of(key)]
        found = items.get(key)
        if found is reader:
            del items[key]
        elif isinstance(found, dict) and reader in found:
            del found[reader]
            if not found:
                del items[key]
        else:
            return 0
        return self.counted(-1)

    def take(self, key):
        found = cython.cast(dict, self.dicts[place_of(key)]).pop(key, None)
        clients: list = []
        reader: Reader
        if found is None:
            return clients
        readers = found if isinstance(found, dict) else (found,)
        for reader in readers:
            if reader.client is not None:
                clients.append(reader.client)
        self.counted(-len(readers))
        return clients

    def next_to_drop(self):
        """An old one. There is one: the table is full."""
        while not self.dicts[self.at]:
            self.at = (self.at + 1) % DICTS
        items: dict = self.dicts[self.at]
        self.at = (self.at + 1) % DICTS
        return next(iter(items))

    def begins_sweep(self):
        if not self.garbage or self.sweeping:
            return False
        self.garbage = False
        self.sweeping = True
        return True

    def sweep(self, at):
        """Remove the void entries of one dict."""
        items: dict = self.dicts[at]
        reader: Reader
        void: list = []
        for key, found in items.items():
            if isinstance(found, dict):
                for reader in list(found):
                    if reader.client is None:
                        del found[reader]
                        self.counted(-1)
                if not found:
                    void.append(key)
            else:
                reader = found
                if reader.client is None:
                    void.append(key)
                    self.counted(-1)
        if len(void) > len(items) // 2:
            # A dict keeps its memory when items are deleted.
            gone = set(void)
            self.dicts[at] = {key: found for key, found in items.items() if key not in gone}
        else:
            for key in void:
                del items[key]
        return 0


@cython.final
@cython.cclass
class Sweep(Job):
    """Described in read_keys.pxd."""

    def __init__(self, read_keys: ReadKeys):
        self.read_keys = read_keys

    def portion(self):
        read_keys: ReadKeys = self.read_keys
        more: cython.bint = False
        try:
            read_keys.sweep(self.at)
            self.at += 1
            more = self.at < DICTS
        finally:
            read_keys.sweeping = more
        return more
