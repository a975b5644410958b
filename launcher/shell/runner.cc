#include "launcher/shell/runner.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/logging.h"
#include "common/base/proto_duration.h"

namespace dsrun::launcher {
namespace {

// Of proto/agent.proto and proto/worker.proto; agents refuse another one.
constexpr int kProtocolVersion = 1;

// Why the stream ended is known: the agent lives and does not want the job, or says what cannot be
// decoded. How it ends itself, after that, is no news.
bool IsAgentsOwnRefusal(const absl::Status& why) {
  return absl::IsFailedPrecondition(why) || absl::IsUnauthenticated(why) ||
         absl::IsPermissionDenied(why) || absl::IsInvalidArgument(why) ||
         absl::IsResourceExhausted(why) || absl::IsDataLoss(why);
}

// What is alike in the Open of all agents, as bytes that every one of them shares.
std::shared_ptr<const std::string> OpenRest(const proto::JobSpec& job) {
  proto::CoordinatorMessage rest;
  *rest.mutable_open()->mutable_job() = job;
  return std::make_shared<const std::string>(rest.SerializeAsString());
}

}  // namespace

Runner::Runner(Coordinator coordinator, Doors doors, Options options)
    : doors_(std::move(doors)),
      options_(std::move(options)),
      open_rest_(OpenRest(options_.job)),
      coordinator_(std::move(coordinator)),
      starts_(options_.most_asked_at_once),
      ends_(options_.most_asked_at_once) {}

Runner::~Runner() {
  starts_.Stop();
  ends_.Stop();
  EndSessions();
}

// Each session waits for its last callback, which uses the queue.
void Runner::EndSessions() { links_.clear(); }

void Runner::Post(Event event) { PostItem(std::move(event)); }

void Runner::PostItem(Item item) {
  MutexLock lock(mu_);
  queue_.push_back(std::move(item));
  arrived_.NotifyOne();
}

std::deque<Runner::Item> Runner::TakeItems(absl::Duration longest_wait) {
  MutexLock lock(mu_);
  if (queue_.empty() && longest_wait > absl::ZeroDuration()) arrived_.WaitFor(mu_, longest_wait);
  return std::exchange(queue_, {});
}

RunResult Runner::Run() {
  real_now_ = doors_.clock->SteadyNow();
  now_ = real_now_;
  next_tick_ = now_ + options_.tick_interval;
  next_heartbeat_ = now_;
  Post(Start{});
  while (!result_ && broken_.ok()) {
    std::deque<Item> items = TakeItems(next_tick_ - now_);
    AdvanceTime();
    HandleBatch(std::move(items));
    if (!result_ && broken_.ok()) HandleTimers();
  }
  if (!result_) StopWithoutCore();
  result_->steady_at_end = now_;
  result_->wall_at_end = doors_.clock->WallNow();
  return *result_;
}

void Runner::AdvanceTime() {
  const SteadyTime real = doors_.clock->SteadyNow();
  const absl::Duration gap = real - real_now_;
  real_now_ = real;
  now_ += std::min(gap, options_.longest_gap);
  LOG_IF(WARNING, gap > options_.longest_gap)
      << "the coordinator did not run for " << gap << "; agents are not blamed for it";
}

void Runner::HandleBatch(std::deque<Item> items) {
  std::vector<Action> actions;
  for (Item& item : items) {
    if (const auto* listens = std::get_if<AgentListens>(&item)) {
      OpenSession(*listens);
    } else if (const auto* ended = std::get_if<StreamEnded>(&item)) {
      AskHowItEnded(*ended);
    } else if (const Event& event = std::get<Event>(item); Heard(event)) {
      StepInto(event, actions);
    }
    AdvanceTime();
    if (now_ < next_tick_) continue;
    Flush(actions);
    HandleTimers();
    if (result_ || !broken_.ok()) return;
  }
  Flush(actions);
}

void Runner::Flush(std::vector<Action>& actions) {
  const bool announces = std::any_of(actions.begin(), actions.end(), [](const Action& action) {
    const auto* send = std::get_if<SendToAgent>(&action);
    return send != nullptr && (send->body->has_prepare() || send->body->has_begin());
  });
  if (std::exchange(uncommitted_, false)) JournalIs(doors_.commit(announces));
  for (Action& action : std::exchange(actions, {})) Perform(std::move(action));
  told_.reset();
  told_bytes_.reset();
}

void Runner::HandleTimers() {
  if (now_ >= next_tick_) {
    Tick tick;
    {
      MutexLock lock(mu_);
      tick.heard_from.assign(heard_.begin(), heard_.end());
      heard_.clear();
    }
    std::vector<Action> actions;
    StepInto(tick, actions);
    Flush(actions);
    if (journal_is_behind_) JournalIs(doors_.commit(/*announces=*/false));
    next_tick_ = now_ + options_.tick_interval;
  }
  if (now_ >= next_heartbeat_) {
    SendHeartbeats();
    next_heartbeat_ = now_ + options_.heartbeat_interval;
  }
}

bool Runner::Heard(const Event& event) {
  if (const auto* spoke = std::get_if<AgentSpoke>(&event)) {
    Link& link = links_[spoke->node];
    if (spoke->message.has_opened()) link.incarnation = spoke->message.incarnation();
    return !link.fenced;
  }
  if (const auto* gone = std::get_if<AgentGone>(&event)) {
    Link& link = links_[gone->node];
    link.over = true;
    return !link.fenced;
  }
  return true;
}

void Runner::StepInto(const Event& event, std::vector<Action>& actions) {
  std::deque<Event> raised;
  const auto step = [&](const Event& next) {
    for (Action& action : coordinator_.Step(now_, next)) {
      if (auto* raise = std::get_if<Raise>(&action)) {
        std::visit([&](const auto& each) { raised.push_back(each); }, raise->event);
      } else {
        actions.push_back(std::move(action));
      }
    }
    CheckCore(next);
    if (!IsDurable(next)) return;
    uncommitted_ = true;
    doors_.record(now_, next, coordinator_);
  };
  step(event);
  while (!raised.empty()) {
    const Event next = std::move(raised.front());
    raised.pop_front();
    step(next);
  }
}

void Runner::CheckCore(const Event& event) {
  if (!broken_.ok()) return;
  broken_ = invariants_.After(event, coordinator_);
  LOG_IF(ERROR, !broken_.ok()) << "the coordinator broke an invariant of its own, this is a bug: "
                               << broken_ << "\n"
                               << coordinator_.DebugString();
}

void Runner::JournalIs(const absl::Status& status) {
  if (status.ok() != journal_is_behind_) return;
  journal_is_behind_ = !status.ok();
  std::string text = "the journal is whole again: what was not written down is there now";
  if (journal_is_behind_) {
    text = absl::StrCat("the journal is not written: ", std::string(status.message()),
                        "; the job goes on, and it is tried again until the end; meanwhile this "
                        "coordinator could not be restarted");
  }
  doors_.tell(NoticeText{.warning = journal_is_behind_,
                         .text = std::move(text),
                         .from = std::nullopt,
                         .rank = std::nullopt});
}

// ---- Actions

void Runner::Perform(Action action) {
  std::visit([this](auto& each) { Do(std::move(each)); }, action);
}

void Runner::Do(const OpenAgent& action) {
  const absl::Status asked = starts_.Ask([this, node = action.node] {
    absl::StatusOr<AgentEndpoint> endpoint =
        doors_.starter(node).Start(node, options_.job.nodes(node.value()));
    if (endpoint.ok()) {
      PostItem(AgentListens{node, *std::move(endpoint)});
    } else {
      Post(AgentGone{node, endpoint.status()});
    }
  });
  if (!asked.ok()) Post(AgentGone{action.node, asked});
}

void Runner::OpenSession(const AgentListens& listens) {
  const NodeId node = listens.node;
  Link& link = links_[node];
  if (link.fenced) return;
  AgentClient::Listener listener;
  listener.on_message = [this, node](proto::AgentMessage message) {
    const SteadyTime now = doors_.clock->SteadyNow();
    {
      MutexLock lock(mu_);
      heard_.insert(node);
      if (message.has_heartbeat()) clocks_.Heard(node, message.heartbeat(), now);
      clocks_.Correct(node, now, message);
    }
    if (message.has_log_chunk()) {
      doors_.output(node, message.log_chunk());
    } else if (!message.has_heartbeat()) {
      Post(AgentSpoke{node, std::move(message)});
    }
  };
  listener.on_end = [this, node](absl::Status why) {
    if (why.ok()) why = absl::UnavailableError("the agent closed the stream");
    PostItem(StreamEnded{node, std::move(why)});
  };
  link.session =
      doors_.client->Open(listens.endpoint, OpenMessage(node), open_rest_, std::move(listener));
}

void Runner::AskHowItEnded(const StreamEnded& ended) {
  Link& link = links_[ended.node];
  link.over = true;
  if (link.fenced) return;
  // When many nodes end at once, those behind the first have waited for their turn, and are told
  // without words: that they are gone must be known before others complain of them.
  const SteadyTime by = doors_.clock->SteadyNow() + options_.end_words_within;
  const absl::Status asked = ends_.Ask([this, by, node = ended.node, why = ended.why] {
    const absl::Duration left = by - doors_.clock->SteadyNow();
    const bool silent = IsAgentsOwnRefusal(why) || left <= absl::ZeroDuration();
    const std::string how = silent ? "" : doors_.starter(node).HowItEnded(node, left);
    Post(AgentGone{node, how.empty() ? why : absl::Status(why.code(), how)});
  });
  if (!asked.ok()) Post(AgentGone{ended.node, ended.why});
}

proto::CoordinatorMessage Runner::OpenMessage(NodeId node) const {
  proto::CoordinatorMessage message;
  message.set_job_id(options_.job.job_id());
  proto::Open& open = *message.mutable_open();
  open.set_job_token(options_.job_token);
  open.set_node(node.value());
  open.set_protocol_version(kProtocolVersion);
  open.set_probe_path(options_.probe_path);
  open.set_probe_content(options_.probe_content);
  return message;
}

void Runner::Do(SendToAgent&& action) {
  Link& link = links_[action.node];
  if (link.session == nullptr || link.fenced) return;
  if (action.body != told_) {
    told_ = action.body;
    told_bytes_ = std::make_shared<const std::string>(told_->SerializeAsString());
  }
  link.session->Send(std::move(action.head), told_bytes_);
}

void Runner::Do(const FenceNode& action) {
  VLOG(1) << "node " << action.node << " is fenced: " << action.reason;
  Link& link = links_[action.node];
  link.fenced = true;
  if (link.session != nullptr) link.session->Cancel();
  doors_.starter(action.node).End(action.node, options_.agent_grace);
}

void Runner::Do(const Tell& action) { doors_.tell(action.event); }

void Runner::Do(const Raise&) {}  // taken out by StepInto

void Runner::Do(EndJob&& action) {
  result_ = RunResult{.exit_code = action.exit_code,
                      .report = std::move(action.report),
                      .steady_at_end = {},
                      .wall_at_end = {}};
}

void Runner::SendHeartbeats() {
  for (auto& [node, link] : links_) {
    if (link.session == nullptr || link.fenced || link.over || link.incarnation == 0) continue;
    proto::CoordinatorMessage message;
    message.set_job_id(options_.job.job_id());
    message.set_incarnation(link.incarnation);
    message.set_generation(coordinator_.generation().value());
    *message.mutable_heartbeat()->mutable_sent() = ToProto(doors_.clock->SteadyNow());
    link.session->Send(std::move(message));
  }
}

void Runner::StopWithoutCore() {
  result_ = RunResult{.exit_code = kExitFailed,
                      .report = coordinator_.CurrentReport(now_),
                      .steady_at_end = {},
                      .wall_at_end = {}};
  result_->report.exit_code = kExitFailed;
  result_->report.verdict =
      absl::StrCat("stopped by a bug of the coordinator: ", std::string(broken_.message()));
  std::set<NodeId> waiting;
  for (auto& [node, link] : links_) {
    if (link.session == nullptr || link.fenced || link.over || link.incarnation == 0) continue;
    proto::CoordinatorMessage message;
    message.set_job_id(options_.job.job_id());
    message.set_incarnation(link.incarnation);
    message.set_generation(coordinator_.generation().value());
    message.mutable_end_job();
    link.session->Send(std::move(message));
    waiting.insert(node);
  }
  const absl::Duration deadline = now_ + coordinator_.config().stop_grace + options_.agent_grace;
  while (!waiting.empty() && now_ < deadline) {
    std::deque<Item> items = TakeItems(options_.tick_interval);
    AdvanceTime();
    for (const Item& item : items) {
      if (const auto* ended = std::get_if<StreamEnded>(&item)) waiting.erase(ended->node);
      const auto* event = std::get_if<Event>(&item);
      if (event == nullptr) continue;
      if (const auto* gone = std::get_if<AgentGone>(event)) waiting.erase(gone->node);
      const auto* spoke = std::get_if<AgentSpoke>(event);
      if (spoke != nullptr && spoke->message.has_job_ended()) waiting.erase(spoke->node);
    }
    if (now_ >= next_heartbeat_) {
      SendHeartbeats();
      next_heartbeat_ = now_ + options_.heartbeat_interval;
    }
  }
}

}  // namespace dsrun::launcher
