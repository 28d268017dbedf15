"""django-redis: patterns, locks, expiry, many keys, compression, sessions."""

import django
from django.conf import settings
from django.contrib.sessions.backends.cache import SessionStore
from django.core.cache import cache
from django_redis import get_redis_connection
from helpers import DATABASE_1

settings.configure(
    CACHES={
        "default": {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": DATABASE_1,
            "OPTIONS": {"COMPRESSOR": "django_redis.compressors.zlib.ZlibCompressor"},
        }
    },
    INSTALLED_APPS=["django.contrib.sessions"],
    SESSION_ENGINE="django.contrib.sessions.backends.cache",
)
django.setup()

cache.set("k", "v" * 1000, 60)
assert cache.get("k") == "v" * 1000
assert 0 < cache.ttl("k") <= 60
assert cache.persist("k")
assert cache.ttl("k") is None
assert cache.expire("k", 100)
assert cache.set("k", 1, nx=True) is False
cache.set("n", 1)
assert cache.incr("n", 4) == 5

many = {f"key:{number}": number for number in range(200)}
cache.set_many(many, 60)
assert cache.get_many(many) == many
assert set(cache.keys("key:*")) == set(many)
assert set(cache.iter_keys("key:*")) == set(many)
assert cache.delete_pattern("key:1*", itersize=10) == 111
assert cache.get_many(many) == {k: v for k, v in many.items() if not k.startswith("key:1")}
assert cache.delete_many([*many]) == 89

with cache.lock("guard", timeout=30):
    assert not cache.lock("guard", blocking_timeout=0.05).acquire()
assert cache.lock("guard", timeout=30).acquire()

connection = get_redis_connection("default")
assert connection.ping()
assert connection.exists(cache.make_key("guard"))

session = SessionStore()
session["user"] = 42
session.save()
assert SessionStore(session.session_key)["user"] == 42
cache.clear()
assert cache.keys("*") == []
