#include "launcher/shell/unreported_commit.h"

#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "common/base/thread.h"
#include "common/format/checkpoint_reader.h"
#include "common/format/manifest.h"

namespace dsrun::launcher {
namespace {

// Whether `key` is newer for whoever loads, and was committed later.
bool IsAfter(const ManifestKey& key, const std::optional<ManifestKey>& reported) {
  if (!reported) return true;
  return key > *reported &&
         std::pair(key.generation, key.epoch) > std::pair(reported->generation, reported->epoch);
}

struct Answer {
  Mutex mu;
  CondVar changed;
  bool there ABSL_GUARDED_BY(mu) = false;
  std::optional<UnreportedCommit> found ABSL_GUARDED_BY(mu);
};

}  // namespace

std::optional<UnreportedCommit> FindUnreportedCommit(FileSystem& fs, const std::string& folder,
                                                     const std::string& job_id,
                                                     const std::string& reported) {
  const absl::StatusOr<std::vector<std::string>> names = ListManifests(fs, folder);
  if (!names.ok()) return std::nullopt;
  const std::optional<ManifestKey> known = ParseManifestName(reported);
  for (const std::string& name : *names) {  // newest first
    const std::optional<ManifestKey> key = ParseManifestName(name);
    if (!key || (known && *key <= *known)) break;
    if (!IsAfter(*key, known)) continue;
    const absl::StatusOr<Checkpoint> checkpoint = OpenCheckpoint(fs, folder, name, Verify::kSizes);
    if (!checkpoint.ok() || checkpoint->manifest().facts.job_id != job_id) continue;
    return UnreportedCommit{name, key->step.value()};
  }
  return std::nullopt;
}

std::optional<UnreportedCommit> FindUnreportedCommitWithin(absl::Duration limit, FileSystem& fs,
                                                           const std::string& folder,
                                                           const std::string& job_id,
                                                           const std::string& reported) {
  const auto answer = std::make_shared<Answer>();
  absl::StatusOr<std::thread> thread = StartThread("the look for a checkpoint", [=, &fs] {
    std::optional<UnreportedCommit> found = FindUnreportedCommit(fs, folder, job_id, reported);
    MutexLock lock(answer->mu);
    answer->found = std::move(found);
    answer->there = true;
    answer->changed.NotifyAll();
  });
  if (!thread.ok()) return std::nullopt;
  const SteadyTime deadline = Clock::Real().SteadyNow() + limit;
  std::optional<UnreportedCommit> found;
  bool there = false;
  {
    MutexLock lock(answer->mu);
    while (!answer->there) {
      const absl::Duration left = deadline - Clock::Real().SteadyNow();
      if (left <= absl::ZeroDuration()) break;
      answer->changed.WaitFor(answer->mu, left);
    }
    there = answer->there;
    found = answer->found;
  }
  if (there) {
    thread->join();
  } else {
    thread->detach();
  }
  return found;
}

}  // namespace dsrun::launcher
