#include "worker/checkpoint/shared_verification.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <queue>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"
#include "common/format/shard_verifier.h"

namespace dsrun::worker {
namespace {

constexpr size_t kMaxListed = 5;

// "a; b; and 3 more".
std::string Listed(const std::vector<std::string>& texts) {
  const size_t shown = std::min(texts.size(), kMaxListed);
  std::string out =
      absl::StrJoin(texts.begin(), texts.begin() + static_cast<std::ptrdiff_t>(shown), "; ");
  if (shown < texts.size()) absl::StrAppend(&out, "; and ", texts.size() - shown, " more");
  return out;
}

}  // namespace

// The largest file first, each to whoever has least so far.
std::vector<ManifestFile> ShareOf(const Manifest& manifest, int rank, int width) {
  std::vector<const ManifestFile*> files;
  for (const ManifestFile& file : manifest.files) files.push_back(&file);
  std::stable_sort(files.begin(), files.end(), [](const ManifestFile* a, const ManifestFile* b) {
    return a->bytes > b->bytes;
  });
  using Load = std::pair<int64_t, int>;  // bytes, rank
  std::priority_queue<Load, std::vector<Load>, std::greater<Load>> least;
  for (int r = 0; r < width; ++r) least.push({0, r});
  std::vector<ManifestFile> mine;
  for (const ManifestFile* file : files) {
    auto [bytes, owner] = least.top();
    least.pop();
    if (owner == rank) mine.push_back(*file);
    least.push({bytes + file->bytes, owner});
  }
  std::sort(mine.begin(), mine.end(),
            [](const ManifestFile& a, const ManifestFile& b) { return a.name < b.name; });
  return mine;
}

absl::Status VerifyShare(FileSystem& fs, const std::string& folder, const Manifest& manifest,
                         int rank, int width, const std::function<void()>& moved) {
  ShardVerifier verifier(fs, folder, manifest);
  std::vector<std::string> damaged;
  absl::Status unreadable;
  for (const ManifestFile& file : ShareOf(manifest, rank, width)) {
    const absl::Status status = StatusOf(verifier.Verify(file, [&](int64_t) { moved(); }), folder);
    if (absl::IsDataLoss(status)) {
      damaged.emplace_back(status.message());
    } else {
      unreadable.Update(status);
    }
  }
  // Damage is proven, and enough: what could not be read would not make this checkpoint whole.
  return damaged.empty() ? unreadable : absl::DataLossError(Listed(damaged));
}

absl::Status JoinShares(const std::vector<absl::Status>& by_rank) {
  std::vector<std::string> damaged;
  absl::Status unreadable;
  for (size_t rank = 0; rank < by_rank.size(); ++rank) {
    if (absl::IsDataLoss(by_rank[rank])) {
      damaged.emplace_back(by_rank[rank].message());
    } else {
      unreadable.Update(Annotate(by_rank[rank], absl::StrCat("rank ", rank)));
    }
  }
  return damaged.empty() ? unreadable : absl::DataLossError(Listed(damaged));
}

}  // namespace dsrun::worker
