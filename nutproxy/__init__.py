"""nutproxy: a sharding proxy for Redis and Memcached."""

__version__ = "0.1.0"
