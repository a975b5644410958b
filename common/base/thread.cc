#include "common/base/thread.h"

#include <unistd.h>

#include <cerrno>
#include <exception>
#include <string>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/nonblocking_output.h"

namespace dsrun {
namespace {

[[noreturn]] void End(const std::string& why) {
  const std::string line = absl::StrCat(why, "\n");
  WriteLastWords(STDERR_FILENO, line.data(), line.size());
  _exit(kExitLimit);
}

std::string WordsOf(const std::exception& error) {
  const auto* system = dynamic_cast<const std::system_error*>(&error);
  return absl::StrCat(error.what(),
                      system == nullptr ? "" : BecauseOfLimit(system->code().value()));
}

}  // namespace

absl::StatusOr<std::thread> StartThread(const char* name, std::function<void()> body) {
  try {
    return std::thread([name, body = std::move(body)] {
      try {
        body();
      } catch (const std::exception& error) {
        End(absl::StrCat("ended by an exception in the thread of ", name, ": ", WordsOf(error)));
      }
    });
  } catch (const std::system_error& error) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot start a thread for ", name, ": ", WordsOf(error)));
  }
}

std::thread StartThreadOrEnd(const char* name, std::function<void()> body) {
  absl::StatusOr<std::thread> thread = StartThread(name, std::move(body));
  if (!thread.ok()) End(std::string(thread.status().message()));
  return *std::move(thread);
}

}  // namespace dsrun
