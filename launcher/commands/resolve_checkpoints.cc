// Which checkpoints a run goes on from, and which of its own stay.

#include <cstdint>
#include <numeric>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "common/base/file_system.h"
#include "common/format/checkpoint_reader.h"
#include "launcher/commands/checkpoint_place.h"
#include "launcher/commands/checkpoint_tags.h"
#include "launcher/commands/resolve_parts.h"

namespace dsrun::launcher {
namespace {

constexpr int64_t kMaxSize = int64_t{1} << 31;

}  // namespace

// --load, or of a run folder its checkpoints. nullopt: there is no --load, or a finding.
std::optional<std::string> LoadFolder(ResolveContext& context) {
  const auto load = context.values.Text("load");
  if (!load.has_value()) {
    if (context.values.Has("load-step")) {
      context.findings.AddFlag(
          "--load-step", "says which checkpoint of --load, which is missing; give --load DIR");
    }
    return std::nullopt;
  }
  const std::string folder = context.Absolute(*load);
  const auto place = LocateCheckpoints(FileSystem::Real(), folder);
  if (!place.ok()) {
    context.findings.AddFlag("--load", std::string(place.status().message()));
    return std::nullopt;
  }
  if (!place->manifest.empty()) {
    context.findings.AddFlag("--load",
                             "expected a folder, got the manifest " + folder + "; write --load " +
                                 place->folder + " --load-step " +
                                 std::to_string(ParseManifestName(place->manifest)->step.value()));
    return std::nullopt;
  }
  if (place->of_run) {
    context.Note("--load: " + folder + " is a run folder: its " + place->folder + " is meant");
  }
  return place->folder;
}

// A run that goes back to an older step saves beside what is newer: by its step, the old one is
// then the newest for whoever looks, until this run has passed it.
void NoteNewerInSaveFolder(ResolveContext& context, int64_t loaded_step) {
  const proto::TrainSpec& train = context.resolved.job.train();
  const auto manifests = ListManifests(FileSystem::Real(), train.save_dir());
  if (!manifests.ok() || manifests->empty()) return;
  const int64_t newest = ParseManifestName(manifests->front())->step.value();
  if (newest <= loaded_step) return;
  context.Note(train.save_dir() + " holds checkpoints up to step " + std::to_string(newest) +
               ", which stay: until this run has passed it, " + manifests->front() +
               " is the newest there; --save another folder keeps the two apart");
}

void ResolveRetention(ResolveContext& context) {
  proto::TrainSpec& train = *context.resolved.job.mutable_train();
  train.set_keep_last(context.values.Int("keep-last", 1, kMaxSize).value_or(3));
  const int64_t every = context.values.Int("keep-every", 1, kMaxSize).value_or(0);
  train.set_keep_every(every);
  const int64_t interval = train.save_interval();
  if (every > 0 && interval == 0) {
    context.Note("--keep-every " + std::to_string(every) +
                 ": with --save-interval 0 there is one checkpoint, at the end");
  } else if (every > 0 && every % interval != 0) {
    context.Note("--keep-every " + std::to_string(every) + ": checkpoints come every " +
                 std::to_string(interval) + " steps, so those of every " +
                 std::to_string(std::lcm(every, interval)) + " steps stay");
  }
  const auto tag = context.values.Text("tag");
  if (!tag.has_value()) return;
  const absl::Status free = CheckTagIsFree(FileSystem::Real(), train.save_dir(), *tag);
  if (!free.ok()) context.findings.AddFlag("--tag", std::string(free.message()));
  train.set_tag(*tag);
}

}  // namespace dsrun::launcher
