#include "worker/parallel/parameter_gatherer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/comm/core/collectives.h"

namespace dsrun::worker {

ParameterGatherer::ParameterGatherer(Setup setup)
    : setup_(std::move(setup)),
      pieces_(setup_.shards->buckets().rbegin(), setup_.shards->buckets().rend()) {}

void ParameterGatherer::Start() {
  tickets_.clear();
  next_ = 0;
  if (setup_.communicator->size() == 1) return;
  const Event updated = setup_.compute->Record();
  for (size_t piece = 0; piece < pieces_.size(); ++piece) {
    tickets_.push_back(Enqueue(updated, pieces_[piece], setup_.shards->OwnedByRank(pieces_[piece]),
                               absl::StrCat("all-gather bucket ", piece)));
  }
}

void ParameterGatherer::StartWithFrozen() {
  Start();
  if (setup_.communicator->size() == 1 || setup_.frozen.empty()) return;
  std::vector<std::vector<Range>> by_rank;
  for (int rank = 0; rank < setup_.communicator->size(); ++rank) {
    by_rank.push_back(setup_.shards->Stored(rank, setup_.frozen));
  }
  frozen_ = Enqueue(setup_.compute->Record(), setup_.frozen, std::move(by_rank),
                    "all-gather frozen parameters");
}

CommThread::Ticket ParameterGatherer::Enqueue(const Event& updated, Range range,
                                              std::vector<std::vector<Range>> by_rank,
                                              std::string what) {
  return setup_.thread->Add([this, updated, range, by_rank = std::move(by_rank),
                             what = std::move(what)]() -> absl::Status {
    RETURN_IF_ERROR(updated.Await());
    const SteadyTime begin = Clock::Real().SteadyNow();
    const absl::Status status = Gather(range, by_rank, what);
    if (setup_.on_span) setup_.on_span(what, begin, Clock::Real().SteadyNow());
    return status;
  });
}

absl::Status ParameterGatherer::Await(int64_t end) {
  if (frozen_ != 0) {
    RETURN_IF_ERROR(setup_.thread->Wait(std::exchange(frozen_, 0)));
  }
  size_t past = next_;
  while (past < tickets_.size() && pieces_[past].begin < end) ++past;
  if (past == next_) return absl::OkStatus();
  RETURN_IF_ERROR(setup_.thread->Wait(tickets_[past - 1]));
  next_ = past;
  return absl::OkStatus();
}

absl::Status ParameterGatherer::Gather(Range range, const std::vector<std::vector<Range>>& by_rank,
                                       const std::string& what) {
  const Reals begin = setup_.parameters + range.begin;
  ASSIGN_OR_RETURN(
      const HostAccess access,
      setup_.stream->OpenForHost(begin.data(), static_cast<size_t>(begin.bytes_of(range.size()))));
  return AllGatherRanges(*setup_.communicator, by_rank, setup_.parameters.data(),
                         BytesOf(setup_.parameters.dtype()), what);
}

}  // namespace dsrun::worker
