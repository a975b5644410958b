#include "common/base/close_from.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace dsrun {
namespace {

// The kernel's own directory entry; the C library has no name for it.
struct DirectoryEntry {
  uint64_t number;
  int64_t offset;
  unsigned short size;
  unsigned char type;
  char name[];
};

// The number that a name in /proc/self/fd says; -1: none ("." and "..").
int NumberOf(const char* name) {
  int number = 0;
  for (; *name != '\0'; ++name) {
    if (*name < '0' || *name > '9') return -1;
    number = 10 * number + (*name - '0');
  }
  return number;
}

}  // namespace

// close_range is of Linux 5.9, and some containers refuse what they do not know. Then each one that
// /proc names is closed, again until a look finds none: names may be passed over while others go.
bool CloseFrom(int first) {
  if (syscall(SYS_close_range, static_cast<unsigned>(first), ~0u, 0u) == 0) return true;
  const int folder = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return false;
  alignas(DirectoryEntry) char buffer[4096];
  bool closed_some = true;
  while (closed_some) {
    closed_some = false;
    lseek(folder, 0, SEEK_SET);
    long got = 0;
    while ((got = syscall(SYS_getdents64, folder, buffer, sizeof(buffer))) > 0) {
      for (long at = 0; at < got;) {
        const auto* entry = reinterpret_cast<const DirectoryEntry*>(buffer + at);
        at += entry->size;
        const int fd = NumberOf(entry->name);
        if (fd < first || fd == folder) continue;
        closed_some |= close(fd) == 0;
      }
    }
    if (got < 0) break;
  }
  if (folder >= first) close(folder);
  return true;
}

}  // namespace dsrun
