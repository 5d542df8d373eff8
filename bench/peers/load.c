/* The load: `load MODE PORT HEADS CONNECTIONS SECONDS [NUMBER]`, to 127.0.0.1.
 *
 *   requests   one request at a time on each of the connections, which are kept alive
 *   connect    the same, with a new connection for each request
 *   upload     the same as `requests`, with NUMBER bytes of body after each head
 *   echo       a WebSocket on each connection; one small message at a time, sent back
 *   idle       a WebSocket on each connection, with nothing said
 *   latency    one request at a time on one connection is timed, while NUMBER others a second go by on the rest
 *
 * HEADS is a file of request heads, one after the other. Connection number i sends heads i, i + CONNECTIONS and so
 * on, round and round. Each run of sixteen `~` in a head is replaced by sixteen hexadecimal digits never sent before.
 *
 * It says "ready" when the connections stand, begins at a line of its standard input, prints what happened as JSON
 * and ends at the next line, so that whoever measures can look at the proxy before and after.
 */
#include "tools.h"
#include <sys/timerfd.h>

#define MARKS_MAX 8
#define MARK "~~~~~~~~~~~~~~~~"
#define MARK_SIZE 16
#define MESSAGE_BYTES 32
/* What requests under way get after the end, before they count as stuck. */
#define DRAIN_NS 5000000000u
/* Where nothing comes back any more there is nothing to measure. */
#define ERRORS_MAX 1000

struct template {
    const char *data;
    size_t size, marks[MARKS_MAX];
    int mark_count;
};

struct conn {
    int fd, number, busy, in_body, until_close, waits_to_send;
    size_t turn, count, out_size, out_sent;
    uint64_t began, body_out;
    struct head head;
    struct body body;
    char in[HEAD_MAX + 1], out[HEAD_MAX];
};

enum mode { REQUESTS, CONNECT, UPLOAD, ECHO_MESSAGES, IDLE, LATENCY };
static const char *const MODES[] = {"requests", "connect", "upload", "echo", "idle", "latency"};

static enum mode mode;
static int poller, port, connections;
static uint64_t number, serial, done, errors, statuses, closes, late, bytes_in, reconnects, latest;
static struct template *templates;
static size_t template_count;
static char scratch[SCRATCH_BYTES], filler[SCRATCH_BYTES];
static int stopping;

/* Latencies, in buckets of at most 1/64 of their value. */
#define BUCKETS (64 * 40)
static uint64_t histogram[BUCKETS], timed, slowest;

static void note_latency(uint64_t ns) {
    int shift = ns < 128 ? 0 : 63 - __builtin_clzll(ns) - 6;
    size_t bucket = (size_t)shift * 64 + (size_t)(ns >> shift);
    histogram[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
    timed++;
    if (ns > slowest) slowest = ns;
}

static double percentile_us(double share) {
    uint64_t seen = 0, wanted = (uint64_t)(share * (double)timed);
    for (size_t bucket = 0; bucket < BUCKETS; bucket++) {
        seen += histogram[bucket];
        if (seen > wanted) {
            size_t shift = bucket < 128 ? 0 : bucket / 64 - 1;
            return (double)((bucket - shift * 64) << shift) / 1000;
        }
    }
    return (double)slowest / 1000;
}

/* Different for every number, with no likeness between neighbours (splitmix64). */
static uint64_t scramble(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static void read_templates(const char *path) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) die(path);
    fseek(file, 0, SEEK_END);
    size_t size = (size_t)ftell(file);
    rewind(file);
    char *data = malloc(size + 1);
    if (data == NULL || fread(data, 1, size, file) != size) die(path);
    fclose(file);
    data[size] = 0;
    for (const char *at = data, *end; (end = memmem(at, (size_t)(data + size - at), "\r\n\r\n", 4)); at = end + 4) {
        templates = realloc(templates, (template_count + 1) * sizeof *templates);
        struct template *template = &templates[template_count++];
        *template = (struct template){.data = at, .size = (size_t)(end + 4 - at)};
        if (template->size > HEAD_MAX) refuse("a head is too long");
        const char *mark = at;
        while ((mark = memmem(mark, (size_t)(end - mark), MARK, MARK_SIZE)) && template->mark_count < MARKS_MAX) {
            template->marks[template->mark_count++] = (size_t)(mark - at);
            mark += MARK_SIZE;
        }
    }
    if (template_count == 0) refuse("no heads");
}

