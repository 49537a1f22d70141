/* A disk that is full while the file of FULL_DISK_FLAG exists: preloaded into a server, it lets relation files and temporary files grow no
   more (ENOSPC), as a file system without room does. What is overwritten in place, the log and the server's own small files go on. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static int full(int fd, off_t end)
{
    static const char *flag;
    char name[64], path[512];
    struct stat s;
    ssize_t n;
    if (!flag && !(flag = getenv("FULL_DISK_FLAG"))) return 0;
    if (access(flag, F_OK) != 0 || fstat(fd, &s) != 0 || !S_ISREG(s.st_mode) || end <= s.st_size) return 0;
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    n = readlink(name, path, sizeof path - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    if (!strstr(path, "/base/")) return 0;
    errno = ENOSPC;
    return 1;
}

#define REAL(result, name, types)                                \
    static result(*real) types;                                  \
    if (!real) real = (result(*) types)dlsym(RTLD_NEXT, #name)

ssize_t pwrite64(int fd, const void *data, size_t n, off_t at)
{
    REAL(ssize_t, pwrite64, (int, const void *, size_t, off_t));
    return full(fd, at + (off_t)n) ? -1 : real(fd, data, n, at);
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t at)
{
    REAL(ssize_t, pwrite, (int, const void *, size_t, off_t));
    return full(fd, at + (off_t)n) ? -1 : real(fd, data, n, at);
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t at)
{
    off_t end = at;
    REAL(ssize_t, pwritev64, (int, const struct iovec *, int, off_t));
    for (int i = 0; i < count; ++i) end += (off_t)parts[i].iov_len;
    return full(fd, end) ? -1 : real(fd, parts, count, at);
}
int posix_fallocate64(int fd, off_t at, off_t n)
{
    REAL(int, posix_fallocate64, (int, off_t, off_t));
    return full(fd, at + n) ? ENOSPC : real(fd, at, n);
}
int posix_fallocate(int fd, off_t at, off_t n)
{
    REAL(int, posix_fallocate, (int, off_t, off_t));
    return full(fd, at + n) ? ENOSPC : real(fd, at, n);
}
