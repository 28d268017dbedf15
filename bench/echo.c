/* The floor: what an event loop costs that only receives requests and sends replies.
 *
 * One epoll_wait per turn, one recv and one send per readable connection, no backend, no parsing
 * beyond counting the requests: each starts with '*', which the benchmark's keys and values do not
 * contain, and the number after it picks the reply (2: GET, 3: SET, more: MGET).
 *
 * usage: echo PORT
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define CHUNK 65536
#define MAX_FDS 65536
#define MAX_KEYS 1000
#define VALUE "$3\r\nxxx\r\n"
#define VALUE_LEN 9

static char in[CHUNK];
static char out[CHUNK * 4];
static char mget[16 + MAX_KEYS * VALUE_LEN];

/* Per connection: -1 outside of "*N\r", else the N that has been read so far. */
static int count[MAX_FDS];

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int send_all(int fd, const char *bytes, size_t len) {
    while (len > 0) {
        ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN) continue;
            return -1;
        }
        bytes += n;
        len -= (size_t)n;
    }
    return 0;
}

static size_t put_reply(char *to, int argc) {
    if (argc == 2) {
        memcpy(to, VALUE, VALUE_LEN);
        return VALUE_LEN;
    }
    if (argc == 3) {
        memcpy(to, "+OK\r\n", 5);
        return 5;
    }
    int keys = argc - 1 > MAX_KEYS ? MAX_KEYS : argc - 1;
    int head = sprintf(to, "*%d\r\n", keys);
    memcpy(to + head, mget, (size_t)keys * VALUE_LEN);
    return (size_t)head + (size_t)keys * VALUE_LEN;
}

/* Returns -1 when the connection is over, 1 when there may be more to read. */
static int serve(int fd) {
    ssize_t n = recv(fd, in, sizeof in, 0);
    if (n < 0 && errno == EAGAIN) return 0;
    if (n <= 0) return -1;

    size_t len = 0;
    const char *p = in, *end = in + n;
    while (p < end) {
        if (count[fd] < 0) {
            p = memchr(p, '*', (size_t)(end - p));
            if (p == NULL) break;
            p++;
            count[fd] = 0;
            continue;
        }
        if (*p >= '0' && *p <= '9') {
            count[fd] = count[fd] * 10 + (*p++ - '0');
            continue;
        }
        len += put_reply(out + len, count[fd]);
        count[fd] = -1;
        if (len > sizeof out - sizeof mget) {
            if (send_all(fd, out, len) < 0) return -1;
            len = 0;
        }
    }
    if (len > 0 && send_all(fd, out, len) < 0) return -1;
    return n == sizeof in;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: echo PORT\n");
        return 2;
    }
    for (int i = 0; i < MAX_KEYS; i++) memcpy(mget + i * VALUE_LEN, VALUE, VALUE_LEN);

    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int on = 1;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (listener < 0) die("socket");
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0) die("bind");
    if (listen(listener, 512) < 0) die("listen");

    int poller = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, ready[512];
    if (poller < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event) < 0) die("epoll");

    for (;;) {
        int n = epoll_wait(poller, ready, 512, -1);
        for (int i = 0; i < n; i++) {
            int fd = ready[i].data.fd;
            if (fd != listener) {
                int more;
                while ((more = serve(fd)) > 0) {}
                if (more < 0) close(fd);
                continue;
            }
            fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
            if (fd < 0) continue;
            if (fd >= MAX_FDS) {
                close(fd);
                continue;
            }
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            count[fd] = -1;
            event.events = EPOLLIN | EPOLLET;
            event.data.fd = fd;
            epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
        }
    }
}
