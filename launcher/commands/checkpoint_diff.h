// dsrun checkpoint diff A B: which tensors of two checkpoints differ, and by how much; counters,
// settings and numerics fingerprint too. Both are read in parts of a megabyte, never whole.

#ifndef DSRUN_LAUNCHER_COMMANDS_CHECKPOINT_DIFF_H_
#define DSRUN_LAUNCHER_COMMANDS_CHECKPOINT_DIFF_H_

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/differences.h"
#include "common/format/checkpoint_reader.h"

namespace dsrun::launcher {

// A tensor that is not the same in both, bit for bit.
struct TensorDifference {
  enum class Kind { kValues, kShapes, kOnlyInA, kOnlyInB };
  std::string name;
  Kind kind = Kind::kValues;
  std::vector<int64_t> shape_a;  // empty where it is missing
  std::vector<int64_t> shape_b;
  // Of kValues. Bits are compared: 0 and -0 differ, by nothing.
  int64_t elements = 0;
  int64_t differing = 0;
  int64_t not_finite = 0;  // of the differing: infinite or not a number on one side or both; not
                           // counted in the two greatest differences
  double greatest_absolute = 0;
  double greatest_relative = 0;  // |a - b| / max(|a|, |b|)
  int64_t first = 0;             // index in row-major order
  double first_a = 0;
  double first_b = 0;
  // Of kShapes, which are shapes or types:
  ElementType type_a = ElementType::kF32;
  ElementType type_b = ElementType::kF32;
};

struct CheckpointDiff {
  std::vector<Difference> facts;          // step, counters, model, batch, fingerprint
  std::vector<TensorDifference> tensors;  // in name order
  int64_t same_tensors = 0;
  bool empty() const { return facts.empty() && tensors.empty(); }
};

// `terminal`: for progress; nullptr: none. Errors: those of Checkpoint::ReadRange: nothing can be
// said of a checkpoint that is damaged or cannot be read.
absl::StatusOr<CheckpointDiff> DiffCheckpoints(Checkpoint& a, Checkpoint& b,
                                               std::ostream* terminal);

// Prints it; returns the exit code (checkpoint_place.h).
int DiffCommand(Checkpoint& a, Checkpoint& b, bool json, std::ostream* terminal, std::ostream& out,
                std::ostream& err);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_CHECKPOINT_DIFF_H_
