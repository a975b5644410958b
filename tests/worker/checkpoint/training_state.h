// A small training state whose every element is known, and saves of it at any width. For tests of
// checkpoints.

#ifndef DSRUN_TESTS_WORKER_CHECKPOINT_TRAINING_STATE_H_
#define DSRUN_TESTS_WORKER_CHECKPOINT_TRAINING_STATE_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/file_system.h"
#include "common/format/manifest.h"
#include "common/format/tensor_names.h"
#include "common/plan/optimizer_plan.h"
#include "common/plan/shard_plan.h"
#include "worker/checkpoint/checkpoint_loader.h"
#include "worker/checkpoint/checkpoint_writer.h"

namespace dsrun::worker {

// What AdamW keeps, as files name it.
inline constexpr std::string_view kExpAvgPrefix = "state/exp_avg/";
inline constexpr std::string_view kExpAvgSqPrefix = "state/exp_avg_sq/";

// All values depend on (tensor, element, step), on nothing else.
class TrainingState {
 public:
  TrainingState();
  explicit TrainingState(const ModelSpec& model);

  const FlatLayout& layout() const { return layout_; }
  const std::vector<float>& Arena(std::string_view prefix, Step step) const;  // padding zero
  ManifestFacts Facts(const std::string& job_id, Step step, Generation generation) const;
  LoadExpectation Expectation() const;

 private:
  ModelSpec model_;
  FlatLayout layout_;
  mutable std::map<std::pair<std::string, Step>, std::vector<float>> arenas_;  // made once
};

struct SaveOptions {
  std::string job_id = "job-a";
  Step step{100};
  Generation generation{1};
  uint64_t first_incarnation = 0x1000;
  int64_t width = 4;
  int64_t bucket_bytes = 20'000;
  bool listed = false;     // without a recipe of the layout
  bool has_begun = false;  // the folder is as it is: BeginJob was called, or must not be
};

// What dsrun does before a job begins: the folder is made, and marked as the job's. OK if it is.
absl::Status BeginJob(FileSystem& fs, const std::string& folder, const std::string& job_id);

// What a rank holds of the state, cut out of `memory`, which must outlive the result.
std::vector<Slice> SlicesOfRank(const TrainingState& state, const SaveOptions& options,
                                int64_t rank, std::vector<std::vector<float>>& memory);

// The shard of one rank.
absl::StatusOr<ShardRecord> SaveRank(FileSystem& fs, const std::string& folder,
                                     const TrainingState& state, const SaveOptions& options,
                                     int64_t rank);

// What all ranks do together. After a failure every rank removes what it wrote.
absl::StatusOr<std::string> Save(FileSystem& fs, const std::string& folder,
                                 const TrainingState& state, const SaveOptions& options);

}  // namespace dsrun::worker

#endif  // DSRUN_TESTS_WORKER_CHECKPOINT_TRAINING_STATE_H_
