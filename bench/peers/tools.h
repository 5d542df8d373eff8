/* What the service and the load have in common: time, sockets, heads and chunks.
 *
 * Both are written to be cheaper than any proxy between them: one epoll loop, no allocation per request. They trust
 * each other and the proxy; they are no example of how to read HTTP from strangers.
 */
#ifndef PEERS_TOOLS_H
#define PEERS_TOOLS_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define HEAD_MAX 16384
#define SCRATCH_BYTES (256 * 1024)

static inline void die(const char *what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

static inline void refuse(const char *why) {
    fprintf(stderr, "%s\n", why);
    exit(1);
}

static inline uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline void unlimit_files(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static inline void no_delay(int fd) {
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static inline void non_blocking(int fd) {
    if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0) die("fcntl");
}

static struct sockaddr_in loopback(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

/* What a head says that matters here. */
struct head {
    size_t size; /* with the empty line */
    int has_length, chunked, upgrade, close;
    uint64_t length;
    char key[64]; /* Sec-WebSocket-Key */
};

static inline int is_field(const char *line, size_t size, const char *name, size_t name_size, const char **value) {
    if (size <= name_size || line[name_size] != ':' || strncasecmp(line, name, name_size) != 0) return 0;
    const char *at = line + name_size + 1;
    while (*at == ' ') at++;
    *value = at;
    return 1;
}
#define FIELD(name) is_field(line, size, name, sizeof name - 1, &value)

/* Read a head at the start of a buffer; 0 when it is not complete. Field names come in any case: proxies differ. */
static inline int read_head(const char *data, size_t count, struct head *head) {
    const char *end = memmem(data, count, "\r\n\r\n", 4);
    if (end == NULL) return 0;
    memset(head, 0, sizeof *head);
    head->size = (size_t)(end + 4 - data);
    const char *line = (const char *)memchr(data, '\n', count) + 1;
    while (line < end) {
        const char *stop = (const char *)memchr(line, '\r', (size_t)(end + 2 - line));
        size_t size = (size_t)(stop - line);
        const char *value = NULL;
        switch (line[0] | 0x20) {
        case 'c':
            if (FIELD("content-length")) {
                head->has_length = 1;
                head->length = strtoull(value, NULL, 10);
            } else if (FIELD("connection")) {
                head->close = strncasecmp(value, "close", 5) == 0;
            }
            break;
        case 't':
            if (FIELD("transfer-encoding")) head->chunked = strncasecmp(value, "chunked", 7) == 0;
            break;
        case 'u':
            if (FIELD("upgrade")) head->upgrade = strncasecmp(value, "websocket", 9) == 0;
            break;
        case 's':
            if (FIELD("sec-websocket-key")) {
                size_t key = (size_t)(stop - value);
                if (key >= sizeof head->key) key = sizeof head->key - 1;
                memcpy(head->key, value, key);
            }
            break;
        default:
            break;
        }
        line = stop + 2;
    }
    return 1;
}

/* The body of a message, by length or in chunks (RFC 9112, 6 and 7.1). */
enum part { PART_SIZE, PART_EXTENSION, PART_DATA, PART_AFTER_DATA, PART_TRAILER };
struct body {
    int chunked, done, line_bytes;
    enum part part;
    uint64_t left, seen;
};

static inline void begin_body(struct body *body, const struct head *head) {
    memset(body, 0, sizeof *body);
    body->chunked = head->chunked;
    body->left = head->chunked ? 0 : head->length;
    body->done = !head->chunked && body->left == 0;
}

/* Take what belongs to the body; return how many bytes that was. Content is counted, not kept. */
static inline size_t take_body(struct body *body, const char *data, size_t count) {
    size_t at = 0;
    while (at < count && !body->done) {
        char c = data[at];
        if (!body->chunked || body->part == PART_DATA) {
            size_t step = count - at < body->left ? count - at : (size_t)body->left;
            at += step;
            body->left -= step;
            body->seen += step;
            if (body->left == 0) {
                if (body->chunked) body->part = PART_AFTER_DATA;
                else body->done = 1;
            }
            continue;
        }
        at++;
        switch (body->part) {
        case PART_SIZE:
            if (c >= '0' && c <= '9') body->left = body->left * 16 + (uint64_t)(c - '0');
            else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
                body->left = body->left * 16 + (uint64_t)((c | 0x20) - 'a' + 10);
            else body->part = PART_EXTENSION;
            if (c != '\n' && body->part == PART_SIZE) break;
            /* fall through */
        case PART_EXTENSION:
            if (c != '\n') break;
            body->part = body->left ? PART_DATA : PART_TRAILER;
            body->line_bytes = 0;
            break;
        case PART_AFTER_DATA:
            if (c == '\n') body->part = PART_SIZE;
            break;
        case PART_TRAILER:
            if (c == '\n') {
                if (body->line_bytes == 0) body->done = 1;
                body->line_bytes = 0;
            } else if (c != '\r') {
                body->line_bytes++;
            }
            break;
        case PART_DATA:
            break;
        }
    }
    return at;
}

#endif
