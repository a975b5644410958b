// Saves: what the ledger (save_ledger.h) decides becomes messages and news.

#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/format/save_outcome.h"
#include "launcher/coordinator/coordinator.h"
#include "launcher/coordinator/generation_planner.h"

namespace dsrun::launcher {

void Coordinator::OnShardWritten(WorkerId worker, const proto::ShardWritten& written) {
  if (WorkersAreEnded()) return;
  Perform(s_.saves.Written(worker, written));
}

// Also while the job ends: what is on the disk belongs into the report.
void Coordinator::OnCommitDone(WorkerId worker, const proto::CommitDone& done) {
  Perform(s_.saves.Done(worker, done));
}

void Coordinator::SavesBegan(const std::vector<WorkerId>& ranks) {
  std::set<WorkerId> survivors;
  for (const Rank rank : s_.survivors) survivors.insert(WorkerOf(s_.plan, rank));
  Perform(s_.saves.Began(s_.generation, ranks, survivors));
}

void Coordinator::Perform(const SaveLedger::Effects& effects) {
  for (const SaveLedger::Effect& effect : effects) {
    std::visit([this](const auto& each) { Perform(each); }, effect);
  }
  if (s_.end_waits && !s_.saves.MayCommit()) EndEverywhere(/*now=*/true);
}

// Or are being stopped: nobody could commit.
bool Coordinator::WorkersAreEnded() const { return s_.phase == State::kEnding && !s_.end_waits; }

void Coordinator::Perform(const SaveLedger::Granted& granted) {
  if (WorkersAreEnded()) return;
  proto::CoordinatorMessage message;
  message.mutable_commit_save()->set_slot(granted.to.slot.value());
  *message.mutable_commit_save()->mutable_commit() = granted.commit;
  SendTo(granted.to.node, std::move(message));
}

void Coordinator::Perform(const SaveLedger::Dropped& dropped) {
  if (WorkersAreEnded()) return;
  if (dropped.remove) {
    proto::CoordinatorMessage message;
    message.mutable_drop_save()->mutable_save()->set_step(dropped.id.step);
    message.mutable_drop_save()->mutable_save()->set_generation(dropped.id.generation);
    message.mutable_drop_save()->set_reason(dropped.reason);
    SendToLive(message);
  }
  if (dropped.reason.empty()) return;
  const std::string& newest = s_.history.report().manifest;
  const std::string stands =
      absl::StrCat("; the newest checkpoint is ", newest.empty() ? "none" : newest);
  if (!dropped.failed) {
    return Notice(false, absl::StrCat("the checkpoint of step ", dropped.id.step,
                                      " is given up: ", dropped.reason, stands));
  }
  Notice(true, absl::StrCat("CHECKPOINT OF STEP ", dropped.id.step,
                            " COULD NOT BE WRITTEN: ", dropped.reason, stands,
                            "; make room or repair the save folder before something else fails"));
  TellOutcome(dropped.id, "", dropped.reason + stands, dropped.code);
}

void Coordinator::Perform(const SaveLedger::Committed& committed) {
  if (committed.newest) {
    if (committed.id.step > s_.newest_checkpoint.second &&
        committed.id.generation == s_.plan.generation()) {
      s_.progressed = true;
    }
    s_.newest_checkpoint = {committed.id.generation, committed.id.step};
    s_.newest_manifest = committed.manifest;
    s_.history.report().manifest = committed.manifest;
    s_.history.report().checkpoint_step = committed.id.step;
  }
  Emit(Tell{CheckpointDone{Generation(committed.id.generation), committed.id.step,
                           committed.manifest, committed.seconds}});
  TellOutcome(committed.id, committed.manifest, "", 0);
}

// Whoever waits for its last save does so in that save's generation.
void Coordinator::TellOutcome(SaveLedger::Id id, const std::string& manifest,
                              const std::string& error, int code) {
  const bool in_force =
      s_.plan.generation() == s_.generation.value() && (RanksRun() || s_.phase == State::kStopping);
  if (!in_force || id.generation != s_.plan.generation()) return;
  proto::CoordinatorMessage message;
  proto::ExchangeTable* const table = message.mutable_exchange_table();
  table->set_name(SaveOutcomeName(id.step));
  table->add_values(manifest);
  table->add_values(error);
  table->add_values(std::to_string(code));
  SendToPlanned(std::move(message));
}

void Coordinator::SendToPlanned(proto::CoordinatorMessage message) {
  const Body body = Shared(std::move(message));
  NodeId last(-1);
  for (const proto::Member& member : s_.plan.members()) {  // sorted by node
    if (NodeId(member.node()) == last) continue;
    last = NodeId(member.node());
    if (s_.members.IsOpen(last)) SendTo(last, s_.generation, body);
  }
}

}  // namespace dsrun::launcher
