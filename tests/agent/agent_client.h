// A coordinator's end of an agent's stream, for tests: sends what it is told, remembers everything
// that comes, waits with a deadline.

#ifndef DSRUN_TESTS_AGENT_AGENT_CLIENT_H_
#define DSRUN_TESTS_AGENT_AGENT_CLIENT_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/mutex.h"
#include "common/rpc/dial.h"
#include "proto/agent_service.grpc.pb.h"

namespace dsrun::agent {

class AgentClient {
 public:
  // Fails the test where the agent cannot be called, or does not prove itself.
  explicit AgentClient(int port, const std::string& host = "127.0.0.1");
  ~AgentClient();  // cancels

  // At any address, with the key of DsagentProcess.
  explicit AgentClient(const std::string& target);
  // On a connection that was made elsewhere.
  explicit AgentClient(absl::StatusOr<Connection> connection);

  // A job of one node: `argv` on every slot, or training when it is empty.
  static proto::CoordinatorMessage Open(const std::string& job_id, const std::string& run_dir,
                                        const std::vector<std::string>& argv, int slots);
  static proto::CoordinatorMessage Begin(const std::string& job_id, int64_t generation,
                                         const std::vector<int>& slots);
  static proto::CoordinatorMessage Message(const std::string& job_id, int64_t generation);

  void Send(const proto::CoordinatorMessage& message);
  // The first message from `from` on for which `which` holds; fails the test after 20 s.
  std::optional<proto::AgentMessage> Await(
      const std::function<bool(const proto::AgentMessage&)>& which);
  // The same where the stream may end instead, which is no failure.
  std::optional<proto::AgentMessage> AwaitOrEnd(
      const std::function<bool(const proto::AgentMessage&)>& which);
  // The text of the n-th log line that starts with `start`, from any slot.
  std::optional<std::string> AwaitLine(const std::string& start);
  // The end of the stream, within 20 s.
  absl::Status AwaitEnd();
  void Cancel() { context_.TryCancel(); }

 private:
  void Read();

  grpc::ClientContext context_;
  std::unique_ptr<proto::Agent::Stub> stub_;
  std::unique_ptr<grpc::ClientReaderWriter<proto::CoordinatorMessage, proto::AgentMessage>> stream_;
  Mutex mu_;
  CondVar changed_;
  std::vector<proto::AgentMessage> received_ ABSL_GUARDED_BY(mu_);
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mu_);
  std::thread reader_;
};

}  // namespace dsrun::agent

#endif  // DSRUN_TESTS_AGENT_AGENT_CLIENT_H_
