# tests/soak: nobody gets another's reply, whatever happens meanwhile
"""Many clients, four servers of a protocol, and everything that can go wrong with servers.

    python -m tests.soak --seconds 120 --protocol both -m 512 --seed 7

    run.py        starts everything, and gives the verdict
      chaos.py    kills, stops, delays, fills and flushes servers
      clients.py  connections that send pipelines, vanish and come back, in processes of their own
        redis.py, memcache.py   what is sent, and what may come back
        checks.py               how a value shows whose it is

Every key carries its client's number, every value its client, its key and the sequence number of
the request that wrote it. A reply is checked against its own request alone, so no order between
clients, and nothing about which writes have survived, is assumed: a value is one that this client
has written under that key before it asked, or a miss, or an error that the server or the proxy may
well give. Anything else ends the run, with the request and the reply.
"""
