"""Protocols: incremental parsers, reply builders and command tables."""
