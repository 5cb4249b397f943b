/* Loaded before the C library: the calls by which a process changes files below a folder are counted, and one of them, or
 * all from one on, goes wrong.
 *
 *   IOT_FAULT_FOLDER  only files whose path begins so
 *   IOT_FAULT_AT      the call, counted from 1
 *   IOT_FAULT_KIND    eio: this call fails; enospc: it and all later ones that take room fail; torn: of a write the first
 *                     half arrives, then the process is killed; lost: the process is killed before it; power: so it is,
 *                     and of each file all that was written since it was synced is as it was before; reorder: the same,
 *                     but that every second of those writes has arrived, whatever came before it; liar: as power, but
 *                     that nothing was ever synced, as with a disk that says so and does not
 *
 * A line on standard error says that it has happened.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#define FDS_MAX 4096
#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

enum kind { NONE, EIO_ONCE, FULL, TORN, LOST, POWER, REORDER, LIAR };

static unsigned char watched[FDS_MAX];
static long calls;

static enum kind kind(void) {
    const char *name = getenv("IOT_FAULT_KIND");
    if (!name) return NONE;
    if (!strcmp(name, "eio")) return EIO_ONCE;
    if (!strcmp(name, "enospc")) return FULL;
    if (!strcmp(name, "power")) return POWER;
    if (!strcmp(name, "reorder")) return REORDER;
    if (!strcmp(name, "liar")) return LIAR;
    return !strcmp(name, "torn") ? TORN : LOST;
}

static void say(void) {
    static const char line[] = "fault\n";
    REAL(write);
    if (real(2, line, sizeof line - 1) < 0) abort();
}

/* What a file was before a change that was not synced yet; the newest first. */
struct change {
    struct change *older;
    dev_t device;
    ino_t inode;
    int fd;
    off_t size;
    off_t at;
    ssize_t length;
    char bytes[];
};
static struct change *unsynced;
static pthread_mutex_t changing = PTHREAD_MUTEX_INITIALIZER;

static int keeps_changes(void) { return kind() >= POWER; }

/* Keeps what lies in a part of a file, before that changes. With the mutex. */
static void keep(int fd, off_t at, size_t length) {
    struct stat file;
    if (fstat(fd, &file) != 0) abort();
    size_t there = at < file.st_size ? (size_t)(file.st_size - at) : 0;
    if (length > there) length = there;
    struct change *change = malloc(sizeof *change + length);
    if (!change) abort();
    /* A descriptor of its own, for the file may be closed before it is synced. It is never closed. */
    change->older = unsynced;
    change->device = file.st_dev;
    change->inode = file.st_ino;
    change->fd = dup(fd);
    change->size = file.st_size;
    change->at = at;
    change->length = length ? pread(fd, change->bytes, length, at) : 0;
    if (change->length != (ssize_t)length) abort();
    unsynced = change;
}

static void synced(int fd) {
    struct stat file;
    if (kind() == LIAR) return;
    if (fstat(fd, &file) != 0) abort();
    for (struct change **place = &unsynced; *place;) {
        struct change *change = *place;
        if (change->device == file.st_dev && change->inode == file.st_ino) *place = change->older;
        else place = &change->older;
    }
}

static ssize_t put_back(int fd, const void *bytes, size_t size, off_t at) {
    REAL(pwrite);
    return real(fd, bytes, size, at);
}

static int cut(int fd, off_t size) {
    REAL(ftruncate);
    return real(fd, size);
}

static void lose_what_is_unsynced(enum kind what) {
    int place = 0;
    for (struct change *change = unsynced; change; change = change->older) {
        if (what == REORDER && place++ % 2 == 0) continue;
        if (put_back(change->fd, change->bytes, (size_t)change->length, change->at) != change->length) abort();
        if (what != REORDER && cut(change->fd, change->size) != 0) abort();
    }
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
    if (what >= POWER) lose_what_is_unsynced(what);
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

/* Around each call that changes a file, so that changes are kept in the order in which they happen. */
#define LOCK() (keeps_changes() ? pthread_mutex_lock(&changing) : 0)
#define UNLOCK() (keeps_changes() ? pthread_mutex_unlock(&changing) : 0)

#define WRITE(name, place, ...)                                             \
    {                                                                       \
        REAL(name);                                                         \
        if (!is_watched(fd)) return real(fd, bytes, size, ##__VA_ARGS__);   \
        int torn = 0;                                                       \
        LOCK();                                                             \
        if (fails(1, &torn)) return -1;                                     \
        if (torn) size /= 2;                                                \
        if (keeps_changes()) keep(fd, place, size);                         \
        ssize_t written = real(fd, bytes, size, ##__VA_ARGS__);             \
        if (torn) die();                                                    \
        UNLOCK();                                                           \
        return written;                                                     \
    }
ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at) WRITE(pwrite, at, at)
ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t at) WRITE(pwrite64, at, at)
ssize_t write(int fd, const void *bytes, size_t size) WRITE(write, lseek(fd, 0, SEEK_CUR))

/* `before` and `after` are for a call that goes on. */
#define CALL(name, room, before, after, ...)                                \
    {                                                                       \
        REAL(name);                                                         \
        if (!is_watched(fd)) return real(fd, ##__VA_ARGS__);                \
        LOCK();                                                             \
        if (fails(room, 0)) return -1;                                      \
        if (keeps_changes()) before;                                        \
        int answer = real(fd, ##__VA_ARGS__);                               \
        if (keeps_changes() && answer == 0) after;                          \
        UNLOCK();                                                           \
        return answer;                                                      \
    }
#define NOTHING ((void)0)
int fsync(int fd) CALL(fsync, 0, NOTHING, synced(fd))
int fdatasync(int fd) CALL(fdatasync, 0, NOTHING, synced(fd))
int ftruncate(int fd, off_t size) CALL(ftruncate, 1, keep(fd, size, SIZE_MAX >> 1), NOTHING, size)
int ftruncate64(int fd, off64_t size) CALL(ftruncate64, 1, keep(fd, size, SIZE_MAX >> 1), NOTHING, size)
int fallocate(int fd, int mode, off_t at, off_t size) CALL(fallocate, 1, keep(fd, at, 0), NOTHING, mode, at, size)
int fallocate64(int fd, int mode, off64_t at, off64_t size) CALL(fallocate64, 1, keep(fd, at, 0), NOTHING, mode, at, size)

int close(int fd) {
    REAL(close);
    if (fd >= 0 && fd < FDS_MAX) watched[fd] = 0;
    return real(fd);
}
