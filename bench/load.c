/* The load generator for Memcached, and for loads that redis-benchmark does not have: large values,
 * a connection per request, and open loop.
 *
 *   closed loop   Each connection sends a batch of `--pipeline` requests, waits for all replies, and
 *                 sends the next batch. Latencies begin when the batch is sent. No requests are sent
 *                 while the proxy stalls, so latencies are those of a client that waits.
 *   open loop     With `--rate`, request number n is due n/rate seconds after the start, even if
 *                 earlier requests have no reply yet. Its latency begins at that time, even if it is
 *                 sent later. This is what independent users see. Requests take turns on the
 *                 connections, and `--pipeline` limits how many are in flight on one.
 *   reconnect     Closed loop with a new connection for each request. Latencies include connect.
 *   changing      Closed loop. With `--changing 1,200,8`, one connection is in use in the first second,
 *                 200 are in the next, and so on from the start, until `--seconds` have passed.
 *
 * `--command multi` is a transaction in one write: MULTI, SET k 1, INCR k, EXEC. In memcached's binary
 * protocol a get of several keys is as many GetKQ and a NoOp, as its clients send it.
 *
 * Every reply is checked: its status, the number of values, and the length and bytes of each value.
 * A wrong reply, a closed connection or 20 seconds without a reply end the run with exit code 1.
 * Keys are twelve digits and ":vSIZE", and every run uses the same ones.
 * One thread, level-triggered epoll. The result is one JSON object on standard output.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "histogram.h"

#define SECOND 1000000000ull
#define PATIENCE (20 * SECOND)
#define LINE 128
#define KEY_MAX 40

struct connection {
    int fd;
    unsigned in_flight;    /* requests without a reply, sent or about to be sent */
    uint64_t begun;        /* closed loop: when the batch was sent or the connect was started */
    uint64_t due, answered; /* open loop: requests that are due; requests with a reply */
    char *out;             /* unsent bytes: out_sent to out_len */
    size_t out_sent, out_len;
    int wants_write;
    /* The reply that is being read. */
    char line[LINE];       /* the beginning of a line that was cut */
    size_t line_len;
    size_t body;           /* bytes of a value and its line end that are still to come */
    size_t skip;           /* binary: bytes before the value that are still to come */
    unsigned values;
    int array_begun;
};

static int is_redis = 1, is_binary, is_set, is_multi, reconnect;
static long port, clients = 50, pipeline = 1, size = 3, keys = 1, space = 10000;
static long requests;
static double seconds, rate;
static long in_use[16];               /* `--changing`: connections in use, by second */
static size_t changes;

static struct connection *connections;
static struct histogram latencies;
static int poller, timer = -1;
static uint64_t start, stop_at, now, last_progress;
static uint64_t issued, answered, limit;
static char *value;                   /* `size` bytes and "\r\n" */
static const char *const multi_lines[] = {"+OK", "+QUEUED", "+QUEUED", "*2", "+OK", ":2"};
static char array_line[LINE], bulk_line[LINE], value_tail[LINE];
static uint64_t random_state = 88172645463325252ull;
static unsigned connections_made;

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "load: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    exit(1);
}

static uint64_t clock_ns(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (uint64_t)at.tv_sec * SECOND + (uint64_t)at.tv_nsec;
}

/* ---- requests ---- */

static size_t put_key(char *to) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (size_t)sprintf(to, "%012" PRIu64 ":v%ld", random_state % (uint64_t)space, size);
}

static size_t put_value(char *to) {
    memcpy(to, value, (size_t)size + 2);
    return (size_t)size + 2;
}

static size_t put_redis(char *to) {
    char key[KEY_MAX], *p = to;
    const char *name = is_set ? (keys > 1 ? "MSET" : "SET") : (keys > 1 ? "MGET" : "GET");
    p += sprintf(p, "*%ld\r\n$%zu\r\n%s\r\n", 1 + keys * (is_set ? 2 : 1), strlen(name), name);
    for (long i = 0; i < keys; i++) {
        size_t len = put_key(key);
        p += sprintf(p, "$%zu\r\n%s\r\n", len, key);
        if (is_set) {
            p += sprintf(p, "%s\r\n", bulk_line);
            p += put_value(p);
        }
    }
    return (size_t)(p - to);
}

