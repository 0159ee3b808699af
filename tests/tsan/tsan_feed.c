/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows read ahead by many threads: two feeds over one archive, one of which is begun anew in the
 * middle of its order, while further threads read rows by themselves.
 */
#include "spoke/feed.h"
#include "support/npy_writer.h"
#include "tsan/tsan.h"

#include <pthread.h>

#define ROWS 64
#define SIDE 8
#define N (SIDE * SIDE)
#define READERS 3

static struct spoke_data *data;

static void write_file(const char *name, const char *text, char *path, size_t size) {
    snprintf(path, size, "%s/%s", work_dir, name);
    FILE *f = fopen(path, "w");
    NEED(f && fputs(text, f) >= 0 && fclose(f) == 0);
}

static void open_data(void) {
    static const char schema[] = "kind: npz\n"
                                 "image: {size: [8, 8], standardise: true}\n"
                                 "columns:\n"
                                 "  - {name: x, type: image}\n"
                                 "  - {name: y, type: target, categories: [even, odd]}\n"
                                 "split: {by: part}\n";
    static uint8_t x[ROWS * N], y[ROWS];
    struct spoke_data_options o = {.on_demand = true};
    char schema_path[256], path[256];

    for (int i = 0; i < ROWS * N; i++)
        x[i] = (uint8_t)(i / N + i % 5);
    for (int i = 0; i < ROWS; i++)
        y[i] = (uint8_t)(i % 2);
    write_file("s.yaml", schema, schema_path, sizeof schema_path);
    write_file("a.npz", "", path, sizeof path);
    zip_t *zip = npz_begin(path);
    npz_add(zip, false, "train_x", "|u1", "(64, 8, 8)", x, sizeof x);
    npz_add(zip, false, "train_y", "|u1", "(64,)", y, sizeof y);
    npz_add(zip, true, "test_x", "|u1", "(64, 8, 8)", x, sizeof x);
    npz_add(zip, true, "test_y", "|u1", "(64,)", y, sizeof y);
    npz_end(zip);
    MUST(spoke_data_open(schema_path, path, &o, &data, err));
}

static void *read_rows(void *arg) {
    (void)arg;
    for (int32_t i = 0; i < 4 * ROWS; i++) {
        int32_t row = i % ROWS, label;
        float x[N];
        MUST(spoke_data_read(data, i & 1 ? SPOKE_TRAIN : SPOKE_TEST, &row, 1, x, &label, err));
        NEED(label == row % 2);
    }
    return NULL;
}

/* Sums of every batch, which must not depend on the threads. */
static double epochs(size_t threads, enum spoke_part part) {
    struct spoke_feed_options o = {.part = part, .batch = 5, .threads = threads, .seed = 9};
    struct spoke_feed *feed = NULL;
    struct spoke_batch b;
    int32_t order[ROWS];
    double sum = 0.0;

    o.augment = (struct spoke_augment){.flip = {true}, .rotate_deg = 30, .noise = 0.1};
    for (int32_t i = 0; i < ROWS; i++)
        order[i] = i * 5 % ROWS;
    MUST(spoke_feed_open(data, &o, &feed, err));
    for (uint64_t epoch = 0; epoch < 6; epoch++) {
        MUST(spoke_feed_begin(feed, order, ROWS, epoch, err));
        for (int batch = 0; batch < (epoch % 2 ? 3 : ROWS); batch++) {
            MUST(spoke_feed_next(feed, &b, err));
            if (b.rows == 0)
                break;
            for (size_t i = 0; i < b.rows * N; i++)
                sum += (double)b.x[i] * (double)(1 + b.which[i / N]);
        }
    }
    spoke_feed_close(feed);
    return sum;
}

static void *feed_tests(void *arg) {
    *(double *)arg = epochs(3, SPOKE_TEST);
    return NULL;
}

int main(void) {
    pthread_t readers[READERS], feeder;
    double other = 0.0;

    work_begin();
    open_data();
    for (int i = 0; i < READERS; i++)
        NEED(pthread_create(&readers[i], NULL, read_rows, NULL) == 0);
    NEED(pthread_create(&feeder, NULL, feed_tests, &other) == 0);
    double sum = epochs(4, SPOKE_TRAIN);
    pthread_join(feeder, NULL);
    for (int i = 0; i < READERS; i++)
        pthread_join(readers[i], NULL);
    NEED(sum == epochs(1, SPOKE_TRAIN) && sum == other); /* both parts hold the same rows */
    spoke_data_free(data);
    work_end();
    return 0;
}
