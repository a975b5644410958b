#include "launcher/commands/where_in_job.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/base/file_system.h"
#include "common/base/status_macros.h"
#include "common/format/tensor_names.h"
#include "common/model/model_plan.h"
#include "common/plan/memory_plan.h"
#include "common/plan/optimizer_plan.h"
#include "common/plan/shard_plan.h"
#include "common/plan/slot_places.h"
#include "common/plan/zero_stage.h"
#include "launcher/shell/journal.h"

namespace dsrun::launcher {
namespace {

using Json = nlohmann::ordered_json;
using State = Coordinator::State;

constexpr size_t kMostNamed = 8;

std::string StateWord(State state) {
  switch (state) {
    case State::kIdle:
    case State::kOpening:
      return "opening its agents";
    case State::kPreparing:
      return "preparing the next generation";
    case State::kStarting:
      return "starting";
    case State::kRunning:
      return "running";
    case State::kDraining:
      return "waiting for the ranks of a failed generation to end";
    case State::kStopping:
      return "saving and stopping";
    case State::kEnding:
      return "ending";
    case State::kEnded:
      return "ended";
  }
  return "";
}

std::string TimeText(absl::Time time) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%E3S UTC", time, absl::UTCTimeZone());
}

// The parts of the tensor in `owned`, ascending flat ranges, by its own elements.
std::vector<Range> PartsOf(const FlatLayout::Entry& entry, const std::vector<Range>& owned) {
  const Range flat = entry.flat();
  std::vector<Range> parts;
  for (const Range& range : owned) {
    const Range both{std::max(flat.begin, range.begin), std::min(flat.end, range.end)};
    if (!both.empty()) parts.push_back({both.begin - flat.begin, both.end - flat.begin});
  }
  return parts;
}

absl::Status NoSuchParameter(const FlatLayout& layout, const std::string& parameter) {
  std::vector<std::string> names;
  for (const FlatLayout::Entry& entry : layout.entries()) {
    if (names.size() < kMostNamed) names.push_back(entry.tensor.name);
  }
  return absl::NotFoundError(absl::StrCat("--param: the job's model has no parameter ", parameter,
                                          "; it has ", layout.entries().size(), ", such as ",
                                          absl::StrJoin(names, ", ")));
}

// One generation's ranks, and what they hold.
class Holders {
 public:
  Holders(const Coordinator& core, const FlatLayout& layout)
      : core_(core),
        shards_(layout, core.plan().members_size(), core.config().memory->bucket_bytes) {}

  // Of parameters, or of the optimizer's slots.
  TensorInJob Parameters(const FlatLayout::Entry& entry, std::string name) const {
    // In 16 bits every rank has those that layers read; the fp32 ones, which are told, lie as the
    // optimizer's state does.
    const bool halves = core_.config().memory->precision != DType::kF32;
    const ZeroPart held = halves ? Stage().slots : Stage().parameters;
    if (held == ZeroPart::kAll) return Everywhere(entry, std::move(name));
    return Shared(entry, std::move(name), /*frozen=*/!entry.tensor.trainable);
  }
  TensorInJob Slots(const FlatLayout::Entry& entry, std::string name) const {
    if (Stage().slots == ZeroPart::kAll) return Everywhere(entry, std::move(name));
    return Shared(entry, std::move(name), /*frozen=*/false);
  }

 private:
  const ZeroStage& Stage() const { return ZeroStageOf(core_.config().memory->zero_stage); }

  TensorInJob Everywhere(const FlatLayout::Entry& entry, std::string name) const {
    TensorInJob tensor{std::move(name), entry.tensor.shape, {}, true};
    for (int rank = 0; rank < core_.plan().members_size(); ++rank) {
      tensor.pieces.push_back(Piece(rank, {0, entry.flat().size()}));
    }
    return tensor;
  }

  TensorInJob Shared(const FlatLayout::Entry& entry, std::string name, bool frozen) const {
    TensorInJob tensor{std::move(name), entry.tensor.shape, {}, false};
    for (int rank = 0; rank < core_.plan().members_size(); ++rank) {
      for (const Range& part :
           PartsOf(entry, frozen ? shards_.Stored(rank) : shards_.Owned(rank))) {
        tensor.pieces.push_back(Piece(rank, part));
      }
    }
    return tensor;
  }

  HeldByRank Piece(int rank, Range elements) const {
    const proto::Member& member = core_.plan().members(rank);
    const auto node = static_cast<size_t>(member.node());
    return {rank, core_.config().nodes[node].host, member.slot(), elements};
  }

