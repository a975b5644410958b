#include "worker/engine/resume.h"

#include <vector>

#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/format/checkpoint_reader.h"
#include "worker/comm/core/collectives.h"
#include "worker/engine/model_spec_proto.h"
#include "worker/engine/packed_status.h"
#include "worker/model/init.h"

namespace dsrun::worker {
namespace {

absl::StatusOr<Resumed> FindOnRankZero(const ResumeSetup& setup) {
  const proto::TrainSpec& spec = setup.job->train();
  std::vector<std::string> rejected;
  FindOptions own;
  own.job_id = setup.job->job_id();
  absl::StatusOr<Checkpoint> checkpoint =
      FindNewestCheckpoint(*setup.file_system, spec.save_dir(), own, &rejected);
  if (absl::IsNotFound(checkpoint.status()) && !spec.load_dir().empty()) {
    checkpoint = FindNewestCheckpoint(*setup.file_system, spec.load_dir(), {}, &rejected);
    if (!checkpoint.ok()) return Annotate(checkpoint.status(), "--load");
  }
  for (const std::string& line : rejected) {
    setup.warn(absl::StrCat("a checkpoint was passed over: ", line));
  }
  if (absl::IsNotFound(checkpoint.status())) return Resumed{};
  RETURN_IF_ERROR(checkpoint.status());
  return Resumed{checkpoint->folder(), checkpoint->manifest_name()};
}

// One look at the folder, by one rank: what the others would find may differ by then.
absl::StatusOr<Resumed> AgreeOnCheckpoint(const ResumeSetup& setup) {
  std::string mine;
  if (setup.communicator->rank() == 0) {
    const absl::StatusOr<Resumed> found = FindOnRankZero(setup);
    mine = Pack(
        found.ok() ? absl::StatusOr<std::string>(absl::StrCat(found->folder, "\n", found->manifest))
                   : absl::StatusOr<std::string>(found.status()));
  }
  ASSIGN_OR_RETURN(const std::string packed,
                   Broadcast(*setup.communicator, 0, mine, "which checkpoint to load"));
  ASSIGN_OR_RETURN(const std::string text, Unpack(packed));
  const size_t line = text.rfind('\n');  // a folder's name may hold anything, a manifest's not
  return Resumed{text.substr(0, line), text.substr(line + 1)};
}

absl::Status Load(const ResumeSetup& setup, const Resumed& found) {
  // Rank 0 has read every byte already; what a rank reads is compared piece by piece anyway.
  ASSIGN_OR_RETURN(Checkpoint checkpoint, OpenCheckpoint(*setup.file_system, found.folder,
                                                         found.manifest, Verify::kSizes));
  ShardedState& state = setup.trainer->state();
  RETURN_IF_ERROR(LoadModelAndState(
      checkpoint, ExpectationOf(setup.job->train(), setup.kernels_fingerprint, setup.corpus_sha256),
      setup.trainer->layout(), setup.trainer->owned(), state.parameters, state.adam_m,
      state.adam_v));
  state.step = checkpoint.manifest().facts.counters.optimizer_steps;
  state.samples = checkpoint.manifest().facts.counters.samples_consumed;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Resumed> Resume(const ResumeSetup& setup) {
  ASSIGN_OR_RETURN(const Resumed found, AgreeOnCheckpoint(setup));
  if (found.manifest.empty()) {
    const proto::TrainSpec& spec = setup.job->train();
    InitParameters(FromProto(spec.model()), setup.trainer->layout(), spec.seed(),
                   setup.trainer->state().parameters);
    return found;
  }
  RETURN_IF_ERROR(Load(setup, found)) << "checkpoint " << JoinPath(found.folder, found.manifest);
  return found;
}

LoadExpectation ExpectationOf(const proto::TrainSpec& spec, const std::string& kernels_fingerprint,
                              const std::string& corpus_sha256) {
  LoadExpectation expectation;
  expectation.model = FromProto(spec.model());
  expectation.batch = {spec.global_batch_size(), spec.micro_batch_size(), spec.canonical_blocks(),
                       spec.seed(), corpus_sha256};
  expectation.fingerprint = {{"kernels", kernels_fingerprint}};
  expectation.accept_differences = spec.accept_fingerprint();
  return expectation;
}

}  // namespace dsrun::worker
