#include "tests/launcher/fake_agents.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/clock.h"

namespace dsrun::launcher {
namespace {

constexpr char kTargetPrefix[] = "fake:";

uint64_t IncarnationOf(int node) { return 1000 + static_cast<uint64_t>(node); }

}  // namespace

class FakeAgents::Session : public AgentSession {
 public:
  Session(FakeAgents& agents, int node) : agents_(agents), node_(node) {}
  ~Session() override { Cancel(); }
  void Send(proto::CoordinatorMessage message, std::shared_ptr<const std::string> rest) override {
    if (rest != nullptr) (void)message.MergeFromString(*rest);
    agents_.Take(node_, message);
  }
  void Cancel() override { agents_.Break(node_, absl::CancelledError("cancelled")); }

 private:
  FakeAgents& agents_;
  const int node_;
};

std::unique_ptr<AgentSession> FakeAgents::Open(const AgentEndpoint& endpoint,
                                               proto::CoordinatorMessage first,
                                               std::shared_ptr<const std::string> rest,
                                               Listener listener) {
  int node = 0;
  if (rest != nullptr) (void)first.MergeFromString(*rest);
  (void)absl::SimpleAtoi(endpoint.target.substr(sizeof(kTargetPrefix) - 1), &node);
  {
    MutexLock lock(mu_);
    nodes_[node].listener = std::make_shared<Listener>(std::move(listener));
    nodes_[node].job_id = first.job_id();
  }
  Take(node, first);
  return std::make_unique<Session>(*this, node);
}

absl::StatusOr<AgentEndpoint> FakeAgents::Start(NodeId id, const proto::NodeSpec&) {
  MutexLock lock(mu_);
  const absl::Status error = nodes_[id.value()].start_error;
  if (!error.ok()) return error;
  return AgentEndpoint{.target = absl::StrCat(kTargetPrefix, id.value()), .connection = nullptr};
}

void FakeAgents::End(NodeId id, absl::Duration) {
  MutexLock lock(mu_);
  ended_.push_back(id.value());
  changed_.NotifyAll();
}

void FakeAgents::set_hook(Hook hook) {
  MutexLock lock(mu_);
  hook_ = std::move(hook);
}

void FakeAgents::set_start_error(int node, absl::Status error) {
  MutexLock lock(mu_);
  nodes_[node].start_error = std::move(error);
}

void FakeAgents::set_end_words(int node, std::string words) {
  MutexLock lock(mu_);
  nodes_[node].end_words = std::move(words);
}

std::string FakeAgents::HowItEnded(NodeId id, absl::Duration) {
  MutexLock lock(mu_);
  return nodes_[id.value()].end_words;
}

void FakeAgents::Say(int node, proto::AgentMessage message) {
  std::shared_ptr<Listener> listener;
  {
    MutexLock lock(mu_);
    Node& from = nodes_[node];
    listener = from.listener;
    message.set_job_id(from.job_id);
    message.set_incarnation(IncarnationOf(node));
    message.set_generation(from.generation);
  }
  if (listener != nullptr) listener->on_message(std::move(message));
}

void FakeAgents::Break(int node, absl::Status why) {
  std::shared_ptr<Listener> listener;
  {
    MutexLock lock(mu_);
    listener = std::exchange(nodes_[node].listener, nullptr);
  }
  if (listener != nullptr) listener->on_end(std::move(why));
}

std::vector<proto::CoordinatorMessage> FakeAgents::Received(int node) const {
  MutexLock lock(mu_);
  const auto found = nodes_.find(node);
  return found == nodes_.end() ? std::vector<proto::CoordinatorMessage>() : found->second.received;
}

std::vector<int> FakeAgents::Ended() const {
  MutexLock lock(mu_);
  return ended_;
}

bool FakeAgents::Await(const std::function<bool()>& condition) {
  const SteadyTime deadline = Clock::Real().SteadyNow() + absl::Seconds(20);
  while (Clock::Real().SteadyNow() < deadline) {
    if (condition()) return true;
    MutexLock lock(mu_);
    changed_.WaitFor(mu_, absl::Milliseconds(100));
  }
  return condition();
}

void FakeAgents::Take(int node, const proto::CoordinatorMessage& message) {
  Hook hook;
  {
    MutexLock lock(mu_);
    if (nodes_[node].listener == nullptr) return;
    nodes_[node].received.push_back(message);
    hook = hook_;
  }
  if (!hook || !hook(node, message)) Answer(node, message);
  MutexLock lock(mu_);
  changed_.NotifyAll();
}

void FakeAgents::Answer(int node, const proto::CoordinatorMessage& message) {
  {
    MutexLock lock(mu_);
    if (message.generation() > 0) nodes_[node].generation = message.generation();
  }
  proto::AgentMessage answer;
  if (message.has_open()) {
    answer.mutable_opened()->set_pid(1);
  } else if (message.has_prepare()) {
    answer.mutable_prepared();
  } else if (message.has_end_job()) {
    answer.mutable_job_ended();
  } else if (message.has_begin()) {
    for (const proto::Member& member : message.begin().plan().members()) {
      if (member.node() != node) continue;
      proto::AgentMessage started;
      started.mutable_worker_started()->set_slot(member.slot());
      started.mutable_worker_started()->set_pid(100 + member.slot());
      Say(node, started);
    }
    return;
  } else {
    return;
  }
  Say(node, answer);
}

}  // namespace dsrun::launcher
