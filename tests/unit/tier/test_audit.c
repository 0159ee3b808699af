/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/audit.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <fcntl.h>
#include <ftw.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NOW INT64_C(1700000000000)

static char dir[64], path[128];
static struct tier_audit *lg;
static struct tier_err err;

static int remove_one(const char *name, const struct stat *info, int type, struct FTW *at) {
    (void)info, (void)type, (void)at;
    return remove(name);
}

static void setup(void) {
    snprintf(dir, sizeof dir, "/tmp/consilium-audit-XXXXXX");
    cr_assert(mkdtemp(dir) != NULL);
    snprintf(path, sizeof path, "%s/audit/audit.log", dir);
}

static void teardown(void) {
    tier_audit_close(lg);
    lg = NULL;
    nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static enum tier_status try_open(void) {
    tier_audit_close(lg);
    lg = NULL;
    return tier_audit_open(dir, "hub-1", TIER_AUDIT_SYNC_NEVER, NOW, &lg, &err);
}

static void open_it(void) {
    cr_assert(try_open() == TIER_OK, "%s", err.text);
}

static void note(int i) {
    cr_assert(tier_audit_note(lg, NOW + i, "round.commit", &err, "i:round", (int64_t)i, NULL) ==
                  TIER_OK,
              "%s", err.text);
}

/* Changes the file behind the log's back. */
static void patch(off_t at, const char *bytes, size_t count) {
    int fd = open(path, O_RDWR);
    cr_assert(fd >= 0 && pwrite(fd, bytes, count, at) == (ssize_t)count);
    close(fd);
}

static off_t file_size(void) {
    struct stat info;
    cr_assert(stat(path, &info) == 0);
    return info.st_size;
}

TestSuite(tier_audit, .init = setup, .fini = teardown);

Test(tier_audit, a_log_goes_on_where_it_stopped) {
    uint64_t seq, count;
    struct tier_hash head, found;
    open_it();
    for (int i = 0; i < 5; i++)
        note(i);
    open_it();
    note(5);
    tier_audit_head(lg, &seq, &head);
    cr_assert(tier_audit_verify(path, &count, &found, &err) == TIER_OK, "%s", err.text);
    cr_assert(count == 7 && seq == 7 && tier_hash_equal(&head, &found));
    cr_assert(tier_audit_verify("/nonexistent", &count, &found, &err) == TIER_ENOTFOUND);
}

Test(tier_audit, every_changed_byte_breaks_the_chain) {
    uint64_t count;
    struct tier_hash head;
    char byte;
    open_it();
    for (int i = 0; i < 3; i++)
        note(i);
    tier_audit_close(lg);
    lg = NULL;
    off_t size = file_size();
    int fd = open(path, O_RDWR);
    for (off_t at = 0; at < size; at++) {
        cr_assert(pread(fd, &byte, 1, at) == 1);
        char changed = (char)(byte ^ 1);
        cr_assert(pwrite(fd, &changed, 1, at) == 1);
        cr_assert(tier_audit_verify(path, &count, &head, &err) == TIER_ECORRUPT, "byte %d",
                  (int)at);
        cr_assert(pwrite(fd, &byte, 1, at) == 1);
    }
    close(fd);
    cr_assert(tier_audit_verify(path, &count, &head, &err) == TIER_OK);
}

Test(tier_audit, an_emptied_log_is_not_whole) {
    struct tier_hash head;
    uint64_t count = 0;
    cr_assert(eq(int, try_open(), TIER_OK));
    tier_audit_close(lg);
    lg = NULL;
    cr_assert(eq(int, tier_audit_verify(path, &count, &head, &err), TIER_OK));
    cr_assert(eq(u64, count, 1), "it begins with a line of its own");
    cr_assert(truncate(path, 0) == 0);
    cr_assert(eq(int, tier_audit_verify(path, &count, &head, &err), TIER_ECORRUPT));
    cr_assert(strstr(err.text, "audit.created") != NULL, "%s", err.text);
}

Test(tier_audit, a_hash_in_capitals_is_no_canonical_line) {
    char text[4096] = {0};
    uint64_t count;
    struct tier_hash head;
    open_it();
    tier_audit_close(lg);
    lg = NULL;
    int fd = open(path, O_RDONLY);
    cr_assert(read(fd, text, sizeof text - 1) > 0);
    close(fd);
    char *digit = strpbrk(strstr(text, "\"hash\":\"") + 8, "abcdef");
    char capital = (char)(*digit - 'a' + 'A');
    patch(digit - text, &capital, 1);
    cr_assert(tier_audit_verify(path, &count, &head, &err) == TIER_ECORRUPT);
}

Test(tier_audit, a_broken_chain_is_refused_with_its_line) {
    open_it();
    for (int i = 0; i < 3; i++)
        note(i);
    tier_audit_close(lg);
    lg = NULL;
    char text[4096] = {0};
    int fd = open(path, O_RDONLY);
    cr_assert(read(fd, text, sizeof text - 1) > 0);
    close(fd);
    patch(strstr(text, "\"round\":1") - text + 8, "7", 1);
    cr_assert(try_open() == TIER_ECORRUPT);
    cr_assert(strstr(err.text, "line 3") && strstr(err.text, "altered"), "%s", err.text);
}

Test(tier_audit, a_torn_last_line_is_cut_and_the_cut_recorded) {
    uint64_t count;
    struct tier_hash head;
    char text[4096] = {0};
    open_it();
    note(0);
    note(1);
    tier_audit_close(lg);
    lg = NULL;
    cr_assert(truncate(path, file_size() - 9) == 0);
    cr_assert(tier_audit_verify(path, &count, &head, &err) == TIER_ECORRUPT);
    cr_assert(strstr(err.text, "torn") != NULL, "%s", err.text);
    open_it();
    cr_assert(tier_audit_verify(path, &count, &head, &err) == TIER_OK, "%s", err.text);
    cr_assert(count == 3);
    int fd = open(path, O_RDONLY);
    cr_assert(read(fd, text, sizeof text - 1) > 0);
    close(fd);
    cr_assert(strstr(text, "\"event\":\"audit.cut\"") && !strstr(text, "\"round\":1"));
}

Test(tier_audit, a_long_log_opens_by_its_tail_and_verifies_whole) {
    uint64_t count, seq;
    struct tier_hash head, found;
    static char filler[TIER_AUDIT_TEXT_LEN_MAX];
    memset(filler, 'x', sizeof filler - 1);
    open_it();
    for (int i = 0; i < 700; i++)
        cr_assert(tier_audit_note(lg, NOW, "fill", &err, "s:x", filler, NULL) == TIER_OK);
    open_it();
    note(1);
    tier_audit_head(lg, &seq, &head);
    cr_assert(tier_audit_verify(path, &count, &found, &err) == TIER_OK, "%s", err.text);
    cr_assert(count == 702 && seq == 702 && tier_hash_equal(&head, &found));
    patch(file_size() - 700, "#", 1);
    cr_assert(try_open() == TIER_ECORRUPT);
    cr_assert(strstr(err.text, "line 701") != NULL, "%s", err.text);
}

Test(tier_audit, another_nodes_log_is_refused) {
    struct tier_audit *other = NULL;
    open_it();
    cr_assert(tier_audit_open(dir, "hub-1", TIER_AUDIT_SYNC_EACH, NOW, &other, &err) ==
              TIER_ECONFLICT);
    tier_audit_close(lg);
    lg = NULL;
    cr_assert(tier_audit_open(dir, "hub-2", TIER_AUDIT_SYNC_EACH, NOW, &other, &err) ==
              TIER_EIDENTITY);
    cr_assert(strstr(err.text, "hub-1") != NULL, "%s", err.text);
}

Test(tier_audit, a_peers_text_is_cleaned_and_unclean_data_is_refused) {
    char text[4096] = {0};
    struct tier_hash h = {{1}};
    open_it();
    cr_assert(tier_audit_note(lg, NOW, "peer.said", &err, "s:a", "x\n\x1b[2J\xff\xc2\x9b\xc3\xa9",
                              "h:id", &h, "b:ok", 1, "d:auc", 0.5, "u:n", UINT64_C(7), "s:none",
                              NULL, NULL) == TIER_OK,
              "%s", err.text);
    int fd = open(path, O_RDONLY);
    cr_assert(read(fd, text, sizeof text - 1) > 0);
    close(fd);
    cr_assert(strstr(text, "\"a\":\"x??[2J??\xc3\xa9\"") != NULL, "%s", text);
    cr_assert(strstr(text, "\"auc\":0.5") && strstr(text, "\"none\":null"));
    json_t *data = json_pack("{s:[s]}", "list", "a\tb");
    cr_assert(tier_audit_append(lg, NOW, "x", data, &err) == TIER_EARG);
    json_decref(data);
    cr_assert(tier_audit_append(lg, NOW, "Bad Event", NULL, &err) == TIER_EARG);
    cr_assert(tier_audit_note(lg, NOW, "x", &err, "d:v", (double)__builtin_nanf(""), NULL) ==
              TIER_EARG);
    cr_assert(tier_audit_append(lg, NOW, "x", NULL, &err) == TIER_OK);
}

Test(tier_audit, a_line_over_the_limit_is_refused_and_the_chain_goes_on) {
    static char big[TIER_AUDIT_LINE_BYTES_MAX];
    uint64_t count;
    struct tier_hash head;
    memset(big, 'x', sizeof big - 1);
    open_it();
    json_t *data = json_pack("{s:s}", "big", big);
    cr_assert(tier_audit_append(lg, NOW, "x", data, &err) == TIER_EARG);
    json_decref(data);
    note(1);
    cr_assert(tier_audit_verify(path, &count, &head, &err) == TIER_OK);
    cr_assert(count == 2);
}
