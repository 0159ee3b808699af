/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/bare.h"
#include "tier/limits.h"

#include <netinet/in.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* Reads to the end and says one byte, so that the sender knows that all of it was read. */
static void *drain(void *arg) {
    int fd = (int)(intptr_t)arg;
    uint8_t *buffer = bench_alloc(1, TIER_CHUNK_BYTES);
    while (recv(fd, buffer, TIER_CHUNK_BYTES, 0) > 0)
        ;
    (void)!write(fd, buffer, 1);
    close(fd);
    free(buffer);
    return NULL;
}

static void tcp_main(void *arg, int say, int wait) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    (void)arg;
    (void)wait;

    if (listener < 0 || bind(listener, (void *)&at, sizeof at) != 0 || listen(listener, 64) != 0 ||
        getsockname(listener, (void *)&at, &size) != 0)
        return;
    int port = ntohs(at.sin_port);
    bench_process_say(say, &port, sizeof port);
    for (;;) {
        pthread_t thread;
        int fd = accept(listener, NULL, NULL);
        if (fd < 0 || pthread_create(&thread, NULL, drain, (void *)(intptr_t)fd) != 0)
            return;
        pthread_detach(thread);
    }
}

enum tier_status bench_tcp_serve(struct bench_process *out, struct tier_err *err) {
    return bench_process_start(tcp_main, NULL, out, err);
}

struct tcp_push {
    pthread_t thread;
    int fd;
    uint64_t bytes;
    bool failed;
};

static void *tcp_push(void *arg) {
    struct tcp_push *p = arg;
    uint8_t *buffer = bench_alloc(1, TIER_CHUNK_BYTES), last;

    for (uint64_t left = p->bytes; left > 0 && !p->failed;) {
        size_t n = left < TIER_CHUNK_BYTES ? (size_t)left : TIER_CHUNK_BYTES;
        ssize_t k = send(p->fd, buffer, n, MSG_NOSIGNAL);
        p->failed = k <= 0;
        left -= p->failed ? 0 : (uint64_t)k;
    }
    shutdown(p->fd, SHUT_WR);
    p->failed = p->failed || recv(p->fd, &last, 1, 0) != 1;
    close(p->fd);
    free(buffer);
    return NULL;
}

enum tier_status bench_tcp_push(int port, size_t streams, uint64_t bytes, double *seconds_out,
                                struct tier_err *err) {
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct tcp_push *push = bench_alloc(streams, sizeof *push);
    size_t failed = 0;

    for (size_t i = 0; i < streams; i++) {
        push[i] = (struct tcp_push){.fd = socket(AF_INET, SOCK_STREAM, 0), .bytes = bytes};
        push[i].failed = connect(push[i].fd, (void *)&at, sizeof at) != 0;
    }
    double start = bench_now_s();
    for (size_t i = 0; i < streams; i++)
        if (pthread_create(&push[i].thread, NULL, tcp_push, &push[i]) != 0)
            abort();
    for (size_t i = 0; i < streams; i++) {
        pthread_join(push[i].thread, NULL);
        failed += push[i].failed;
    }
    *seconds_out = bench_now_s() - start;
    free(push);
    return failed ? tier_fail(err, TIER_EUNAVAILABLE, "%zu TCP connections failed", failed)
                  : TIER_OK;
}
