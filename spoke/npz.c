/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The archive is libzip's: numpy writes zip64, data descriptors and deflate, and checksums are to
 * be compared. A file handle of libzip has one position and belongs to one thread at a time, hence
 * the lock; .npy files of a folder are read with pread and need none.
 */
#include "spoke/npz.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zip.h>

struct spoke_array {
    struct spoke_npz *npz;
    char *name;
    struct spoke_npy npy;
    uint8_t *held;    /* unpacked; NULL: read from the file */
    zip_file_t *file; /* stored in the archive */
    int fd;           /* of a .npy file in a folder, or -1 */
};

struct spoke_npz {
    char *path;
    zip_t *zip; /* NULL: a folder */
    pthread_mutex_t lock;
    uint64_t unpacked;
    struct spoke_array arrays[SPOKE_NPZ_ARRAYS_MAX];
    size_t count;
};

static enum tier_status fail(const struct spoke_array *a, enum tier_status st, const char *what,
                             struct tier_err *err) {
    return tier_fail(err, st, "%s: array '%s': %s", a->npz->path, a->name, what);
}

enum tier_status spoke_npz_open(const char *path, struct spoke_npz **npz_out,
                                struct tier_err *err) {
    struct spoke_npz *npz = calloc(1, sizeof *npz);
    struct stat info;
    int code = 0;
    enum tier_status st = TIER_OK;

    if (!npz || !(npz->path = strdup(path))) {
        free(npz);
        return tier_fail(err, TIER_ENOMEM, "%s: no memory to read it", path);
    }
    pthread_mutex_init(&npz->lock, NULL);
    if (stat(path, &info) != 0) {
        st = tier_fail_errno(err, errno == ENOENT ? TIER_ENOTFOUND : TIER_EIO, "%s", path);
    } else if (!S_ISDIR(info.st_mode)) {
        npz->zip = zip_open(path, ZIP_RDONLY, &code);
        if (!npz->zip)
            st = tier_fail(err, code == ZIP_ER_OPEN || code == ZIP_ER_READ ? TIER_EIO : TIER_EDATA,
                           "%s: it is no .npz file that can be read, nor a folder of .npy files",
                           path);
    }
    if (st == TIER_OK)
        *npz_out = npz;
    else
        spoke_npz_close(npz);
    return st;
}

static void release_array(struct spoke_array *a) {
    if (a->file)
        zip_fclose(a->file);
    if (a->fd >= 0)
        close(a->fd);
    free(a->held);
    free(a->name);
}

void spoke_npz_close(struct spoke_npz *npz) {
    if (!npz)
        return;
    for (size_t i = 0; i < npz->count; i++)
        release_array(&npz->arrays[i]);
    if (npz->zip)
        zip_discard(npz->zip);
    pthread_mutex_destroy(&npz->lock);
    free(npz->path);
    free(npz);
}

/* zip_fread until n bytes are there. */
static bool read_all(zip_file_t *file, void *out, uint64_t n) {
    uint8_t *at = out;

    while (n > 0) {
        zip_int64_t got = zip_fread(file, at, n);
        if (got <= 0)
            return false;
        at += got;
        n -= (uint64_t)got;
    }
    return true;
}

/* Takes the header off the front, and compares what it claims with the bytes there are. */
static enum tier_status take_header(struct spoke_array *a, const void *head, size_t n,
                                    uint64_t file_bytes, struct tier_err *err) {
    if (spoke_npy_parse(head, n, &a->npy, err) != TIER_OK)
        return tier_err_prefix(err, "%s: array '%s'", a->npz->path, a->name);
    if (spoke_npy_bytes(&a->npy) != file_bytes - a->npy.header_bytes)
        return fail(a, TIER_EDATA, "its size is not what its header says", err);
    return TIER_OK;
}

static enum tier_status unpack(struct spoke_array *a, zip_uint64_t index, struct tier_err *err) {
    uint64_t bytes = spoke_npy_bytes(&a->npy);
    uint8_t head[SPOKE_NPY_HEADER_MAX + 12], more;
    enum tier_status st = TIER_OK;

    if (bytes > SPOKE_NPZ_UNPACKED_BYTES_MAX - a->npz->unpacked)
        return fail(a, TIER_ELIMIT,
                    "the compressed arrays take more than 1 GiB unpacked: save them with "
                    "numpy.savez, or as .npy files in a folder, and they are read as needed",
                    err);
    a->held = malloc(bytes ? bytes : 1);
    if (!a->held)
        return fail(a, TIER_ENOMEM, "no memory to unpack it", err);
    a->npz->unpacked += bytes;
    zip_file_t *file = zip_fopen_index(a->npz->zip, index, 0);
    /* Past the last byte libzip compares the checksum. */
    if (!file || !read_all(file, head, a->npy.header_bytes) || !read_all(file, a->held, bytes) ||
        zip_fread(file, &more, 1) != 0)
        st = fail(a, TIER_EDATA, "it is damaged, or packed in a way that is not read", err);
    if (file)
        zip_fclose(file);
    return st;
}

static enum tier_status open_packed(struct spoke_array *a, struct tier_err *err) {
    uint8_t head[SPOKE_NPY_HEADER_MAX + 12];
    char member[256];
    zip_stat_t info;
    zip_int64_t index;

