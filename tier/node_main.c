/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/node_main.h"
#include "tier/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

extern char **environ;

bool tier_node_begin(enum tier_config_kind kind, const char *program, int argc, char **argv,
                     struct tier_config *config, int *exit_out) {
    static struct tier_problems problems;
    struct tier_err err = {0};
    enum tier_status st = tier_config_load(kind, argc, argv, environ, config, &problems, &err);

    if (st != TIER_OK) {
        for (size_t i = 0; i < problems.count; i++)
            fprintf(stderr, "%s: %s\n", program, problems.item[i].text);
        if (!problems.count)
            fprintf(stderr, "%s: %s\n", program, err.text);
        *exit_out = st == TIER_EARG ? 2 : 1;
        return false;
    }
    *exit_out = 0;
    if (config->action == TIER_CONFIG_HELP)
        tier_config_help(kind, program, stdout);
    else if (config->action == TIER_CONFIG_VERSION)
        printf("%s %s\n", program, CONSILIUM_VERSION);
    else if (config->action == TIER_CONFIG_PRINT)
        tier_config_print(config, stdout);
    if (config->action != TIER_CONFIG_RUN)
        return false;
    tier_log_init(config->name, (enum tier_log_level)config->log_level);
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max; /* every child is a descriptor */
        setrlimit(RLIMIT_NOFILE, &files);
    }
    return true;
}

/*
 * A handler, not a mask with sigwait: libraries start threads before main, which no mask of ours
 * reaches (OpenBLAS does), and a signal delivered to one of them would end the process at once.
 */
static int signal_pipe[2];

static void on_stop_signal(int number) {
    int saved = errno;
    unsigned char byte = (unsigned char)number;

    (void)!write(signal_pipe[1], &byte, 1);
    errno = saved;
}

void tier_node_catch_signals(void) {
    struct sigaction action = {.sa_handler = on_stop_signal, .sa_flags = SA_RESTART};

    if (pipe2(signal_pipe, O_CLOEXEC) != 0)
        return; /* the default stays: to die of the signal is survivable, as any kill is */
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
}

static void *wait_for_signal(void *arg) {
    unsigned char number = 0;

    while (read(signal_pipe[0], &number, 1) < 0 && errno == EINTR)
        continue;
    tier_log_info("stopping on %s", strsignal(number));
    tier_loop_stop(arg);
    return NULL;
}

void tier_node_stop_on_signals(struct tier_loop *loop) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, wait_for_signal, loop) == 0)
        pthread_detach(thread);
}
