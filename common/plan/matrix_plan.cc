#include "common/plan/matrix_plan.h"

namespace dsrun {
namespace {

constexpr int64_t kFloatBytes = 4;

// Arrays in the scratch begin on 64 bytes.
int64_t Aligned(int64_t elements) { return (elements + 15) / 16 * 16; }

}  // namespace

int64_t NewtonSchulzScratch(MatrixShape shape) {
  return Aligned(shape.size()) + 4 * Aligned(shape.smaller() * shape.smaller());
}

double NewtonSchulzFlops(NsMethod method, MatrixShape shape) {
  const auto n = static_cast<double>(shape.smaller());
  const auto m = static_cast<double>(shape.larger());
  // Standard: each step two products with the matrix and one of square ones. Gram: four with the
  // matrix in all (newton_schulz.cc), and fourteen of square ones.
  if (method == NsMethod::kGram && m > n) return 8 * n * n * m + 28 * n * n * n;
  return kNewtonSchulzSteps * (4 * n * n * m + 2 * n * n * n);
}

int64_t MatrixPlan::MatrixElements(int64_t rank) const {
  int64_t most = 0;
  for (const Matrix& matrix : matrices) {
    if (matrix.rank == rank) most = std::max(most, matrix.padded.size());
  }
  return most;
}

int64_t MatrixPlan::ScratchElements(int64_t rank) const {
  int64_t most = 0;
  for (const Matrix& matrix : matrices) {
    if (matrix.rank == rank) most = std::max(most, NewtonSchulzScratch(matrix.shape));
  }
  return most;
}

double MatrixPlan::FlopsOfStep(NsMethod method) const {
  std::vector<double> of_round(static_cast<size_t>(rounds));
  for (const Matrix& matrix : matrices) {
    double& most = of_round[static_cast<size_t>(matrix.round)];
    most = std::max(most, NewtonSchulzFlops(method, matrix.shape));
  }
  double flops = 0;
  for (const double most : of_round) flops += most;
  return flops;
}

MatrixPlan PlanMatrices(const FlatLayout& layout, int64_t width) {
  MatrixPlan plan;
  for (size_t tensor = 0; tensor < layout.trainable_count(); ++tensor) {
    const FlatLayout::Entry& entry = layout.entries()[tensor];
    if (!entry.tensor.hidden_matrix) continue;
    plan.matrices.push_back({.tensor = tensor,
                             .shape = {entry.tensor.shape[0], entry.tensor.shape[1]},
                             .padded = entry.padded()});
  }
  std::stable_sort(plan.matrices.begin(), plan.matrices.end(),
                   [](const MatrixPlan::Matrix& a, const MatrixPlan::Matrix& b) {
                     return a.shape.size() > b.shape.size();
                   });
  for (size_t i = 0; i < plan.matrices.size(); ++i) {
    plan.matrices[i].round = static_cast<int64_t>(i) / width;
    plan.matrices[i].rank = static_cast<int64_t>(i) % width;
    plan.rounds = plan.matrices[i].round + 1;
  }
  return plan;
}

int64_t MatrixBytes(const MatrixPlan& plan, const FlatLayout& layout, const ShardPlan& shards,
                    int64_t rank, bool everywhere) {
  int64_t elements = 0;
  for (const MatrixPlan::Matrix& matrix : plan.matrices) {
    const auto owned = [&](Range of) {
      int64_t mine = 0;
      for (const Range& part : shards.Owned(rank, of)) mine += part.size();
      return mine;
    };
    // What comes back has no padding.
    const Range flat = layout.entries()[matrix.tensor].flat();
    if (matrix.rank != rank) {
      if (!everywhere) elements += owned(matrix.padded);
    } else if (everywhere) {
      elements += flat.size() * (shards.width() - 1);
    } else {
      elements += flat.size() - owned(flat);
    }
  }
  return kFloatBytes * elements;
}

}  // namespace dsrun
