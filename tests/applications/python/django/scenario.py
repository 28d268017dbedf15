"""Django's own RedisCache, and sessions in it."""

import django
from django.conf import settings
from django.contrib.sessions.backends.cache import SessionStore
from django.core.cache import cache
from helpers import DATABASE_1

settings.configure(
    CACHES={
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": DATABASE_1,
        }
    },
    INSTALLED_APPS=["django.contrib.sessions"],
    SESSION_ENGINE="django.contrib.sessions.backends.cache",
)
django.setup()

cache.set("k", {"a": [1, 2]}, 60)
assert cache.get("k") == {"a": [1, 2]}
assert cache.add("k", 1) is False
assert cache.touch("k", 100) is True
assert cache.get_or_set("computed", lambda: 5) == 5
assert cache.delete("k") is True
assert cache.get("k", "none") == "none"
cache.set("n", 1)
assert cache.incr("n") == 2
assert cache.incr("n", 10) == 12
assert cache.decr("n") == 11
many = {f"key:{number}": number for number in range(50)}
assert cache.set_many(many, 60) == []
assert cache.get_many(many) == many
assert cache.set_many({"forever": 1, "also": 2}, None) == []
cache.delete_many([*many][:10])
assert len(cache.get_many(many)) == 40
assert cache.has_key("also")
cache.clear()
assert cache.get_many(many) == {}

session = SessionStore()
session["user"] = 42
session.save()
again = SessionStore(session.session_key)
assert again["user"] == 42
again.cycle_key()
assert not SessionStore().exists(session.session_key)
assert SessionStore(again.session_key)["user"] == 42
again.flush()
assert not SessionStore().exists(again.session_key)