static size_t put_multi(char *to) {
    char key[KEY_MAX];
    size_t len = put_key(key);
    return (size_t)sprintf(to,
                           "*1\r\n$5\r\nMULTI\r\n*3\r\n$3\r\nSET\r\n$%zu\r\n%s\r\n$1\r\n1\r\n"
                           "*2\r\n$4\r\nINCR\r\n$%zu\r\n%s\r\n*1\r\n$4\r\nEXEC\r\n",
                           len, key, len, key);
}

static size_t put_memcache(char *to) {
    char *p = to + sprintf(to, is_set ? "set" : "get");
    for (long i = 0; i < keys; i++) {
        *p++ = ' ';
        p += put_key(p);
    }
    if (is_set) {
        p += sprintf(p, " 0%s\r\n", value_tail);
        return (size_t)(p - to) + put_value(p);
    }
    return (size_t)(p - to) + (size_t)sprintf(p, "\r\n");
}

enum { HEADER = 24, GET = 0x00, SET = 0x01, NOOP = 0x0a, GETKQ = 0x0d };

/* A header of the binary protocol, and the extras and the key after it. */
static size_t put_header(char *to, int opcode, size_t extras, const char *key, size_t len, size_t body) {
    memset(to, 0, HEADER + extras);
    to[0] = (char)0x80;
    to[1] = (char)opcode;
    to[3] = (char)len;
    to[4] = (char)extras;
    uint32_t length = htonl((uint32_t)(extras + len + body));
    memcpy(to + 8, &length, sizeof length);
    memcpy(to + HEADER + extras, key, len);
    return HEADER + extras + len;
}

static size_t put_binary(char *to) {
    char key[KEY_MAX], *p = to;
    for (long i = 0; i < keys; i++) {
        size_t len = put_key(key);
        if (is_set) {
            p += put_header(p, SET, 8, key, len, (size_t)size);
            memcpy(p, value, (size_t)size);
            p += size;
        } else {
            p += put_header(p, keys > 1 ? GETKQ : GET, 0, key, len, 0);
        }
    }
    if (keys > 1) p += put_header(p, NOOP, 0, "", 0, 0);
    return (size_t)(p - to);
}

static size_t request_max(void) {
    if (is_multi) return 256;
    return 32 + (size_t)keys * (KEY_MAX + 32 + (is_set ? (size_t)size + 2 : 0));
}

static void put_request(struct connection *c) {
    char *to = c->out + c->out_len;
    c->out_len += is_multi    ? put_multi(to)
                  : is_redis  ? put_redis(to)
                  : is_binary ? put_binary(to)
                              : put_memcache(to);
    c->in_flight++;
    issued++;
}

/* ---- sending ---- */

static void want_write(struct connection *c, int wanted) {
    if (c->wants_write == wanted) return;
    struct epoll_event event = {.events = EPOLLIN | (wanted ? EPOLLOUT : 0), .data.ptr = c};
    if (epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event) < 0) fail("epoll_ctl: %m");
    c->wants_write = wanted;
}

static void flush(struct connection *c) {
    while (c->out_sent < c->out_len) {
        ssize_t n = send(c->fd, c->out + c->out_sent, c->out_len - c->out_sent, MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == ENOTCONN)) {
            want_write(c, 1);
            return;
        }
        if (n < 0) fail("send, with %u replies due: %m", c->in_flight);
        c->out_sent += (size_t)n;
    }
    c->out_sent = c->out_len = 0;
    want_write(c, 0);
}

static void open_connection(struct connection *c) {
    int on = 1;
    struct sockaddr_in here = {.sin_family = AF_INET};
    struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    there.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) fail("socket: %m");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (reconnect) {
        /* Use many addresses of the loopback, from 127.0.0.2 on: an address has 28,000 ports, and
         * each stays in use for a minute after its connection was closed. */
        here.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + connections_made++ % 200);
        setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
        if (bind(c->fd, (struct sockaddr *)&here, sizeof here) < 0) fail("bind: %m");
    }
    if (connect(c->fd, (struct sockaddr *)&there, sizeof there) < 0 && errno != EINPROGRESS)
        fail("connect to port %ld: %m", port);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event) < 0) fail("epoll_ctl: %m");
    c->wants_write = 0;
}

