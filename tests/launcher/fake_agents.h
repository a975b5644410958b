// FakeAgents: agents that live in the test. Behind the AgentClient door they answer like a node
// whose workers do nothing but exist; the test control part lets them fail.
//
// Answers come from the caller's thread of Send or Open (a real client uses its own threads; the
// Runner must not care). Thread-safe.

#ifndef DSRUN_TESTS_LAUNCHER_FAKE_AGENTS_H_
#define DSRUN_TESTS_LAUNCHER_FAKE_AGENTS_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/base/mutex.h"
#include "launcher/shell/agent_client.h"
#include "launcher/starters/agent_starter.h"

namespace dsrun::launcher {

class FakeAgents : public AgentClient, public AgentStarter {
 public:
  // What an agent does with a message: the default answers Open, Prepare, Begin (WorkerStarted) and
  // EndJob. Return true to have handled it instead.
  using Hook = std::function<bool(int node, const proto::CoordinatorMessage&)>;

  // ---- the doors
  std::unique_ptr<AgentSession> Open(const AgentEndpoint& endpoint, proto::CoordinatorMessage first,
                                     std::shared_ptr<const std::string> rest,
                                     Listener listener) override;
  absl::StatusOr<AgentEndpoint> Start(NodeId id, const proto::NodeSpec& node) override;
  void End(NodeId id, absl::Duration grace) override;
  void EndAll(absl::Duration) override {}
  std::string HowItEnded(NodeId id, absl::Duration limit) override;

  // ---- test control
  void set_hook(Hook hook);
  void set_start_error(int node, absl::Status error);
  void set_end_words(int node, std::string words);
  // As if the node's agent said it; job, incarnation and generation are filled in.
  void Say(int node, proto::AgentMessage message);
  // The stream of the node's agent ends.
  void Break(int node, absl::Status why);
  // All messages a node got, in order.
  std::vector<proto::CoordinatorMessage> Received(int node) const;
  // Nodes whose agent was ended.
  std::vector<int> Ended() const;
  // Waits until `condition` holds, looked at after every message. False: not within 20 s.
  bool Await(const std::function<bool()>& condition);

 private:
  class Session;
  struct Node {
    std::shared_ptr<Listener> listener;  // null: no stream
    std::vector<proto::CoordinatorMessage> received;
    int64_t generation = 0;
    std::string job_id;
    absl::Status start_error;
    std::string end_words;
  };

  void Take(int node, const proto::CoordinatorMessage& message);
  void Answer(int node, const proto::CoordinatorMessage& message);

  mutable Mutex mu_;
  CondVar changed_;
  Hook hook_ ABSL_GUARDED_BY(mu_);
  std::map<int, Node> nodes_ ABSL_GUARDED_BY(mu_);
  std::vector<int> ended_ ABSL_GUARDED_BY(mu_);
};

}  // namespace dsrun::launcher

#endif  // DSRUN_TESTS_LAUNCHER_FAKE_AGENTS_H_
