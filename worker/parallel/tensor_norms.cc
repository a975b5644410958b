#include "worker/parallel/tensor_norms.h"

#include <algorithm>
#include <cmath>

#include "common/base/logging.h"
#include "common/base/status_macros.h"

namespace dsrun::worker {
namespace {

// Of one tensor in a message: both sums.
constexpr size_t kWordsOfTensor = 2 * ExactSum::kWords;

std::span<int64_t, ExactSum::kWords> SumAt(std::vector<int64_t>& message, size_t at) {
  return std::span<int64_t, ExactSum::kWords>(message.data() + at, ExactSum::kWords);
}

}  // namespace

TensorNorms::TensorNorms(const Setup& setup)
    : setup_(setup), sums_(setup.layout->trainable_count()) {
  CHECK(!setup.squares.squares.empty());
  for (int64_t rank = 0; rank < setup.shards->width(); ++rank) {
    std::vector<size_t>& tensors = tensors_.emplace_back();
    for (const Range& range : setup.shards->Owned(rank)) {
      setup.layout->ForTensors(range, [&](size_t tensor, Range) {
        if (tensors.empty() || tensors.back() != tensor) tensors.push_back(tensor);
      });
    }
    messages_.emplace_back(tensors.size() * kWordsOfTensor);
  }
}

absl::Status TensorNorms::Add(Range range, const float* param, const float* direction) {
  absl::Status status;
  setup_.layout->ForTensors(range, [&](size_t tensor, Range part) {
    const int64_t at = part.begin - range.begin;
    if (status.ok()) status = setup_.squares.Add(part.size(), param + at, sums_[tensor].parameter);
    if (status.ok())
      status = setup_.squares.Add(part.size(), direction + at, sums_[tensor].direction);
  });
  return status;
}

absl::StatusOr<std::vector<TensorNorms::Norms>> TensorNorms::Gather() {
  const auto me = static_cast<size_t>(setup_.communicator->rank());
  for (size_t i = 0; i < tensors_[me].size(); ++i) {
    Sums& sums = sums_[tensors_[me][i]];
    sums.parameter.WriteTo(SumAt(messages_[me], i * kWordsOfTensor));
    sums.direction.WriteTo(SumAt(messages_[me], i * kWordsOfTensor + ExactSum::kWords));
  }
  const auto bytes = [&](size_t rank) { return messages_[rank].size() * sizeof(int64_t); };
  std::vector<SendOp> sends;
  std::vector<RecvOp> receives;
  for (size_t peer = 0; peer < messages_.size(); ++peer) {
    if (peer == me) continue;
    const int rank = static_cast<int>(peer);
    if (bytes(me) > 0) sends.push_back({rank, messages_[me].data(), bytes(me)});
    if (bytes(peer) > 0) receives.push_back({rank, messages_[peer].data(), bytes(peer)});
  }
  RETURN_IF_ERROR(setup_.communicator->Exchange(sends, receives, "norms of tensors"));
  std::fill(sums_.begin(), sums_.end(), Sums());
  for (size_t rank = 0; rank < messages_.size(); ++rank) {
    for (size_t i = 0; i < tensors_[rank].size(); ++i) {
      Sums& sums = sums_[tensors_[rank][i]];
      std::vector<int64_t>& message = messages_[rank];
      sums.parameter.Add(ExactSum::ReadFrom(SumAt(message, i * kWordsOfTensor)));
      sums.direction.Add(ExactSum::ReadFrom(SumAt(message, i * kWordsOfTensor + ExactSum::kWords)));
    }
  }
  std::vector<Norms> norms;
  for (Sums& sums : sums_) {
    norms.push_back({std::sqrt(sums.parameter.Round()), std::sqrt(sums.direction.Round())});
  }
  std::fill(sums_.begin(), sums_.end(), Sums());
  return norms;
}

}  // namespace dsrun::worker
