// MatrixUpdates: the second part of a step of Muon (Jordan et al., 2024). What the optimizer has
// left in place of the gradient of a hidden matrix is orthogonalised, whole, by one rank, as the
// plan says (common/plan/matrix_plan.h): its parts travel from their owners to that rank, and the
// result back. Rounds follow one another, each with a matrix a rank, one exchange there and one
// back.
//
// Under ZeRO-0, where all ranks update all elements, nothing travels there, since everybody has the
// matrix; the work is shared all the same, and the result goes to all. It is most of a step's
// arithmetic where a rank has few tokens: for a matrix of n by m, n the smaller side, from 4 n to
// 18 n multiply-adds for each element, beside three for each token.
//
// The matrix is divided by its Frobenius norm plus 1e-7: squares of leaves in double precision,
// added exactly, so that no bit depends on the layout (docs/numerics.md).
//
// Threads: the communicator's owner, which is the kernels' caller.

#ifndef DSRUN_WORKER_PARALLEL_MATRIX_UPDATES_H_
#define DSRUN_WORKER_PARALLEL_MATRIX_UPDATES_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/range.h"
#include "common/plan/matrix_plan.h"
#include "common/plan/shard_plan.h"
#include "worker/comm/core/communicator.h"
#include "worker/device/kernels.h"
#include "worker/parallel/leaf_sums.h"

namespace dsrun::worker {

class MatrixUpdates {
 public:
  // All must outlive this.
  struct Setup {
    Communicator* communicator;
    Kernels* kernels;
    const FlatLayout* layout;
    const ShardPlan* shards;
    NsMethod method;
    bool everywhere;  // ZeRO-0: every rank has, and gets, all elements
    // The rank's own share, one range after the other; those of the others follow, by rank, where
    // it has all (share_gather.h).
    float* updates;
    float* matrix;   // (MatrixPlan::MatrixElements)
    float* scratch;  // (MatrixPlan::ScratchElements)
    LeafSums squares;
    // Asked before every matrix; an error ends the step.
    std::function<absl::Status()> check;
  };

  explicit MatrixUpdates(Setup setup);

  // All matrices' updates, in place. Every rank calls it. Errors: the communicator's first one, the
  // device's, check's.
  absl::Status Orthogonalise();

 private:
  // What one rank owns of a matrix, padding included.
  struct Part {
    int owner;
    Range of_matrix;  // elements
    int64_t offset;   // in `updates`; -1: this rank does not have it
  };
  struct Matrix {
    MatrixPlan::Matrix planned;
    std::vector<Part> parts;  // by owner, ascending
  };
  void AddParts(Matrix& matrix) const;
  absl::Status Round(size_t begin, size_t end);
  // Both for the matrices [begin, end), those of a round, of which `mine` (or null) is this rank's.
  absl::Status Gather(size_t begin, size_t end, const Matrix* mine);
  absl::Status Return(size_t begin, size_t end, const Matrix* mine, float* result);
  absl::StatusOr<float*> Compute(const Matrix& matrix);
  absl::Status Exchange(float* matrix, int64_t elements, const std::string& what);

  const Setup setup_;
  const int rank_;
  const int size_;
  int64_t update_elements_ = 0;
  std::vector<int64_t> shares_;  // by rank, where its share begins in `updates`; -1: not there
  std::vector<Matrix> matrices_;
  // Of one exchange; here, so that no step allocates them.
  std::vector<SendOp> sends_;
  std::vector<RecvOp> receives_;
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_PARALLEL_MATRIX_UPDATES_H_
