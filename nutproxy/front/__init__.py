"""Towards clients: listening sockets, and client connections."""