    snprintf(member, sizeof member, "%s.npy", a->name);
    index = zip_name_locate(a->npz->zip, member, 0);
    if (index < 0)
        return tier_fail(err, TIER_ENOTFOUND, "%s: it has no array '%s'", a->npz->path, a->name);
    zip_uint64_t at = (zip_uint64_t)index;
    zip_uint64_t wanted = ZIP_STAT_SIZE | ZIP_STAT_COMP_METHOD | ZIP_STAT_ENCRYPTION_METHOD;
    if (zip_stat_index(a->npz->zip, at, 0, &info) != 0 || (info.valid & wanted) != wanted)
        return fail(a, TIER_EDATA, "the archive does not say its size", err);
    if (info.encryption_method != ZIP_EM_NONE)
        return fail(a, TIER_EDATA, "it is encrypted", err);
    size_t n = info.size < sizeof head ? (size_t)info.size : sizeof head;
    zip_file_t *file = zip_fopen_index(a->npz->zip, at, 0);
    bool there = file && read_all(file, head, n);
    if (file)
        zip_fclose(file);
    if (!there)
        return fail(a, TIER_EDATA, "it is damaged, or packed in a way that is not read", err);
    TIER_TRY(take_header(a, head, n, info.size, err));
    if (info.comp_method != ZIP_CM_STORE)
        return unpack(a, at, err);
    a->file = zip_fopen_index(a->npz->zip, at, 0);
    if (!a->file || zip_fseek(a->file, 0, SEEK_SET) != 0) {
        if (a->file)
            zip_fclose(a->file);
        a->file = NULL;
        return unpack(a, at, err); /* a libzip that does not seek */
    }
    return TIER_OK;
}

static enum tier_status open_plain(struct spoke_array *a, struct tier_err *err) {
    uint8_t head[SPOKE_NPY_HEADER_MAX + 12];
    char path[4096];
    struct stat info;

    int n = snprintf(path, sizeof path, "%s/%s.npy", a->npz->path, a->name);
    if (n < 0 || (size_t)n >= sizeof path)
        return fail(a, TIER_EARG, "the path is too long", err);
    a->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (a->fd < 0 && errno == ENOENT)
        return tier_fail(err, TIER_ENOTFOUND, "%s: there is no '%s.npy'", a->npz->path, a->name);
    if (a->fd < 0 || fstat(a->fd, &info) != 0)
        return tier_fail_errno(err, TIER_EIO, "%s/%s.npy", a->npz->path, a->name);
    if (!S_ISREG(info.st_mode))
        return fail(a, TIER_EDATA, "it is no regular file", err);
    ssize_t got = pread(a->fd, head, sizeof head, 0);
    if (got < 0)
        return tier_fail_errno(err, TIER_EIO, "%s/%s.npy", a->npz->path, a->name);
    return take_header(a, head, (size_t)got, (uint64_t)info.st_size, err);
}

enum tier_status spoke_npz_array(struct spoke_npz *npz, const char *name,
                                 struct spoke_array **array_out, struct tier_err *err) {
    for (size_t i = 0; i < npz->count; i++) {
        if (strcmp(npz->arrays[i].name, name) == 0) {
            *array_out = &npz->arrays[i];
            return TIER_OK;
        }
    }
    if (npz->count == SPOKE_NPZ_ARRAYS_MAX || strlen(name) > 200 || strchr(name, '/'))
        return tier_fail(err, TIER_ECONFIG, "%s: '%.200s' is no name of an array", npz->path, name);
    struct spoke_array *a = &npz->arrays[npz->count];
    *a = (struct spoke_array){.npz = npz, .name = strdup(name), .fd = -1};
    if (!a->name)
        return tier_fail(err, TIER_ENOMEM, "%s: no memory to read it", npz->path);
    enum tier_status st = npz->zip ? open_packed(a, err) : open_plain(a, err);
    if (st != TIER_OK) {
        release_array(a);
        return st;
    }
    npz->count++;
    *array_out = a;
    return TIER_OK;
}

const struct spoke_npy *spoke_array_npy(const struct spoke_array *a) {
    return &a->npy;
}

const char *spoke_array_name(const struct spoke_array *a) {
    return a->name;
}

static enum tier_status read_plain(struct spoke_array *a, uint64_t at, size_t bytes, void *out,
                                   struct tier_err *err) {
    uint8_t *to = out;

    while (bytes > 0) {
        ssize_t got = pread(a->fd, to, bytes, (off_t)(a->npy.header_bytes + at));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return tier_fail_errno(err, TIER_EIO, "%s/%s.npy", a->npz->path, a->name);
        if (got == 0)
            return fail(a, TIER_EDATA, "the file has become shorter", err);
        to += got;
        at += (uint64_t)got;
        bytes -= (size_t)got;
    }
    return TIER_OK;
}

enum tier_status spoke_array_read(struct spoke_array *a, uint64_t first, size_t n, void *out,
                                  struct tier_err *err) {
    if (first > a->npy.elements || n > a->npy.elements - first)
        return fail(a, TIER_EINTERNAL, "elements past its end were asked for", err);
    uint64_t at = first * a->npy.item_bytes;
    size_t bytes = n * a->npy.item_bytes;

    if (a->held) {
        memcpy(out, a->held + at, bytes);
        return TIER_OK;
    }
    if (a->fd >= 0)
        return read_plain(a, at, bytes, out, err);
    pthread_mutex_lock(&a->npz->lock);
    bool ok = zip_fseek(a->file, (zip_int64_t)(a->npy.header_bytes + at), SEEK_SET) == 0 &&
              read_all(a->file, out, bytes);
    pthread_mutex_unlock(&a->npz->lock);
    return ok ? TIER_OK : fail(a, TIER_EDATA, "the archive cannot be read", err);
}
