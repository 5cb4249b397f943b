/* Loaded before the C library: the calls by which a process changes files below a folder are counted, and one of them, or
 * all from one on, goes wrong.
 *
 *   IOT_FAULT_FOLDER  only files whose path begins so
 *   IOT_FAULT_AT      the call, counted from 1
 *   IOT_FAULT_KIND    eio: this call fails; enospc: it and all later ones that take room fail; torn: of a write the first
 *                     half arrives, then the process is killed; lost: the process is killed before it
 *
 * A line on standard error says that it has happened.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define FDS_MAX 4096
#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

enum kind { NONE, EIO_ONCE, FULL, TORN, LOST };

static unsigned char watched[FDS_MAX];
static long calls;

static enum kind kind(void) {
    const char *name = getenv("IOT_FAULT_KIND");
    if (!name) return NONE;
    if (!strcmp(name, "eio")) return EIO_ONCE;
    if (!strcmp(name, "enospc")) return FULL;
    return !strcmp(name, "torn") ? TORN : LOST;
}

static void say(void) {
    static const char line[] = "fault\n";
    REAL(write);
    if (real(2, line, sizeof line - 1) < 0) abort();
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* Whether this call is to fail; if it is torn, half of it is left to the caller. */
static int fails(int takes_room, int *torn) {
    const char *text = getenv("IOT_FAULT_AT");
    long at = text ? atol(text) : 0;
    long call = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
    enum kind what = kind();
    if (what == NONE || at == 0 || call < at || (what != FULL && call > at)) return 0;
    if (call == at) say();
    switch (what) {
    case EIO_ONCE: errno = EIO; return 1;
    case FULL: errno = ENOSPC; return takes_room;
    case TORN: if (torn) { *torn = 1; return 0; } /* fall through */
    default: die();
    }
    return 0;
}

static int is_watched(int fd) { return fd >= 0 && fd < FDS_MAX && watched[fd]; }

static int below(const char *path) {
    const char *folder = getenv("IOT_FAULT_FOLDER");
    return folder && !strncmp(path, folder, strlen(folder));
}

#define OPEN(name, before)                                                  \
    {                                                                       \
        REAL(name);                                                         \
        mode_t mode = 0;                                                    \
        if (flags & (O_CREAT | O_TMPFILE)) {                                \
            va_list rest;                                                   \
            va_start(rest, flags);                                          \
            mode = va_arg(rest, mode_t);                                    \
            va_end(rest);                                                   \
        }                                                                   \
        int ours = below(path) && (flags & O_ACCMODE) != O_RDONLY;          \
        if (ours && fails((flags & O_CREAT) != 0, 0)) return -1;            \
        int fd = real(before flags, mode);                                  \
        if (fd >= 0 && fd < FDS_MAX) watched[fd] = ours;                    \
        return fd;                                                          \
    }
#define COMMA ,
int open(const char *path, int flags, ...) OPEN(open, path COMMA)
int open64(const char *path, int flags, ...) OPEN(open64, path COMMA)
int openat(int folder, const char *path, int flags, ...) OPEN(openat, folder COMMA path COMMA)
int openat64(int folder, const char *path, int flags, ...) OPEN(openat64, folder COMMA path COMMA)

#define WRITE(name, ...)                                                    \
    {                                                                       \
        REAL(name);                                                         \
        int torn = 0;                                                       \
        if (is_watched(fd) && fails(1, &torn)) return -1;                   \
        if (torn) size /= 2;                                                \
        ssize_t written = real(fd, bytes, size, ##__VA_ARGS__);             \
        if (torn) die();                                                    \
        return written;                                                     \
    }
ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at) WRITE(pwrite, at)
ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t at) WRITE(pwrite64, at)
ssize_t write(int fd, const void *bytes, size_t size) WRITE(write)

#define CALL(name, room, ...)                                               \
    {                                                                       \
        REAL(name);                                                         \
        if (is_watched(fd) && fails(room, 0)) return -1;                    \
        return real(fd, ##__VA_ARGS__);                                     \
    }
int fsync(int fd) CALL(fsync, 0)
int fdatasync(int fd) CALL(fdatasync, 0)
int ftruncate(int fd, off_t size) CALL(ftruncate, 1, size)
int ftruncate64(int fd, off64_t size) CALL(ftruncate64, 1, size)
int fallocate(int fd, int mode, off_t at, off_t size) CALL(fallocate, 1, mode, at, size)
int fallocate64(int fd, int mode, off64_t at, off64_t size) CALL(fallocate64, 1, mode, at, size)

int close(int fd) {
    REAL(close);
    if (fd >= 0 && fd < FDS_MAX) watched[fd] = 0;
    return real(fd);
}
