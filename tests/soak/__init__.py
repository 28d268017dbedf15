# tests/soak: no client gets another client's reply, whatever happens to the servers
"""Many clients, four servers of each protocol, and every kind of server failure.

    python -m tests.soak --seconds 120 --protocol both -m 512 --seed 7

    run.py        starts everything, and says whether the run has passed
      chaos.py    kills, stops, delays, fills and flushes servers
      clients.py  processes with connections that send pipelines, disconnect and come back
        redis.py, memcache.py   the requests, and the replies that are allowed
        pubsub.py               clients that subscribe
        messages.py             what was published, and what they must get
        items.py                items that are taken by commands that wait: none is lost
        checks.py               values that say which request has written them

Every key has the number of its client. Every value has its client, its key and the sequence number
of the request that wrote it. Each reply is compared only with its own request: nothing is assumed
about the order of different clients, or about which writes have survived. A correct reply is a
value that this client has written to this key earlier, a miss, or an error that the server or the
proxy may send. Any other reply ends the run, which then prints the request and the reply.

Messages of subscriptions are compared with what was published. If some are missing, nutproxy must
have counted a gap at that time.
"""