static void watch(struct conn *conn, int operation) {
    struct epoll_event event = {.events = EPOLLIN | (conn->waits_to_send ? EPOLLOUT : 0), .data.ptr = conn};
    if (epoll_ctl(poller, operation, conn->fd, &event) < 0) die("epoll_ctl");
}

static void dial(struct conn *conn) {
    struct sockaddr_in address = loopback(port);
    conn->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (conn->fd < 0 || connect(conn->fd, (struct sockaddr *)&address, sizeof address) < 0) die("connect");
    non_blocking(conn->fd);
    no_delay(conn->fd);
    conn->busy = conn->in_body = conn->waits_to_send = 0;
    conn->count = conn->out_size = conn->out_sent = 0;
    watch(conn, EPOLL_CTL_ADD);
}

/* Send what is left; -1 when the connection is broken. */
static int flush(struct conn *conn) {
    while (conn->out_sent < conn->out_size || conn->body_out) {
        ssize_t sent;
        if (conn->out_sent < conn->out_size) {
            sent = send(conn->fd, conn->out + conn->out_sent, conn->out_size - conn->out_sent, MSG_NOSIGNAL);
            if (sent > 0) conn->out_sent += (size_t)sent;
        } else {
            size_t count = conn->body_out < sizeof filler ? (size_t)conn->body_out : sizeof filler;
            sent = send(conn->fd, filler, count, MSG_NOSIGNAL);
            if (sent > 0) conn->body_out -= (uint64_t)sent;
        }
        if (sent < 0 && errno != EAGAIN) return -1;
        if (sent < 0) break;
    }
    int waits = conn->out_sent < conn->out_size || conn->body_out;
    if (waits != conn->waits_to_send) {
        conn->waits_to_send = waits;
        watch(conn, EPOLL_CTL_MOD);
    }
    return 0;
}

static void begin(struct conn *conn) {
    size_t which = ((size_t)conn->number + conn->turn++ * (size_t)connections) % template_count;
    const struct template *template = &templates[which];
    memcpy(conn->out, template->data, template->size);
    for (int i = 0; i < template->mark_count; i++) {
        static const char DIGITS[] = "0123456789abcdef";
        uint64_t fresh = scramble(serial++);
        for (int digit = 0; digit < MARK_SIZE; digit++, fresh >>= 4)
            conn->out[template->marks[i] + (size_t)digit] = DIGITS[fresh & 15];
    }
    conn->out_size = template->size;
    conn->out_sent = conn->count = 0;
    conn->in_body = conn->until_close = 0;
    conn->body_out = mode == UPLOAD ? number : 0;
    conn->busy = 1;
    /* A connection that the proxy closed between two requests is noticed by its end, in `receive`. */
    flush(conn);
}

static void begin_timed(struct conn *conn) {
    conn->began = now_ns();
    begin(conn);
}

/* Send one masked message (RFC 6455, 5.2 and 5.3). */
static void begin_message(struct conn *conn) {
    unsigned char *frame = (unsigned char *)conn->out;
    frame[0] = 0x81;
    frame[1] = 0x80 | MESSAGE_BYTES;
    uint32_t mask = (uint32_t)scramble(serial++);
    memcpy(frame + 2, &mask, 4);
    for (int i = 0; i < MESSAGE_BYTES; i++) frame[6 + i] = (unsigned char)('a' + i % 26) ^ frame[2 + i % 4];
    conn->out_size = 6 + MESSAGE_BYTES;
    conn->out_sent = conn->count = 0;
    conn->busy = 1;
    conn->began = now_ns();
    flush(conn);
}

static void fail(struct conn *conn, uint64_t *kind) {
    errors++;
    (*kind)++;
    close(conn->fd);
    conn->fd = -1;
    conn->busy = 0;
    if (errors > ERRORS_MAX) refuse("too many errors");
}

