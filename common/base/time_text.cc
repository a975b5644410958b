#include "common/base/time_text.h"

#include <charconv>
#include <cmath>
#include <system_error>

namespace dsrun {

std::optional<absl::Duration> ParseTime(const std::string& text) {
  absl::Duration out;
  double seconds = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, seconds);
  if (error == std::errc() && stop == end) {
    out = std::isfinite(seconds) ? absl::Seconds(seconds) : absl::InfiniteDuration();
  } else if (!absl::ParseDuration(text, &out)) {
    return std::nullopt;
  }
  if (out == absl::InfiniteDuration() || out == -absl::InfiniteDuration()) return std::nullopt;
  return out;
}

}  // namespace dsrun
