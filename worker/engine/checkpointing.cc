#include "worker/engine/checkpointing.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/status_macros.h"
#include "worker/checkpoint/checkpoint_writer.h"
#include "worker/checkpoint/prune.h"
#include "worker/checkpoint/slices.h"
#include "worker/comm/core/collectives.h"
#include "worker/engine/packed_status.h"

namespace dsrun::worker {
namespace {

// Until the shards of all nodes are seen from rank 0's, while the others wait in a collective.
constexpr Patience::Limits kVisiblePatience = {
    .first = absl::Milliseconds(50), .most = absl::Seconds(1), .total = absl::Seconds(5)};

}  // namespace

Checkpointing::Checkpointing(Setup setup) : setup_(std::move(setup)) {}

void Checkpointing::WentOnFrom(const Resumed& resumed) {
  if (resumed.manifest.empty() || resumed.folder != setup_.job->train().save_dir()) return;
  newest_ = resumed.manifest;
  newest_step_ = setup_.trainer->state().step;
}

absl::StatusOr<Checkpointing::Saved> Checkpointing::Save() {
  const ShardedState& state = setup_.trainer->state();
  if (state.step == newest_step_) return Saved{newest_, /*fresh=*/false, /*current=*/true};
  setup_.enter(OperationClass::kSave);
  const std::string& folder = setup_.job->train().save_dir();
  const FlatLayout& layout = setup_.trainer->layout();
  const std::vector<Range>& owned = setup_.trainer->owned();
  std::vector<Slice> slices =
      SlicesOf(layout, owned, kModelPrefix, Arena::kWhole, state.parameters);
  for (const auto& [prefix, moments] :
       {std::pair(kAdamMPrefix, state.adam_m), std::pair(kAdamVPrefix, state.adam_v)}) {
    const std::vector<Slice> more = SlicesOf(layout, owned, prefix, Arena::kCompact, moments);
    slices.insert(slices.end(), more.begin(), more.end());
  }
  const int rank = setup_.communicator->rank();
  const ShardId id{setup_.job->job_id(),
                   {Step(state.step), setup_.generation, setup_.incarnation, Rank(rank)}};
  const absl::StatusOr<ShardRecord> record = WriteShard(*setup_.file_system, folder, id, slices);

  // Every rank learns whether every shard was written; only then rank 0 commits.
  ASSIGN_OR_RETURN(const std::vector<std::string> packed,
                   AllGather(*setup_.communicator,
                             Pack(record.ok() ? absl::StatusOr<std::string>(record->Serialize())
                                              : absl::StatusOr<std::string>(record.status())),
                             "shard records"));
  setup_.enter(OperationClass::kCommit);
  absl::StatusOr<std::string> committed = std::string();
  std::vector<ShardRecord> records;
  for (size_t r = 0; r < packed.size() && committed.ok(); ++r) {
    const absl::StatusOr<std::string> text = Unpack(packed[r]);
    if (!text.ok()) {
      committed = Annotate(text.status(), absl::StrCat("rank ", r));
    } else if (rank == 0) {
      absl::StatusOr<ShardRecord> parsed = ShardRecord::Parse(*text);
      if (parsed.ok()) {
        records.push_back(*std::move(parsed));
      } else {
        committed = parsed.status();
      }
    }
  }
  if (rank == 0 && committed.ok()) {
    Patience patience(Clock::Real(), setup_.wait, kVisiblePatience);
    committed = CommitManifest(*setup_.file_system, folder, Facts(), records, &patience);
    // Before the others go on: in their next exchange they would wait for this rank as in training.
    if (committed.ok()) {
      setup_.committed(*committed);
      Prune();
    }
  }
  ASSIGN_OR_RETURN(const std::string outcome,
                   Broadcast(*setup_.communicator, 0, rank == 0 ? Pack(committed) : "", "commit"));
  committed = Unpack(outcome);
  if (!committed.ok()) {
    // What may be committed needs every shard.
    if (record.ok() && !MayBeCommitted(committed.status())) {
      RemoveShard(*setup_.file_system, folder, *record).IgnoreError();
    }
    if (rank == 0) {
      setup_.warn(absl::StrCat("CHECKPOINT OF STEP ", state.step,
                               " COULD NOT BE WRITTEN: ", committed.status().message(),
                               state.step < setup_.job->train().train_iters()
                                   ? "; training goes on, the newest checkpoint is "
                                   : "; the newest checkpoint is ",
                               newest_.empty() ? "none" : newest_, "; make room or repair ", folder,
                               " before something else fails"));
    }
    // The others wait here, and not in their next step with its limit, for who still removes.
    RETURN_IF_ERROR(AllGather(*setup_.communicator, "", "shards are removed").status());
    return Saved{newest_, /*fresh=*/false, /*current=*/false, committed.status()};
  }
  newest_ = *committed;
  newest_step_ = state.step;
  return Saved{newest_, /*fresh=*/true, /*current=*/true};
}

void Checkpointing::Prune() {
  setup_.enter(OperationClass::kPrune);
  PruneOptions prune;
  prune.job_id = setup_.job->job_id();
  prune.generation = setup_.generation;
  const proto::TrainSpec& spec = setup_.job->train();
  if (spec.keep_last() > 0) prune.keep = spec.keep_last();
  prune.keep_every = spec.keep_every();
  const auto removed = PruneCheckpoints(*setup_.file_system, spec.save_dir(), prune);
  if (!removed.ok()) {
    setup_.warn(absl::StrCat("OLD CHECKPOINTS ARE NOT REMOVED: ", removed.status().message()));
  }
}

ManifestFacts Checkpointing::Facts() const {
  const ShardedState& state = setup_.trainer->state();
  const LoadExpectation expectation =
      ExpectationOf(setup_.job->train(), setup_.kernels_fingerprint, setup_.corpus_sha256);
  ManifestFacts facts;
  facts.job_id = setup_.job->job_id();
  facts.incarnation = setup_.incarnation;
  facts.key = {Step(state.step), setup_.generation, /*epoch=*/0};
  facts.counters = {state.samples, state.step};
  facts.model = expectation.model;
  facts.batch = expectation.batch;
  facts.fingerprint = expectation.fingerprint;
  return facts;
}

}  // namespace dsrun::worker