/* One answer has come whole. */
static void finish(struct conn *conn) {
    uint64_t now = now_ns();
    done++;
    latest = now;
    conn->busy = 0;
    if (mode != LATENCY || conn->number == 0) note_latency(now - conn->began);
    if (mode == ECHO_MESSAGES) {
        if (!stopping) begin_message(conn);
        return;
    }
    if (mode == CONNECT || conn->head.close || conn->until_close) {
        close(conn->fd);
        conn->fd = -1;
        if (mode == CONNECT) conn->began = now_ns();
        if (stopping) return;
        if (mode != CONNECT) reconnects++;
        dial(conn);
        if (mode == CONNECT) begin(conn);
    }
    if (stopping || conn->busy || mode == IDLE) return;
    if (mode != LATENCY || conn->number == 0) begin_timed(conn);
}

static void on_end(struct conn *conn) {
    if (conn->in_body && conn->until_close) {
        finish(conn);
    } else if (conn->count == 0 && !conn->in_body && mode != ECHO_MESSAGES && mode != IDLE && reconnects < ERRORS_MAX) {
        /* Closed before it saw the request: it may, and the request is sent again (RFC 9112, 9.3.1). */
        int again = conn->busy;
        close(conn->fd);
        reconnects++;
        dial(conn);
        if (again) begin(conn);
    } else {
        fail(conn, &closes);
    }
}

static void receive_message(struct conn *conn) {
    ssize_t got = recv(conn->fd, conn->in + conn->count, HEAD_MAX - conn->count, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        fail(conn, &closes);
        return;
    }
    conn->count += (size_t)got;
    bytes_in += (uint64_t)got;
    if (conn->count < 2 + MESSAGE_BYTES) return;
    const unsigned char *frame = (const unsigned char *)conn->in;
    if (frame[0] != 0x81 || frame[1] != MESSAGE_BYTES || frame[2] != 'a' || frame[1 + MESSAGE_BYTES] != 'f')
        fail(conn, &statuses);
    else
        finish(conn);
}

static void receive(struct conn *conn) {
    for (;;) {
        int whole = conn->in_body;
        char *into = whole ? scratch : conn->in + conn->count;
        ssize_t got = recv(conn->fd, into, whole ? sizeof scratch : HEAD_MAX - conn->count, 0);
        if (got < 0 && errno == EAGAIN) return;
        if (got <= 0) {
            on_end(conn);
            return;
        }
        bytes_in += (uint64_t)got;
        if (!whole) {
            conn->count += (size_t)got;
            if (!read_head(conn->in, conn->count, &conn->head)) {
                if (conn->count < HEAD_MAX) continue;
                fail(conn, &statuses);
                return;
            }
            if (conn->in[9] != '2') {
                fail(conn, &statuses);
                return;
            }
            conn->in_body = 1;
            conn->until_close = !conn->head.has_length && !conn->head.chunked;
            begin_body(&conn->body, &conn->head);
            if (conn->until_close) conn->body.done = 0;
            into = conn->in + conn->head.size;
            got = (ssize_t)(conn->count - conn->head.size);
        }
        if (conn->until_close) continue;
        take_body(&conn->body, into, (size_t)got);
        if (conn->body.done) {
            finish(conn);
            return;
        }
    }
}

