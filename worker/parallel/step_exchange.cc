#include "worker/parallel/step_exchange.h"

#include <algorithm>

#include "common/base/logging.h"
#include "common/base/status_macros.h"

namespace dsrun::worker {
namespace {

// A message: tokens, flags, both exact sums, the magnitudes.
constexpr size_t kTokens = 0;
constexpr size_t kFlags = 1;  // sum of:
constexpr int64_t kStop = 1;
constexpr int64_t kSaving = 2;
constexpr size_t kLoss = 2;
constexpr size_t kGradSquare = kLoss + ExactSum::kWords;
constexpr size_t kMagnitudes = kGradSquare + ExactSum::kWords;

std::span<int64_t, ExactSum::kWords> SumAt(std::vector<int64_t>& message, size_t at) {
  return std::span<int64_t, ExactSum::kWords>(message.data() + at, ExactSum::kWords);
}

}  // namespace

StepExchange::StepExchange(Communicator& communicator, size_t tensors)
    : communicator_(communicator), tensors_(tensors) {
  messages_.resize(static_cast<size_t>(communicator.size()));
  for (std::vector<int64_t>& message : messages_) message.resize(kMagnitudes + tensors);
}

absl::StatusOr<StepExchange::Sums> StepExchange::Gather(const Part& mine) {
  CHECK_EQ(mine.magnitudes.size(), tensors_);
  const int me = communicator_.rank();
  std::vector<int64_t>& own = messages_[static_cast<size_t>(me)];
  own[kTokens] = mine.tokens;
  own[kFlags] = (mine.stop ? kStop : 0) + (mine.saving ? kSaving : 0);
  mine.loss.WriteTo(SumAt(own, kLoss));
  mine.grad_square.WriteTo(SumAt(own, kGradSquare));
  std::copy(mine.magnitudes.begin(), mine.magnitudes.end(), own.begin() + kMagnitudes);
  std::vector<SendOp> sends;
  std::vector<RecvOp> receives;
  for (int peer = 0; peer < communicator_.size(); ++peer) {
    if (peer == me) continue;
    std::vector<int64_t>& message = messages_[static_cast<size_t>(peer)];
    sends.push_back({peer, own.data(), own.size() * sizeof(int64_t)});
    receives.push_back({peer, message.data(), message.size() * sizeof(int64_t)});
  }
  RETURN_IF_ERROR(communicator_.Exchange(sends, receives, "losses and gradient norm"));

  Sums sums;
  ExactSum loss;
  ExactSum grad_square;
  sums.magnitudes.resize(tensors_);
  for (std::vector<int64_t>& message : messages_) {
    loss.Add(ExactSum::ReadFrom(SumAt(message, kLoss)));
    grad_square.Add(ExactSum::ReadFrom(SumAt(message, kGradSquare)));
    sums.tokens += message[kTokens];
    sums.stop |= (message[kFlags] & kStop) != 0;
    sums.saving |= (message[kFlags] & kSaving) != 0;
    for (size_t tensor = 0; tensor < tensors_; ++tensor) {
      sums.magnitudes[tensor] =
          std::max(sums.magnitudes[tensor], static_cast<uint32_t>(message[kMagnitudes + tensor]));
    }
  }
  sums.loss = loss.Round();
  sums.grad_square = grad_square.Round();
  return sums;
}

}  // namespace dsrun::worker
