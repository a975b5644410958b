#include "worker/api/rank_checkpoints.h"

#include <iterator>
#include <random>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/logging.h"
#include "common/base/operation_class.h"
#include "common/base/patience.h"
#include "common/base/status_macros.h"
#include "common/format/checkpoint_reader.h"
#include "common/format/manifest.h"
#include "common/format/model_tensors.h"
#include "common/format/save_folder.h"
#include "common/plan/optimizer_of_spec.h"
#include "worker/checkpoint/checkpoint_writer.h"
#include "worker/checkpoint/prune.h"
#include "worker/checkpoint/slices.h"
#include "worker/comm/core/collectives.h"
#include "worker/engine/packed_status.h"
#include "worker/engine/resume.h"
#include "worker/engine/saving.h"

namespace dsrun {
namespace {

using worker::AllGather;
using worker::Arena;
using worker::Pack;
using worker::Slice;
using worker::Unpack;

Incarnation DrawIncarnation() {
  std::random_device random;
  return Incarnation((uint64_t{random()} << 32) | random());
}

// A longer deadline for what waits for disks.
class LongerTimeout {
 public:
  LongerTimeout(worker::Communicator& communicator, absl::Duration longer, absl::Duration usual)
      : communicator_(communicator), usual_(usual) {
    communicator_.SetTimeout(longer);
  }
  ~LongerTimeout() { communicator_.SetTimeout(usual_); }
  LongerTimeout(const LongerTimeout&) = delete;
  LongerTimeout& operator=(const LongerTimeout&) = delete;