/* Open one WebSocket and wait for its 101, before anything is measured. */
static void shake_hands(struct conn *conn) {
    struct timeval patience = {.tv_sec = 10};
    setsockopt(conn->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    fcntl(conn->fd, F_SETFL, fcntl(conn->fd, F_GETFL) & ~O_NONBLOCK);
    begin(conn);
    for (;;) {
        ssize_t got = recv(conn->fd, conn->in + conn->count, HEAD_MAX - conn->count, 0);
        if (got <= 0) die("no answer to a WebSocket handshake");
        conn->count += (size_t)got;
        if (!read_head(conn->in, conn->count, &conn->head)) continue;
        if (strncmp(conn->in + 9, "101", 3) != 0) refuse("a WebSocket handshake was refused");
        break;
    }
    non_blocking(conn->fd);
    conn->busy = 0;
    conn->count = conn->out_size = conn->out_sent = 0;
}

static void await_line(void) {
    char line[64];
    if (fgets(line, sizeof line, stdin) == NULL) exit(0);
}

static void begin_others(struct conn *all) {
    static int next = 1;
    for (int tries = 1; tries < connections; tries++) {
        struct conn *conn = &all[next];
        next = next + 1 < connections ? next + 1 : 1;
        if (conn->busy) continue;
        begin_timed(conn);
        return;
    }
    late++;
}

static int any_busy(const struct conn *all) {
    for (int i = 0; i < connections; i++)
        if (all[i].busy) return 1;
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 6) refuse("usage: load MODE PORT HEADS CONNECTIONS SECONDS [NUMBER]");
    int known = -1;
    for (size_t i = 0; i < sizeof MODES / sizeof *MODES; i++)
        if (strcmp(argv[1], MODES[i]) == 0) known = (int)i;
    if (known < 0) refuse("no such mode");
    mode = (enum mode)known;
    port = atoi(argv[2]);
    read_templates(argv[3]);
    connections = atoi(argv[4]);
    double seconds = atof(argv[5]);
    number = argc > 6 ? strtoull(argv[6], NULL, 10) : 0;
    if (connections < 1) refuse("at least one connection");
    unlimit_files();
    memset(filler, 'x', sizeof filler);
    /* Also across runs, nothing that was sent before. */
    serial = scramble(now_ns() ^ (uint64_t)getpid() << 40);
    poller = epoll_create1(EPOLL_CLOEXEC);
    struct conn *all = calloc((size_t)connections, sizeof *all);
    if (all == NULL) die("calloc");
    for (int i = 0; i < connections; i++) {
        all[i].number = i;
        all[i].fd = -1;
        if (mode == CONNECT) continue;
        dial(&all[i]);
        if (mode == ECHO_MESSAGES || mode == IDLE) shake_hands(&all[i]);
    }
    int ticker = -1;
    if (mode == LATENCY && number) {
        ticker = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
        long gap = (long)(1000000000u / number);
        struct itimerspec every = {.it_interval = {gap / 1000000000, gap % 1000000000}};
        every.it_value = every.it_interval;
        timerfd_settime(ticker, 0, &every, NULL);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
        epoll_ctl(poller, EPOLL_CTL_ADD, ticker, &event);
    }
    puts("ready");
    fflush(stdout);
    await_line();
    uint64_t start = now_ns(), stop = start + (uint64_t)(seconds * 1e9);
    latest = start;
    for (int i = 0; i < connections && mode != IDLE; i++) {
        if (mode == CONNECT) {
            all[i].began = now_ns();
            dial(&all[i]);
            begin(&all[i]);
        } else if (mode == ECHO_MESSAGES) {
            begin_message(&all[i]);
        } else if (mode != LATENCY || i == 0) {
            begin_timed(&all[i]);
        }
    }
    for (;;) {
        uint64_t now = now_ns();
        if (!stopping && now >= stop) stopping = 1;
        if (stopping && (!any_busy(all) || now > stop + DRAIN_NS)) break;
        struct epoll_event events[256];
        int ready = epoll_wait(poller, events, 256, stopping ? 50 : 1 + (int)((stop - now) / 1000000));
        for (int i = 0; i < ready; i++) {
            struct conn *conn = events[i].data.ptr;
            if (conn == NULL) {
                uint64_t ticks = 0;
                if (read(ticker, &ticks, sizeof ticks) < 0) ticks = 0;
                for (; ticks && !stopping; ticks--) begin_others(all);
                continue;
            }
            if (conn->fd >= 0 && events[i].events & EPOLLOUT && flush(conn) < 0) on_end(conn);
            else if (conn->fd >= 0 && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                mode == ECHO_MESSAGES ? receive_message(conn) : receive(conn);
        }
    }
    uint64_t stuck = 0;
    for (int i = 0; i < connections; i++) stuck += (uint64_t)all[i].busy;
    printf("{\"done\": %llu, \"errors\": %llu, \"statuses\": %llu, \"closes\": %llu, \"stuck\": %llu, \"late\": %llu, "
           "\"reconnects\": %llu, \"bytes_in\": %llu, \"seconds\": %.6f, \"p50_us\": %.1f, \"p99_us\": %.1f, "
           "\"max_us\": %.1f}\n",
           (unsigned long long)done, (unsigned long long)(errors + stuck), (unsigned long long)statuses,
           (unsigned long long)closes, (unsigned long long)stuck, (unsigned long long)late,
           (unsigned long long)reconnects, (unsigned long long)bytes_in, (double)(latest - start) / 1e9,
           percentile_us(0.5), percentile_us(0.99), (double)slowest / 1000);
    fflush(stdout);
    await_line();
    return 0;
}
