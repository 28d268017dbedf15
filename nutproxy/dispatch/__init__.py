# nutproxy/dispatch: routes requests
"""Puts parsed requests into the queues of servers. There is one module for each protocol, with the
recv_done of the client role. They share split.py, for requests with keys on several servers, and
forward.py."""
