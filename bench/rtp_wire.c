/*
 * The two ends of the wire that bench/rtp.py measures with.
 *
 *   rtp_wire limit SOCKETS SECONDS
 *       Sends datagrams of 172 octets over SOCKETS connected sockets as fast as it can, while a second thread takes
 *       them off the sockets. Prints packets and the sender's CPU time. This is the physical limit: what the kernel
 *       takes.
 *
 *   rtp_wire receive STREAMS ECHO
 *       Binds STREAMS sockets and prints their ports. After a line on standard input it measures until the next line,
 *       then prints what came. Arrival times are the kernel's (SO_TIMESTAMPNS), taken inside the sender's system call
 *       on loopback, so neither this program's scheduling nor its load is in the figures; it sweeps its sockets every
 *       20 ms instead of being woken by each packet. With ECHO 1 every packet is sent back.
 *
 * Packet n of a stream belongs at t0 + n * 20 ms, where n is by its RTP timestamp and t0 is the least
 * arrival - n * 20 ms in the measured time: lateness is never negative, and one early packet makes all the others late,
 * as it does for a receiver with a fixed buffer. A stream is its first packet's SSRC; other packets are not counted.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SIZE = 172, BATCH = 64, ROOM = 2048, FRAME_UNITS = 160 };

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int64_t now_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int open_socket(struct sockaddr_in *bound)
{
    socklen_t size = sizeof *bound;
    int on = 1, octets = 1 << 20, fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    *bound = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (fd < 0 || bind(fd, (struct sockaddr *)bound, sizeof *bound) || getsockname(fd, (struct sockaddr *)bound, &size))
        die("socket");
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &octets, sizeof octets);
    setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
    return fd;
}

/* One batch of datagrams, with who sent them and when. */

static uint8_t packets[BATCH][ROOM], controls[BATCH][64] __attribute__((aligned(8)));
static struct sockaddr_in sources[BATCH];
static struct mmsghdr messages[BATCH];
static struct iovec vectors[BATCH];

static int take_batch(int fd)
{
    static int used = BATCH;
    for (int i = 0; i < used; i++) {
        vectors[i] = (struct iovec){packets[i], ROOM};
        messages[i].msg_hdr = (struct msghdr){.msg_name = &sources[i], .msg_namelen = sizeof sources[i],
            .msg_iov = &vectors[i], .msg_iovlen = 1, .msg_control = controls[i], .msg_controllen = sizeof controls[i]};
    }
    int got = recvmmsg(fd, messages, BATCH, MSG_DONTWAIT, NULL);
    used = got > 0 ? got : 0;
    return got;
}

