// MatrixPlan: which rank orthogonalises which matrix of a step, under an optimizer whose update of
// a matrix needs it whole (Muon), with the memory, the bytes and the arithmetic of it. Pure.
//
// Matrices, the largest first, go to the ranks round robin (as Jordan et al., 2024, do it: like
// sizes at the same time). A round is one matrix for each rank: its parts travel from their owners
// to the rank, and the result back. So a rank needs memory for the largest of its matrices and no
// more, however many there are. Who computes changes no bit: a matrix is computed whole, by one.

#ifndef DSRUN_COMMON_PLAN_MATRIX_PLAN_H_
#define DSRUN_COMMON_PLAN_MATRIX_PLAN_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/base/range.h"
#include "common/plan/optimizer_plan.h"
#include "common/plan/shard_plan.h"

namespace dsrun {

inline constexpr int kNewtonSchulzSteps = 5;

struct MatrixShape {
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t size() const { return rows * columns; }
  int64_t smaller() const { return std::min(rows, columns); }
  int64_t larger() const { return std::max(rows, columns); }
};

// Floats that Newton-Schulz needs beside the matrix, by either method: a second matrix, and four
// square ones of its smaller side.
int64_t NewtonSchulzScratch(MatrixShape shape);
// Multiply-adds counted as two.
double NewtonSchulzFlops(NsMethod method, MatrixShape shape);

struct MatrixPlan {
  struct Matrix {
    size_t tensor = 0;  // entry of the layout
    MatrixShape shape;
    Range padded;  // in the arena
    int64_t round = 0;
    int64_t rank = 0;  // orthogonalises it
  };
  std::vector<Matrix> matrices;  // by round, then rank
  int64_t rounds = 0;

  // Of the largest that the rank orthogonalises, padding included; 0: it has none.
  int64_t MatrixElements(int64_t rank) const;
  int64_t ScratchElements(int64_t rank) const;
  // Of a step, one round after the other: of the rank that has most in each.
  double FlopsOfStep(NsMethod method) const;
};

// The trainable hidden matrices of the layout. REQUIRES: width >= 1.
MatrixPlan PlanMatrices(const FlatLayout& layout, int64_t width);

// Bytes that `rank` sends in a step: its parts of others' matrices to them, and what it has
// orthogonalised to the owners. `everywhere`: all ranks update all elements (ZeRO-0), so nothing
// goes there, and all goes to all.
int64_t MatrixBytes(const MatrixPlan& plan, const FlatLayout& layout, const ShardPlan& shards,
                    int64_t rank, bool everywhere);

}  // namespace dsrun

#endif  // DSRUN_COMMON_PLAN_MATRIX_PLAN_H_
