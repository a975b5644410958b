// LogicalTensor: one named tensor of a model, whole, whatever the layout: what checkpoints and
// shard plans speak of. Pure.

#ifndef DSRUN_COMMON_MODEL_LOGICAL_TENSOR_H_
#define DSRUN_COMMON_MODEL_LOGICAL_TENSOR_H_

#include <cstdint>
#include <string>
#include <vector>

namespace dsrun {

// How a tensor starts.
enum class Init { kNormal, kZeros, kOnes };

struct LogicalTensor {
  std::string name;  // the family's, as Hugging Face writes it: "h.0.attn.c_attn.weight"
  std::vector<int64_t> shape;
  Init init = Init::kZeros;
  double stddev = 0;          // of Init::kNormal; its mean is 0
  bool weight_decay = false;  // matrices: yes; biases and norms: no
  bool trainable = true;      // false: frozen, a parameter without gradient and optimizer's state
  // Two dimensions, and no embedding or output head uses it: what Muon orthogonalises. Set by
  // PlanModel.
  bool hidden_matrix = false;

  int64_t size() const {  // elements
    int64_t product = 1;
    for (const int64_t extent : shape) product *= extent;
    return product;
  }
};

}  // namespace dsrun

#endif  // DSRUN_COMMON_MODEL_LOGICAL_TENSOR_H_
