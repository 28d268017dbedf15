"""Towards servers: a server, its links, and its health."""
