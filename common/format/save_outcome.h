// How the ranks of a generation hear what became of a save: as an ExchangeTable
// (proto/worker.proto) that nobody has put into, made by the coordinator, of three values: the
// manifest's name, the error, and the error's absl::StatusCode in digits. The first or the second
// is empty. Pure.

#ifndef DSRUN_COMMON_FORMAT_SAVE_OUTCOME_H_
#define DSRUN_COMMON_FORMAT_SAVE_OUTCOME_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace dsrun {

// No rank puts under a name that begins so.
inline constexpr std::string_view kSaveOutcomePrefix = "save/";

// The table's name, for the save of `step` by its own generation.
inline std::string SaveOutcomeName(int64_t step) {
  return std::string(kSaveOutcomePrefix) + std::to_string(step);
}

inline constexpr int kSaveOutcomeManifest = 0;  // index of values
inline constexpr int kSaveOutcomeError = 1;
inline constexpr int kSaveOutcomeCode = 2;
inline constexpr size_t kSaveOutcomeValues = 3;

}  // namespace dsrun

#endif  // DSRUN_COMMON_FORMAT_SAVE_OUTCOME_H_