static int may_issue(void) {
    return limit ? issued < limit : now < stop_at;
}

static int is_in_use(struct connection *c) {
    if (changes == 0) return 1;
    return c - connections < in_use[(now - start) / SECOND % changes];
}

/* Closed loop: sends the next batch after the last reply to the batch before. */
static void begin_batch(struct connection *c) {
    if (!may_issue() || !is_in_use(c)) return;
    c->begun = clock_ns();
    if (reconnect) open_connection(c);
    for (long i = 0; i < pipeline && may_issue(); i++) put_request(c);
    flush(c);
}

static uint64_t due_time(uint64_t number) {
    return start + (uint64_t)((double)number * 1e9 / rate);
}

/* Open loop: sends the due requests of a connection, up to the limit of its pipeline. */
static void send_due(struct connection *c) {
    if (c->due == 0 || c->in_flight == (unsigned long)pipeline) return;
    memmove(c->out, c->out + c->out_sent, c->out_len - c->out_sent);
    c->out_len -= c->out_sent;
    c->out_sent = 0;
    while (c->due > 0 && c->in_flight < (unsigned long)pipeline) {
        put_request(c);
        c->due--;
    }
    flush(c);
}

/* Open loop: assigns the due requests to their connections, and sets the timer. */
static void release_due(void) {
    static uint64_t released;
    uint64_t first = released;
    while (released < limit && due_time(released) <= now)
        connections[released++ % (uint64_t)clients].due++;
    uint64_t count = released - first < (uint64_t)clients ? released - first : (uint64_t)clients;
    for (uint64_t i = 0; i < count; i++) send_due(&connections[(first + i) % (uint64_t)clients]);
    uint64_t next = due_time(released);
    struct itimerspec at = {.it_value = {(time_t)(next / SECOND), (long)(next % SECOND)}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, released < limit ? &at : &(struct itimerspec){0}, NULL);
}

/* Changing: a second is over. Connections that were not in use begin. */
static void change(void) {
    for (long i = 0; i < clients && may_issue(); i++)
        if (connections[i].in_flight == 0) begin_batch(&connections[i]);
}

/* ---- replies ---- */

static void reply_done(struct connection *c) {
    uint64_t from = c->begun;
    if (rate > 0)
        from = due_time((uint64_t)(c - connections) + c->answered++ * (uint64_t)clients);
    histogram_add(&latencies, now - from);
    if (c->in_flight == 0) fail("a reply that nobody asked for");
    if (c->in_flight == 1 && c->out_sent < c->out_len)
        fail("a reply to a request that has not been sent completely");
    c->in_flight--;
    c->values = 0;
    c->array_begun = 0;
    answered++;
    last_progress = now;
}

static int same(const char *line, size_t len, const char *expected) {
    return len == strlen(expected) && memcmp(line, expected, len) == 0;
}

__attribute__((noreturn)) static void wrong(const char *line, size_t len, const char *expected) {
    fail("the reply is '%.*s' where '%s' was due", len < LINE ? (int)len : LINE, line, expected);
}

static void redis_line(struct connection *c, const char *line, size_t len) {
    if (is_multi) {
        const char *expected = multi_lines[c->values];
        if (!same(line, len, expected)) wrong(line, len, expected);
        if (++c->values == sizeof multi_lines / sizeof *multi_lines) reply_done(c);
    } else if (is_set) {
        if (!same(line, len, "+OK")) wrong(line, len, "+OK");
        reply_done(c);
    } else if (keys > 1 && !c->array_begun) {
        if (!same(line, len, array_line)) wrong(line, len, array_line);
        c->array_begun = 1;
    } else {
        if (!same(line, len, bulk_line)) wrong(line, len, bulk_line);
        c->body = (size_t)size + 2;
    }
}

