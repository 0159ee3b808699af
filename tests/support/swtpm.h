/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A TPM 2.0 in software (swtpm) for a test, on two ports of loopback, with a state of its own. It
 * goes with the test's process. Threads: one test, one process.
 */
#ifndef CONSILIUM_TESTS_SWTPM_H
#define CONSILIUM_TESTS_SWTPM_H

#include "support/tier_fixture.h"

#include <arpa/inet.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

struct swtpm {
    pid_t pid;
    unsigned port; /* and the next */
    char tcti[64];
};

static inline bool swtpm_binds(int fd, unsigned port) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return bind(fd, (struct sockaddr *)&at, sizeof at) == 0;
}

/* A port that is free, as is the next. */
static inline unsigned swtpm_ports(void) {
    for (;;) {
        int one = socket(AF_INET, SOCK_STREAM, 0), two = socket(AF_INET, SOCK_STREAM, 0);
        struct sockaddr_in at = {0};
        socklen_t n = sizeof at;
        CHECK(swtpm_binds(one, 0) && getsockname(one, (struct sockaddr *)&at, &n) == 0);
        unsigned port = ntohs(at.sin_port);
        bool both = port < 65535 && swtpm_binds(two, port + 1);
        close(one);
        close(two);
        if (both)
            return port;
    }
}

/* Looked up: a connection would be taken for a client's. */
static inline bool swtpm_listens(unsigned port) {
    char wanted[16], line[256];
    bool found = false;
    FILE *table = fopen("/proc/net/tcp", "r");

    CHECK(table != NULL);
    snprintf(wanted, sizeof wanted, ":%04X ", port);
    while (fgets(line, sizeof line, table))
        found = found || (strstr(line, wanted) && strstr(line, " 00000000:0000 0A "));
    fclose(table);
    return found;
}

/* `folder` is made where it is not there. */
static inline void swtpm_start(struct swtpm *t, const char *folder) {
    char state[256], server[64], control[64];
    const struct timespec soon = {0, 5000000};

    CHECK(mkdir(folder, 0700) == 0 || access(folder, W_OK) == 0);
    snprintf(state, sizeof state, "dir=%s", folder);
    for (int tries = 0; tries < 20; tries++) {
        t->port = swtpm_ports();
        snprintf(server, sizeof server, "type=tcp,bindaddr=127.0.0.1,port=%u,disconnect", t->port);
        snprintf(control, sizeof control, "type=tcp,bindaddr=127.0.0.1,port=%u", t->port + 1);
        t->pid = fork();
        CHECK(t->pid >= 0);
        if (t->pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            execlp("swtpm", "swtpm", "socket", "--tpm2", "--tpmstate", state, "--server", server,
                   "--ctrl", control, "--flags", "not-need-init,startup-clear", (char *)NULL);
            _exit(127);
        }
        int status;
        bool ended = false;
        while (!ended && !(swtpm_listens(t->port) && swtpm_listens(t->port + 1))) {
            ended = waitpid(t->pid, &status, WNOHANG) == t->pid;
            nanosleep(&soon, NULL);
        }
        CHECK(!ended || WEXITSTATUS(status) != 127, "swtpm is not installed (Debian: swtpm)");
        if (!ended) {
            snprintf(t->tcti, sizeof t->tcti, "swtpm:host=127.0.0.1,port=%u", t->port);
            return;
        }
    }
    CHECK(false, "swtpm does not start");
}

static inline void swtpm_stop(struct swtpm *t) {
    kill(t->pid, SIGKILL);
    waitpid(t->pid, NULL, 0);
}

#endif
