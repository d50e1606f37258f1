/* Preloaded into an agent and its Git children: sees every operation that changes what a disk holds below one folder.
 *
 * What it does with one is said on the board, a file that is mapped by every process and by the harness:
 *   count    each operation gets the next number, over all threads and processes
 *   kill     at number kill_at, the agent is killed (SIGKILL), and the process that was about to do it as well
 *   torn     likewise, after the first half of the write
 *   journal  each operation is written down with its data, in the order in which it was done
 *   no sync  fsync and fdatasync do nothing: what durability costs is the difference
 *   full     of the operations that need room, those from full_from up to full_until find none (ENOSPC) and are not done
 *
 * The board lies beside this library, as its Git children get no environment but LD_PRELOAD. System calls are made
 * directly: nothing is looked up, nothing recurses. tests/faults/board.py has the same layout in Python.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum operation { CREATE, TRUNCATE, WRITE, FSYNC, RENAME, LINK, SYMLINK, UNLINK, MKDIR, RMDIR, CHMOD, OPERATIONS };
enum { KILL = 1, TORN = 2, JOURNAL = 4, NO_SYNC = 8, FULL = 16 };
enum { LONGEST = 4096 };

struct board {
  _Atomic uint64_t count;    /* operations so far */
  _Atomic uint64_t kill_at;  /* the number of the operation at which to kill; 0: none */
  _Atomic uint64_t killed;   /* the number of the operation at which it was done */
  _Atomic uint64_t bytes;    /* written so far */
  _Atomic uint64_t done[15]; /* operations so far, by kind */
  _Atomic uint64_t sync_ns;  /* how long fsync and fdatasync took so far */
  _Atomic int32_t agent;     /* the first process that came after the harness wrote 0 */
  _Atomic uint32_t mode;
  _Atomic int32_t holder;    /* the process that writes the journal now */
  uint32_t killed_kind;
  char killed_path[1024];
  char root[1024];           /* the folder, without a slash at its end */
  char journal[1024];
  _Atomic uint64_t needing;    /* operations so far that need room */
  _Atomic uint64_t full_from;  /* the number of the first of them that finds none */
  _Atomic uint64_t full_until; /* the number of the next that finds some again */
  _Atomic uint64_t refused;    /* how many found none */
  uint32_t refused_kind;       /* what the first of those was */
  char refused_path[1024];
};

struct entry { /* what the journal has of an operation; both paths and the data follow */
  uint32_t kind, pid;
  uint64_t inode, offset, size;
  uint32_t mode;
  uint16_t path, other;
} __attribute__((packed));

static struct board *board;
static size_t root_length;

__attribute__((constructor)) static void found(void) {
  Dl_info self;
  char path[LONGEST];
  if (!dladdr((void *)found, &self) || strlen(self.dli_fname) > sizeof path - 8) return;
  strcpy(path, self.dli_fname);
  char *slash = strrchr(path, '/');
  if (slash == NULL) return;
  strcpy(slash, "/board");
  int handle = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
  if (handle < 0) return;
  void *mapped = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED, handle, 0);
  syscall(SYS_close, handle);
  if (mapped == MAP_FAILED) return;
  struct board *there = mapped;
  root_length = strlen(there->root);
  int32_t nobody = 0;
  atomic_compare_exchange_strong(&there->agent, &nobody, getpid());
  board = there;
}

/* --- which operations are ours -------------------------------------------------------------------------------- */

static int below(const char *path) {
  if (strncmp(path, board->root, root_length) != 0 || (path[root_length] != '/' && path[root_length] != 0)) return 0;
  size_t length = strlen(path);
  /* SQLite's shared memory is nothing that outlives a process; room it takes all the same. */
  return length < 4 || strcmp(path + length - 4, "-shm") != 0 || (atomic_load(&board->mode) & FULL);
}

