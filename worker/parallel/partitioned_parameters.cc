#include "worker/parallel/partitioned_parameters.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/logging.h"
#include "common/base/status_macros.h"
#include "worker/comm/core/collectives.h"

namespace dsrun::worker {
namespace {

size_t Bytes(int64_t elements) { return static_cast<size_t>(elements) * sizeof(float); }

}  // namespace

PartitionedParameters::PartitionedParameters(Setup setup) : setup_(std::move(setup)) {
  int64_t next = 0;
  for (const size_t tensor :
       PersistentTensors(*setup_.layout, setup_.settings.persistence_threshold)) {
    persistent_.push_back({tensor, next});
    next += setup_.layout->entries()[tensor].padded().size();
  }
  persistent_gather_ =
      PrepareGather("all-gather persistent parameters", persistent_, setup_.persistent);
  const auto plan = [this](PassKind kind) {
    return PlanGathers(*setup_.model, *setup_.layout, setup_.lowest_layer, kind, setup_.settings,
                       setup_.segments);
  };
  PreparePass(plan(PassKind::kTraining), training_);
  PreparePass(plan(PassKind::kForwardOnly), forward_only_);
}

void PartitionedParameters::PreparePass(const GatherPlan& plan, Pass& pass) {
  for (const GatherPlan::Position& planned : plan.positions) {
    Position position{
        .layer = planned.layer, .backward = planned.backward, .tensors = {}, .enqueue = {}};
    const LayerPlan& layer = setup_.model->layers[planned.layer];
    for (size_t use = 0; use < layer.uses.size(); ++use) {
      const int64_t offset = planned.offsets[use];
      position.tensors.push_back(offset >= 0 ? setup_.pool + offset
                                             : setup_.persistent +
                                                   PersistentPlace(layer.uses[use]).value());
    }
    pass.positions.push_back(std::move(position));
  }
  for (size_t index = 0; index < plan.gathers.size(); ++index) {
    const GatherPlan::Gather& gather = plan.gathers[index];
    const std::string& name = setup_.model->layers[plan.positions[gather.for_].layer].name;
    pass.gathers.push_back(PrepareGather(absl::StrCat("all-gather parameters of ", name),
                                         gather.tensors, setup_.pool));
    pass.positions[gather.at].enqueue.push_back(index);
    for (size_t at = gather.for_; at < pass.positions.size(); ++at) {
      pass.positions[at].await_to = index + 1;
    }
  }
}

PartitionedParameters::Gather PartitionedParameters::PrepareGather(
    std::string what, const std::vector<GatherPlan::Place>& places, Reals base) const {
  Gather gather{.what = std::move(what), .mine = {}, .by_rank = {}, .memory = {}, .base = base};
  const ShardPlan& shards = *setup_.shards;
  gather.by_rank.resize(static_cast<size_t>(shards.width()));
  for (const GatherPlan::Place& place : places) {
    const Range padded = setup_.layout->entries()[place.tensor].padded();
    gather.memory.push_back({place.offset, place.offset + padded.size()});
    for (int64_t rank = 0; rank < shards.width(); ++rank) {
      std::vector<Range>& ranges = gather.by_rank[static_cast<size_t>(rank)];
      for (const Range& part : shards.Stored(rank, padded)) {
        const int64_t begin = place.offset + (part.begin - padded.begin);
        if (!ranges.empty() && ranges.back().end == begin) {
          ranges.back().end += part.size();
        } else {
          ranges.push_back({begin, begin + part.size()});
        }
        if (rank == setup_.communicator->rank()) {
          gather.mine.push_back({shards.StoredOffset(rank, part.begin), begin, part.size()});
        } else {
          gather.received += part.size();
        }
      }
    }
  }
  return gather;
}

std::optional<int64_t> PartitionedParameters::PersistentPlace(size_t tensor) const {
  for (const GatherPlan::Place& place : persistent_) {
    if (place.tensor == tensor) return place.offset;
  }
  return std::nullopt;
}

void PartitionedParameters::BeginPass(PassKind kind) {
  pass_ = kind == PassKind::kTraining ? &training_ : &forward_only_;
  next_ = 0;
  tickets_.clear();
  awaited_ = 0;
  persistent_ticket_ = 0;
  if (persistent_is_old_ && !persistent_.empty()) {
    persistent_ticket_ = Enqueue(persistent_gather_);
  }
  persistent_is_old_ = false;
}

absl::StatusOr<std::span<const ConstReals>> PartitionedParameters::Acquire(size_t layer) {
  RETURN_IF_ERROR(setup_.check());
  CHECK(pass_ != nullptr && next_ < pass_->positions.size()) << "no pass has begun";
  const Position& position = pass_->positions[next_];
  CHECK_EQ(position.layer, layer) << "position " << next_ << " of the pass";
  for (const size_t gather : position.enqueue) {
    tickets_.push_back(Enqueue(pass_->gathers[gather]));
    received_ += pass_->gathers[gather].received;
  }
  if (persistent_ticket_ != 0) {
    RETURN_IF_ERROR(setup_.thread->Wait(std::exchange(persistent_ticket_, 0)));
  }
  if (position.await_to > awaited_) {
    RETURN_IF_ERROR(setup_.thread->Wait(tickets_[position.await_to - 1]));
    awaited_ = position.await_to;
  }
  return std::span<const ConstReals>(position.tensors);
}

// Its memory is another's by the plan, once what was enqueued is through: a gather waits for that.
void PartitionedParameters::Release(size_t) { ++next_; }

absl::Status PartitionedParameters::PlayIdle(
    PassKind kind, const std::function<absl::Status(size_t layer)>& played) {
  BeginPass(kind);
  for (const Position& position : pass_->positions) {
    RETURN_IF_ERROR(Acquire(position.layer).status());
    Release(position.layer);
    if (!position.backward) continue;
    RETURN_IF_ERROR(played(position.layer));
  }
  return absl::OkStatus();
}

// Behind what uses the memory that it writes, and behind the update of what it reads.
CommThread::Ticket PartitionedParameters::Enqueue(const Gather& gather) {
  return setup_.thread->Add([this, &gather, before = setup_.compute->Record()]() -> absl::Status {
    RETURN_IF_ERROR(before.Await());
    return Run(gather);
  });
}

absl::Status PartitionedParameters::Run(const Gather& gather) {
  const SteadyTime begin = Clock::Real().SteadyNow();
  const absl::Status status = RunOnHost(gather);
  if (setup_.on_span) setup_.on_span(gather.what, begin, Clock::Real().SteadyNow());
  return status;
}

absl::Status PartitionedParameters::RunOnHost(const Gather& gather) {
  Stream& stream = setup_.kernels->stream();
  for (const Piece& piece : gather.mine) {
    const Reals to = gather.base + piece.to;
    if (to.dtype() == DType::kF32) {
      stream.Copy(to.data(), setup_.shard + piece.from, Bytes(piece.elements));
    } else {
      setup_.kernels->Cast(piece.elements, setup_.shard + piece.from, to);
    }
  }
  RETURN_IF_ERROR(stream.Record().Await());
  if (setup_.communicator->size() == 1) return absl::OkStatus();
  std::vector<HostAccess> all;
  for (const Range& memory : gather.memory) {
    const Reals begin = gather.base + memory.begin;
    ASSIGN_OR_RETURN(
        HostAccess access,
        stream.OpenForHost(begin.data(), static_cast<size_t>(begin.bytes_of(memory.size()))));
    all.push_back(std::move(access));
  }
  return AllGatherRanges(*setup_.communicator, gather.by_rank, gather.base.data(),
                         BytesOf(gather.base.dtype()), gather.what);
}

absl::Status PartitionedParameters::WithGathered(
    const std::string& tensor, int root,
    const std::function<void(std::span<float> elements)>& see) {
  const std::vector<FlatLayout::Entry>& entries = setup_.layout->entries();
  const auto entry = std::find_if(entries.begin(), entries.end(),
                                  [&](const auto& one) { return one.tensor.name == tensor; });
  if (entry == entries.end() || root < -1 || root >= setup_.communicator->size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("gathering \"", tensor, "\" for rank ", root, ": expected a tensor of the ",
                     "model, and a rank below ", setup_.communicator->size(), " or -1"));
  }
  const auto index = static_cast<size_t>(entry - entries.begin());
  const auto padded = static_cast<size_t>(entry->padded().size());
  // For the host in fp32, whatever layers read. There is time between passes.
  std::vector<float> whole(padded);
  const Gather gather =
      PrepareGather(absl::StrCat("all-gather ", tensor), {{index, 0}}, whole.data());
  RETURN_IF_ERROR(setup_.thread->Wait(Enqueue(gather)));
  const std::span<float> elements(whole.data(), static_cast<size_t>(entry->tensor.size()));
  see(elements);
  if (root < 0) return absl::OkStatus();
  ASSIGN_OR_RETURN(
      const std::string changed,
      Broadcast(*setup_.communicator, root,
                std::string(reinterpret_cast<const char*>(elements.data()), elements.size_bytes()),
                absl::StrCat("what rank ", root, " has changed of ", tensor)));
  std::copy_n(changed.data(), changed.size(), reinterpret_cast<char*>(elements.data()));
  for (const Piece& piece : gather.mine) {
    setup_.compute->Copy(setup_.shard + piece.from, whole.data() + piece.to, Bytes(piece.elements));
  }
  Changed();
  return setup_.compute->Record().Await();
}

}  // namespace dsrun::worker
