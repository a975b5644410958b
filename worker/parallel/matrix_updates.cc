#include "worker/parallel/matrix_updates.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/numerics/exact_sum.h"
#include "worker/device/stream.h"
#include "worker/optim/newton_schulz.h"

namespace dsrun::worker {
namespace {

// Beside the norm, as Jordan et al. and DeepSpeed have it: zeros stay zeros.
constexpr double kNormEpsilon = 1e-7;

size_t Bytes(int64_t elements) { return static_cast<size_t>(elements) * sizeof(float); }

}  // namespace

MatrixUpdates::MatrixUpdates(Setup setup)
    : setup_(std::move(setup)),
      rank_(setup_.communicator->rank()),
      size_(setup_.communicator->size()),
      shares_(static_cast<size_t>(size_), -1) {
  const auto place = [&](int rank) {
    shares_[static_cast<size_t>(rank)] = update_elements_;
    update_elements_ += setup_.shards->OwnedSize(rank);
  };
  place(rank_);
  for (int rank = 0; setup_.everywhere && rank < size_; ++rank) {
    if (rank != rank_) place(rank);
  }
  size_t most_parts = 0;
  for (const MatrixPlan::Matrix& planned : PlanMatrices(*setup_.layout, size_).matrices) {
    matrices_.push_back({planned, {}});
    AddParts(matrices_.back());
    most_parts = std::max(most_parts, matrices_.back().parts.size());
  }
  const size_t most = most_parts * static_cast<size_t>(size_);
  sends_.reserve(most);
  receives_.reserve(most);
}

void MatrixUpdates::AddParts(Matrix& matrix) const {
  const Range padded = matrix.planned.padded;
  for (int owner = 0; owner < size_; ++owner) {
    const int64_t share = shares_[static_cast<size_t>(owner)];
    for (const Range& flat : setup_.shards->Owned(owner, padded)) {
      const int64_t at = share < 0 ? -1 : share + setup_.shards->OwnedOffset(owner, flat.begin);
      matrix.parts.push_back({owner, {flat.begin - padded.begin, flat.end - padded.begin}, at});
    }
  }
}

absl::Status MatrixUpdates::Orthogonalise() {
  for (size_t begin = 0; begin < matrices_.size();) {
    size_t end = begin;
    while (end < matrices_.size() &&
           matrices_[end].planned.round == matrices_[begin].planned.round) {
      ++end;
    }
    RETURN_IF_ERROR(setup_.check());
    RETURN_IF_ERROR(Round(begin, end));
    begin = end;
  }
  return absl::OkStatus();
}

absl::Status MatrixUpdates::Round(size_t begin, size_t end) {
  const Matrix* mine = nullptr;
  for (size_t i = begin; i < end; ++i) {
    if (matrices_[i].planned.rank == rank_) mine = &matrices_[i];
  }
  RETURN_IF_ERROR(Gather(begin, end, mine));
  float* result = nullptr;
  if (mine != nullptr) {
    ASSIGN_OR_RETURN(result, Compute(*mine));
  }
  return Return(begin, end, mine, result);
}

absl::Status MatrixUpdates::Gather(size_t begin, size_t end, const Matrix* mine) {
  sends_.clear();
  receives_.clear();
  for (size_t i = begin; i < end; ++i) {
    const Matrix& matrix = matrices_[i];
    for (const Part& part : matrix.parts) {
      const size_t bytes = Bytes(part.of_matrix.size());
      float* const there = setup_.matrix + part.of_matrix.begin;
      if (&matrix != mine) {
        const bool asked = part.owner == rank_ && !setup_.everywhere;
        if (asked) {
          sends_.push_back(
              {static_cast<int>(matrix.planned.rank), setup_.updates + part.offset, bytes});
        }
      } else if (part.offset >= 0) {
        setup_.kernels->stream().Copy(there, setup_.updates + part.offset, bytes);
      } else {
        receives_.push_back({part.owner, there, bytes});
      }
    }
  }
  if (setup_.everywhere) return absl::OkStatus();
  return Exchange(mine == nullptr ? nullptr : setup_.matrix,
                  mine == nullptr ? 0 : mine->planned.padded.size(),
                  absl::StrCat("gather matrices of round ", matrices_[begin].planned.round));
}

absl::Status MatrixUpdates::Return(size_t begin, size_t end, const Matrix* mine, float* result) {
  sends_.clear();
  receives_.clear();
  for (size_t i = begin; i < end; ++i) {
    const Matrix& matrix = matrices_[i];
    const int64_t elements = matrix.planned.shape.size();
    for (const Part& part : matrix.parts) {
      // Padding stays where it is: it is zero, and what stands behind the result need not be.
      const Range real{part.of_matrix.begin, std::min(part.of_matrix.end, elements)};
      if (real.empty()) continue;
      const size_t bytes = Bytes(real.size());
      if (part.offset >= 0) {
        float* const here = setup_.updates + part.offset;
        if (&matrix == mine) {
          setup_.kernels->stream().Copy(here, result + real.begin, bytes);
        } else {
          receives_.push_back({static_cast<int>(matrix.planned.rank), here, bytes});
        }
      }
      for (int rank = 0; &matrix == mine && rank < size_; ++rank) {
        const bool wants = rank != rank_ && (setup_.everywhere || rank == part.owner);
        if (wants) sends_.push_back({rank, result + real.begin, bytes});
      }
    }
  }
  return Exchange(result, mine == nullptr ? 0 : mine->planned.shape.size(),
                  absl::StrCat("return matrices of round ", matrices_[begin].planned.round));
}

absl::Status MatrixUpdates::Exchange(float* matrix, int64_t elements, const std::string& what) {
  if (size_ == 1) return absl::OkStatus();
  Stream& stream = setup_.kernels->stream();
  RETURN_IF_ERROR(stream.Record().Await());
  HostAccess of_updates, of_matrix;
  if (update_elements_ > 0) {  // a rank that owns nothing may have others' matrices
    ASSIGN_OR_RETURN(of_updates, stream.OpenForHost(setup_.updates, Bytes(update_elements_)));
  }
  if (elements > 0) {
    ASSIGN_OR_RETURN(of_matrix, stream.OpenForHost(matrix, Bytes(elements)));
  }
  return setup_.communicator->Exchange(sends_, receives_, what);
}

absl::StatusOr<float*> MatrixUpdates::Compute(const Matrix& matrix) {
  ExactSum square;
  RETURN_IF_ERROR(setup_.squares.Add(matrix.planned.padded.size(), setup_.matrix, square));
  const double factor = 1 / (std::sqrt(square.Round()) + kNormEpsilon);
  const MatrixShape shape = matrix.planned.shape;
  setup_.kernels->Scale(shape.size(), static_cast<float>(factor), setup_.matrix);
  return NewtonSchulz(*setup_.kernels, setup_.method, shape, setup_.matrix, setup_.scratch);
}

}  // namespace dsrun::worker
