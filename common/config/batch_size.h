// DeepSpeed's batch arithmetic: train_batch_size = micro_batch * gradient_acc_step * world_size.
// It runs once, at job start. Global batch and micro-batch then never change; when the width
// changes, ranks take over micro-batches (docs/numerics.md). Pure.

#ifndef DSRUN_COMMON_CONFIG_BATCH_SIZE_H_
#define DSRUN_COMMON_CONFIG_BATCH_SIZE_H_

#include <cstdint>
#include <optional>

#include "common/config/source_text.h"

namespace dsrun {

struct BatchRequest {
  std::optional<int64_t> global_batch = {};  // sequences a step
  std::optional<int64_t> micro_batch = {};   // sequences
  std::optional<int64_t> accumulation = {};  // micro-batches a rank and step
  int64_t world_size = 1;
  int64_t default_global_batch = 1;  // the preset's
  int64_t default_micro_batch = 1;
};

struct BatchSizes {
  int64_t global_batch = 0;
  int64_t micro_batch = 0;
  int64_t micro_batches() const { return global_batch / micro_batch; }
};

// What is given is kept, what is not is derived; where two answers are possible the preset's
// numbers decide. A global batch that is a whole number of micro-batches is enough: the ranks'
// shares may be uneven, unless `accumulation` is given. Contradictions go to `findings` with the
// nearest numbers that fit; nothing is returned then.
std::optional<BatchSizes> ResolveBatch(const BatchRequest& request, Findings& findings);

}  // namespace dsrun

#endif  // DSRUN_COMMON_CONFIG_BATCH_SIZE_H_
