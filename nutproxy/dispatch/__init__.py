# nutproxy/dispatch: what becomes of a request
"""From a parsed request to the queues of servers: the client role's recv_done, one module for each
protocol, and what both of them do."""
