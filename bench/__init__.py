"""Benchmarks of nutproxy and other proxies, side by side: `python -m bench`."""
