/* A preloaded library that fails, or ends the process at, the n-th call that changes a folder.
 *
 * Counted are calls that open a file for writing, write, cut, synchronise, close, rename, link or delete within the
 * folder that `faults_begin` names. Streams of the C library are counted where they are opened only. The count is in
 * memory that a process shares with those it forks, so that it outlives the process that was killed.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT, FAIL, KILL, FLIP };

struct shared {
  long calls;        /* so far */
  char name[32];     /* of the call that was hit */
  char path[1024];   /* and its file */
};

static struct shared *shared;
static char folder[4096];
static long target;
static int mode = COUNT, code;

__attribute__((constructor)) static void prepare(void) {
  shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

void faults_begin(const char *path, long number, int kind, int error) {
  strncpy(folder, path, sizeof folder - 1);
  target = number, mode = kind, code = error;
  memset(shared, 0, sizeof *shared);
}

void faults_end(void) { folder[0] = 0; }
long faults_calls(void) { return shared->calls; }
const char *faults_name(void) { return shared->name; }
const char *faults_path(void) { return shared->path; }

static int within(const char *path) {
  size_t length = strlen(folder);
  return length && !strncmp(path, folder, length) && (path[length] == '/' || path[length] == 0);
}

static int of_descriptor(int fd, char *path) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, 4095);
  path[length < 0 ? 0 : length] = 0;
  return length > 0;
}

static void full(int dir, const char *name, char *path) {
  char base[4096] = "";
  if (name[0] == '/') {
    snprintf(path, 8192, "%s", name);
    return;
  }
  if (dir == AT_FDCWD) {
    if (!getcwd(base, sizeof base)) base[0] = 0;
  } else
    of_descriptor(dir, base);
  snprintf(path, 8192, "%s/%s", base, name);
}

/* 0: go on; 1: fail with `errno`; 2: change a bit of what is written */
static int hit(const char *name, const char *path) {
  if (!within(path)) return 0;
  long number = __sync_add_and_fetch(&shared->calls, 1);
  if (mode == COUNT || number != target) return 0;
  snprintf(shared->name, sizeof shared->name, "%s", name);
  snprintf(shared->path, sizeof shared->path, "%s", path + strlen(folder));
  if (mode == KILL) kill(getpid(), SIGKILL), pause();
  if (mode == FLIP) return 2;
  errno = code;
  return 1;
}

static int hit_name(const char *name, int dir, const char *file) {
  char path[8192];
  if (!folder[0] || !file) return 0;
  full(dir, file, path);
  return hit(name, path);
}

static int hit_descriptor(const char *name, int fd) {
  char path[4096];
  if (!folder[0] || !of_descriptor(fd, path)) return 0;
  return hit(name, path);
}

#define REAL(result, name, ...) \
  static result (*real)(__VA_ARGS__); \
  if (!real) real = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

static int writes(int flags) { return (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC)); }

#define OPEN(name) \
  int name(const char *path, int flags, ...) { \
    REAL(int, name, const char *, int, ...); \
    va_list list; va_start(list, flags); mode_t bits = va_arg(list, mode_t); va_end(list); \
    if (writes(flags) && hit_name("open", AT_FDCWD, path) == 1) return -1; \
    return real(path, flags, bits); }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
  int name(int dir, const char *path, int flags, ...) { \
    REAL(int, name, int, const char *, int, ...); \
    va_list list; va_start(list, flags); mode_t bits = va_arg(list, mode_t); va_end(list); \
    if (writes(flags) && hit_name("open", dir, path) == 1) return -1; \
    return real(dir, path, flags, bits); }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name) \
  FILE *name(const char *path, const char *how) { \
    REAL(FILE *, name, const char *, const char *); \
    if ((how[0] != 'r' || strchr(how, '+')) && hit_name("fopen", AT_FDCWD, path) == 1) return NULL; \
    return real(path, how); }
FOPEN(fopen)
FOPEN(fopen64)

int creat(const char *path, mode_t bits) {
  REAL(int, creat, const char *, mode_t);
  return hit_name("open", AT_FDCWD, path) == 1 ? -1 : real(path, bits);
}

/* writes a copy with one changed bit in the middle */
static void *flipped(const void *data, size_t size) {
  unsigned char *copy = malloc(size ? size : 1);
  memcpy(copy, data, size);
  if (size) copy[size / 2] ^= 1;
  return copy;
}

ssize_t write(int fd, const void *data, size_t size) {
  REAL(ssize_t, write, int, const void *, size_t);
  int what = hit_descriptor("write", fd);
  if (what == 1) return -1;
  if (what == 0) return real(fd, data, size);
  void *copy = flipped(data, size);
  ssize_t done = real(fd, copy, size);
  free(copy);
  return done;
}

