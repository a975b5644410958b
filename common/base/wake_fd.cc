#include "common/base/wake_fd.h"

#include <sys/eventfd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/limits.h"

namespace dsrun {

absl::StatusOr<WakeFd> WakeFd::Create() {
  Descriptor fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (fd.get() >= 0) return WakeFd(std::move(fd));
  const int error = errno;
  return absl::ResourceExhaustedError(
      absl::StrCat("cannot make an event descriptor: ", strerror(error), BecauseOfLimit(error)));
}

WakeFd::WakeFd(Descriptor fd) : fd_(std::move(fd)) {}

void WakeFd::Wake() const { eventfd_write(fd_.get(), 1); }

bool WakeFd::Take() const {
  eventfd_t count = 0;
  return eventfd_read(fd_.get(), &count) == 0;
}

}  // namespace dsrun
