/* Make system calls of a process fail, or kill it there: a library for LD_PRELOAD.
 *
 * FAULT_FOLDER   calls on paths below this folder count; the others pass
 * FAULT_LOG      append one line "CALL PATH" per counted call to this file
 * FAULT_CALL     the call to act on: write, fsync, rename, unlink, mkdir or open (for writing)
 * FAULT_PLACE    and the path, after numbers that differ from run to run were removed (see place_of)
 * FAULT_NTH      which of these calls, from 1
 * FAULT_ERRNO    the error to return; 0: kill the process
 * FAULT_STICKY   also act on all calls after it
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_int count;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* Digits become one '#'; the process id and the random part of a temporary name become '~'. */
static void place_of(const char *path, char *place) {
  size_t n = 0;
  const char *p = path;
  while (*p && n < PATH_MAX - 1) {
    if (*p == '-' && (strspn(p + 1, "0123456789") > 0)) {
      const char *after = p + 1 + strspn(p + 1, "0123456789");
      if (*after == '-' && strspn(after + 1, "0123456789abcdef") >= 8) {
        p = after + 9;
        place[n++] = '~';
        continue;
      }
    }
    if (!strncmp(p, "/.tmp", 5) && strlen(p) == 11) {  /* safetensors' */
      memcpy(place + n, "/.tmp~", 6);
      n += 6;
      break;
    }
    if (*p >= '0' && *p <= '9') {
      if (n == 0 || place[n - 1] != '#') place[n++] = '#';
      p++;
      continue;
    }
    place[n++] = *p++;
  }
  place[n] = 0;
}

/* Return whether the call must fail; errno is set. */
static int fault(const char *call, const char *path) {
  const char *folder = getenv("FAULT_FOLDER");
  if (!folder || !path) return 0;
  char absolute[PATH_MAX], place[PATH_MAX];
  if (path[0] != '/') {
    char here[PATH_MAX];
    if (!getcwd(here, sizeof here) || snprintf(absolute, sizeof absolute, "%s/%s", here, path) >= PATH_MAX) return 0;
  } else {
    snprintf(absolute, sizeof absolute, "%s", path);
  }
  size_t length = strlen(folder);
  if (strncmp(absolute, folder, length)) return 0;
  place_of(absolute + length, place);
  const char *log = getenv("FAULT_LOG");
  if (log) {
    int fd = REAL(open)(log, O_WRONLY | O_CREAT | O_APPEND, 0666);
    char line[PATH_MAX + 16];
    int n = snprintf(line, sizeof line, "%s %s\n", call, place);
    if (fd >= 0 && REAL(write)(fd, line, n) < 0) abort();
    if (fd >= 0) close(fd);
  }
  const char *wanted = getenv("FAULT_CALL"), *where = getenv("FAULT_PLACE"), *nth = getenv("FAULT_NTH");
  if (!wanted || strcmp(wanted, call) || !where || strcmp(where, place) || !nth) return 0;
  int n = atomic_fetch_add(&count, 1) + 1;
  if (n != atoi(nth) && !(getenv("FAULT_STICKY") && n > atoi(nth))) return 0;
  const char *code = getenv("FAULT_ERRNO");
  if (!code || !atoi(code)) kill(getpid(), SIGKILL);
  errno = atoi(code);
  return 1;
}

static int fault_fd(const char *call, int fd) {
  char link[64], path[PATH_MAX];
  if (!getenv("FAULT_FOLDER")) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, sizeof path - 1);
  if (n <= 0) return 0;
  path[n] = 0;
  return fault(call, path);
}

static int fault_at(const char *call, int folder, const char *path) {
  char link[64], base[PATH_MAX], whole[2 * PATH_MAX];
  if (!getenv("FAULT_FOLDER")) return 0;
  if (path[0] == '/' || folder == AT_FDCWD) return fault(call, path);
  snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
  ssize_t n = readlink(link, base, sizeof base - 1);
  if (n <= 0) return 0;
  base[n] = 0;
  snprintf(whole, sizeof whole, "%s/%s", base, path);
  return fault(call, whole);
}

ssize_t write(int fd, const void *data, size_t n) { return fault_fd("write", fd) ? -1 : REAL(write)(fd, data, n); }
ssize_t writev(int fd, const struct iovec *v, int n) { return fault_fd("write", fd) ? -1 : REAL(writev)(fd, v, n); }
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) {
  return fault_fd("write", fd) ? -1 : REAL(pwrite64)(fd, data, n, at);
}
int fsync(int fd) { return fault_fd("fsync", fd) ? -1 : REAL(fsync)(fd); }
int fdatasync(int fd) { return fault_fd("fsync", fd) ? -1 : REAL(fdatasync)(fd); }
int rename(const char *a, const char *b) { return fault("rename", b) ? -1 : REAL(rename)(a, b); }
int renameat(int x, const char *a, int y, const char *b) {
  return fault_at("rename", y, b) ? -1 : REAL(renameat)(x, a, y, b);
}
int unlink(const char *path) { return fault("unlink", path) ? -1 : REAL(unlink)(path); }
int unlinkat(int folder, const char *path, int flags) {
  return fault_at("unlink", folder, path) ? -1 : REAL(unlinkat)(folder, path, flags);
}
int rmdir(const char *path) { return fault("unlink", path) ? -1 : REAL(rmdir)(path); }
int mkdir(const char *path, mode_t mode) { return fault("mkdir", path) ? -1 : REAL(mkdir)(path, mode); }

static int for_writing(int flags) { return (flags & O_ACCMODE) != O_RDONLY; }

int open(const char *path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  return for_writing(flags) && fault("open", path) ? -1 : REAL(open)(path, flags, mode);
}
int open64(const char *path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  return for_writing(flags) && fault("open", path) ? -1 : REAL(open64)(path, flags, mode);
}
int openat64(int folder, const char *path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  return for_writing(flags) && fault_at("open", folder, path) ? -1 : REAL(openat64)(folder, path, flags, mode);
}
