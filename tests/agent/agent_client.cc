#include "tests/agent/agent_client.h"

#include <gtest/gtest.h>

#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/rpc/channel.h"
#include "common/rpc/introduction.h"
#include "common/rpc/status_codec.h"
#include "tests/agent/dsagent_process.h"

namespace dsrun::agent {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(20);

}  // namespace

AgentClient::AgentClient(int port, const std::string& host)
    : AgentClient(absl::StrCat(host, ":", port)) {}

AgentClient::AgentClient(const std::string& target)
    : AgentClient(DialAgent(target, DsagentProcess::kKey, kPatience)) {}

AgentClient::AgentClient(absl::StatusOr<Connection> connection) {
  EXPECT_TRUE(connection.ok()) << connection.status();
  if (!connection.ok()) {
    end_ = connection.status();
    return;
  }
  Introduce(context_, connection->ticket);
  stub_ = proto::Agent::NewStub(MakeChannel(*std::move(connection), Keepalive::kOff));
  SetDeadline(context_, absl::Seconds(60));
  stream_ = stub_->Session(&context_);
  reader_ = std::thread([this] { Read(); });
}

AgentClient::~AgentClient() {
  context_.TryCancel();
  if (reader_.joinable()) reader_.join();
}

proto::CoordinatorMessage AgentClient::Open(const std::string& job_id, const std::string& run_dir,
                                            const std::vector<std::string>& argv, int slots) {
  proto::CoordinatorMessage message = Message(job_id, 0);
  proto::Open& open = *message.mutable_open();
  open.set_job_token("a token of this very job");
  open.set_protocol_version(1);
  proto::JobSpec& job = *open.mutable_job();
  job.set_job_id(job_id);
  job.set_run_dir(run_dir);
  job.set_working_dir("/");
  job.set_master_addr("127.0.0.1");
  proto::NodeSpec& node = *job.add_nodes();
  node.set_host("127.0.0.1");
  node.set_address("127.0.0.1");
  for (int slot = 0; slot < slots; ++slot) node.add_slots(slot);
  job.mutable_limits()->mutable_stop_grace()->set_nanos(200'000'000);
  if (argv.empty()) {
    job.mutable_train();
    return message;
  }
  job.mutable_program()->set_executable(argv[0]);
  for (const std::string& argument : argv) job.mutable_program()->add_argv(argument);
  return message;
}

proto::CoordinatorMessage AgentClient::Begin(const std::string& job_id, int64_t generation,
                                             const std::vector<int>& slots) {
  proto::CoordinatorMessage message = Message(job_id, generation);
  proto::GenerationPlan& plan = *message.mutable_begin()->mutable_plan();
  plan.set_generation(generation);
  plan.set_master_port(4711);  // as if its agent had reserved it
  for (const int slot : slots) {
    proto::Member& member = *plan.add_members();
    member.set_slot(slot);
    member.set_local_rank(plan.members_size() - 1);
    member.set_host("127.0.0.1");
  }
  return message;
}

proto::CoordinatorMessage AgentClient::Message(const std::string& job_id, int64_t generation) {
  proto::CoordinatorMessage message;
  message.set_job_id(job_id);
  message.set_generation(generation);
  return message;
}

void AgentClient::Send(const proto::CoordinatorMessage& message) {
  if (stream_ != nullptr) stream_->Write(message);
}

std::optional<proto::AgentMessage> AgentClient::Await(
    const std::function<bool(const proto::AgentMessage&)>& which) {
  std::optional<proto::AgentMessage> found = AwaitOrEnd(which);
  if (!found.has_value()) {
    MutexLock lock(mu_);
    ADD_FAILURE() << "the awaited message did not come; "
                  << (end_.has_value() ? "the stream ended: " + end_->ToString() : "no more time");
  }
  return found;
}

std::optional<proto::AgentMessage> AgentClient::AwaitOrEnd(
    const std::function<bool(const proto::AgentMessage&)>& which) {
  const absl::Duration deadline = Clock::Real().SteadyNow() + kPatience;
  size_t next = 0;
  MutexLock lock(mu_);
  while (true) {
    for (; next < received_.size(); ++next) {
      if (which(received_[next])) return received_[next];
    }
    const absl::Duration left = deadline - Clock::Real().SteadyNow();
    if (end_.has_value() || left <= absl::ZeroDuration()) return std::nullopt;
    changed_.WaitFor(mu_, left);
  }
}

std::optional<std::string> AgentClient::AwaitLine(const std::string& start) {
  std::string found;
  const auto message = Await([&](const proto::AgentMessage& m) {
    if (!m.has_log_chunk()) return false;
    std::istringstream lines(m.log_chunk().text());
    while (std::getline(lines, found)) {
      if (found.starts_with(start)) return true;
    }
    return false;
  });
  if (!message.has_value()) return std::nullopt;
  return found;
}

absl::Status AgentClient::AwaitEnd() {
  const absl::Duration deadline = Clock::Real().SteadyNow() + kPatience;
  MutexLock lock(mu_);
  while (!end_.has_value()) {
    const absl::Duration left = deadline - Clock::Real().SteadyNow();
    if (left <= absl::ZeroDuration()) return absl::InternalError("the stream did not end");
    changed_.WaitFor(mu_, left);
  }
  return *end_;
}

void AgentClient::Read() {
  proto::AgentMessage message;
  while (stream_->Read(&message)) {
    MutexLock lock(mu_);
    received_.push_back(message);
    changed_.NotifyAll();
  }
  const absl::Status status = FromGrpc(stream_->Finish());
  MutexLock lock(mu_);
  end_ = status;
  changed_.NotifyAll();
}

}  // namespace dsrun::agent
