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
    tickets_.push_back(setup_.thread->Add([this, piece, updated]() -> absl::Status {
      RETURN_IF_ERROR(updated.Await());
      return Gather(piece);
    }));
  }
}

absl::Status ParameterGatherer::Await(int64_t end) {
  size_t past = next_;
  while (past < tickets_.size() && pieces_[past].begin < end) ++past;
  if (past == next_) return absl::OkStatus();
  RETURN_IF_ERROR(setup_.thread->Wait(tickets_[past - 1]));
  next_ = past;
  return absl::OkStatus();
}

absl::Status ParameterGatherer::Gather(size_t piece) {
  const std::string what = absl::StrCat("all-gather bucket ", piece);
  const SteadyTime begin = Clock::Real().SteadyNow();
  const absl::Status status = GatherOnHost(piece, what);
  if (setup_.on_span) setup_.on_span(what, begin, Clock::Real().SteadyNow());
  return status;
}

absl::Status ParameterGatherer::GatherOnHost(size_t piece, const std::string& what) {
  const Range& range = pieces_[piece];
  ASSIGN_OR_RETURN(const HostAccess access,
                   setup_.stream->OpenForHost(setup_.parameters + range.begin,
                                              static_cast<size_t>(range.size()) * sizeof(float)));
  return AllGatherRanges(*setup_.communicator, setup_.shards->OwnedByRank(range), setup_.parameters,
                         what);
}

}  // namespace dsrun::worker
