/* Preloaded before a gateway: records what it does to the files of one directory, and can make its disk
 * fail. Knows nothing of what is in the files.
 *
 * SHIM_DIR      the directory watched (absolute; files directly in it)
 * SHIM_TRACE    where the record goes: op u8 | name length u16 | name | offset u64 | length u64 | data,
 *               little endian. Ops: C create, W write, T truncate, S sync, E failed sync, U unlink,
 *               R rename (data: new name). The directory itself has the name "".
 * SHIM_CONTROL  a directory: file `fail_sync` with a number n makes the n-th sync from then on fail with
 *               EIO (0: every one); file `full` with a number makes every write that would grow a file
 *               beyond that size fail with ENOSPC. The file named `acks` is never hindered.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define FDS 4096

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char *names[FDS]; /* of watched descriptors */
static char dir[PATH_MAX];
static size_t dir_len;
static int trace = -1;
static const char *control;
static long syncs_seen = -1;

static int (*real_openat)(int, const char *, int, ...);
static int (*real_close)(int);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_write)(int, const void *, size_t);
static int (*real_ftruncate)(int, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_unlink)(const char *);
static int (*real_rename)(const char *, const char *);

__attribute__((constructor)) static void start(void) {
    real_openat = dlsym(RTLD_NEXT, "openat64");
    real_close = dlsym(RTLD_NEXT, "close");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_write = dlsym(RTLD_NEXT, "write");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_unlink = dlsym(RTLD_NEXT, "unlink");
    real_rename = dlsym(RTLD_NEXT, "rename");
    control = getenv("SHIM_CONTROL");
    const char *watched = getenv("SHIM_DIR"), *to = getenv("SHIM_TRACE");
    if (watched && strlen(watched) < sizeof dir) {
        strcpy(dir, watched);
        dir_len = strlen(dir);
    }
    if (to) trace = real_openat(AT_FDCWD, to, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

/* The name within the watched directory, or NULL. */
static const char *watched(const char *path) {
    if (!dir_len || strncmp(path, dir, dir_len)) return NULL;
    if (!path[dir_len]) return path + dir_len;
    if (path[dir_len] != '/') return NULL;
    const char *name = path + dir_len + 1;
    return strchr(name, '/') ? NULL : name;
}

static const char *name_of(int fd) { return fd >= 0 && fd < FDS ? names[fd] : NULL; }

static void note(char op, const char *name, uint64_t offset, uint64_t len, const void *data) {
    if (trace < 0) return;
    uint16_t name_len = (uint16_t)strlen(name);
    struct iovec parts[6] = {{&op, 1}, {&name_len, 2}, {(void *)name, name_len},
                             {&offset, 8}, {&len, 8}, {(void *)data, data ? len : 0}};
    size_t total = 19 + name_len + (data ? len : 0);
    if (writev(trace, parts, 6) != (ssize_t)total) abort(); /* half a trace would prove nothing */
}

static int number(const char *file, long *out) {
    char path[PATH_MAX], text[32] = {0};
    if (!control || snprintf(path, sizeof path, "%s/%s", control, file) >= (int)sizeof path) return 0;
    int fd = real_openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    real_close(fd);
    *out = atol(text);
    return n >= 0;
}

/* Whether the disk is too full for the file to reach this size. */
static int refused(int fd, const char *name, off_t end) {
    long limit;
    struct stat now;
    if (!strcmp(name, "acks") || !number("full", &limit)) return 0;
    return end > limit && !fstat(fd, &now) && end > now.st_size;
}

static int do_open(int at, const char *path, int flags, mode_t mode) {
    char full[PATH_MAX];
    const char *name = NULL;
    if (path[0] == '/') {
        name = watched(path);
    } else if (at == AT_FDCWD && getcwd(full, sizeof full) &&
               strlen(full) + strlen(path) + 2 < sizeof full) {
        strcat(strcat(full, "/"), path);
        name = watched(full);
    }
    if (!name) return real_openat(at, path, flags, mode);
    pthread_mutex_lock(&lock);
    struct stat before;
    int existed = !fstatat(at, path, &before, 0);
    int fd = real_openat(at, path, flags, mode);
    int error = errno;
    if (fd >= 0 && fd < FDS) {
        free(names[fd]);
        names[fd] = strdup(name);
        if (!existed) note('C', name, 0, 0, NULL);
        else if (flags & O_TRUNC) note('T', name, 0, 0, NULL);
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return fd;
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { va_list args; va_start(args, flags); mode = va_arg(args, mode_t); va_end(args); }

int open(const char *path, int flags, ...) { MODE(flags) return do_open(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return do_open(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE(flags) return do_open(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags) return do_open(at, path, flags, mode); }

int close(int fd) {
    if (name_of(fd)) {
        pthread_mutex_lock(&lock);
        free(names[fd]);
        names[fd] = NULL;
        pthread_mutex_unlock(&lock);
    }
    return real_close(fd);
}

static ssize_t do_write(int fd, const void *data, size_t len, off_t offset, int positioned) {
    const char *name = name_of(fd);
    if (!name) return positioned ? real_pwrite(fd, data, len, offset) : real_write(fd, data, len);
    pthread_mutex_lock(&lock);
    if (!positioned) {
        int append = fcntl(fd, F_GETFL) & O_APPEND;
        offset = lseek(fd, 0, append ? SEEK_END : SEEK_CUR);
    }
    ssize_t done = -1;
    int error = ENOSPC;
    if (!refused(fd, name, offset + (off_t)len)) {
        done = positioned ? real_pwrite(fd, data, len, offset) : real_write(fd, data, len);
        error = errno;
        if (done > 0) note('W', name, (uint64_t)offset, (uint64_t)done, data);
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

ssize_t write(int fd, const void *data, size_t len) { return do_write(fd, data, len, 0, 0); }
ssize_t pwrite(int fd, const void *data, size_t len, off_t at) { return do_write(fd, data, len, at, 1); }
ssize_t pwrite64(int fd, const void *data, size_t len, off_t at) { return do_write(fd, data, len, at, 1); }

static int do_truncate(int fd, off_t len) {
    const char *name = name_of(fd);
    if (!name) return real_ftruncate(fd, len);
    pthread_mutex_lock(&lock);
    int done = -1, error = ENOSPC;
    if (!refused(fd, name, len)) {
        done = real_ftruncate(fd, len);
        error = errno;
        if (!done) note('T', name, (uint64_t)len, 0, NULL);
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

int ftruncate(int fd, off_t len) { return do_truncate(fd, len); }
int ftruncate64(int fd, off_t len) { return do_truncate(fd, len); }

static int do_sync(int fd, int (*real)(int)) {
    const char *name = name_of(fd);
    if (!name) return real(fd);
    pthread_mutex_lock(&lock);
    long n;
    int done, error = EIO;
    if (number("fail_sync", &n)) {
        syncs_seen = syncs_seen < 0 ? 1 : syncs_seen + 1;
    } else {
        syncs_seen = -1;
        n = -1;
    }
    if (n == 0 || (n > 0 && n == syncs_seen)) {
        done = -1;
        note('E', name, 0, 0, NULL);
    } else {
        done = real(fd);
        error = errno;
        note(done ? 'E' : 'S', name, 0, 0, NULL);
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

int fsync(int fd) { return do_sync(fd, real_fsync); }
int fdatasync(int fd) { return do_sync(fd, real_fdatasync); }

int unlink(const char *path) {
    const char *name = watched(path);
    pthread_mutex_lock(&lock);
    int done = real_unlink(path), error = errno;
    if (name && !done) note('U', name, 0, 0, NULL);
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

int rename(const char *from, const char *to) {
    const char *old = watched(from), *new = watched(to);
    pthread_mutex_lock(&lock);
    int done = real_rename(from, to), error = errno;
    if (old && new && !done) note('R', old, 0, strlen(new), new);
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}
