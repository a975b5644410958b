// A status or a text as one string, so that ranks can gather it: "0:text" or "code:message".

#ifndef DSRUN_WORKER_ENGINE_PACKED_STATUS_H_
#define DSRUN_WORKER_ENGINE_PACKED_STATUS_H_

#include <cstdlib>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace dsrun::worker {

inline std::string Pack(const absl::StatusOr<std::string>& value) {
  return value.ok()
             ? absl::StrCat("0:", *value)
             : absl::StrCat(static_cast<int>(value.status().code()), ":", value.status().message());
}

inline absl::StatusOr<std::string> Unpack(const std::string& packed) {
  const size_t colon = packed.find(':');
  const int code = std::atoi(packed.substr(0, colon).c_str());
  const std::string text = packed.substr(colon + 1);
  if (code == 0) return text;
  return absl::Status(static_cast<absl::StatusCode>(code), text);
}

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_ENGINE_PACKED_STATUS_H_