#define PWRITE(name, type) \
  ssize_t name(int fd, const void *data, size_t size, type offset) { \
    REAL(ssize_t, name, int, const void *, size_t, type); \
    return hit_descriptor("pwrite", fd) == 1 ? -1 : real(fd, data, size, offset); }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t writev(int fd, const struct iovec *parts, int count) {
  REAL(ssize_t, writev, int, const struct iovec *, int);
  return hit_descriptor("writev", fd) == 1 ? -1 : real(fd, parts, count);
}

#define PWRITEV(name, type) \
  ssize_t name(int fd, const struct iovec *parts, int count, type offset) { \
    REAL(ssize_t, name, int, const struct iovec *, int, type); \
    return hit_descriptor("pwritev", fd) == 1 ? -1 : real(fd, parts, count, offset); }
PWRITEV(pwritev, off_t)
PWRITEV(pwritev64, off64_t)

#define SENDFILE(name, type) \
  ssize_t name(int out, int in, type *offset, size_t size) { \
    REAL(ssize_t, name, int, int, type *, size_t); \
    return hit_descriptor("sendfile", out) == 1 ? -1 : real(out, in, offset, size); }
SENDFILE(sendfile, off_t)
SENDFILE(sendfile64, off64_t)

ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t size, unsigned flags) {
  REAL(ssize_t, copy_file_range, int, off64_t *, int, off64_t *, size_t, unsigned);
  return hit_descriptor("copy_file_range", out) == 1 ? -1 : real(in, from, out, to, size, flags);
}

#define ON_DESCRIPTOR(name) \
  int name(int fd) { \
    REAL(int, name, int); \
    return hit_descriptor(#name, fd) == 1 ? -1 : real(fd); }
ON_DESCRIPTOR(fsync)
ON_DESCRIPTOR(fdatasync)

/* a failed close has closed the descriptor, as on a network file system */
int close(int fd) {
  REAL(int, close, int);
  if (folder[0]) {
    int before = errno, flags = fcntl(fd, F_GETFL);
    errno = before;
    if (flags >= 0 && (flags & O_ACCMODE) != O_RDONLY && hit_descriptor("close", fd) == 1) {
      real(fd);
      errno = code;
      return -1;
    }
  }
  return real(fd);
}

#define CUT(name, type) \
  int name(int fd, type size) { \
    REAL(int, name, int, type); \
    return hit_descriptor("ftruncate", fd) == 1 ? -1 : real(fd, size); }
CUT(ftruncate, off_t)
CUT(ftruncate64, off64_t)

#define RESERVE(name, type) \
  int name(int fd, type from, type size) { \
    REAL(int, name, int, type, type); \
    return hit_descriptor("posix_fallocate", fd) == 1 ? code : real(fd, from, size); }
RESERVE(posix_fallocate, off_t)
RESERVE(posix_fallocate64, off64_t)

int truncate(const char *path, off_t size) {
  REAL(int, truncate, const char *, off_t);
  return hit_name("truncate", AT_FDCWD, path) == 1 ? -1 : real(path, size);
}

#define ON_NAME(name) \
  int name(const char *path) { \
    REAL(int, name, const char *); \
    return hit_name(#name, AT_FDCWD, path) == 1 ? -1 : real(path); }
ON_NAME(unlink)
ON_NAME(rmdir)
ON_NAME(remove)

int unlinkat(int dir, const char *path, int flags) {
  REAL(int, unlinkat, int, const char *, int);
  return hit_name("unlink", dir, path) == 1 ? -1 : real(dir, path, flags);
}

int mkdir(const char *path, mode_t bits) {
  REAL(int, mkdir, const char *, mode_t);
  return hit_name("mkdir", AT_FDCWD, path) == 1 ? -1 : real(path, bits);
}

int mkdirat(int dir, const char *path, mode_t bits) {
  REAL(int, mkdirat, int, const char *, mode_t);
  return hit_name("mkdir", dir, path) == 1 ? -1 : real(dir, path, bits);
}

int rename(const char *from, const char *to) {
  REAL(int, rename, const char *, const char *);
  return hit_name("rename", AT_FDCWD, to) == 1 ? -1 : real(from, to);
}

int renameat(int from_dir, const char *from, int to_dir, const char *to) {
  REAL(int, renameat, int, const char *, int, const char *);
  return hit_name("rename", to_dir, to) == 1 ? -1 : real(from_dir, from, to_dir, to);
}

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
  REAL(int, renameat2, int, const char *, int, const char *, unsigned);
  return hit_name("renameat2", to_dir, to) == 1 ? -1 : real(from_dir, from, to_dir, to, flags);
}

int link(const char *from, const char *to) {
  REAL(int, link, const char *, const char *);
  return hit_name("link", AT_FDCWD, to) == 1 ? -1 : real(from, to);
}

int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags) {
  REAL(int, linkat, int, const char *, int, const char *, int);
  return hit_name("link", to_dir, to) == 1 ? -1 : real(from_dir, from, to_dir, to, flags);
}

int symlink(const char *from, const char *to) {
  REAL(int, symlink, const char *, const char *);
  return hit_name("symlink", AT_FDCWD, to) == 1 ? -1 : real(from, to);
}
