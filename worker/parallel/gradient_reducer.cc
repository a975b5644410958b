#include "worker/parallel/gradient_reducer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/comm/core/canonical_reduce.h"

namespace dsrun::worker {

int64_t GradientReducer::ScratchElements(const BatchPlan& batch, const GradientSpace& space,
                                         int64_t rank) {
  int64_t most = 0;
  for (const Range& bucket : space.buckets()) {
    most = std::max(most, ReduceScratchElements(batch, rank, space.OwnedSize(rank, bucket),
                                                /*in_place=*/true));
  }
  return most;
}

GradientReducer::GradientReducer(Setup setup)
    : setup_(std::move(setup)),
      result_(setup_.buffers[static_cast<size_t>(setup_.accumulation->node_buffers[0])]) {}

void GradientReducer::StartStep() { next_bucket_ = 0; }

void GradientReducer::Ready(Range range) {
  if (setup_.overlap) EnqueueFinishedBuckets(range.begin);
}

absl::Status GradientReducer::Finish() {
  const SteadyTime called = Clock::Real().SteadyNow();
  EnqueueFinishedBuckets(0);
  const absl::Status status = setup_.thread->Wait();
  times_ = {};
  for (const Busy& span : spans_) {
    times_.reducing += span.end - span.begin;
    times_.hidden += std::max(absl::ZeroDuration(), std::min(span.end, called) - span.begin);
  }
  spans_.clear();
  return status;
}

// Everything from `position` up is final.
void GradientReducer::EnqueueFinishedBuckets(int64_t position) {
  const std::vector<Range>& buckets = setup_.space->buckets();
  while (next_bucket_ < buckets.size() && buckets[next_bucket_].begin >= position) {
    setup_.thread->Add([this, bucket = next_bucket_] { return ReduceBucket(bucket); });
    ++next_bucket_;
  }
}

absl::Status GradientReducer::ReduceBucket(size_t bucket) {
  const std::string what = absl::StrCat("reduce-scatter bucket ", bucket);
  const SteadyTime begin = Clock::Real().SteadyNow();
  const absl::Status status = Reduce(setup_.space->buckets()[bucket], what);
  spans_.push_back({begin, Clock::Real().SteadyNow()});
  if (setup_.on_span) setup_.on_span(what, begin, spans_.back().end);
  return status;
}

absl::Status GradientReducer::Reduce(Range range, const std::string& what) {
  Kernels& kernels = *setup_.kernels;
  for (const BufferAdd& add : setup_.accumulation->steps.back().adds) {
    kernels.Accumulate(range.size(), setup_.buffers[static_cast<size_t>(add.from)] + range.begin,
                       setup_.buffers[static_cast<size_t>(add.into)] + range.begin);
  }
  std::vector<const float*> nodes;
  for (const int buffer : setup_.accumulation->node_buffers) {
    nodes.push_back(setup_.buffers[static_cast<size_t>(buffer)]);
  }
  const std::vector<std::vector<Range>> owned = setup_.space->OwnedByRank(range);
  RETURN_IF_ERROR(CanonicalReduceScatter(
      *setup_.communicator, *setup_.batch, owned, nodes, result_, setup_.scratch,
      [&](float* dst, const float* src, int64_t n) { kernels.Accumulate(n, src, dst); }, what));
  const int rank = setup_.communicator->rank();
  for (const Range& mine : owned[static_cast<size_t>(rank)]) setup_.on_reduced(mine);
  return absl::OkStatus();
}

}  // namespace dsrun::worker
