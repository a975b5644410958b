// What events cost the coordinator of a large job: every rank sends one, and what is done at each
// of them must not look at all the others. One line a question; milliseconds for all events
// together.
//
//   coordinator_bench            10,000 failing ranks, 32,000 that work
//   coordinator_bench 1000 4000  so many
//   coordinator_bench 1000 4000 8  on nodes of 8 slots, and not 128
//
// An event's way is that of the shell (launcher/shell/runner.cc): Step, the invariants, and if it
// is durable the row for the journal, all but the disk.

#include <sys/resource.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "launcher/coordinator/coordinator.h"
#include "launcher/coordinator/core_sampling.h"
#include "launcher/coordinator/events.h"
#include "launcher/shell/journal.h"

namespace dsrun::launcher {
namespace {

int slots = 128;  // of a node

CoordinatorConfig ConfigOf(int ranks, bool is_train) {
  CoordinatorConfig config;
  config.job_id = "bench";
  for (int node = 0; node * slots < ranks; ++node) {
    CoordinatorConfig::Node& made = config.nodes.emplace_back();
    made.host = "node-" + std::to_string(node);
    for (int slot = 0; slot < slots; ++slot) made.slots.push_back(Slot(slot));
  }
  config.is_train = is_train;
  config.max_width = ranks;
  return config;
}

// A job whose ranks all run.
class BigJob {
 public:
  BigJob(int ranks, bool is_train) : core_(ConfigOf(ranks, is_train)), ranks_(ranks) {
    const int nodes = static_cast<int>(core_.config().nodes.size());
    Hear(Start{});
    for (int node = 0; node < nodes; ++node) {
      proto::AgentMessage opened = InForce();
      opened.mutable_opened();
      Hear(AgentSpoke{NodeId(node), std::move(opened)});
    }
    std::vector<Event> prepared;
    for (int node = 0; node < nodes; ++node) {
      proto::AgentMessage message = InForce();
      message.mutable_prepared();
      prepared.push_back(AgentSpoke{NodeId(node), std::move(message)});
    }
    Measure("every node is prepared, and the plan goes to all", prepared);
  }

  proto::AgentMessage InForce() const {
    proto::AgentMessage message;
    message.set_generation(core_.generation().value());
    return message;
  }
  // A report of a rank's own.
  std::pair<NodeId, proto::AgentMessage> ReportOf(int rank) const {
    proto::AgentMessage message = InForce();
    message.mutable_worker_report()->set_slot(rank % slots);
    message.mutable_worker_report()->mutable_message()->set_generation(core_.generation().value());
    return {NodeId(rank / slots), std::move(message)};
  }
  template <typename Fill>
  std::vector<Event> ReportOfEach(const Fill& fill) const {
    std::vector<Event> events;
    for (int rank = 0; rank < ranks_; ++rank) {
      auto [node, message] = ReportOf(rank);
      fill(rank, *message.mutable_worker_report()->mutable_message());
      events.push_back(AgentSpoke{node, std::move(message)});
    }
    return events;
  }

  void Hear(const Event& event) {
    std::deque<Event> waiting = {event};
    while (!waiting.empty()) {
      const Event next = std::move(waiting.front());
      waiting.pop_front();
      now_ += absl::Microseconds(1);
      for (const Action& action : core_.Step(now_, next)) {
        if (const auto* raise = std::get_if<Raise>(&action)) {
          std::visit([&](const auto& each) { waiting.push_back(each); }, raise->event);
        }
      }
      Check(invariants_.After(next, core_));
      if (IsDurable(next)) bytes_ += rows_.Next(now_, absl::UnixEpoch(), next, core_).bytes();
    }
  }
  void Measure(const char* what, const std::vector<Event>& events) {
    const SteadyTime begin = Clock::Real().SteadyNow();
    for (const Event& event : events) Hear(event);
    const absl::Duration took = Clock::Real().SteadyNow() - begin;
    std::printf("| %-62s | %6zu | %10.1f |\n", what, events.size(),
                absl::ToDoubleMilliseconds(took));
    std::fflush(stdout);
  }
  Coordinator& core() { return core_; }
  void Pass(absl::Duration time) { now_ += time; }

 private:
  static void Check(const absl::Status& status) {
    if (status.ok()) return;
    std::fprintf(stderr, "%s\n", status.ToString().substr(0, 500).c_str());
    std::abort();
  }

