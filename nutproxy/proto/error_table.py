# nutproxy/proto/error_table.py: every error that nutproxy itself sends to clients
"""The table of error texts, each with a help text for operators.

A row holds the text as a client receives it, without the `-` of a Redis error and without the line
end, and a %b for each word to insert. Rows of both protocols have no code: a Redis client gets the
code ERR, a Memcached client SERVER_ERROR. errors.py makes replies from the rows, and docs/errors.md
from the rows and the titles of their sections. A server's own error is passed on unchanged and has
no row.

If Redis or memcached has a text for the situation, it is used exactly, because client libraries
recognise it: some fall back to an older command after "unknown command".

The keys of rows for Memcached begin with `memcached_`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple


class ErrorText(NamedTuple):
    text: bytes  # with a %b for each word to insert
    help: str  # what has happened, and what to do
    protocol: Literal["redis", "memcached", "both"] = "redis"


COMMANDS = {
    "unknown_command": ErrorText(
        b"ERR unknown command '%b', with args beginning with: %b",
        "nutproxy does not know the command. If it belongs to a module of your servers, describe"
        " it in the pool's custom_commands. Also the reply to HELLO 3 if the pool's servers do not"
        " know HELLO.",
    ),
    "unknown_subcommand": ErrorText(
        b"ERR unknown subcommand '%b'. Try %b HELP.",
        "The command exists, the subcommand does not. Check its spelling, and the version of Redis"
        " that the client expects.",
    ),
    "unknown_subcommand_or_arity": ErrorText(
        b"ERR unknown subcommand or wrong number of arguments for '%b'. Try PUBSUB HELP.",
        "PUBSUB CHANNELS and SHARDCHANNELS take one pattern at most.",
    ),
    "wrong_arity": ErrorText(
        b"ERR wrong number of arguments for '%b' command",
        "The command has too few or too many arguments. Nothing was sent to a server.",
    ),
    "too_many": ErrorText(
        b"ERR '%b' has %b arguments, at most %b are allowed",
        "All other clients would wait while nutproxy processes the arguments. Send several"
        " requests.",
    ),
    "too_long": ErrorText(
        b"ERR '%b' has %b bytes, at most %b are allowed",
        "nutproxy handles the command itself, or copies it for every server. Send a shorter"
        " request.",
    ),
    "one_server": ErrorText(
        b"ERR '%b' needs a pool of one server, pool '%b' has %b",
        "The command has no key that says which server it is for, and nutproxy cannot merge the"
        " replies of several servers. Connect the client to each server directly.",
    ),
    "report_too_long": ErrorText(
        b"ERR the replies of the servers to '%b' have %b lines, at most %b are merged",
        "All other clients would wait while nutproxy merges the replies, as those to SLOWLOG GET"
        " with a large count. Ask for fewer entries, or ask each server.",
    ),
    "key_too_long": ErrorText(
        b"ERR a key of %b bytes is too long for a pool of several servers, at most %b are allowed",
        "nutproxy hashes every byte of a key to find its server, and all other clients would wait."
        " Use shorter keys.",
    ),
    "keys_too_long": ErrorText(
        b"ERR keys of %b bytes in one request are too long for a pool of several servers, at most"
        b" %b are allowed",
        "nutproxy hashes every byte of the keys, and all other clients would wait. Send several"
        " requests.",
    ),
    "syntax": ErrorText(
        b"ERR syntax error",
        "An option of a command that nutproxy handles itself is misspelt or incomplete.",
    ),
    "not_integer": ErrorText(
        b"ERR value is not an integer or out of range",
        "An argument of a command that nutproxy handles itself must be an integer.",
    ),
    "scan_member": ErrorText(
        b"ERR invalid cursor: %b belongs to no server of pool '%b', start again with SCAN 0",
        "nutproxy has not made this cursor, or the server that was being scanned has been removed"
        " from the pool since then. Its remaining keys are not skipped silently: start the scan"
        " again.",
    ),
    "scan_large": ErrorText(
        b"ERR cursor '%b' of server '%b' is not a number below 2^47, scan that server directly",
        "The client's cursor holds the server's cursor and the number of the server, so the"
        " server's cursor must be below 2^47. That is enough for 10^14 keys. The server does not"
        " make its cursors as Redis does, so connect to it directly to scan it.",
    ),
    "not_supported": ErrorText(
        b"ERR '%b' is not supported by nutproxy",
        "Redis has the command, but nutproxy does not support it. [commands.md](commands.md) says"
        " why. Turn it off in the client, or connect the client to the server directly.",
    ),
    "denied": ErrorText(
        b"NOPERM '%b' is denied by deny_commands of pool '%b'",
        "The pool's deny_commands names the command. Remove it there if clients should use it.",
    ),
    "needs_admin": ErrorText(
        b"NOPERM '%b' is an administration command, pool '%b' does not set admin_commands: true",
        "The command goes to every server, so the pool must allow it with admin_commands: true.",
    ),
    "sort_pattern": ErrorText(
        b"ERR %b option of SORT denied when keys formed by the pattern may be on different servers "
        b"of pool '%b'; %b",
        "SORT or SORT_RO has a pattern that contains a `*`, and the pool has several servers. Keys"
        " on other servers would seem to be missing. Give the pattern the key's hash tag.",
    ),
    "noauth": ErrorText(
        b"NOAUTH Authentication required.",
        "The pool has a redis_auth, and the client has not sent AUTH or HELLO … AUTH. Set the"
        " password in the client.",
    ),
    "noauth_hello": ErrorText(
        b"NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO "
        b"AUTH <user> <pass> option can be used to authenticate the client and select the RESP "
        b"protocol version at the same time",
        "The client sent HELLO without AUTH to a pool that has a redis_auth. Set the password in"
        " the client.",
    ),
    "no_password_set": ErrorText(
        b"ERR Client sent AUTH, but no password is set",
        "The client sent a password, but the pool has no redis_auth. Set one, or remove the"
        " password from the client.",
    ),
    "invalid_password": ErrorText(
        b"ERR invalid password",
        "The client sent AUTH with a password that is not the pool's redis_auth.",
    ),
    "wrongpass": ErrorText(
        b"WRONGPASS invalid username-password pair or user is disabled.",
        "The client sent AUTH or HELLO with a user and a password. The user is not 'default', or"
        " the password is not the pool's redis_auth.",
    ),
    "noproto": ErrorText(
        b"NOPROTO unsupported protocol version",
        "HELLO asked for a protocol other than 2 or 3. Or the client uses RESP3, and the server is"
        " too old for HELLO: set RESP2 in the client.",
    ),
    "proto_not_integer": ErrorText(
        b"ERR Protocol version is not an integer or out of range",
        "The first argument of HELLO must be 2 or 3.",
    ),
    "hello_option": ErrorText(
        b"ERR Syntax error in HELLO option '%b'",
        "HELLO takes AUTH user password and SETNAME name.",
    ),
    "client_name": ErrorText(
        b"ERR Client names cannot contain spaces, newlines or special characters.",
        "A client name is printable ASCII without spaces.",
    ),
    "client_name_length": ErrorText(
        b"ERR Client names and attributes cannot be longer than %b bytes.",
        "CLIENT LIST shows the names of all clients, so nutproxy limits their length.",
    ),
    "client_attribute": ErrorText(
        b"ERR %b cannot contain spaces, newlines or special characters.",
        "A library name or version is printable ASCII without spaces.",
    ),
    "unrecognized_option": ErrorText(
        b"ERR Unrecognized option '%b'",
        "CLIENT SETINFO takes LIB-NAME and LIB-VER.",
    ),
    "client_type": ErrorText(
        b"ERR Unknown client type '%b'",
        "CLIENT LIST TYPE takes normal, master, replica and pubsub.",
    ),
    "client_id": ErrorText(
        b"ERR Invalid client ID",
        "CLIENT LIST ID takes positive integers.",
    ),
    "no_cluster": ErrorText(
        b"ERR This instance has cluster support disabled",
        "The client sent CLUSTER, ASKING, READONLY or READWRITE. A pool looks like one Redis"
        " without cluster mode: turn cluster mode off in the client.",
    ),
    "not_tracking": ErrorText(
        b"ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or "
        b"OPTOUT mode enabled",
        "The client sent CLIENT CACHING without CLIENT TRACKING ON before it.",
    ),
    "caching_yes": ErrorText(
        b"ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.",
        "Turn tracking on with OPTIN, or leave out CLIENT CACHING.",
    ),
    "caching_no": ErrorText(
        b"ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.",
        "Turn tracking on with OPTOUT, or leave out CLIENT CACHING.",
    ),
    "tracking_two_redirects": ErrorText(
        b"ERR A client can only redirect to a single other client",
        "CLIENT TRACKING takes one REDIRECT.",
    ),
    "tracking_no_client": ErrorText(
        b"ERR The client ID you want redirect to does not exist",
        "REDIRECT takes the CLIENT ID of another client of the same pool of this nutproxy.",
    ),
    "tracking_prefix": ErrorText(
        b"ERR PREFIX option requires BCAST mode to be enabled",
        "Add BCAST to CLIENT TRACKING, or leave out PREFIX.",
    ),
    "tracking_bcast": ErrorText(
        b"ERR You can't switch BCAST mode on/off before disabling tracking for this client, and"
        b" then re-enabling it with a different mode.",
        "Send CLIENT TRACKING OFF first.",
    ),
    "tracking_bcast_opt": ErrorText(
        b"ERR OPTIN and OPTOUT are not compatible with BCAST",
        "With BCAST every change is sent, whatever the client has read.",
    ),
    "tracking_both": ErrorText(
        b"ERR You can't specify both OPTIN mode and OPTOUT mode",
        "Leave out one of them.",
    ),
    "tracking_switch": ErrorText(
        b"ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and"
        b" then re-enabling it with a different mode.",
        "Send CLIENT TRACKING OFF first.",
    ),
    "tracking_provided": ErrorText(
        b"ERR Prefix '%b' overlaps with another provided prefix '%b'. Prefixes for a single client"
        b" must not overlap.",
        "A change would be sent twice. Leave out the longer one.",
    ),
    "tracking_existing": ErrorText(
        b"ERR Prefix '%b' overlaps with an existing prefix '%b'. Prefixes for a single client must"
        b" not overlap.",
        "A change would be sent twice. Send CLIENT TRACKING OFF first to replace prefixes.",
    ),
    "tracking_prefixes": ErrorText(
        b"ERR a client may have %b prefixes of %b bytes each",
        "Every change is compared with each prefix. Use fewer or shorter ones.",
    ),
    "import_mode": ErrorText(
        b"ERR Server is not in import mode",
        "The client sent CLIENT IMPORT-SOURCE ON, which would change a server connection that"
        " clients share. Connect a program that imports keys to the server directly.",
    ),
    "script_debug": ErrorText(
        b"ERR Use SCRIPT DEBUG YES/SYNC/NO",
        "SCRIPT DEBUG takes NO; YES and SYNC are not supported.",
    ),
    "client_arguments": ErrorText(
        b"ERR unknown subcommand or wrong number of arguments for '%b'. Try CLIENT HELP.",
        "A subcommand of CLIENT got more arguments than it has.",
    ),
    "pause_mode": ErrorText(
        b"ERR CLIENT PAUSE mode must be WRITE or ALL",
        "CLIENT PAUSE takes milliseconds, and WRITE or ALL after them.",
    ),
    "timeout_integer": ErrorText(
        b"ERR timeout is not an integer or out of range",
        "CLIENT PAUSE takes a number of milliseconds.",
    ),
    "timeout_negative": ErrorText(
        b"ERR timeout is negative",
        "CLIENT PAUSE takes a number of milliseconds.",
    ),
    "kill_id": ErrorText(
        b"ERR client-id should be greater than 0",
        "CLIENT KILL ID takes a number that CLIENT LIST shows.",
    ),
    "kill_age_integer": ErrorText(
        b"ERR maxage is not an integer or out of range",
        "CLIENT KILL MAXAGE takes seconds.",
    ),
    "kill_age": ErrorText(
        b"ERR maxage should be greater than 0",
        "CLIENT KILL MAXAGE takes seconds.",
    ),
    "no_such_user": ErrorText(
        b"ERR No such user '%b'",
        "The only user of a pool is `default`.",
    ),
    "no_such_client": ErrorText(
        b"ERR No such client",
        "CLIENT KILL with an address that no client of the pool has. CLIENT LIST shows them.",
    ),
    "unblocked": ErrorText(
        b"UNBLOCKED client unblocked via CLIENT UNBLOCK",
        "Another client has sent CLIENT UNBLOCK with ERROR while this one waited.",
    ),
    "unblock_reason": ErrorText(
        b"ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR",
        "CLIENT UNBLOCK takes a client's ID, and TIMEOUT or ERROR.",
    ),
    "database_range": ErrorText(
        b"ERR DB index is out of range",
        "The client has named a database that is not below the pool's `databases`.",
    ),
    "database_own": ErrorText(
        b"ERR %b cannot name database 0 in a pool with a redis_db",
        "For clients, 0 is the pool's redis_db, but MOVE, COPY and SWAPDB go to the servers as they"
        " are. Name the redis_db by its own number.",
    ),
    "max_profiles": ErrorText(
        b"ERR pool '%b' serves at most %b combinations of protocol version, database and tracking"
        b" at once (max_profiles)",
        "Clients with other combinations use all that the pool allows. Raise max_profiles, or use"
        " fewer databases.",
    ),
    "databases": ErrorText(
        b"ERR this pool has one database: after SELECT %b nothing is carried out until SELECT 0 or"
        b" RESET; set databases in the pool, or the redis_db that it selects on its servers",
        "The client sent SELECT with a number other than 0 and the pool's redis_db, and the pool"
        " has no other database. Set `databases` in the file, or database 0 in the client.",
    ),
    "in_database": ErrorText(
        b"ERR '%b' was not carried out because '%b' was refused: send SELECT 0 or RESET",
        "The client has tried to select, or swap, a database that the pool does not have. Set"
        " database 0 in the client.",
    ),
    "in_transaction": ErrorText(
        b"ERR '%b' was not carried out: %b; EXEC, DISCARD or RESET ends the transaction",
        "Commands after a refused MULTI are refused too. The text repeats MULTI's own error.",
    ),
    "nested_multi": ErrorText(
        b"ERR MULTI calls can not be nested",
        "MULTI in a transaction. The transaction goes on.",
    ),
    "watch_in_multi": ErrorText(
        b"ERR WATCH inside MULTI is not allowed",
        "WATCH in a transaction. The transaction goes on.",
    ),
    "ssubscribe_in_multi": ErrorText(
        b"ERR SSUBSCRIBE isn't allowed for a DENY BLOCKING client",
        "Redis does not allow SSUBSCRIBE in a transaction either. The others are carried out.",
    ),
    "no_multi": ErrorText(
        b"ERR Command not allowed inside a transaction",
        "Redis does not allow this command in a transaction. EXEC will carry out nothing.",
    ),
    "not_queued": ErrorText(
        b"ERR '%b' is not supported by nutproxy in a transaction",
        "nutproxy handles the command itself, and cannot do so at EXEC. Send it before MULTI, or"
        " after EXEC, which will carry out nothing now.",
    ),
    "local_in_transaction": ErrorText(
        b"ERR a transaction has more than %b commands that nutproxy handles itself",
        "These commands are carried out in one turn, and all other clients wait. Send PING, CLIENT"
        " and the like outside of the transaction.",
    ),
    "transaction_size": ErrorText(
        b"ERR a transaction of more than %b bytes (half of client_max_pending)",
        "nutproxy keeps the commands of a transaction until EXEC. Send smaller transactions, or"
        " raise client_max_pending.",
    ),
    "transaction_commands": ErrorText(
        b"ERR a transaction has more than %b commands whose replies nutproxy puts together",
        "With `transactions: split`, or with a command that nutproxy handles itself, all other"
        " clients wait while the reply to EXEC is made. Send smaller transactions.",
    ),
    "all_in_transaction": ErrorText(
        b"ERR '%b' is for all servers of the pool, and a transaction is for one",
        "Send the command outside of the transaction. EXEC will carry out nothing.",
    ),
    "transaction_servers": ErrorText(
        b"CROSSSLOT Keys of this transaction are on different servers of pool '%b'; %b",
        "A transaction, with the keys that it watches, is carried out by one server. Use a hash tag"
        " in the keys. If the application uses MULTI only to send many commands at once, set"
        " [`transactions: split`](configuration.md#transactions).",
    ),
    "execabort_before": ErrorText(
        b"EXECABORT Transaction discarded because of previous errors.",
        "A command of the transaction was refused. Nothing of it was carried out.",
    ),
    "transaction_moved": ErrorText(
        b"EXECABORT Transaction discarded because the servers of the pool have changed, send it"
        b" again",
        "Between MULTI and EXEC a server was ejected, returned, came or went. Nothing was carried"
        " out.",
    ),
    "watch_lost": ErrorText(
        b"EXECABORT Transaction discarded because the connection of WATCH has ended, send WATCH"
        b" again",
        "The server was restarted, or failed, so nobody knows whether the keys have changed."
        " Nothing was carried out.",
    ),
    "max_blocked": ErrorText(
        b"ERR pool '%b' lets at most %b clients wait in blocking commands (max_blocked)",
        "Each waiting client needs a server connection of its own. Raise max_blocked, the limit on"
        " open files, and the servers' maxclients; or use fewer clients.",
    ),
    "wait_moved": ErrorText(
        b"ERR the servers of pool '%b' have changed, send '%b' again",
        "While the command waited for the replies to the client's earlier requests, a server was"
        " ejected, returned, came or went. The command was not carried out.",
    ),
    "in_state": ErrorText(
        b"ERR '%b' was not carried out because '%b' was refused: send RESET",
        "An earlier, refused command would have changed the meaning of this one. See"
        " [what is supported](commands.md).",
    ),
    "subscribed": ErrorText(
        b"ERR Can't execute '%b': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are"
        b" allowed in this context",
        "A client that speaks RESP2 and has subscriptions can do nothing else, as in Redis. Use"
        " another connection, or RESP3.",
    ),
    "subscriptions": ErrorText(
        b"ERR the clients of this pool may have %b subscriptions together",
        "The pool's `max_subscriptions` are in use. Raise it, or end some.",
    ),
    "subscriptions_size": ErrorText(
        b"ERR the subscriptions of a client may have %b bytes",
        "A subscription counts with its name and 256 bytes. The limit is `client_max_pending`. Use"
        " patterns, or several connections.",
    ),
    "execabort": ErrorText(
        b"EXECABORT Transaction discarded because of: %b",
        "The client sent EXEC after a refused MULTI. No command of the transaction was carried"
        " out. Use pipelines without a transaction.",
    ),
    "exec_without_multi": ErrorText(
        b"ERR EXEC without MULTI",
        "The client sent EXEC without a MULTI before it.",
    ),
    "discard_without_multi": ErrorText(
        b"ERR DISCARD without MULTI",
        "The client sent DISCARD without a MULTI before it.",
    ),
    "crossslot": ErrorText(
        b"CROSSSLOT Keys of '%b' are on different servers of pool '%b'; %b",
        "Redis has no rule for splitting the command, so all its keys must be on one server. Use a"
        " hash tag in the keys, as the text says.",
    ),
}

# A text of Redis' own begins with the same words. %c is the byte that was received.
FRAMING = {
    "array_length": ErrorText(
        b"ERR Protocol error: invalid multibulk length",
        "A request is not a Redis request, or has more than 1,048,576 arguments. Look for a broken"
        " client, or split the request.",
    ),
    "array_length_line": ErrorText(
        b"ERR Protocol error: too big mbulk count string",
        "The first line of a request is longer than 64 KB. Look for a client that does not speak"
        " Redis.",
    ),
    "array_length_unauthenticated": ErrorText(
        b"ERR Protocol error: unauthenticated multibulk length",
        "A client that has not authenticated sent a request of more than 10 arguments. Set the"
        " password in the client.",
    ),
    "no_dollar": ErrorText(
        b"ERR Protocol error: expected '$', got '%c'",
        "An argument does not begin with its length. Look for a broken client, or for one that does"
        " not speak Redis.",
    ),
    "bulk_length": ErrorText(
        b"ERR Protocol error: invalid bulk length",
        "The length of an argument is not a number, or is larger than proto_max_bulk_len. Raise"
        " proto_max_bulk_len and the servers' proto-max-bulk-len, or send smaller values.",
    ),
    "bulk_length_line": ErrorText(
        b"ERR Protocol error: too big bulk count string",
        "The line with the length of an argument is longer than 64 KB. Look for a client that does"
        " not speak Redis.",
    ),
    "bulk_length_unauthenticated": ErrorText(
        b"ERR Protocol error: unauthenticated bulk length",
        "A client that has not authenticated sent an argument of more than 16 KB. Set the password"
        " in the client.",
    ),
    "bulk_end": ErrorText(
        b"ERR Protocol error: expected CR LF after bulk",
        "An argument is longer or shorter than the client announced. Look for a broken client.",
    ),
    "request_length": ErrorText(
        b"ERR Protocol error: too big request",
        "A request is longer than 1 GB and than twice proto_max_bulk_len. Send several requests.",
    ),
    "inline_length": ErrorText(
        b"ERR Protocol error: too big inline request",
        "An inline command is longer than 64 KB. Look for a client that does not speak Redis, or"
        " send a Redis array.",
    ),
    "unbalanced_quotes": ErrorText(
        b"ERR Protocol error: unbalanced quotes in request",
        "A quote in an inline command is not closed. Close it, or send a Redis array.",
    ),
    "request_memory": ErrorText(
        b"ERR Protocol error: out of memory",
        "There was no memory for the arguments of a request. Give nutproxy more memory, or lower"
        " the limits of its pools.",
    ),
    "binary": ErrorText(
        b"ERR Protocol error: the binary Memcached protocol is not supported",
        "A client sent binary Memcached to a Redis pool. Connect it to a Memcached pool, and make"
        " it use the text protocol.",
    ),
    "tls": ErrorText(
        b"ERR Protocol error: TLS is not supported",
        "A client began a TLS handshake. Turn TLS off in the client, or put a TLS proxy in front of"
        " nutproxy.",
    ),
    "stalled": ErrorText(
        b"ERR Protocol error: an unfinished request, see client_request_timeout",
        "A client began a request and then sent nothing for client_request_timeout. Look for a"
        " broken client or network, or raise client_request_timeout.",
    ),
    "unfinished": ErrorText(
        b"ERR Protocol error: unfinished requests, see client_query_buffer_limit",
        "The incomplete requests of all clients of the pool are larger than"
        " client_query_buffer_limit. The client with the largest one gets this error. Raise"
        " client_query_buffer_limit, or send smaller requests.",
    ),
}

MEMCACHE = {
    "memcache_unknown": ErrorText(
        b"ERROR",
        "memcached does not have the command, or the line has too few or too many words. Also the"
        " reply to an HTTP request: let health checks use TCP.",
        "memcached",
    ),
    "memcache_format": ErrorText(
        b"CLIENT_ERROR bad command line format",
        "A word of the line is malformed, for example a number, or a key of more than 250 bytes.",
        "memcached",
    ),
    "memcache_data": ErrorText(
        b"CLIENT_ERROR bad data chunk",
        "A value is longer or shorter than its line announced. Look for a broken client.",
        "memcached",
    ),
    "memcache_value_length": ErrorText(
        b"SERVER_ERROR object too large for cache",
        "A value is longer than proto_max_bulk_len, and was skipped. Raise proto_max_bulk_len and"
        " memcached's -I, or store smaller values.",
        "memcached",
    ),
    "memcache_exptime": ErrorText(
        b"CLIENT_ERROR invalid exptime argument",
        "The second word of gat or gats must be a number.",
        "memcached",
    ),
    "memcache_many_flags": ErrorText(
        b"CLIENT_ERROR options flags too long",
        "An ms has more flags than memcached accepts. Remove some.",
        "memcached",
    ),
    "memcache_flag": ErrorText(
        b"CLIENT_ERROR invalid flag",
        "A flag of ms is not a letter or a digit.",
        "memcached",
    ),
    "memcache_duplicate_flag": ErrorText(
        b"CLIENT_ERROR duplicate flag",
        "A flag of a meta command is repeated.",
        "memcached",
    ),
    "memcache_flag_or_duplicate": ErrorText(
        b"CLIENT_ERROR invalid or duplicate flag",
        "A flag of md or ma is repeated, or its base64 key is malformed.",
        "memcached",
    ),
    "memcache_base64": ErrorText(
        b"CLIENT_ERROR error decoding key",
        "The key of a meta command with the flag b is not valid base64.",
        "memcached",
    ),
    "memcache_line_feed": ErrorText(
        b"CLIENT_ERROR nutproxy cannot add to an item whose key has a line feed",
        "memcached would show such a key unencoded, and a client could insert lines into the"
        " replies to others. Use keys without line feeds.",
        "memcached",
    ),
    "memcache_many_keys": ErrorText(
        b"CLIENT_ERROR too many keys",
        "A get has more than 262,144 words. Send several.",
        "memcached",
    ),
    "memcache_line_length": ErrorText(
        b"CLIENT_ERROR line too long",
        "A line is longer than 2048 bytes, or 32 MB for get, gets, gat and gats. The connection is"
        " closed. Send shorter lines.",
        "memcached",
    ),
    "memcache_not_supported": ErrorText(
        b"CLIENT_ERROR '%b' is not supported by nutproxy",
        "memcached has the command, but nutproxy does not support it. [memcached.md](memcached.md)"
        " says why. Send it to the servers directly.",
        "memcached",
    ),
    "memcache_denied": ErrorText(
        b"CLIENT_ERROR '%b' is denied by deny_commands of pool '%b'",
        "The pool's deny_commands names the command. Remove it there if clients should use it.",
        "memcached",
    ),
    "memcache_binary": ErrorText(
        b"CLIENT_ERROR the binary protocol is not accepted here, see the pool's protocol",
        "A client sent the binary protocol to a pool with protocol: ascii. The connection is"
        " closed. Make the client use the text protocol, or set protocol: auto.",
        "memcached",
    ),
    "memcache_only_binary": ErrorText(
        b"CLIENT_ERROR only the binary protocol is accepted here, see the pool's protocol",
        "A client sent the text protocol to a pool with protocol: binary. The connection is closed."
        " Make the client use the binary protocol, or set protocol: auto.",
        "memcached",
    ),
    "memcache_unauthenticated": ErrorText(
        b"CLIENT_ERROR unauthenticated",
        "The pool has users, and the client has not authenticated. Let it send `set k 0 0 N` with"
        " its name and its password as the data first.",
        "memcached",
    ),
    "memcache_auth_format": ErrorText(
        b"CLIENT_ERROR bad authentication token format",
        "The data of the set that authenticates is not a name and a password with a space between"
        " them.",
        "memcached",
    ),
    "memcache_auth_failure": ErrorText(
        b"CLIENT_ERROR authentication failure",
        "The pool's users have no such name, it is off, or the password is wrong.",
        "memcached",
    ),
    "memcache_tls": ErrorText(
        b"CLIENT_ERROR TLS is not supported",
        "A client began a TLS handshake. The connection is closed. Turn TLS off in the client, or"
        " put a TLS proxy in front of nutproxy.",
        "memcached",
    ),
    "memcache_redis": ErrorText(
        b"-ERR this pool speaks the Memcached protocol",
        "A client sent a Redis request, and gets a Redis error. The connection is closed. Connect"
        " it to another pool, or set redis: true.",
        "memcached",
    ),
    "memcache_stalled": ErrorText(
        b"CLIENT_ERROR an unfinished request, see client_request_timeout",
        "A client began a request and then sent nothing for client_request_timeout. The connection"
        " is closed. Look for a broken client or network, or raise client_request_timeout.",
        "memcached",
    ),
    "memcache_unfinished": ErrorText(
        b"SERVER_ERROR unfinished requests, see client_query_buffer_limit",
        "The incomplete requests of all clients of the pool are larger than"
        " client_query_buffer_limit. The client with the largest one gets this error, and its"
        " connection is closed. Raise client_query_buffer_limit, or send smaller requests.",
        "memcached",
    ),
}

LIMITS = {
    "max_clients": ErrorText(
        b"ERR max number of clients reached",
        "The pool has as many clients as its client_connections allows. The connection is closed."
        " Raise client_connections, or look for clients that leave connections open.",
    ),
    "memcache_max_clients": ErrorText(
        b"ERROR Too many open connections",
        "The pool has as many clients as its client_connections allows. The connection is closed."
        " Raise client_connections, or look for clients that leave connections open.",
        "memcached",
    ),
    "dropped": ErrorText(
        b"reply of %b bytes dropped: %b bytes of replies are unread, more than 4 times"
        b" client_max_pending",
        "The client sends requests and does not read the replies. The request was carried out. Let"
        " the client read sooner, or raise client_max_pending.",
        "both",
    ),
    "merged": ErrorText(
        b"the servers' replies have more than %b bytes together (max_merged_reply)",
        "The command went to all servers, and their replies are too long to be merged. Use SCAN"
        " instead of KEYS, ask for less, or raise max_merged_reply.",
        "both",
    ),
    "out_of_memory": ErrorText(
        b"out of memory",
        "There was no memory for a request or its reply. The request may have been carried out."
        " Give nutproxy more memory, or lower the limits of its pools.",
        "both",
    ),
    "internal": ErrorText(
        b"internal error of nutproxy, see its log",
        "nutproxy has a bug. Report it with the traceback in the log.",
        "both",
    ),
}

SERVERS = {
    "server": ErrorText(
        b"server '%b' of pool '%b': %b",
        "The server did not get the request, or did not reply to it. In the second case it may have"
        " carried it out. The causes below say what to do.",
        "both",
    ),
    "loading": ErrorText(
        b"LOADING server '%b' of pool '%b': %b",
        "The server is loading its data. Clients know this code and try again. Wait until the"
        " server is ready.",
    ),
    "no_live_server": ErrorText(
        b"pool '%b' has no live server: Connection refused",
        "Every server of the pool is ejected. The log says why. nutproxy probes each of them after"
        " server_retry_timeout.",
        "both",
    ),
    "part_form": ErrorText(
        b"ERR a server's reply to a part of '%b' does not have the expected form",
        "The replies of several servers could not be merged. Check that all servers of the pool"
        " have the same version and modules.",
    ),
    "reply_form": ErrorText(
        b"ERR a server's reply does not have the expected form",
        "A reply of a server could not be decoded. Check that it is a Redis server.",
    ),
    "memcache_part_form": ErrorText(
        b"SERVER_ERROR a server's reply to a part of this command does not belong to it",
        "A server sent a value that was not requested. Check that every server of the pool is a"
        " memcached.",
        "memcached",
    ),
}

# Appended to the error of one server after a `; `, because other servers had a part of the command.
ADDITIONS = {
    "other_keys": ErrorText(
        b"other keys of this '%b' may have been changed",
        "The keys of the command are on several servers, and the others have carried out their"
        " parts. Send the command again, or check the keys.",
    ),
    "other_servers": ErrorText(
        b"other servers may have executed this '%b'",
        "The command goes to every server, and the others have carried it out. Send it again if it"
        " may be carried out twice.",
    ),
}

# Inserted into the rows "server" and "loading". The log quotes them as well.
CAUSES = {
    "queue_full": ErrorText(
        b"its queue is full (server_max_queue)",
        "More bytes of requests wait for the server than server_max_queue allows. Nothing was sent."
        " Raise server_max_queue, add servers, or find out why the server is slow.",
        "both",
    ),
    "reply_length": ErrorText(
        b"its reply is too long",
        "A reply is longer than 1 GB and than twice proto_max_bulk_len, or one of its lines is"
        " longer than 16 MB. The request was carried out. Ask for less at once.",
        "both",
    ),
    "form": ErrorText(
        b"its reply to '%b' does not have the expected form",
        "The replies of several servers could not be merged. Check that this server has the same"
        " version and modules as the others.",
    ),
    "unsuited": ErrorText(
        b"the reply does not match the request: %b",
        "The reply cannot belong to the request, so the connection was closed. Check that the"
        " server is a memcached.",
        "memcached",
    ),
    "unasked": ErrorText(
        b"the server sent a reply to no request",
        "The next reply could have been given to the wrong client, so the connection was closed."
        " Check what listens at the server's address.",
        "both",
    ),
    "malformed": ErrorText(
        b"malformed reply (%b)",
        "The server sent something that is not a reply in its protocol. Check what listens at its"
        " address.",
        "both",
    ),
    "wrong_protocol": ErrorText(
        b"malformed reply (%b); if this is a %b server, the pool needs 'redis: %b'",
        "The first reply of the server was not one of the pool's protocol. Check the server's"
        " address, and the pool's key `redis`.",
        "both",
    ),
    "refused": ErrorText(
        b"refused the request: %b",
        "The server sent this error and closed the connection, or sent it before it had the whole"
        " request. The error says what it did not accept.",
        "both",
    ),
    "refused_length": ErrorText(
        b"refused the request: %b (it needs a proto-max-bulk-len as large as the pool's "
        b"proto_max_bulk_len)",
        "A value was longer than the server accepts. Set the pool's proto_max_bulk_len no larger"
        " than the proto-max-bulk-len of its servers.",
    ),
    "silent_bytes": ErrorText(
        b"bytes come, but no whole reply for %b ms",
        "The server sends part of a reply and never the rest, so the connection was closed. Check"
        " the server and the network.",
        "both",
    ),
    "host": ErrorText(
        b"cannot resolve host: %b",
        "The server's host name has no address. Check the name in the file, and the resolver.",
        "both",
    ),
    "handshake_length": ErrorText(
        b"its reply to the handshake is too long",
        "The first reply of the server is not one of the pool's protocol. Check what listens at its"
        " address.",
        "both",
    ),
    "handshake_reply": ErrorText(
        b"not a reply to %b: %b",
        "The server's reply to a step of the handshake has the wrong form. Check what listens at"
        " its address.",
        "both",
    ),
    "hello": ErrorText(
        b"HELLO 3 failed: %b",
        "The server does not speak RESP3. Clients get NOPROTO and may use RESP2.",
    ),
    "auth": ErrorText(
        b"redis_auth failed: %b",
        "The server does not accept the pool's redis_auth. Set the server's requirepass to it.",
    ),
    "auth_wanted": ErrorText(
        b"redis_auth is not set, but the server wants it: %b",
        "The server has a password. Set the pool's redis_auth to it.",
    ),
    "select": ErrorText(
        b"redis_db %b failed: %b",
        "The server does not have the database. Lower redis_db, or raise the server's `databases`.",
    ),
    "multi_refused": ErrorText(
        b"it refused MULTI (%b), so the commands were carried out one by one",
        "The server does not allow transactions: its user may not use MULTI, or the command was"
        " renamed. Allow it, or do not use transactions.",
    ),
    "tracking_refused": ErrorText(
        b"CLIENT TRACKING refused: %b",
        "The server is too old, or its ACL forbids CLIENT TRACKING or CLIENT ID to nutproxy. A"
        " client cannot have tracking then.",
    ),
    "select_other": ErrorText(
        b"SELECT %b failed: %b",
        "The client has selected a database that this server does not have. Lower the pool's"
        " `databases`, or raise the server's.",
    ),
    "ping": ErrorText(
        b"PING failed: %b",
        "The server replies to PING with an error, which says what is wrong.",
    ),
    "binary_long_key": ErrorText(
        b"a key with spaces or control bytes may have 186 bytes at most",
        "Such a key goes to the server as base64, which may have 250 bytes. Use shorter keys, or"
        " keys without such bytes.",
        "memcached",
    ),
    "needs_meta": ErrorText(
        b"the server does not know memcached's meta commands, which came with version 1.6",
        "A client has sent a meta command, or a command of the binary protocol for which nutproxy"
        " sends one. An older server would run its data block as commands. Upgrade the server. Gets"
        " of the binary protocol work with older servers, too.",
        "memcached",
    ),
    "no_statistics": ErrorText(
        b"the server's reply holds no statistics",
        "The reply of a server to stats has other lines. The line `STAT X:error` names the server."
        " Check what listens at its address.",
        "memcached",
    ),
    "removed": ErrorText(
        b"removed from the pool",
        "The server was down when it was removed from the pool, and the request was waiting for it."
        " It has not been sent. Send it again: the key belongs to another server now.",
        "both",
    ),
    "stops": ErrorText(
        b"nutproxy stops",
        "nutproxy was told to stop while the request was waiting. Send it again after the restart.",
        "both",
    ),
}


class Section(NamedTuple):
    title: str
    text: str  # what the rows have in common
    rows: Mapping[str, ErrorText]
    replies: bool = True  # False: the texts are parts of replies


# In the order of docs/errors.md.
SECTIONS = (
    Section(
        "Redis commands",
        "These are errors about a command. The connection stays open, and no server has carried out"
        " the command.",
        COMMANDS,
    ),
    Section(
        "Malformed Redis requests",
        "The connection is closed after the error, as in Redis, because the start of the next"
        " request is unknown.",
        FRAMING,
    ),
    Section(
        "Memcached commands",
        "The connection stays open, unless the row says otherwise.",
        MEMCACHE,
    ),
    Section(
        "Limits and internal errors",
        "The connection stays open, unless the row says otherwise.",
        LIMITS,
    ),
    Section(
        "Servers and pools",
        "Something is wrong with a server, not with the request. The connection of the client stays"
        " open.",
        SERVERS,
    ),
    Section(
        "Causes",
        "Errors about a server end with a cause. It is a text of the operating system (`Connection"
        " refused`: nothing listens at the address; `Connection timed out`: no reply within the"
        " pool's `timeout`; `Connection reset by peer`: the server closed the connection), an error"
        " with which the server refused the connection (such as `ERR max number of clients"
        " reached`), or one of these. The log has the same causes.",
        CAUSES,
        replies=False,
    ),
    Section(
        "Additions to the errors of servers",
        "If a command was split over several servers and one of them failed, the reply is its"
        " error, and one of these follows after a semicolon.",
        ADDITIONS,
        replies=False,
    ),
)

ERRORS = {key: row for section in SECTIONS for key, row in section.rows.items()}
