/* The service behind every proxy: `service PORT [PORT]`; port 0 lets the kernel choose. Prints its ports.
 *
 *   any target       200, "Hello, world!"        /port          the port it was reached at
 *   /bytes/N         N bytes                     a body         "received N"
 *   /events          two server-sent events, EVENT_GAP_NS apart
 *   Upgrade          a WebSocket that sends every message back
 *
 * It ends when its standard input does.
 */
#include "tools.h"

#define PORTS_MAX 4
#define STREAMS_MAX 64
#define EVENT_GAP_NS 300000000u
#define OUT_MAX 4096

static const char HELLO[] =
    "HTTP/1.1 200 OK\r\nServer: bench\r\nDate: Sat, 01 Nov 2025 10:00:00 GMT\r\nContent-Type: text/plain\r\n"
    "Content-Length: 13\r\n\r\nHello, world!";
static const char EVENTS[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    "Transfer-Encoding: chunked\r\n\r\n"
    "9\r\ndata: 0\n\n\r\n";
static const char LAST_EVENT[] = "9\r\ndata: 1\n\n\r\n0\r\n\r\n";

enum state { READING_HEAD, READING_BODY, WEBSOCKET };
struct conn {
    int fd, port, waits_to_send;
    enum state state;
    struct body body;
    uint64_t to_send; /* bytes of filler after `out` */
    size_t count, out_count, out_sent;
    uint64_t event_due;
    char in[HEAD_MAX], out[OUT_MAX];
};

static int poller;
static char scratch[SCRATCH_BYTES], filler[SCRATCH_BYTES];
static struct conn *streams[STREAMS_MAX];

/* SHA-1 (RFC 3174), for Sec-WebSocket-Accept and nothing else. */
static uint32_t rotate(uint32_t x, int n) { return (x << n) | (x >> (32 - n)); }

static void sha1(const char *text, unsigned char digest[20]) {
    unsigned char data[192] = {0};
    size_t size = strlen(text), padded = (size + 9 + 63) / 64 * 64;
    memcpy(data, text, size);
    data[size] = 0x80;
    for (int i = 0; i < 8; i++) data[padded - 1 - i] = (unsigned char)((uint64_t)size * 8 >> (8 * i));
    uint32_t h[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    for (size_t block = 0; block < padded; block += 64) {
        uint32_t w[80];
        for (int i = 0; i < 16; i++) {
            const unsigned char *p = data + block + 4 * i;
            w[i] = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
        }
        for (int i = 16; i < 80; i++) w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
        uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
        for (int i = 0; i < 80; i++) {
            uint32_t f, k;
            if (i < 20) f = (b & c) | (~b & d), k = 0x5A827999;
            else if (i < 40) f = b ^ c ^ d, k = 0x6ED9EBA1;
            else if (i < 60) f = (b & c) | (b & d) | (c & d), k = 0x8F1BBCDC;
            else f = b ^ c ^ d, k = 0xCA62C1D6;
            uint32_t next = rotate(a, 5) + f + e + k + w[i];
            e = d, d = c, c = rotate(b, 30), b = a, a = next;
        }
        h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
    }
    for (int i = 0; i < 20; i++) digest[i] = (unsigned char)(h[i / 4] >> (24 - 8 * (i % 4)));
}

static void accept_key(const char *key, char out[29]) {
    static const char ALPHABET[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char text[128];
    unsigned char digest[21] = {0};
    snprintf(text, sizeof text, "%s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key);
    sha1(text, digest);
    for (int i = 0, o = 0; i < 21; i += 3, o += 4) {
        uint32_t three = (uint32_t)digest[i] << 16 | (uint32_t)digest[i + 1] << 8 | digest[i + 2];
        for (int j = 0; j < 4; j++) out[o + j] = ALPHABET[three >> (18 - 6 * j) & 63];
    }
    out[27] = '=';
    out[28] = 0;
}

static void end(struct conn *conn) {
    for (int i = 0; i < STREAMS_MAX; i++)
        if (streams[i] == conn) streams[i] = NULL;
    close(conn->fd);
    free(conn);
}

static int put(struct conn *conn, const void *data, size_t count) {
    if (conn->out_count + count > OUT_MAX) return -1;
    memcpy(conn->out + conn->out_count, data, count);
    conn->out_count += count;
    return 0;
}

/* Send what there is to send; -1 when the connection is over. */
static int flush(struct conn *conn) {
    while (conn->out_sent < conn->out_count || conn->to_send) {
        ssize_t sent;
        if (conn->out_sent < conn->out_count) {
            int more = conn->to_send ? MSG_MORE : 0;
            sent = send(conn->fd, conn->out + conn->out_sent, conn->out_count - conn->out_sent, MSG_NOSIGNAL | more);
            if (sent > 0) conn->out_sent += (size_t)sent;
        } else {
            size_t count = conn->to_send < sizeof filler ? (size_t)conn->to_send : sizeof filler;
            sent = send(conn->fd, filler, count, MSG_NOSIGNAL);
            if (sent > 0) conn->to_send -= (uint64_t)sent;
        }
        if (sent < 0 && errno != EAGAIN) return -1;
        if (sent < 0) break;
    }
    int waits = conn->out_sent < conn->out_count || conn->to_send;
    if (!waits) conn->out_sent = conn->out_count = 0;
    if (waits != conn->waits_to_send) {
        struct epoll_event event = {.events = EPOLLIN | (waits ? EPOLLOUT : 0), .data.ptr = conn};
        epoll_ctl(poller, EPOLL_CTL_MOD, conn->fd, &event);
        conn->waits_to_send = waits;
    }
    return 0;
}

static int answer_text(struct conn *conn, const char *text) {
    char out[256];
    int size = snprintf(out, sizeof out, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n\r\n%s",
                        strlen(text), text);
    return put(conn, out, (size_t)size);
}

static int answer(struct conn *conn, const struct head *head) {
    const char *target = strchr(conn->in, ' ');
    if (target == NULL) return -1;
    target++;
    if (head->upgrade) {
        char key[29], out[256];
        accept_key(head->key, key);
        int size = snprintf(out, sizeof out,
                            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                            "Sec-WebSocket-Accept: %s\r\n\r\n", key);
        conn->state = WEBSOCKET;
        return put(conn, out, (size_t)size);
    }
    if (strncmp(target, "/bytes/", 7) == 0) {
        char out[128];
        conn->to_send = strtoull(target + 7, NULL, 10);
        int size = snprintf(out, sizeof out,
                            "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %llu\r\n\r\n",
                            (unsigned long long)conn->to_send);
        return put(conn, out, (size_t)size);
    }
    if (strncmp(target, "/port ", 6) == 0) {
        char text[16];
        snprintf(text, sizeof text, "%d", conn->port);
        return answer_text(conn, text);
    }
    if (strncmp(target, "/events ", 8) == 0) {
        for (int i = 0; i < STREAMS_MAX; i++) {
            if (streams[i] != NULL) continue;
            streams[i] = conn;
            conn->event_due = now_ns() + EVENT_GAP_NS;
            return put(conn, EVENTS, sizeof EVENTS - 1);
        }
        return -1;
    }
    return put(conn, HELLO, sizeof HELLO - 1);
}

/* Send back each whole frame of a WebSocket (RFC 6455, 5.2); return how many bytes they took, or -1. */
static ssize_t echo(struct conn *conn) {
    size_t at = 0;
    for (;;) {
        unsigned char *frame = (unsigned char *)conn->in + at;
        size_t left = conn->count - at, start = 2;
        if (left < 2) break;
        size_t size = frame[1] & 0x7f;
        if (size == 127 || !(frame[1] & 0x80)) return -1;
        if (size == 126) {
            if (left < 4) break;
            size = (size_t)frame[2] << 8 | frame[3];
            start = 4;
        }
        if (left < start + 4 + size) break;
        unsigned char *mask = frame + start, *payload = mask + 4;
        for (size_t i = 0; i < size; i++) payload[i] ^= mask[i & 3];
        unsigned char header[4] = {frame[0], (unsigned char)size, 0, 0};
        int opcode = frame[0] & 0x0f;
        if (opcode == 9) header[0] = 0x8a; /* a ping is answered by a pong */
        if (start == 4) header[1] = 126, header[2] = (unsigned char)(size >> 8), header[3] = (unsigned char)size;
        if (opcode != 10 && (put(conn, header, start) < 0 || put(conn, payload, size) < 0)) return -1;
        if (opcode == 8) {
            flush(conn);
            return -1;
        }
        at += start + 4 + size;
    }
    return (ssize_t)at;
}

/* Read what came; -1 when the connection is over. */
static int receive(struct conn *conn) {
    if (conn->state == READING_BODY && conn->count == 0) {
        ssize_t got = recv(conn->fd, scratch, sizeof scratch, 0);
        if (got == 0 || (got < 0 && errno != EAGAIN)) return -1;
        if (got < 0) return 0;
        size_t taken = take_body(&conn->body, scratch, (size_t)got);
        /* What follows a body is the next head, and fits. */
        conn->count = (size_t)got - taken;
        if (conn->count > sizeof conn->in) return -1;
        memcpy(conn->in, scratch + taken, conn->count);
    } else {
        ssize_t got = recv(conn->fd, conn->in + conn->count, sizeof conn->in - conn->count - 1, 0);
        if (got == 0 || (got < 0 && errno != EAGAIN)) return -1;
        if (got < 0) return 0;
        conn->count += (size_t)got;
    }
    for (;;) {
        size_t taken = 0;
        if (conn->state == WEBSOCKET) {
            ssize_t echoed = echo(conn);
            if (echoed < 0) return -1;
            taken = (size_t)echoed;
        } else if (conn->state == READING_BODY) {
            taken = take_body(&conn->body, conn->in, conn->count);
            if (conn->body.done) {
                char text[64];
                snprintf(text, sizeof text, "received %llu", (unsigned long long)conn->body.seen);
                if (answer_text(conn, text) < 0) return -1;
                conn->state = READING_HEAD;
            }
        } else {
            struct head head;
            conn->in[conn->count] = 0;
            if (read_head(conn->in, conn->count, &head)) {
                taken = head.size;
                if (head.chunked || head.length) {
                    begin_body(&conn->body, &head);
                    conn->state = READING_BODY;
                } else if (answer(conn, &head) < 0) {
                    return -1;
                }
            } else if (conn->count >= sizeof conn->in - 1) {
                return -1;
            }
        }
        if (taken == 0) break;
        conn->count -= taken;
        memmove(conn->in, conn->in + taken, conn->count);
        if (conn->count == 0) break;
    }
    return flush(conn);
}

static int send_due_events(void) {
    int waiting = 0;
    for (int i = 0; i < STREAMS_MAX; i++) {
        struct conn *conn = streams[i];
        if (conn == NULL) continue;
        if (now_ns() < conn->event_due) {
            waiting = 1;
            continue;
        }
        streams[i] = NULL;
        if (put(conn, LAST_EVENT, sizeof LAST_EVENT - 1) < 0 || flush(conn) < 0) end(conn);
    }
    return waiting;
}

static int listen_on(int wanted, int *port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in address = loopback(wanted);
    socklen_t size = sizeof address;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 4096) < 0) die("listen");
    if (getsockname(fd, (struct sockaddr *)&address, &size) < 0) die("getsockname");
    *port = ntohs(address.sin_port);
    return fd;
}

int main(int argc, char **argv) {
    int listeners[PORTS_MAX], ports[PORTS_MAX], count = argc - 1;
    if (count < 1 || count > PORTS_MAX) refuse("usage: service PORT [PORT]");
    unlimit_files();
    memset(filler, 'x', sizeof filler);
    poller = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < count; i++) {
        listeners[i] = listen_on(atoi(argv[i + 1]), &ports[i]);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &listeners[i]};
        epoll_ctl(poller, EPOLL_CTL_ADD, listeners[i], &event);
        printf("%d%c", ports[i], i + 1 < count ? ' ' : '\n');
    }
    fflush(stdout);
    struct epoll_event input = {.events = EPOLLIN | EPOLLHUP, .data.ptr = NULL};
    epoll_ctl(poller, EPOLL_CTL_ADD, 0, &input);
    int timeout = -1;
    for (;;) {
        struct epoll_event events[256];
        int ready = epoll_wait(poller, events, 256, timeout);
        for (int i = 0; i < ready; i++) {
            void *about = events[i].data.ptr;
            if (about == NULL) return 0;
            if (about >= (void *)listeners && about < (void *)(listeners + count)) {
                int which = (int)((int *)about - listeners), fd;
                while ((fd = accept4(listeners[which], NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
                    struct conn *conn = calloc(1, sizeof *conn);
                    if (conn == NULL) die("calloc");
                    conn->fd = fd;
                    conn->port = ports[which];
                    no_delay(fd);
                    struct epoll_event event = {.events = EPOLLIN, .data.ptr = conn};
                    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
                }
                continue;
            }
            struct conn *conn = about;
            int over = 0;
            if (events[i].events & EPOLLOUT) over = flush(conn) < 0;
            if (!over && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) over = receive(conn) < 0;
            if (over) end(conn);
        }
        timeout = send_due_events() ? 10 : -1;
    }
}