static void memcache_line(struct connection *c, const char *line, size_t len) {
    size_t tail = strlen(value_tail);
    if (is_set) {
        if (!same(line, len, "STORED")) wrong(line, len, "STORED");
        reply_done(c);
    } else if (c->values == (unsigned long)keys) {
        if (!same(line, len, "END")) wrong(line, len, "END");
        reply_done(c);
    } else {
        if (len < 6 + tail || memcmp(line, "VALUE ", 6) != 0 ||
            memcmp(line + len - tail, value_tail, tail) != 0)
            wrong(line, len, "VALUE key 0 length");
        c->body = (size_t)size + 2;
    }
}

static void value_done(struct connection *c) {
    c->values++;
    if (is_redis && c->values == (unsigned long)keys) reply_done(c);
}

/* A header of the binary protocol. What comes after it is the flags and the key of a value, and the
 * value. */
static void binary_header(struct connection *c, const unsigned char *head) {
    uint32_t body;
    memcpy(&body, head + 8, sizeof body);
    body = ntohl(body);
    size_t before = head[3] + (size_t)head[4];
    int opcode = is_set ? SET : keys == 1 ? GET : c->values == (unsigned long)keys ? NOOP : GETKQ;
    if (head[0] != 0x81 || head[1] != opcode || head[6] != 0 || head[7] != 0)
        fail("a response has opcode %d and status %d, where opcode %d and status 0 were due", head[1],
             head[6] << 8 | head[7], opcode);
    size_t value_size = opcode == GET || opcode == GETKQ ? (size_t)size : 0;
    if (body != before + value_size || (value_size > 0 && before < 4))
        fail("a response has a body of %u bytes, %zu before the value", body, before);
    c->skip = before;
    c->body = value_size;
}

static void parse_binary(struct connection *c, const char *p, const char *end) {
    while (p < end) {
        size_t left = (size_t)(end - p), n;
        if (c->skip > 0) {
            n = left < c->skip ? left : c->skip;
            c->skip -= n;
        } else if (c->body > 0) {
            n = left < c->body ? left : c->body;
            if (memcmp(p, value + (size_t)size - c->body, n) != 0)
                fail("a value is not the one that was stored");
            c->body -= n;
        } else {
            n = left < HEADER - c->line_len ? left : HEADER - c->line_len;
            memcpy(c->line + c->line_len, p, n);
            c->line_len += n;
            if (c->line_len < HEADER) return;
            binary_header(c, (const unsigned char *)c->line);
        }
        p += n;
        /* A response is complete. */
        if (c->line_len == HEADER && c->skip == 0 && c->body == 0) {
            c->line_len = 0;
            if (c->line[1] == GETKQ) {
                c->values++;
            } else {
                reply_done(c);
            }
        }
    }
}

static void parse(struct connection *c, const char *p, const char *end) {
    while (p < end) {
        if (c->body > 0) {
            size_t n = (size_t)(end - p) < c->body ? (size_t)(end - p) : c->body;
            if (memcmp(p, value + (size_t)size + 2 - c->body, n) != 0)
                fail("a value is not the one that was stored");
            p += n;
            c->body -= n;
            if (c->body == 0) value_done(c);
            continue;
        }
        const char *newline = memchr(p, '\n', (size_t)(end - p));
        size_t n = (size_t)((newline ? newline : end) - p);
        const char *line = p;
        if (newline == NULL || c->line_len > 0) {
            if (c->line_len + n > LINE) wrong(p, n, "a line of a reply");
            memcpy(c->line + c->line_len, p, n);
            c->line_len += n;
            if (newline == NULL) return;
            line = c->line;
            n = c->line_len;
            c->line_len = 0;
        }
        p = newline + 1;
        if (n == 0 || line[n - 1] != '\r') wrong(line, n, "a line that ends with CRLF");
        (is_redis ? redis_line : memcache_line)(c, line, n - 1);
    }
}

static void receive(struct connection *c) {
    static char in[256 * 1024];
    ssize_t n = recv(c->fd, in, sizeof in, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n < 0) fail("recv, with %u replies due: %m", c->in_flight);
    if (n == 0) fail("closed by the other side, with %u replies due", c->in_flight);
    now = clock_ns();
    (is_binary ? parse_binary : parse)(c, in, in + n);
    if (rate > 0) {
        send_due(c);
    } else if (c->in_flight == 0) {
        if (reconnect) close(c->fd);
        begin_batch(c);
    }
}