static int64_t arrival_ns(int i)
{
    struct cmsghdr *control = CMSG_FIRSTHDR(&messages[i].msg_hdr);
    struct timespec t;
    if (!control || control->cmsg_type != SCM_TIMESTAMPNS)
        die("no arrival time");
    memcpy(&t, CMSG_DATA(control), sizeof t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* limit */

static int sockets, *receiving;
static atomic_int over;

static void *drain(void *unused)
{
    (void)unused;
    while (!atomic_load(&over))
        for (int i = 0; i < sockets; i++)
            while (take_batch(receiving[i]) == BATCH)
                ;
    return NULL;
}

static int limit(int count, double seconds)
{
    uint8_t packet[SIZE] = {0x80};
    struct sockaddr_in address;
    int *sending = calloc(count, sizeof *sending);
    int64_t sent = 0, start, cpu;
    pthread_t thread;
    sockets = count;
    receiving = calloc(count, sizeof *receiving);
    for (int i = 0; i < count; i++) {
        receiving[i] = open_socket(&address);
        sending[i] = socket(AF_INET, SOCK_DGRAM, 0);
        if (connect(sending[i], (struct sockaddr *)&address, sizeof address))
            die("connect");
    }
    if (pthread_create(&thread, NULL, drain, NULL))
        die("thread");
    start = now_ns(CLOCK_MONOTONIC);
    cpu = now_ns(CLOCK_THREAD_CPUTIME_ID);
    while (now_ns(CLOCK_MONOTONIC) - start < seconds * 1e9)
        for (int i = 0; i < count; i++)
            sent += send(sending[i], packet, SIZE, 0) == SIZE;
    cpu = now_ns(CLOCK_THREAD_CPUTIME_ID) - cpu;
    atomic_store(&over, 1);
    pthread_join(thread, NULL);
    printf("{\"sent\": %lld, \"cpu_s\": %.6f}\n", (long long)sent, cpu / 1e9);
    return 0;
}

/* receive */

struct arrival {
    int64_t slot, at_ns;
};

struct stream {
    int fd;
    uint32_t ssrc, first_timestamp;
    uint16_t first_sequence, last_sequence;
    int64_t cycles;
    struct arrival *arrivals;
    size_t count, room;
};

static uint32_t word(const uint8_t *octets)
{
    return (uint32_t)octets[0] << 24 | octets[1] << 16 | octets[2] << 8 | octets[3];
}

static void record(struct stream *s, const uint8_t *packet, int64_t at_ns)
{
    uint16_t sequence = packet[2] << 8 | packet[3];
    uint32_t timestamp = word(packet + 4), ssrc = word(packet + 8);
    if (s->count && ssrc != s->ssrc)
        return;
    if (s->count == 0) {
        s->ssrc = ssrc;
        s->first_timestamp = timestamp;
        s->first_sequence = s->last_sequence = sequence;
    }
    if (sequence < s->last_sequence && (uint16_t)(sequence - s->last_sequence) < 0x8000)
        s->cycles += 0x10000;
    s->last_sequence = sequence;
    if (s->count == s->room) {
        s->room = s->room ? 2 * s->room : 512;
        s->arrivals = realloc(s->arrivals, s->room * sizeof *s->arrivals);
        if (!s->arrivals)
            die("memory");
    }
    s->arrivals[s->count++] = (struct arrival){(uint32_t)(timestamp - s->first_timestamp) / FRAME_UNITS, at_ns};
}

static int ascending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void report(struct stream *streams, int count, double seconds)
{
    size_t packets_seen = 0, n = 0;
    int64_t lost = 0, over_20_ms = 0;
    int heard = 0;
    for (int i = 0; i < count; i++)
        packets_seen += streams[i].count;
    float *late_ms = malloc((packets_seen + 1) * sizeof *late_ms);
    for (int i = 0; i < count; i++) {
        struct stream *s = &streams[i];
        int64_t t0 = INT64_MAX;
        if (!s->count)
            continue;
        heard++;
        lost += s->cycles + s->last_sequence - s->first_sequence + 1 - (int64_t)s->count;
        for (size_t k = 0; k < s->count; k++) {
            int64_t t = s->arrivals[k].at_ns - s->arrivals[k].slot * 20000000;
            t0 = t < t0 ? t : t0;
        }
        for (size_t k = 0; k < s->count; k++) {
            late_ms[n] = (s->arrivals[k].at_ns - s->arrivals[k].slot * 20000000 - t0) / 1e6;
            over_20_ms += late_ms[n++] > 20;
        }
    }
    qsort(late_ms, n, sizeof *late_ms, ascending);
    printf("{\"seconds\": %.3f, \"streams\": %d, \"packets\": %zu, \"lost\": %lld, \"over_20_ms\": %lld", seconds,
        heard, n, (long long)lost, (long long)over_20_ms);
    if (n)
        printf(", \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"p999_ms\": %.3f, \"max_ms\": %.3f", late_ms[n / 2],
            late_ms[(size_t)(n * 0.99)], late_ms[(size_t)(n * 0.999)], late_ms[n - 1]);
    printf("}\n");
    fflush(stdout);
}

static int receive(int count, int echo)
{
    struct stream *streams = calloc(count, sizeof *streams);
    struct sockaddr_in address;
    struct pollfd input = {.fd = 0, .events = POLLIN};
    int64_t start = 0, next = now_ns(CLOCK_MONOTONIC);
    char line[16];
    for (int i = 0; i < count; i++) {
        streams[i].fd = open_socket(&address);
        printf("%d%c", ntohs(address.sin_port), i + 1 < count ? ' ' : '\n');
    }
    fflush(stdout);
    for (;;) {
        for (int i = 0; i < count; i++)
            for (int got = BATCH; got == BATCH;) {
                got = take_batch(streams[i].fd);
                for (int k = 0; k < got; k++) {
                    if (start && messages[k].msg_len == SIZE)
                        record(&streams[i], packets[k], arrival_ns(k));
                    if (echo)
                        sendto(streams[i].fd, packets[k], messages[k].msg_len, 0, (struct sockaddr *)&sources[k],
                            sizeof sources[k]);
                }
            }
        if (poll(&input, 1, 0) > 0) {
            if (!fgets(line, sizeof line, stdin))
                return 0;
            if (start) {
                report(streams, count, (now_ns(CLOCK_MONOTONIC) - start) / 1e9);
                return 0;
            }
            start = now_ns(CLOCK_MONOTONIC);
        }
        next += 20000000;
        if (next < now_ns(CLOCK_MONOTONIC))
            next = now_ns(CLOCK_MONOTONIC);
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &(struct timespec){next / 1000000000, next % 1000000000}, NULL);
    }
}

int main(int argc, char **argv)
{
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (argc == 4 && !strcmp(argv[1], "limit"))
        return limit(atoi(argv[2]), atof(argv[3]));
    if (argc == 4 && !strcmp(argv[1], "receive"))
        return receive(atoi(argv[2]), atoi(argv[3]));
    fprintf(stderr, "rtp_wire limit SOCKETS SECONDS | receive STREAMS ECHO\n");
    return 2;
}