  Coordinator core_;
  const int ranks_;
  SampledInvariants invariants_;
  JournalRows rows_{JournalOptions()};
  absl::Duration now_ = absl::Seconds(1);
  size_t bytes_ = 0;
};

void Join(BigJob& job) {
  job.Measure("every rank puts its address",
              job.ReportOfEach([](int rank, proto::WorkerMessage& message) {
                message.mutable_exchange_put()->set_rank(rank);
                message.mutable_exchange_put()->set_name("connected");
                message.mutable_exchange_put()->set_value(std::string(64, 'a'));
              }));
  job.Measure("every rank joins", job.ReportOfEach([](int, proto::WorkerMessage& message) {
    message.mutable_joined();
  }));
}

void Work(int ranks) {
  BigJob job(ranks, /*is_train=*/true);
  Join(job);
  for (int step = 1; step <= 3; ++step) {
    job.Measure("StepDone of every rank",
                job.ReportOfEach([step](int, proto::WorkerMessage& message) {
                  message.mutable_step_done()->set_step(step);
                }));
  }
  const int64_t generation = job.core().generation().value();
  job.Measure("every rank has written its part of a save",
              job.ReportOfEach([=](int rank, proto::WorkerMessage& message) {
                proto::ShardWritten& written = *message.mutable_shard_written();
                written.mutable_save()->set_generation(generation);
                written.mutable_save()->set_step(3);
                written.set_rank(rank);
                written.set_width(ranks);
                written.set_record(std::string(100, 'r'));
              }));
}

// Every rank reports a lost peer, then nobody says why.
void Reports(int ranks) {
  BigJob job(ranks, /*is_train=*/true);
  Join(job);
  job.Measure("every rank reports a lost peer",
              job.ReportOfEach([ranks](int rank, proto::WorkerMessage& message) {
                proto::Failed& failed = *message.mutable_failed();
                failed.set_code(static_cast<int>(absl::StatusCode::kDeadlineExceeded));
                failed.set_message("rank waited in vain");
                failed.set_peer_rank((rank + 1) % ranks);
              }));
  job.Pass(absl::Seconds(2));
  job.Measure("... and the cause is chosen among them", {Tick{}, Tick{}});
}

// The ranks of a program end everywhere, each on its node's clock a little before the one before.
void Exits(int ranks) {
  BigJob job(ranks, /*is_train=*/false);
  std::vector<Event> started;
  std::vector<Event> exited;
  for (int rank = 0; rank < ranks; ++rank) {
    proto::AgentMessage start = job.InForce();
    start.mutable_worker_started()->set_slot(rank % slots);
    started.push_back(AgentSpoke{NodeId(rank / slots), std::move(start)});
    proto::AgentMessage exit = job.InForce();
    proto::WorkerExited& end = *exit.mutable_worker_exited();
    end.set_slot(rank % slots);
    end.set_exit_code(1);
    end.mutable_steady_time()->set_nanos(500'000'000 - rank);
    end.mutable_launcher_time()->set_nanos(500'000'000 - rank);
    end.mutable_launcher_time_within()->set_nanos(rank % 2 == 0 ? 100 : 1'000'000);
    for (int line = 0; line < 20; ++line) end.add_last_lines(std::string(80, 'l'));
    exited.push_back(AgentSpoke{NodeId(rank / slots), std::move(exit)});
  }
  job.Measure("every rank of a program starts", started);
  job.Measure("every rank of a program ends, each before all that were heard", exited);
}

}  // namespace
}  // namespace dsrun::launcher

int main(int argc, char** argv) {
  const int failing = argc > 1 ? std::atoi(argv[1]) : 10'000;
  const int working = argc > 2 ? std::atoi(argv[2]) : 32'000;
  std::printf("| %-62s | %6s | %10s |\n| --- | --- | --- |\n", "what", "events", "ms");
  if (argc > 3) dsrun::launcher::slots = std::atoi(argv[3]);
  dsrun::launcher::Work(working);
  dsrun::launcher::Reports(failing);
  dsrun::launcher::Exits(failing);
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  std::printf("most memory at once: %.1f GB\n", static_cast<double>(usage.ru_maxrss) / (1 << 20));
}
