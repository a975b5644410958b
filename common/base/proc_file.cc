#include "common/base/proc_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

namespace dsrun {

bool MeansUnsure(int error) { return error == EMFILE || error == ENFILE || error == ENOMEM; }

std::string ReadProcFile(const std::string& path, bool* unsure) {
  std::string content;
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    if (unsure != nullptr && MeansUnsure(errno)) *unsure = true;
    return content;
  }
  char buffer[4096];
  ssize_t got = 0;
  while ((got = read(fd, buffer, sizeof(buffer))) > 0) content.append(buffer, got);
  close(fd);
  return content;
}

}  // namespace dsrun
