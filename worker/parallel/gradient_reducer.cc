#include "worker/parallel/gradient_reducer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/logging.h"
#include "common/base/status_macros.h"

namespace dsrun::worker {

GradientReducer::GradientReducer(Setup setup) : setup_(std::move(setup)) {
  const auto rank = static_cast<size_t>(setup_.communicator->rank());
  for (const Range& range : setup_.shards->buckets()) {
    Bucket bucket{.owners = setup_.shards->OwnedByRank(range)};
    for (const Range& mine : bucket.owners[rank]) bucket.owned += mine.size();
    if (bucket.owned > 0) {
      bucket.offset = setup_.shards->OwnedOffset(setup_.communicator->rank(),
                                                 bucket.owners[rank].front().begin);
    }
    buckets_.push_back(std::move(bucket));
  }
  tickets_.resize(buckets_.size());
}

void GradientReducer::StartStep() {
  next_bucket_ = 0;
  waits_.clear();
}

absl::Status GradientReducer::Ready(int64_t position) {
  if (!setup_.overlap && !setup_.passing) return absl::OkStatus();
  const size_t first = next_bucket_;
  EnqueueFinishedBuckets(position);
  if (setup_.overlap || next_bucket_ == first) return absl::OkStatus();
  return WaitInBackward(tickets_[next_bucket_ - 1]);
}

absl::Status GradientReducer::Await(size_t bucket) {
  CHECK(bucket < next_bucket_) << "bucket " << bucket << " is not on its way";
  return WaitInBackward(tickets_[bucket]);
}

absl::Status GradientReducer::WaitInBackward(CommThread::Ticket ticket) {
  const SteadyTime begin = Clock::Real().SteadyNow();
  const absl::Status status = setup_.thread->Wait(ticket);
  waits_.push_back({begin, Clock::Real().SteadyNow()});
  return status;
}

absl::Status GradientReducer::Finish() {
  waits_.push_back({Clock::Real().SteadyNow(), absl::InfiniteDuration()});
  EnqueueFinishedBuckets(0);
  const absl::Status status = setup_.thread->Wait();
  times_ = {};
  for (const Busy& span : spans_) {
    times_.reducing += span.end - span.begin;
    times_.hidden += span.end - span.begin;
    for (const Busy& wait : waits_) {
      times_.hidden -= std::max(absl::ZeroDuration(),
                                std::min(span.end, wait.end) - std::max(span.begin, wait.begin));
    }
  }
  if (!setup_.overlap) times_.hidden = absl::ZeroDuration();
  spans_.clear();
  return status;
}

// Everything from `position` up is final.
void GradientReducer::EnqueueFinishedBuckets(int64_t position) {
  const std::vector<Range>& buckets = setup_.shards->buckets();
  if (next_bucket_ == buckets.size() || buckets[next_bucket_].begin < position) return;
  const Event summed = setup_.compute->Record();
  while (next_bucket_ < buckets.size() && buckets[next_bucket_].begin >= position) {
    tickets_[next_bucket_] =
        setup_.thread->Add([this, bucket = next_bucket_, summed]() -> absl::Status {
          RETURN_IF_ERROR(summed.Await());
          return ReduceBucket(bucket);
        });
    ++next_bucket_;
  }
}

absl::Status GradientReducer::ReduceBucket(size_t bucket) {
  const std::string what = absl::StrCat("reduce-scatter bucket ", bucket);
  const SteadyTime begin = Clock::Real().SteadyNow();
  const absl::Status status = Reduce(bucket, what);
  spans_.push_back({begin, Clock::Real().SteadyNow()});
  if (setup_.on_span) setup_.on_span(what, begin, spans_.back().end);
  return status;
}

absl::Status GradientReducer::Reduce(size_t index, const std::string& what) {
  const Bucket& bucket = buckets_[index];
  float* const result = setup_.result + bucket.offset;
  RETURN_IF_ERROR(setup_.sums->Reduce(*setup_.communicator, *setup_.kernels, index, bucket.owners,
                                      result, what));
  if (bucket.owned == 0) return absl::OkStatus();
  return setup_.on_reduced({result, static_cast<size_t>(bucket.owned)});
}

}  // namespace dsrun::worker
