#include "worker/api/rank_checkpoints.h"

#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/logging.h"
#include "common/base/operation_class.h"
#include "common/base/patience.h"
#include "common/base/status_macros.h"
#include "common/format/checkpoint_reader.h"
#include "common/format/manifest.h"
#include "common/format/save_folder.h"
#include "common/plan/optimizer_of_spec.h"
#include "common/rpc/secrets.h"
#include "worker/checkpoint/checkpoint_writer.h"
#include "worker/checkpoint/prune.h"
#include "worker/checkpoint/slices.h"
#include "worker/comm/core/collectives.h"
#include "worker/engine/packed_status.h"
#include "worker/engine/resume.h"
#include "worker/engine/saved_parts.h"
#include "worker/engine/saving.h"

namespace dsrun {
namespace {

using worker::AllGather;
using worker::Pack;
using worker::Slice;
using worker::Unpack;

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
std::vector<Slice> SlicesOfRank(const worker::Trainer& trainer, const OptimizerPlan& optimizer,
                                const std::vector<worker::SavedNumbers>& numbers) {
  std::vector<Slice> slices;
  for (const worker::SavedPart& part : SavedParts(trainer, optimizer)) {
    std::vector<Slice> more =
        SlicesOf(trainer.layout(), *part.ranges, part.slot + "/", part.arena, part.data);
    slices.insert(slices.end(), std::make_move_iterator(more.begin()),
                  std::make_move_iterator(more.end()));
  }
  for (const worker::SavedNumbers& of : numbers) {
    const auto count = static_cast<int64_t>(of.values.size());
    slices.push_back({of.name, {count}, 0, count, of.values.data()});
  }
  return slices;
}

}  // namespace

RankCheckpoints::RankCheckpoints(Setup setup)
    : setup_(std::move(setup)), incarnation_(RandomIncarnation()) {}

RankCheckpoints::~RankCheckpoints() {
  if (setup_.communicator->rank() != 0) return;
  for (const auto& [folder, saved] : folders_) {
    setup_.file_system->RemoveFile(JoinPath(folder, SaveFolderMarker(setup_.job->job_id())))
        .IgnoreError();  // an empty file that stands in nobody's way
  }
}

absl::StatusOr<std::string> RankCheckpoints::FromRankZero(
    const std::function<absl::StatusOr<std::string>()>& act, const std::string& what) {
  const std::string mine = setup_.communicator->rank() == 0 ? Pack(act()) : std::string();
  ASSIGN_OR_RETURN(const std::string packed,
                   worker::Broadcast(*setup_.communicator, 0, mine, what));
  return Unpack(packed);
}

std::optional<absl::StatusOr<std::string>> RankCheckpoints::CommitTogether(
    const std::string& folder, const std::vector<std::string>& records) {
  const bool decides = setup_.communicator->rank() == 0;
  const absl::StatusOr<std::string> done =
      decides ? Commit(folder, records) : absl::StatusOr<std::string>("");
  const absl::StatusOr<std::string> heard = worker::Broadcast(
      *setup_.communicator, 0, decides ? Pack(done) : std::string(), "whether it is committed");
  if (decides) return done;  // it knows, whoever else has heard it
  if (!heard.ok()) return std::nullopt;
  return Unpack(*heard);
}

absl::StatusOr<bool> RankCheckpoints::HasCheckpoints(const std::string& folder) {
  const absl::StatusOr<std::vector<std::string>> manifests =
      ListManifests(*setup_.file_system, folder);
  if (absl::IsNotFound(manifests.status())) return false;
  RETURN_IF_ERROR(manifests.status());
  return !manifests->empty();
}

// By rank 0. A folder of another run's is not written into by mistake: its newer checkpoints would
// be taken for the newest of this one. What an earlier start of this job has left there is its own;
// a first start has none, whatever a program that no job has started is called.
absl::Status RankCheckpoints::Prepare(const std::string& folder) {
  FileSystem& fs = *setup_.file_system;
  const std::string& job = setup_.job->job_id();
  RETURN_IF_ERROR(CreateFolderAndSync(fs, folder));
  if (folder != loaded_folder_) {
    ASSIGN_OR_RETURN(const std::vector<std::string> manifests, ListManifests(fs, folder));
    if (!manifests.empty()) {
      ASSIGN_OR_RETURN(const Manifest newest, ReadManifest(fs, folder, manifests.front()));
      const bool own = newest.facts.job_id == job && setup_.generation > Generation(1);
      if (!own) {
        return absl::FailedPreconditionError(
            absl::StrCat(folder, " holds checkpoints of another run (job ", newest.facts.job_id,
                         ") up to step ", newest.facts.key.step.value(),
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
  std::vector<worker::SavedNumbers> numbers;
  if (rank == Rank(0)) numbers = NumbersOfFirstRank(trainer);
  const LayoutRecipe recipe = worker::RecipeOf(trainer.layout(), optimizer,
                                               setup_.communicator->size(), spec.bucket_bytes());
  ASSIGN_OR_RETURN(const std::vector<worker::HostAccess> access, trainer.OpenState());
  const std::vector<Slice> slices = SlicesOfRank(trainer, optimizer, numbers);
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
  const auto known = folders_.find(folder);
  if (known != folders_.end() && known->second.step == step) return known->second.manifest;
  const LongerTimeout longer(*setup_.communicator, setup_.save_timeout, setup_.exchange_timeout);
  if (known == folders_.end()) {
    RETURN_IF_ERROR(FromRankZero(
                        [&]() -> absl::StatusOr<std::string> {
                          RETURN_IF_ERROR(Prepare(folder));
                          return std::string();
                        },
                        "whether the folder can be saved into")
                        .status());
    folders_[folder] = {};
  }
  const std::string which = absl::StrCat("the checkpoint of step ", step, " in ", folder);
  const absl::Status unknown = absl::UnknownError(absl::StrCat(
      which, ": a rank was lost while it was committed; Load finds out whether it is there"));
  const absl::StatusOr<std::string> mine = WriteMyShard(folder);
  const absl::StatusOr<std::vector<std::string>> words =
      AllGather(*setup_.communicator, Pack(mine), "whether all have written");
  if (!words.ok()) {
    // Rank 0 commits nothing without having heard all; another rank does not know what it heard.
    return setup_.communicator->rank() == 0 ? Annotate(words.status(), which) : unknown;
  }
  absl::Status written;
  std::vector<std::string> records;
  for (size_t rank = 0; rank < words->size(); ++rank) {
    absl::StatusOr<std::string> record = Unpack((*words)[rank]);
    written.Update(Annotate(record.status(), absl::StrCat("rank ", rank)));
    if (record.ok()) records.push_back(*std::move(record));
  }
  const std::optional<absl::StatusOr<std::string>> manifest =
      written.ok() ? CommitTogether(folder, records) : absl::StatusOr<std::string>(written);
  if (!manifest.has_value()) return unknown;
  if (!worker::MayBeCommitted(manifest->status()) && mine.ok()) {
    // Of use to nobody; the first error is the one to report.
    worker::RemoveShard(*setup_.file_system, folder, *worker::ShardRecord::Parse(*mine))
        .IgnoreError();
  }
  RETURN_IF_ERROR(manifest->status()) << which;
  folders_[folder] = {**manifest, step};
  return **manifest;
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
  if (found.empty()) {
    loaded_folder_ = folder;
    return std::string();
  }
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
  loaded_folder_ = folder;
  return resumed.manifest;
}

}  // namespace dsrun