static int of_handle(int handle, char *path) {
  char link[64];
  if (board == NULL || handle < 0) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
  ssize_t length = (ssize_t)syscall(SYS_readlinkat, AT_FDCWD, link, path, LONGEST - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return below(path);
}

static int of_path(int folder, const char *name, char *path) {
  if (board == NULL || name == NULL) return 0;
  if (name[0] == '/') {
    if (strlen(name) >= LONGEST) return 0;
    strcpy(path, name);
  } else {
    char link[64], before[LONGEST];
    if (folder == AT_FDCWD) strcpy(link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    ssize_t length = (ssize_t)syscall(SYS_readlinkat, AT_FDCWD, link, before, sizeof before - 1);
    if (length < 0 || (size_t)length + strlen(name) + 2 > LONGEST) return 0;
    before[length] = 0;
    snprintf(path, LONGEST, "%.2047s/%.2047s", before, name);
  }
  size_t length = strlen(path);
  while (length > 1 && path[length - 1] == '/') path[--length] = 0;
  return below(path);
}

static int is_file(int handle, struct stat *status) {
  return syscall(SYS_fstat, handle, status) == 0 && S_ISREG(status->st_mode);
}

static uint64_t inode_of(const char *path) {
  struct stat status;
  return fstatat(AT_FDCWD, path, &status, AT_SYMLINK_NOFOLLOW) == 0 ? status.st_ino : 0;
}

/* --- what is done with one ------------------------------------------------------------------------------------ */

static void end(void) {
  int agent = atomic_load(&board->agent);
  if (agent > 0 && agent != getpid()) syscall(SYS_kill, agent, SIGKILL);
  syscall(SYS_kill, getpid(), SIGKILL);
  for (;;) pause();
}

/* Count it. Returns whether the process is to be killed after the first half of a write. */
static int begins(enum operation kind, const char *path) {
  if (atomic_load(&board->killed)) end(); /* the power is gone, for all of them */
  uint64_t number = atomic_fetch_add(&board->count, 1) + 1;
  atomic_fetch_add(&board->done[kind], 1);
  uint32_t mode = atomic_load(&board->mode);
  if (!(mode & KILL) || number != atomic_load(&board->kill_at)) return 0;
  board->killed_kind = kind;
  snprintf(board->killed_path, sizeof board->killed_path, "%.1023s", path);
  atomic_store(&board->killed, number);
  if ((mode & TORN) && kind == WRITE) return 1;
  end();
  return 0;
}

/* Count an operation that needs room. Returns whether there is none: then errno says so, and it is not to be done. */
static int lacks_room(enum operation kind, const char *path) {
  uint64_t number = atomic_fetch_add(&board->needing, 1) + 1;
  if (!(atomic_load(&board->mode) & FULL)) return 0;
  if (number < atomic_load(&board->full_from) || number >= atomic_load(&board->full_until)) return 0;
  if (atomic_fetch_add(&board->refused, 1) == 0) {
    board->refused_kind = kind;
    snprintf(board->refused_path, sizeof board->refused_path, "%.1023s", path);
  }
  errno = ENOSPC;
  return 1;
}

static int journals(void) { return (atomic_load(&board->mode) & JOURNAL) != 0; }

static void take_turn(void) {
  int32_t nobody = 0;
  while (!atomic_compare_exchange_weak(&board->holder, &nobody, (int32_t)syscall(SYS_gettid))) {
    if (nobody != 0 && syscall(SYS_kill, nobody, 0) < 0 && errno == ESRCH)
      atomic_compare_exchange_strong(&board->holder, &nobody, 0); /* it was killed while it wrote */
    nobody = 0;
    sched_yield();
  }
}

static void note(enum operation kind, uint64_t inode, const char *path, const char *other, uint64_t offset,
                 uint32_t mode, const struct iovec *data, int parts, uint64_t size) {
  struct entry entry = {kind, (uint32_t)getpid(), inode, offset, size, mode, (uint16_t)strlen(path),
                        (uint16_t)strlen(other)};
  int journal = (int)syscall(SYS_openat, AT_FDCWD, board->journal, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (journal < 0) return;
  struct iovec head[3] = {{&entry, sizeof entry}, {(void *)path, entry.path}, {(void *)other, entry.other}};
  syscall(SYS_writev, journal, head, 3);
  for (int part = 0; part < parts && size > 0; part++) {
    uint64_t length = data[part].iov_len < size ? data[part].iov_len : size;
    syscall(SYS_write, journal, data[part].iov_base, length);
    size -= length;
  }
  syscall(SYS_close, journal);
}

/* Do an operation on names, and write it down when it succeeded. */
#define DONE(kind, path, other, mode, call)                                                      \
  do {                                                                                           \
    begins(kind, path);                                                                          \
    int journaled_ = journals();                                                                 \
    if (journaled_) take_turn();                                                                 \
    uint64_t inode_ = journaled_ ? inode_of(path) : 0;                                           \
    long result_ = call;                                                                         \
    int error_ = errno;                                                                          \
    if (journaled_) {                                                                            \
      if (result_ >= 0) note(kind, inode_ ? inode_ : inode_of(path), path, other, 0, mode, NULL, 0, 0); \
      atomic_store(&board->holder, 0);                                                           \
    }                                                                                            \
    errno = error_;                                                                              \
    return (int)result_;                                                                         \
  } while (0)

/* --- files ---------------------------------------------------------------------------------------------------- */

static int opened(int folder, const char *name, int flags, mode_t mode) {
  char path[LONGEST];
  if ((flags & O_TMPFILE) == O_TMPFILE || !(flags & (O_CREAT | O_TRUNC)) || !of_path(folder, name, path))
    return (int)syscall(SYS_openat, folder, name, flags, mode);
  int there = syscall(SYS_faccessat, AT_FDCWD, path, F_OK) == 0;
  if (there ? !(flags & O_TRUNC) : !(flags & O_CREAT)) return (int)syscall(SYS_openat, folder, name, flags, mode);
  enum operation kind = there ? TRUNCATE : CREATE;
  if (kind == CREATE && lacks_room(kind, path)) return -1;
  begins(kind, path);
  int journaled = journals();
  if (journaled) take_turn();
  int handle = (int)syscall(SYS_openat, folder, name, flags, mode), error = errno;
  if (journaled) {
    struct stat status;
    if (handle >= 0 && is_file(handle, &status))
      note(kind, status.st_ino, path, "", 0, status.st_mode & 07777, NULL, 0, 0);
    atomic_store(&board->holder, 0);
  }
  errno = error;
  return handle;
}

#define MODE_OF(flags)                                            \
  mode_t mode = 0;                                                \
  if ((flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE) {    \
    va_list more;                                                 \
    va_start(more, flags);                                        \
    mode = va_arg(more, mode_t);                                  \
    va_end(more);                                                 \
  }

int open(const char *name, int flags, ...) { MODE_OF(flags) return opened(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE_OF(flags) return opened(AT_FDCWD, name, flags, mode); }
int openat(int folder, const char *name, int flags, ...) { MODE_OF(flags) return opened(folder, name, flags, mode); }
int openat64(int folder, const char *name, int flags, ...) { MODE_OF(flags) return opened(folder, name, flags, mode); }
int creat(const char *name, mode_t mode) { return opened(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *name, mode_t mode) { return creat(name, mode); }

static ssize_t put(int handle, const struct iovec *parts, int count, off_t offset) { /* offset < 0: where it stands */
  char path[LONGEST];
  struct stat status;
  if (board == NULL || !is_file(handle, &status) || !of_handle(handle, path)) {
    return offset < 0 ? syscall(SYS_writev, handle, parts, count) : syscall(SYS_pwritev, handle, parts, count, offset, 0);
  }
  if (lacks_room(WRITE, path)) return -1;
  if (begins(WRITE, path)) {
    size_t half = parts[0].iov_len / 2;
    if (offset < 0) syscall(SYS_write, handle, parts[0].iov_base, half);
    else syscall(SYS_pwrite64, handle, parts[0].iov_base, half, offset);
    end();
  }
  int journaled = journals();
  if (journaled) take_turn();
  off_t at = offset;
  if (offset < 0) {
    int appends = (int)syscall(SYS_fcntl, handle, F_GETFL) & O_APPEND;
    at = appends ? status.st_size : (off_t)syscall(SYS_lseek, handle, 0, SEEK_CUR);
  }
  ssize_t written = offset < 0 ? syscall(SYS_writev, handle, parts, count)
                               : syscall(SYS_pwritev, handle, parts, count, offset, 0);
  int error = errno;
  if (written > 0) atomic_fetch_add(&board->bytes, (uint64_t)written);
  if (journaled) {
    if (written > 0)
      note(WRITE, status.st_ino, path, "", (uint64_t)at, status.st_mode & 07777, parts, count, (uint64_t)written);
    atomic_store(&board->holder, 0);
  }
  errno = error;
  return written;
}

ssize_t write(int handle, const void *data, size_t size) {
  struct iovec one = {(void *)data, size};
  return put(handle, &one, 1, -1);
}
ssize_t pwrite(int handle, const void *data, size_t size, off_t offset) {
  struct iovec one = {(void *)data, size};
  return put(handle, &one, 1, offset);
}
ssize_t pwrite64(int handle, const void *data, size_t size, off_t offset) { return pwrite(handle, data, size, offset); }
ssize_t writev(int handle, const struct iovec *parts, int count) { return put(handle, parts, count, -1); }
ssize_t pwritev(int handle, const struct iovec *parts, int count, off_t offset) {
  return put(handle, parts, count, offset);
}
ssize_t pwritev64(int handle, const struct iovec *parts, int count, off_t offset) {
  return put(handle, parts, count, offset);
}

/* Copies in the kernel would not be seen: whoever asks for one is told to read and write. */
ssize_t sendfile(int to, int from, off_t *offset, size_t size) {
  char path[LONGEST];
  if (of_handle(to, path)) { errno = EINVAL; return -1; }
  return syscall(SYS_sendfile, to, from, offset, size);
}
ssize_t sendfile64(int to, int from, off_t *offset, size_t size) { return sendfile(to, from, offset, size); }
ssize_t copy_file_range(int from, off_t *read_at, int to, off_t *write_at, size_t size, unsigned flags) {
  char path[LONGEST];
  if (of_handle(to, path)) { errno = EXDEV; return -1; }
  return syscall(SYS_copy_file_range, from, read_at, to, write_at, size, flags);
}

int ftruncate(int handle, off_t size) {
  char path[LONGEST];
  struct stat status;
  if (board == NULL || !is_file(handle, &status) || !of_handle(handle, path))
    return (int)syscall(SYS_ftruncate, handle, size);
  if (size > status.st_size && lacks_room(TRUNCATE, path)) return -1;
  begins(TRUNCATE, path);
  int journaled = journals();
  if (journaled) take_turn();
  int result = (int)syscall(SYS_ftruncate, handle, size), error = errno;
  if (journaled) {
    if (result == 0) note(TRUNCATE, status.st_ino, path, "", (uint64_t)size, 0, NULL, 0, 0);
    atomic_store(&board->holder, 0);
  }
  errno = error;
  return result;
}
int ftruncate64(int handle, off_t size) { return ftruncate(handle, size); }

/* No operation of the journal: what it gives is room, which a power cut takes from nobody. */
int posix_fallocate(int handle, off_t offset, off_t size) {
  char path[LONGEST];
  if (of_handle(handle, path) && lacks_room(WRITE, path)) return ENOSPC;
  return syscall(SYS_fallocate, handle, 0, offset, size) == 0 ? 0 : errno;
}
int posix_fallocate64(int handle, off_t offset, off_t size) { return posix_fallocate(handle, offset, size); }

static int synced(int handle, long call) {
  char path[LONGEST];
  struct stat status;
  if (!of_handle(handle, path)) return (int)syscall(call, handle);
  if (lacks_room(FSYNC, path)) return -1;
  begins(FSYNC, path);
  int journaled = journals();
  if (journaled) take_turn();
  struct timespec before, after;
  clock_gettime(CLOCK_MONOTONIC, &before);
  int result = (atomic_load(&board->mode) & NO_SYNC) ? 0 : (int)syscall(call, handle), error = errno;
  clock_gettime(CLOCK_MONOTONIC, &after);
  int64_t took = (after.tv_sec - before.tv_sec) * 1000000000LL + (after.tv_nsec - before.tv_nsec);
  atomic_fetch_add(&board->sync_ns, (uint64_t)took);
  if (journaled) {
    if (result == 0 && syscall(SYS_fstat, handle, &status) == 0)
      note(FSYNC, status.st_ino, path, "", 0, 0, NULL, 0, 0);
    atomic_store(&board->holder, 0);
  }
  errno = error;
  return result;
}
int fsync(int handle) { return synced(handle, SYS_fsync); }
int fdatasync(int handle) { return synced(handle, SYS_fdatasync); }

int fchmod(int handle, mode_t mode) {
  char path[LONGEST];
  if (!of_handle(handle, path)) return (int)syscall(SYS_fchmod, handle, mode);
  DONE(CHMOD, path, "", mode, syscall(SYS_fchmod, handle, mode));
}

/* --- names ---------------------------------------------------------------------------------------------------- */

int renameat2(int from, const char *old, int to, const char *new, unsigned flags) {
  char path[LONGEST], other[LONGEST];
  int ours = of_path(from, old, path), also = of_path(to, new, other);
  if (!ours && !also) return (int)syscall(SYS_renameat2, from, old, to, new, flags);
  if (lacks_room(RENAME, other)) return -1;
  DONE(RENAME, path, other, flags, syscall(SYS_renameat2, from, old, to, new, flags));
}
int rename(const char *old, const char *new) { return renameat2(AT_FDCWD, old, AT_FDCWD, new, 0); }
int renameat(int from, const char *old, int to, const char *new) { return renameat2(from, old, to, new, 0); }

int linkat(int from, const char *old, int to, const char *new, int flags) {
  char path[LONGEST], other[LONGEST];
  if (!of_path(to, new, other) || !of_path(from, old, path))
    return (int)syscall(SYS_linkat, from, old, to, new, flags);
  if (lacks_room(LINK, other)) return -1;
  DONE(LINK, path, other, 0, syscall(SYS_linkat, from, old, to, new, flags));
}
int link(const char *old, const char *new) { return linkat(AT_FDCWD, old, AT_FDCWD, new, 0); }

int symlinkat(const char *target, int folder, const char *name) {
  char path[LONGEST];
  if (!of_path(folder, name, path)) return (int)syscall(SYS_symlinkat, target, folder, name);
  if (lacks_room(SYMLINK, path)) return -1;
  DONE(SYMLINK, path, target, 0, syscall(SYS_symlinkat, target, folder, name));
}
int symlink(const char *target, const char *name) { return symlinkat(target, AT_FDCWD, name); }

int unlinkat(int folder, const char *name, int flags) {
  char path[LONGEST];
  if (!of_path(folder, name, path)) return (int)syscall(SYS_unlinkat, folder, name, flags);
  enum operation kind = (flags & AT_REMOVEDIR) ? RMDIR : UNLINK;
  DONE(kind, path, "", 0, syscall(SYS_unlinkat, folder, name, flags));
}
int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

int mkdirat(int folder, const char *name, mode_t mode) {
  char path[LONGEST];
  if (!of_path(folder, name, path)) return (int)syscall(SYS_mkdirat, folder, name, mode);
  if (lacks_room(MKDIR, path)) return -1;
  DONE(MKDIR, path, "", mode, syscall(SYS_mkdirat, folder, name, mode));
}
int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }

int fchmodat(int folder, const char *name, mode_t mode, int flags) {
  char path[LONGEST];
  if (!of_path(folder, name, path)) return (int)syscall(SYS_fchmodat, folder, name, mode, flags);
  DONE(CHMOD, path, "", mode, syscall(SYS_fchmodat, folder, name, mode));
}
int chmod(const char *name, mode_t mode) { return fchmodat(AT_FDCWD, name, mode, 0); }