 private:
  worker::Communicator& communicator_;
  const absl::Duration usual_;
};

// Of the arenas themselves: nothing trains while they are written.
std::vector<Slice> SlicesOfRank(const worker::Trainer& trainer,
                                const std::vector<std::string>& slots,
                                std::span<const float> exponents) {
  const worker::ShardedState& state = trainer.state();
  std::vector<Slice> slices;
  const auto add = [&](const std::vector<Range>& ranges, const std::string& slot, Arena arena,
                       const float* base) {
    std::vector<Slice> more = SlicesOf(trainer.layout(), ranges, slot + "/", arena, base);
    slices.insert(slices.end(), std::make_move_iterator(more.begin()),
                  std::make_move_iterator(more.end()));
  };
  add(trainer.stored(), slots[0], state.partitioned ? Arena::kCompact : Arena::kWhole,
      state.parameters);
  for (size_t i = 0; i < state.slots.size(); ++i) {
    add(trainer.owned(), slots[i + 1], Arena::kCompact, state.slots[i]);
  }
  if (!exponents.empty()) {
    const auto count = static_cast<int64_t>(exponents.size());
    slices.push_back({std::string(kSumExponents), {count}, 0, count, exponents.data()});
  }
  return slices;
}

}  // namespace

RankCheckpoints::RankCheckpoints(Setup setup)
    : setup_(std::move(setup)), incarnation_(DrawIncarnation()) {}

RankCheckpoints::~RankCheckpoints() {
  if (setup_.communicator->rank() != 0 || prepared_folder_.empty()) return;
  setup_.file_system->RemoveFile(JoinPath(prepared_folder_, SaveFolderMarker(setup_.job->job_id())))
      .IgnoreError();  // an empty file that stands in nobody's way
}

absl::StatusOr<std::string> RankCheckpoints::FromRankZero(
    const std::function<absl::StatusOr<std::string>()>& act, const std::string& what) {
  const std::string mine = setup_.communicator->rank() == 0 ? Pack(act()) : std::string();
  ASSIGN_OR_RETURN(const std::string packed,
                   worker::Broadcast(*setup_.communicator, 0, mine, what));
  return Unpack(packed);
}

absl::StatusOr<bool> RankCheckpoints::HasCheckpoints(const std::string& folder) {
  const absl::StatusOr<std::vector<std::string>> manifests =
      ListManifests(*setup_.file_system, folder);
  if (absl::IsNotFound(manifests.status())) return false;
  RETURN_IF_ERROR(manifests.status());
  return !manifests->empty();
}

// By rank 0. A folder of another job's is not written into by mistake: its newer checkpoints would
// be taken for the newest of this one.
absl::Status RankCheckpoints::Prepare(const std::string& folder) {
  FileSystem& fs = *setup_.file_system;
  const std::string& job = setup_.job->job_id();
  RETURN_IF_ERROR(CreateFolderAndSync(fs, folder));
  if (folder != loaded_folder_) {
    ASSIGN_OR_RETURN(const std::vector<std::string> manifests, ListManifests(fs, folder));
    if (!manifests.empty()) {
      ASSIGN_OR_RETURN(const Manifest newest, ReadManifest(fs, folder, manifests.front()));
      if (newest.facts.job_id != job) {
        return absl::FailedPreconditionError(
            absl::StrCat(folder, " holds checkpoints of job ", newest.facts.job_id, " up to step ",
                         newest.facts.key.step.value(),
                         "; go on from them with Load, or save into another "
                         "folder"));
      }
    }
  }
  RETURN_IF_ERROR(AdoptSaveFolder(fs, folder, job));
  return absl::OkStatus();
}

absl::StatusOr<std::string> RankCheckpoints::WriteMyShard(const std::string& folder) {
  const worker::Trainer& trainer = *setup_.trainer;
  const proto::TrainSpec& spec = setup_.job->train();
  const Rank rank(setup_.communicator->rank());
  const OptimizerPlan optimizer = OptimizerPlanOfSpec(spec);
  std::vector<float> exponents;
  if (rank == Rank(0)) {
    exponents.resize(trainer.exponents().size());
    trainer.exponents().WriteTo(exponents);
  }
  const LayoutRecipe recipe = worker::RecipeOf(trainer.layout(), optimizer,
                                               setup_.communicator->size(), spec.bucket_bytes());
  ASSIGN_OR_RETURN(const std::vector<worker::HostAccess> access, trainer.OpenState());
  const std::vector<Slice> slices = SlicesOfRank(trainer, worker::SlotsOf(optimizer), exponents);
  const worker::ShardId id{setup_.job->job_id(),
                           {Step(trainer.state().step), setup_.generation, incarnation_, rank}};
  ASSIGN_OR_RETURN(const worker::ShardRecord record,
                   worker::WriteShard(*setup_.file_system, folder, id, slices, &recipe));
  return record.Serialize();
}

// By rank 0: the manifest's name.
absl::StatusOr<std::string> RankCheckpoints::Commit(const std::string& folder,
                                                    const std::vector<std::string>& records) {
  std::vector<worker::ShardRecord> shards;
  for (const std::string& text : records) {
    ASSIGN_OR_RETURN(shards.emplace_back(), worker::ShardRecord::Parse(text));
  }
  const worker::ShardedState& state = setup_.trainer->state();
  ManifestFacts facts = worker::FactsOfJob(*setup_.job, setup_.kernels->Fingerprint(), "");
  facts.incarnation = incarnation_;
  facts.key = {Step(state.step), setup_.generation, 0};
  facts.counters.optimizer_steps = state.step;
  facts.counters.samples_consumed = state.samples;
  Patience patience(Clock::Real(), [](absl::Duration wait) { return SleepUnless(wait, nullptr); },
                    {});
  ASSIGN_OR_RETURN(std::string manifest,
                   worker::CommitManifest(*setup_.file_system, folder, facts, shards, &patience));
  worker::PruneOptions prune = worker::PruneOfJob(*setup_.job);
  prune.generation = setup_.generation;
  const absl::Status pruned = worker::PruneCheckpoints(*setup_.file_system, folder, prune).status();
  if (!pruned.ok()) LOG(WARNING) << "old checkpoints may stay in " << folder << ": " << pruned;
  return manifest;
}

absl::StatusOr<std::string> RankCheckpoints::Save(const std::string& folder) {
  const int64_t step = setup_.trainer->state().step;
  if (step == saved_step_ && folder == prepared_folder_) return saved_manifest_;
  const LongerTimeout longer(*setup_.communicator, setup_.save_timeout, setup_.exchange_timeout);
  if (folder != prepared_folder_) {
    RETURN_IF_ERROR(FromRankZero(
                        [&]() -> absl::StatusOr<std::string> {
                          RETURN_IF_ERROR(Prepare(folder));
                          return std::string();
                        },
                        "whether the folder can be saved into")
                        .status());
    prepared_folder_ = folder;
  }
  const absl::StatusOr<std::string> mine = WriteMyShard(folder);
  ASSIGN_OR_RETURN(const std::vector<std::string> words,
                   AllGather(*setup_.communicator, Pack(mine), "whether all have written"));
  absl::Status written;
  std::vector<std::string> records;
  for (size_t rank = 0; rank < words.size(); ++rank) {
    absl::StatusOr<std::string> record = Unpack(words[rank]);
    written.Update(Annotate(record.status(), absl::StrCat("rank ", rank)));
    if (record.ok()) records.push_back(*std::move(record));
  }
  const absl::StatusOr<std::string> manifest =
      written.ok()
          ? FromRankZero([&] { return Commit(folder, records); }, "whether it is committed")
          : absl::StatusOr<std::string>(written);
  if (!worker::MayBeCommitted(manifest.status()) && mine.ok()) {
    // Of use to nobody; the first error is the one to report.
    worker::RemoveShard(*setup_.file_system, folder, *worker::ShardRecord::Parse(*mine))
        .IgnoreError();
  }
  RETURN_IF_ERROR(manifest.status()) << "the checkpoint of step " << step << " in " << folder;
  saved_step_ = step;
  saved_manifest_ = *manifest;
  return manifest;
}

absl::StatusOr<std::string> RankCheckpoints::Load(const std::string& folder) {
  const LongerTimeout longer(*setup_.communicator, setup_.save_timeout, setup_.exchange_timeout);
  ASSIGN_OR_RETURN(const std::string found, FromRankZero(
                                                [&]() -> absl::StatusOr<std::string> {
                                                  ASSIGN_OR_RETURN(const bool has,
                                                                   HasCheckpoints(folder));
                                                  return std::string(has ? "yes" : "");
                                                },
                                                "whether there is a checkpoint"));
  loaded_folder_ = folder;
  if (found.empty()) return std::string();
  proto::JobSpec job = *setup_.job;
  job.mutable_train()->set_save_dir(folder);
  job.mutable_train()->set_load_dir(folder);
  worker::ResumeSetup resume;
  resume.file_system = setup_.file_system;
  resume.job = &job;
  resume.communicator = setup_.communicator;
  resume.trainer = setup_.trainer;
  resume.kernels_fingerprint = setup_.kernels->Fingerprint();
  resume.clock = &Clock::Real();
  resume.wait = [](absl::Duration wait) { return SleepUnless(wait, nullptr); };
  resume.warn = [](const std::string& warning) { LOG(WARNING) << warning; };
  resume.moved = [] {};
  resume.enter = [](OperationClass) {};
  ASSIGN_OR_RETURN(const worker::Resumed resumed, worker::Resume(resume));
  return resumed.manifest;
}

}  // namespace dsrun
