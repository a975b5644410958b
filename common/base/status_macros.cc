#include "common/base/status_macros.h"

#include "absl/strings/str_cat.h"

namespace dsrun {

absl::Status Annotate(const absl::Status& status, const std::string& context) {
  if (status.ok() || context.empty()) return status;
  absl::Status annotated(status.code(), absl::StrCat(context, ": ", status.message()));
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
    annotated.SetPayload(url, payload);
  });
  return annotated;
}

}  // namespace dsrun
