// Durations as people type them: "3s", "500ms", "1m30s", or plain seconds: "3", "0.5". One reading
// for the flags of every program. Pure.

#ifndef DSRUN_COMMON_BASE_TIME_TEXT_H_
#define DSRUN_COMMON_BASE_TIME_TEXT_H_

#include <optional>
#include <string>

#include "absl/time/time.h"

namespace dsrun {

// Nothing: no duration, or one that never ends.
std::optional<absl::Duration> ParseTime(const std::string& text);

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_TIME_TEXT_H_
