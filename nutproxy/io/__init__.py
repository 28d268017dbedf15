"""The event loop below the connections: epoll, timers, sockets."""
