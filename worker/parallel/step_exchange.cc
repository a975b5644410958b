#include "worker/parallel/step_exchange.h"

#include "common/base/status_macros.h"
#include "worker/optim/gradient_norm.h"

namespace dsrun::worker {
namespace {

constexpr size_t kTokens = 0;
constexpr size_t kFlags = 1;  // sum of:
constexpr int kStop = 1;
constexpr int kSaving = 2;
constexpr size_t kHeader = 2;

}  // namespace

StepExchange::StepExchange(Communicator& communicator, const BatchPlan& batch,
                           const FlatLayout& layout, const ShardPlan& shards)
    : communicator_(communicator), batch_(batch), layout_(layout), shards_(shards) {
  for (int64_t rank = 0; rank < batch.width(); ++rank) {
    messages_.emplace_back(MessageDoubles(rank), 0.0);
  }
  std::vector<double>& own = messages_[static_cast<size_t>(communicator.rank())];
  const auto blocks = static_cast<size_t>(batch.RankBlocks(communicator.rank()).size());
  block_losses_ = std::span(own).subspan(kHeader, blocks);
  leaf_squares_ = std::span(own).subspan(kHeader + blocks);
}

size_t StepExchange::MessageDoubles(int64_t rank) const {
  return kHeader + static_cast<size_t>(batch_.RankBlocks(rank).size() +
                                       shards_.OwnedSize(rank) / kLeafElements);
}

absl::StatusOr<StepExchange::Sums> StepExchange::Gather(int64_t tokens, bool stop, bool saving) {
  const int me = communicator_.rank();
  std::vector<double>& own = messages_[static_cast<size_t>(me)];
  own[kTokens] = static_cast<double>(tokens);
  own[kFlags] = (stop ? kStop : 0) + (saving ? kSaving : 0);
  std::vector<SendOp> sends;
  std::vector<RecvOp> receives;
  for (int peer = 0; peer < communicator_.size(); ++peer) {
    if (peer == me) continue;
    std::vector<double>& message = messages_[static_cast<size_t>(peer)];
    sends.push_back({peer, own.data(), own.size() * sizeof(double)});
    receives.push_back({peer, message.data(), message.size() * sizeof(double)});
  }
  RETURN_IF_ERROR(communicator_.Exchange(sends, receives, "losses and gradient norm"));
  return Add();
}

StepExchange::Sums StepExchange::Add() const {
  Sums sums;
  std::vector<double> blocks;  // of the whole batch, in order
  std::vector<Range> nodes;
  std::vector<double> leaves(static_cast<size_t>(layout_.leaf_count()));
  for (int64_t rank = 0; rank < batch_.width(); ++rank) {
    const std::vector<double>& message = messages_[static_cast<size_t>(rank)];
    sums.tokens += static_cast<int64_t>(message[kTokens]);
    const auto flags = static_cast<int>(message[kFlags]);
    sums.stop = sums.stop || (flags & kStop) != 0;
    sums.saving = sums.saving || (flags & kSaving) != 0;
    const double* next = message.data() + kHeader;
    const Range rank_blocks = batch_.RankBlocks(rank);
    for (int64_t block = rank_blocks.begin; block < rank_blocks.end; ++block) {
      blocks.push_back(*next++);
      nodes.push_back({block, block + 1});
    }
    for (const Range& owned : shards_.Owned(rank)) {
      for (int64_t leaf = owned.begin / kLeafElements; leaf < owned.end / kLeafElements; ++leaf) {
        leaves[static_cast<size_t>(leaf)] = *next++;
      }
    }
  }
  for (const TreeAdd& add : JoinOrder(nodes, batch_.blocks())) {
    blocks[static_cast<size_t>(add.into)] += blocks[static_cast<size_t>(add.from)];
  }
  sums.loss = blocks[0];
  sums.grad_square = SumLeaves(layout_, leaves);
  return sums;
}

}  // namespace dsrun::worker