/* ---- the run ---- */

static void run(void) {
    struct epoll_event ready[256];
    poller = epoll_create1(0);
    connections = calloc((size_t)clients, sizeof *connections);
    if (poller < 0 || connections == NULL) fail("start: %m");
    for (long i = 0; i < clients; i++) {
        connections[i].out = malloc((size_t)pipeline * request_max());
        if (connections[i].out == NULL) fail("no memory for requests of %ld bytes", size);
        if (!reconnect) open_connection(&connections[i]);
    }
    start = last_progress = now = clock_ns();
    stop_at = start + (uint64_t)(seconds * 1e9);
    if (rate > 0 || changes > 0) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
        timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
        if (timer < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, timer, &event) < 0) fail("timerfd: %m");
    }
    if (changes > 0) {
        struct itimerspec each = {.it_value = {1, 0}, .it_interval = {1, 0}};
        timerfd_settime(timer, 0, &each, NULL);
    }
    if (rate > 0) {
        release_due();
    } else {
        for (long i = 0; i < clients; i++) begin_batch(&connections[i]);
    }
    while (answered < issued || may_issue()) {
        int n = epoll_wait(poller, ready, 256, 1000);
        now = clock_ns();
        if (now - last_progress > PATIENCE && issued > answered)
            fail("no reply for 20 seconds, with %" PRIu64 " due", issued - answered);
        for (int i = 0; i < n; i++) {
            struct connection *c = ready[i].data.ptr;
            if (c == NULL) {
                uint64_t expirations;
                if (read(timer, &expirations, sizeof expirations) > 0)
                    rate > 0 ? release_due() : change();
                continue;
            }
            if (ready[i].events & EPOLLOUT) flush(c);
            if (ready[i].events & ~(unsigned)EPOLLOUT) receive(c);
        }
    }
    if (answered == 0) fail("no request was made");
}

static void report(void) {
    double took = (double)(last_progress - start) / 1e9;
    printf("{\"requests\": %" PRIu64 ", \"seconds\": %.6f, \"requests_per_second\": %.1f, ", answered,
           took, (double)answered / took);
    printf("\"latency_us\": {\"p50\": %.2f, \"p99\": %.2f, \"p99_9\": %.2f, \"max\": %.2f}}\n",
           (double)histogram_percentile(&latencies, 50) / 1e3,
           (double)histogram_percentile(&latencies, 99) / 1e3,
           (double)histogram_percentile(&latencies, 99.9) / 1e3, (double)latencies.max / 1e3);
}

/* ---- the command line ---- */

static const char usage[] =
    "usage: load --port PORT (--requests N | --seconds S) [options]\n"
    "  --protocol redis|memcache|binary\n"
    "                              (redis); binary is memcached's binary protocol\n"
    "  --command get|set|multi     (get); with --keys above 1 MGET, MSET, or memcached's get k k k,\n"
    "                              in its binary protocol GetKQ and a NoOp\n"
    "  --clients N                 connections (50)\n"
    "  --pipeline N                requests in flight on each (1)\n"
    "  --size BYTES                of a value (3)\n"
    "  --keys N                    of a request (1)\n"
    "  --space N                   different keys (10000)\n"
    "  --rate R                    open loop: R requests a second in all\n"
    "  --reconnect                 a connection for each request\n"
    "  --changing N,N,…            connections in use, by second; with --seconds\n";

__attribute__((noreturn, format(printf, 1, 2))) static void refuse(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "load: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n%s", usage);
    va_end(arguments);
    exit(2);
}

static long number(const char *option, const char *text, long least, long most) {
    char *end;
    errno = 0;
    long found = strtol(text, &end, 10);
    if (errno != 0 || *end != '\0' || end == text || found < least || found > most)
        refuse("--%s: '%s' is not a number from %ld to %ld", option, text, least, most);
    return found;
}

static double positive(const char *option, const char *text) {
    char *end;
    double found = strtod(text, &end);
    if (*end != '\0' || end == text || !(found > 0) || found > 1e9)
        refuse("--%s: '%s' is not a positive number", option, text);
    return found;
}

