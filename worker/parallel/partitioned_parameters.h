// PartitionedParameters: the store of ZeRO-3 (Rajbhandari et al., 2020; FairScale and PyTorch FSDP
// do likewise). A rank keeps what it stores, its shard, in fp32; a layer's tensors are gathered
// into a pool, in what the model computes in, before it plays and lie there as long as the plan
// says (gather_plan.h). Nothing is sent back: whoever changes parameters changes its shard.
//
// Every rank plays the same passes in the same order, so the exchanges match: who has no
// micro-batch for a pass takes part with PlayIdle. The gathers are tasks of the communication
// thread, enqueued before a layer plays, ahead of their use where the plan says so; whatever else
// that thread gets between two layers, as the reduction of a bucket, comes at the same place of the
// order on all ranks.
//
// Threads: as ParameterStore. After an error the memory is free once the communication thread is
// through; the thread must be destroyed first.

#ifndef DSRUN_WORKER_PARALLEL_PARTITIONED_PARAMETERS_H_
#define DSRUN_WORKER_PARALLEL_PARTITIONED_PARAMETERS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/model/model_plan.h"
#include "common/plan/gather_plan.h"
#include "common/plan/shard_plan.h"
#include "worker/comm/core/communicator.h"
#include "worker/device/kernels.h"
#include "worker/device/reals.h"
#include "worker/device/stream.h"
#include "worker/model/pass_memory.h"
#include "worker/parallel/comm_thread.h"

namespace dsrun::worker {

class PartitionedParameters final : public ParameterStore {
 public:
  struct Setup {
    Communicator* communicator;
    CommThread* thread;
    Stream* compute;   // where they are used and updated
    Kernels* kernels;  // of the communication thread
    const ModelPlan* model;
    const FlatLayout* layout;
    const ShardPlan* shards;
    size_t lowest_layer;          // of backward
    std::vector<Range> segments;  // that it plays forward again (recompute_plan.h)
    ZeroSettings settings;        // WithDefaults
    float* shard;                 // (StoredSize), the stored ranges one after the other
    // Of the type that layers read: the shard is rounded to it where it is gathered.
    Reals pool;                           // of the larger of both passes' plans
    Reals persistent;                     // (PersistentElements)
    std::function<absl::Status()> check;  // asked at every layer; an error ends the pass
    // For the trace: called from the communication thread.
    std::function<void(const std::string& name, SteadyTime begin, SteadyTime end)> on_span;
  };

  explicit PartitionedParameters(Setup setup);

  // All ranks, the same kind.
  void BeginPass(PassKind kind) override;
  absl::StatusOr<std::span<const ConstReals>> Acquire(size_t layer) override;
  void Release(size_t layer) override;
  // A pass in which this rank computes nothing. `played(layer)` is called where its backward would
  // have ended. Errors: those of Acquire and of `played`.
  absl::Status PlayIdle(PassKind kind, const std::function<absl::Status(size_t layer)>& played);

  // Shards have changed, on whatever rank: what is persistent is gathered anew by the next pass.
  // Between two passes; all ranks.
  void Changed() { persistent_is_old_ = true; }

  // One tensor whole, for the host (DeepSpeed's GatheredParameters): all ranks call it, between two
  // passes, and `see` gets the tensor's elements on each. Where `root` is a rank, it may change
  // them, and what it leaves there becomes the tensor on all; elsewhere changes are lost, as they
  // are if root is -1. Errors: the communicator's; INVALID_ARGUMENT: no such tensor or rank.
  absl::Status WithGathered(const std::string& tensor, int root,
                            const std::function<void(std::span<float> elements)>& see);

  // Elements received from other ranks so far, by gathers of the pool. Between two passes.
  int64_t received_elements() const { return received_; }

 private:
  struct Piece {
    int64_t from;  // elements, in the shard
    int64_t to;    // relative to base
    int64_t elements;
  };
  // One exchange, ready to be made.
  struct Gather {
    std::string what;
    std::vector<Piece> mine;
    std::vector<std::vector<Range>> by_rank;  // relative to base
    std::vector<Range> memory;                // what is written, likewise
    Reals base;
    int64_t received = 0;
  };
  struct Position {
    size_t layer;
    bool backward;
    std::vector<ConstReals> tensors;
    std::vector<size_t> enqueue;  // gathers
    size_t await_to = 0;          // gathers below are awaited before it plays
  };
  struct Pass {
    std::vector<Gather> gathers;
    std::vector<Position> positions;
  };

  void PreparePass(const GatherPlan& plan, Pass& pass);
  Gather PrepareGather(std::string what, const std::vector<GatherPlan::Place>& places,
                       Reals base) const;
  CommThread::Ticket Enqueue(const Gather& gather);
  absl::Status Run(const Gather& gather);
  absl::Status RunOnHost(const Gather& gather);
  // Its offset in setup_.persistent; nothing: it is gathered for its use.
  std::optional<int64_t> PersistentPlace(size_t tensor) const;

  const Setup setup_;
  std::vector<GatherPlan::Place> persistent_;  // offsets in setup_.persistent
  Gather persistent_gather_;
  Pass training_;
  Pass forward_only_;

  Pass* pass_ = nullptr;  // begun
  size_t next_ = 0;       // position that plays next
  bool persistent_is_old_ = true;
  CommThread::Ticket persistent_ticket_ = 0;
  std::vector<CommThread::Ticket> tickets_;  // of the pass's gathers
  size_t awaited_ = 0;
  int64_t received_ = 0;
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_PARALLEL_PARTITIONED_PARAMETERS_H_
