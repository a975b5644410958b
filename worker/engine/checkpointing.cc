#include "worker/engine/checkpointing.h"

#include <cstdlib>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/format/checkpoint_reader.h"
#include "worker/comm/core/collectives.h"
#include "worker/engine/model_spec_proto.h"
#include "worker/model/init.h"

namespace dsrun::worker {
namespace {

// A status or a text as one string, so that it can be gathered: "0:text" or "code:message".
std::string Pack(const absl::StatusOr<std::string>& value) {
  return value.ok()
             ? absl::StrCat("0:", *value)
             : absl::StrCat(static_cast<int>(value.status().code()), ":", value.status().message());
}

absl::StatusOr<std::string> Unpack(const std::string& packed) {
  const size_t colon = packed.find(':');
  const int code = std::atoi(packed.substr(0, colon).c_str());
  const std::string text = packed.substr(colon + 1);
  if (code == 0) return text;
  return absl::Status(static_cast<absl::StatusCode>(code), text);
}

}  // namespace

Checkpointing::Checkpointing(Setup setup) : setup_(std::move(setup)) {}

absl::StatusOr<std::string> Checkpointing::Resume() {
  ASSIGN_OR_RETURN(const Found found, AgreeOnCheckpoint());
  if (found.manifest.empty()) {
    const proto::TrainSpec& spec = setup_.job->train();
    InitParameters(FromProto(spec.model()), setup_.trainer->layout(), spec.seed(),
                   setup_.trainer->state().parameters);
    return std::string();
  }
  RETURN_IF_ERROR(Load(found)) << "checkpoint " << JoinPath(found.folder, found.manifest);
  if (found.folder == setup_.job->train().save_dir()) {
    newest_ = found.manifest;
  }
  return found.manifest;
}

// One look at the folder, by one rank: what the others would find may differ by then.
absl::StatusOr<Checkpointing::Found> Checkpointing::AgreeOnCheckpoint() {
  std::string mine;
  if (setup_.communicator->rank() == 0) {
    const absl::StatusOr<Found> found = FindOnRankZero();
    mine = Pack(
        found.ok() ? absl::StatusOr<std::string>(absl::StrCat(found->folder, "\n", found->manifest))
                   : absl::StatusOr<std::string>(found.status()));
  }
  ASSIGN_OR_RETURN(const std::string packed,
                   Broadcast(*setup_.communicator, 0, mine, "which checkpoint to load"));
  ASSIGN_OR_RETURN(const std::string text, Unpack(packed));
  const size_t line = text.rfind('\n');  // a folder's name may hold anything, a manifest's not
  return Found{text.substr(0, line), text.substr(line + 1)};
}

absl::StatusOr<Checkpointing::Found> Checkpointing::FindOnRankZero() {
  const proto::TrainSpec& spec = setup_.job->train();
  std::vector<std::string> rejected;
  FindOptions own;
  own.job_id = setup_.job->job_id();
  absl::StatusOr<Checkpoint> checkpoint =
      FindNewestCheckpoint(*setup_.file_system, spec.save_dir(), own, &rejected);
  if (absl::IsNotFound(checkpoint.status()) && !spec.load_dir().empty()) {
    checkpoint = FindNewestCheckpoint(*setup_.file_system, spec.load_dir(), {}, &rejected);
    if (!checkpoint.ok()) return Annotate(checkpoint.status(), "--load");
  }
  for (const std::string& line : rejected) {
    setup_.warn(absl::StrCat("a checkpoint was passed over: ", line));
  }
  if (absl::IsNotFound(checkpoint.status())) return Found{};
  RETURN_IF_ERROR(checkpoint.status());
  return Found{checkpoint->folder(), checkpoint->manifest_name()};
}

absl::Status Checkpointing::Load(const Found& found) {
  // Rank 0 has read every byte already; what a rank reads is compared piece by piece anyway.
  ASSIGN_OR_RETURN(Checkpoint checkpoint, OpenCheckpoint(*setup_.file_system, found.folder,
                                                         found.manifest, Verify::kSizes));
  ShardedState& state = setup_.trainer->state();
  RETURN_IF_ERROR(LoadModelAndState(checkpoint, Expectation(), setup_.trainer->layout(),
                                    setup_.trainer->owned(), state.parameters, state.adam_m,
                                    state.adam_v));
  state.step = checkpoint.manifest().facts.counters.optimizer_steps;
  state.samples = checkpoint.manifest().facts.counters.samples_consumed;
  return absl::OkStatus();
}

LoadExpectation Checkpointing::Expectation() const {
  const proto::TrainSpec& spec = setup_.job->train();
  LoadExpectation expectation;
  expectation.model = FromProto(spec.model());
  expectation.batch = {spec.global_batch_size(), spec.micro_batch_size(), spec.canonical_blocks(),
                       spec.seed(), setup_.corpus_sha256};
  expectation.fingerprint = {{"kernels", setup_.kernels_fingerprint}};
  expectation.accept_differences = spec.accept_fingerprint();
  return expectation;
}

}  // namespace dsrun::worker