static void read_changing(const char *option, const char *text) {
    char copy[LINE], *rest = copy, *word;
    snprintf(copy, sizeof copy, "%s", text);
    clients = 0;
    while ((word = strsep(&rest, ",")) != NULL) {
        if (changes == sizeof in_use / sizeof *in_use) refuse("--%s: too many numbers", option);
        in_use[changes] = number(option, word, 1, 60000);
        if (in_use[changes] > clients) clients = in_use[changes];
        changes++;
    }
}

static int choice(const char *option, const char *text, const char *no, const char *yes) {
    if (strcmp(text, yes) == 0) return 1;
    if (strcmp(text, no) != 0) refuse("--%s: '%s' is neither %s nor %s", option, text, yes, no);
    return 0;
}

static void read_options(int argc, char **argv) {
    static const struct option options[] = {
        {"protocol", 1, NULL, 'p'}, {"command", 1, NULL, 'c'},  {"port", 1, NULL, 'P'},
        {"clients", 1, NULL, 'C'},  {"pipeline", 1, NULL, 'l'}, {"size", 1, NULL, 's'},
        {"keys", 1, NULL, 'k'},     {"space", 1, NULL, 'S'},    {"requests", 1, NULL, 'n'},
        {"seconds", 1, NULL, 't'},  {"rate", 1, NULL, 'r'},     {"reconnect", 0, NULL, 'R'},
        {"changing", 1, NULL, 'g'}, {"help", 0, NULL, 'h'},     {NULL, 0, NULL, 0}};
    int found, which;
    while ((found = getopt_long(argc, argv, "", options, &which)) != -1) {
        const char *name = found == '?' ? "" : options[which].name;
        switch (found) {
        case 'p':
            is_binary = strcmp(optarg, "binary") == 0;
            is_redis = !is_binary && choice(name, optarg, "memcache", "redis");
            break;
        case 'c':
            is_multi = strcmp(optarg, "multi") == 0;
            is_set = !is_multi && choice(name, optarg, "get", "set");
            break;
        case 'P': port = number(name, optarg, 1, 65535); break;
        case 'C': clients = number(name, optarg, 1, 60000); break;
        case 'l': pipeline = number(name, optarg, 1, 100000); break;
        case 's': size = number(name, optarg, 0, 512 << 20); break;
        case 'k': keys = number(name, optarg, 1, 1000000); break;
        case 'S': space = number(name, optarg, 1, 1000000000); break;
        case 'n': requests = number(name, optarg, 1, 1000000000000); break;
        case 't': seconds = positive(name, optarg); break;
        case 'r': rate = positive(name, optarg); break;
        case 'R': reconnect = 1; break;
        case 'g': read_changing(name, optarg); break;
        case 'h': printf("%s", usage); exit(0);
        default: fprintf(stderr, "%s", usage); exit(2);
        }
    }
    if (optind < argc) refuse("'%s' is not an option", argv[optind]);
    if (port == 0) refuse("--port is missing");
    if ((requests == 0) == (seconds == 0)) refuse("one of --requests and --seconds is needed");
    if (rate > 0 && requests == 0 && rate * seconds < 1) refuse("no request is due in that time");
    if (reconnect && (rate > 0 || pipeline > 1)) refuse("--reconnect excludes --rate and --pipeline");
    if (changes > 0 && (rate > 0 || reconnect || requests > 0))
        refuse("--changing excludes --rate, --reconnect and --requests");
    if (is_multi && (!is_redis || keys > 1)) refuse("multi is for Redis, and without --keys");
    if (!is_redis && is_set && keys > 1) refuse("memcached sets one key at a time");
    limit = rate > 0 && requests == 0 ? (uint64_t)(rate * seconds + 0.5) : (uint64_t)requests;
}

int main(int argc, char **argv) {
    read_options(argc, argv);
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    value = malloc((size_t)size + 3);
    if (value == NULL) fail("no memory for a value of %ld bytes", size);
    memset(value, 'x', (size_t)size);
    strcpy(value + size, "\r\n");
    sprintf(array_line, "*%ld", keys);
    sprintf(bulk_line, "$%ld", size);
    sprintf(value_tail, " 0 %ld", size);
    run();
    report();
}
