#include "worker/parallel/gradient_reducer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/logging.h"
#include "common/base/status_macros.h"

namespace dsrun::worker {

GradientReducer::GradientReducer(Setup setup) : setup_(std::move(setup)) {
  const auto rank = static_cast<size_t>(setup_.communicator->rank());
  for (const SumPlaces::Part& planned : setup_.places->parts()) {
    Part part{.owners = setup_.shards->OwnedByRank(planned.range)};
    for (const Range& mine : part.owners[rank]) part.owned += mine.size();
    if (part.owned > 0) {
      part.offset =
          setup_.shards->OwnedOffset(setup_.communicator->rank(), part.owners[rank].front().begin);
    }
    parts_.push_back(std::move(part));
  }
  tickets_.resize(parts_.size());
}

void GradientReducer::StartStep() {
  next_ = 0;
  round_ = 0;
  std::fill(tickets_.begin(), tickets_.end(), 0);
  waits_.clear();
}

absl::Status GradientReducer::Ready(size_t parts) {
  if (!setup_.overlap && !setup_.passing) return absl::OkStatus();
  const size_t first = next_;
  Enqueue(parts);
  if (setup_.overlap || next_ == first) return absl::OkStatus();
  return WaitInBackward(tickets_[next_ - 1]);
}

absl::Status GradientReducer::Await(size_t part) {
  CHECK(part < next_) << "part " << part << " is not on its way";
  return WaitInBackward(tickets_[part]);
}

absl::Status GradientReducer::AwaitRoundBefore(size_t part) {
  CHECK(part >= next_) << "part " << part << " is on its way in this round";
  return tickets_[part] == 0 ? absl::OkStatus() : WaitInBackward(tickets_[part]);
}

absl::Status GradientReducer::NextRound() {
  CHECK(round_ + 1 < setup_.rounds) << "the step has " << setup_.rounds << " rounds";
  RETURN_IF_ERROR(Ready(parts_.size()));
  ++round_;
  next_ = 0;
  return absl::OkStatus();
}

absl::Status GradientReducer::WaitInBackward(CommThread::Ticket ticket) {
  const SteadyTime begin = Clock::Real().SteadyNow();
  const absl::Status status = setup_.thread->Wait(ticket);
  waits_.push_back({begin, Clock::Real().SteadyNow()});
  return status;
}

absl::Status GradientReducer::Finish() {
  waits_.push_back({Clock::Real().SteadyNow(), absl::InfiniteDuration()});
  CHECK(round_ + 1 == setup_.rounds) << "the step has " << setup_.rounds << " rounds";
  Enqueue(parts_.size());
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

// Those below `parts`.
void GradientReducer::Enqueue(size_t parts) {
  if (next_ >= parts) return;
  const Event summed = setup_.compute->Record();
  for (; next_ < parts; ++next_) {
    tickets_[next_] =
        setup_.thread->Add([this, part = next_, round = round_, summed]() -> absl::Status {
          RETURN_IF_ERROR(summed.Await());
          return ReducePart(part, round);
        });
  }
}

absl::Status GradientReducer::ReducePart(size_t part, int64_t round) {
  const SumPlaces::Part& planned = setup_.places->parts()[part];
  std::string what = absl::StrCat("reduce-scatter bucket ", planned.bucket);
  if (!planned.whole) absl::StrAppend(&what, ", earlier use");
  if (setup_.rounds > 1) absl::StrAppend(&what, ", round ", round);
  const SteadyTime begin = Clock::Real().SteadyNow();
  const absl::Status status = Reduce(part, round, what);
  spans_.push_back({begin, Clock::Real().SteadyNow()});
  if (setup_.on_span) setup_.on_span(what, begin, spans_.back().end);
  return status;
}

absl::Status GradientReducer::Reduce(size_t index, int64_t round, const std::string& what) {
  const Part& part = parts_[index];
  float* const result = setup_.result + part.offset;
  RETURN_IF_ERROR(setup_.sums->Reduce(*setup_.communicator, *setup_.kernels, index, round,
                                      part.owners, result, what));
  const bool complete = IsComplete(setup_.places->parts()[index], round, setup_.rounds);
  if (!complete || part.owned == 0) return absl::OkStatus();
  return setup_.on_reduced({result, static_cast<size_t>(part.owned)});
}

}  // namespace dsrun::worker
