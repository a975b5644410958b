// The batch of an elastic job: one number of sequences a step that many widths divide, so that the
// job may run at any of them with the same curve. This is the arithmetic of the "elasticity" block
// of DeepSpeed's JSON, versions 0.1 and 0.2, as of DeepSpeed 0.19.6 (which 0.19.8 no longer has).
//
//   0.1   Bases are the micro-batches and their least common multiple. Each is multiplied by the
//         largest highly composite number that keeps it within the limit (the largest one of the
//         list, beyond that); the product that the most widths divide wins.
//   0.2   The same for nodes instead of ranks. A width that is not among the result's gets a batch
//         of its own, which no other width has.
//
// Pure.

#ifndef DSRUN_COMMON_CONFIG_ELASTIC_BATCH_H_
#define DSRUN_COMMON_CONFIG_ELASTIC_BATCH_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace dsrun {

struct ElasticRequest {
  bool by_node = true;                             // version 0.2
  int64_t max_batch = 2000;                        // max_train_batch_size, sequences
  std::vector<int64_t> micro_batches = {2, 4, 6};  // micro_batch_sizes
  int64_t min_ranks = 1;                           // min_gpus
  int64_t max_ranks = 10000;                       // max_gpus
  bool prefer_larger = true;                       // prefer_larger_batch
  int64_t ranks_per_node = 1;                      // num_gpus_per_node
  int64_t model_parallel = 1;                      // model_parallel_size
  int64_t world_size = 0;                          // ranks; 0: not known (0.1 alone)
};

struct ElasticBatch {
  int64_t global_batch = 0;
  std::vector<int64_t> widths;  // data-parallel, ascending, that divide it
  int64_t micro_batch = 0;      // at world_size; 0: that is not known
};

// Errors, all INVALID_ARGUMENT, with the key that is wrong, what was expected and what it is: a
// number below 1, or one beyond 2^31; micro_batch_sizes empty, or one above max_train_batch_size;
// num_gpus_per_node no multiple of model_parallel_size; model_parallel_size above 1 with 0.1; no
// width between min_gpus and max_gpus divides any batch; world_size no such width (DeepSpeed's
// sentence, with the list).
absl::StatusOr<ElasticBatch> ResolveElasticBatch(const ElasticRequest& request);

}  // namespace dsrun

#endif  // DSRUN_COMMON_CONFIG_ELASTIC_BATCH_H_