  const Coordinator& core_;
  const ShardPlan shards_;
};

}  // namespace

absl::StatusOr<JobPlaces> WhereInJob(const Coordinator& core, const std::string& parameter) {
  if (!core.config().is_train || !core.config().memory.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--param: job ", core.config().job_id,
                     " runs a program of its own, whose parameters dsrun does not know; of a "
                     "training job (dsrun train) it says where they are"));
  }
  if (core.state() == State::kEnded || core.plan().members_size() == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("job ", core.config().job_id,
                     core.state() == State::kEnded ? " has ended" : " has not begun to train yet"));
  }
  const MemoryInput& input = *core.config().memory;
  const ModelPlan model = ModelOf(input);
  const FlatLayout layout(model.tensors);
  const Holders holders(core, layout);
  JobPlaces places{core.config().job_id,
                   core.plan().generation(),
                   StateWord(core.state()),
                   core.plan().members_size(),
                   {}};
  for (const FlatLayout::Entry& entry : layout.entries()) {
    const std::string& name = entry.tensor.name;
    const auto wanted = [&](const std::string& tensor) {
      return parameter == name || parameter == tensor;
    };
    if (const std::string of_model = std::string(kModelPrefix) + name; wanted(of_model)) {
      places.tensors.push_back(holders.Parameters(entry, of_model));
    }
    if (!entry.tensor.trainable) continue;
    for (const OptimizerSlot& slot : input.optimizer.slots) {
      if (!Keeps(entry.tensor, slot)) continue;
      const std::string of_state = std::string(kStatePrefix) + std::string(slot.name) + "/" + name;
      if (wanted(of_state)) places.tensors.push_back(holders.Slots(entry, of_state));
    }
  }
  if (places.tensors.empty()) return NoSuchParameter(layout, parameter);
  return places;
}

absl::StatusOr<std::optional<JobThen>> ReadJobOf(const std::string& run_folder) {
  const std::string path = JoinPath(run_folder, "journal.db");
  const bool behind = FileSystem::Real().Stat(BehindMarkOf(path)).ok();
  const absl::StatusOr<JournalContent> journal =
      ReadJournal(path, ReadFrom::kNewestSnapshot, IfBehind::kRead);
  if (absl::IsNotFound(journal.status())) return std::nullopt;
  RETURN_IF_ERROR(journal.status());
  absl::Time as_of = journal->snapshot.has_value() ? journal->snapshot->wall : absl::InfinitePast();
  if (!journal->records.empty()) as_of = journal->records.back().wall;
  ASSIGN_OR_RETURN(Coordinator core, ReplayJournal(*journal));
  return JobThen{std::move(core), as_of, behind};
}

void PrintText(const JobPlaces& places, const JobThen& job, std::ostream& out) {
  out << "job " << places.job_id << ": " << places.state << ", generation " << places.generation
      << ", " << places.ranks << (places.ranks == 1 ? " rank" : " ranks")
      << "; as its journal said at " << TimeText(job.as_of) << "\n";
  for (const TensorInJob& tensor : places.tensors) {
    out << "\n" << tensor.name << "  (" << absl::StrJoin(tensor.shape, ", ") << ")  F32  in memory";
    if (tensor.everywhere) {
      out << ": all of it in every rank\n";
      continue;
    }
    out << "\n"
        << absl::StreamFormat("  %5s  %12s  %12s  host:slot\n", "rank", "from element", "to");
    for (const HeldByRank& piece : tensor.pieces) {
      out << absl::StreamFormat("  %5d  %12d  %12d  %s:%d\n", piece.rank, piece.elements.begin,
                                piece.elements.end, piece.host, piece.slot);
    }
  }
}

Json ToJson(const JobPlaces& places, const JobThen& job) {
  Json json = {
      {"id", places.job_id},     {"state", places.state},        {"generation", places.generation},
      {"ranks", places.ranks},   {"as_of", TimeText(job.as_of)}, {"journal_behind", job.behind},
      {"tensors", Json::array()}};
  for (const TensorInJob& tensor : places.tensors) {
    Json one = {{"name", tensor.name},
                {"shape", tensor.shape},
                {"dtype", "F32"},
                {"pieces", Json::array()}};
    for (const HeldByRank& piece : tensor.pieces) {
      one["pieces"].push_back({{"rank", piece.rank},
                               {"host", piece.host},
                               {"slot", piece.slot},
                               {"begin", piece.elements.begin},
                               {"end", piece.elements.end}});
    }
    json["tensors"].push_back(std::move(one));
  }
  return json;
}

}  // namespace dsrun::launcher
