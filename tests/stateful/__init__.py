# tests/stateful: the same random conversations, with one Redis and with nutproxy
"""Several clients talk in turns, and every byte that each of them gets is compared.

    python -m tests.stateful --count 100000 --seed 1

    conversation.py   draws conversations from a seed: a table of what clients say
    stage.py          holds them, with one Redis directly and with a pool, and compares
    messages.py       messages of subscriptions, and what may differ about them
    shrink.py         leaves out of a conversation that differs whatever is not needed for it
    run.py            does both for many seeds

Only one client speaks at a time, and the next one begins when all replies have come. So a
conversation has the same replies each time it is held. A conversation is determined by its seed;
its pool is `one` (one server) if the seed is even, and `three` (three servers) if it is odd.

**What is not compared,** because it differs between two Redis servers, too: the `id` in the reply
to HELLO, and the order of the keys in the replies to KEYS and SCAN. Messages of subscriptions may
come before or after replies (messages.py).

**What is not said,** because nutproxy refuses it or means something else, as docs/commands.md says:
AUTH, which has nutproxy's own error; EVALSHA of a script that was not loaded; HELLO, CLIENT
REPLY and PUBSUB in a transaction. With several servers, all keys carry the same hash tag; commands
for all servers are not sent in a transaction, and SCAN and SCRIPT EXISTS not at all.

In one turn, or in one transaction, a client does not change its subscriptions after it has
published: the message may still be on its way when nutproxy carries out the other command, so it
may come although the client subscribed later, or not come because it unsubscribed later. Nor does
it end subscriptions before PUBLISH and PUBSUB, which may count one receiver too many or too few
while nutproxy's UNSUBSCRIBE is on its way. In a transaction a client publishes only to a channel of
another client alone: the number is a server's.
"""
