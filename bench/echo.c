/* The floor: the cost of an event loop that only receives requests and sends replies.
 *
 * One epoll_wait per turn, one recv and one send per readable connection, no backend, and no parsing
 * beyond counting: on each port, every COUNT-th byte BYTE of a connection is a request, and all
 * requests get the same reply, the content of FILE. bench/peers.py chooses byte, count and reply
 * for each row.
 *
 * usage: echo PORT BYTE COUNT FILE [PORT BYTE COUNT FILE ...]      (BYTE as a decimal number)
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define CHUNK (256 * 1024)
#define MAX_FDS 65536

struct port {
    int mark;
    unsigned marks;
    char *reply;
    size_t reply_len;
};

static char in[CHUNK];
static char out[CHUNK];

/* By descriptor: the port that a listener or a connection belongs to, and the marks of a request
 * that has begun. */
static struct port *ports[MAX_FDS];
static char is_listener[MAX_FDS];
static unsigned seen[MAX_FDS];

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int send_all(int fd, const char *bytes, size_t len) {
    while (len > 0) {
        ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL);
        if (n < 0) {
            /* Only values larger than the socket buffer get here, and their reader is fast. */
            struct pollfd writable = {.fd = fd, .events = POLLOUT};
            if (errno != EAGAIN || poll(&writable, 1, -1) < 0) return -1;
            continue;
        }
        bytes += n;
        len -= (size_t)n;
    }
    return 0;
}

/* Returns -1 when the connection is over, 1 when there may be more to read. */
static int serve(int fd) {
    ssize_t n = recv(fd, in, sizeof in, 0);
    if (n < 0 && errno == EAGAIN) return 0;
    if (n <= 0) return -1;

    const struct port *port = ports[fd];
    const char *p = in, *end = in + n;
    size_t len = 0;
    while (p < end && (p = memchr(p, port->mark, (size_t)(end - p))) != NULL) {
        p++;
        if (++seen[fd] < port->marks) continue;
        seen[fd] = 0;
        if (len + port->reply_len > sizeof out) {
            if (send_all(fd, out, len) < 0) return -1;
            len = 0;
        }
        if (port->reply_len > sizeof out) {
            if (send_all(fd, port->reply, port->reply_len) < 0) return -1;
            continue;
        }
        memcpy(out + len, port->reply, port->reply_len);
        len += port->reply_len;
    }
    if (len > 0 && send_all(fd, out, len) < 0) return -1;
    return n == sizeof in;
}

static void read_reply(struct port *port, const char *path) {
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) < 0) die(path);
    port->reply_len = (size_t)ftell(file);
    rewind(file);
    port->reply = malloc(port->reply_len);
    if (port->reply == NULL) die("malloc");
    if (fread(port->reply, 1, port->reply_len, file) != port->reply_len) die(path);
    fclose(file);
}

static int listen_on(int number) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)number)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int on = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (fd < 0) die("socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0) die("bind");
    if (listen(fd, 1024) < 0) die("listen");
    return fd;
}

int main(int argc, char **argv) {
    if (argc < 5 || argc % 4 != 1) {
        fprintf(stderr, "usage: echo PORT BYTE COUNT FILE [PORT BYTE COUNT FILE ...]\n");
        return 2;
    }
    int poller = epoll_create1(0), on = 1;
    struct epoll_event event, ready[512];
    if (poller < 0) die("epoll_create1");
    for (char **words = argv + 1; *words != NULL; words += 4) {
        struct port *port = calloc(1, sizeof *port);
        if (port == NULL) die("calloc");
        port->mark = atoi(words[1]);
        port->marks = (unsigned)atoi(words[2]);
        read_reply(port, words[3]);
        int fd = listen_on(atoi(words[0]));
        ports[fd] = port;
        is_listener[fd] = 1;
        event.events = EPOLLIN;
        event.data.fd = fd;
        if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0) die("epoll_ctl");
    }

    for (;;) {
        int n = epoll_wait(poller, ready, 512, -1);
        for (int i = 0; i < n; i++) {
            int fd = ready[i].data.fd;
            if (!is_listener[fd]) {
                int more;
                while ((more = serve(fd)) > 0) {}
                if (more < 0) close(fd);
                continue;
            }
            int client = accept4(fd, NULL, NULL, SOCK_NONBLOCK);
            if (client < 0) continue;
            if (client >= MAX_FDS) {
                close(client);
                continue;
            }
            setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            ports[client] = ports[fd];
            seen[client] = 0;
            event.events = EPOLLIN | EPOLLET;
            event.data.fd = client;
            epoll_ctl(poller, EPOLL_CTL_ADD, client, &event);
        }
    }
}
