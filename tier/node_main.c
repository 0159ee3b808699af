/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/node_main.h"
#include "tier/key_file.h"
#include "tier/log.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

extern char **environ;

void tier_node_many_files(void) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
}

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
    tier_key_file_passphrase(config->key_passphrase_file);
    if (*config->key_passphrase_file) /* for the programs that a node starts beside itself */
        setenv("CONSILIUM_KEY_PASSPHRASE_FILE", config->key_passphrase_file, 1);
    tier_node_many_files();
    return true;
}

/*
 * A handler and not sigwait: libraries may start threads before main (OpenBLAS does), in which
 * these signals are not blocked and would end the process at once. Whichever thread takes it,
 * posts.
 */
static sem_t stop_asked;
static volatile sig_atomic_t stop_number;

static void on_stop_signal(int number) {
    int saved = errno;
    stop_number = number;
    sem_post(&stop_asked);
    errno = saved;
}

void tier_node_catch_signals(void) {
    struct sigaction action = {.sa_handler = on_stop_signal, .sa_flags = SA_RESTART};

    sem_init(&stop_asked, 0, 0);
    sigemptyset(&action.sa_mask);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
}

static void *wait_for_signal(void *arg) {
    while (sem_wait(&stop_asked) != 0)
        ; /* interrupted by the signal itself */
    tier_log_info("stopping on %s", strsignal((int)stop_number));
    tier_loop_stop(arg);
    return NULL;
}

void tier_node_stop_on_signals(struct tier_loop *loop) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, wait_for_signal, loop) == 0)
        pthread_detach(thread);
}
