// A NodeCore spoken to in short words: every step is a list of words, so that a whole story reads
// as a script. Single-threaded.

#ifndef DSRUN_TESTS_AGENT_SCRIPTED_NODE_H_
#define DSRUN_TESTS_AGENT_SCRIPTED_NODE_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/time/time.h"
#include "agent/node_core.h"
#include "common/base/proto_duration.h"

namespace dsrun::agent {

// One action as one word and its numbers: "kill 0", "to 1: plan@2", "exited@1 0 killed".
std::string Name(const NodeAction& action);

// A core with its own idea of time, spoken to in short words.
class Node {
 public:
  explicit Node(bool program = false) : program_(program), core_({Incarnation(7), {}}) {}

  std::vector<std::string> Step(const NodeEvent& event) {
    actions_ = core_.Step(now_, event);
    std::vector<std::string> names;
    for (size_t i = 0; i < actions_.size(); ++i) {
      const auto* clear = std::get_if<ClearNode>(&actions_[i]);
      if (clear == nullptr || !clears_itself_) {
        names.push_back(Name(actions_[i]));
        continue;
      }
      const NodeCleared cleared{clear->generation, ""};
      for (NodeAction& next : core_.Step(now_, cleared)) actions_.push_back(std::move(next));
    }
    return names;
  }
  // From now on the test answers ClearNode; else it is answered at once, and not named.
  void ClearByHand() { clears_itself_ = false; }
  std::vector<std::string> Cleared(int64_t generation, const std::string& left = "") {
    return Step(NodeCleared{Generation(generation), left});
  }
  std::vector<std::string> After(absl::Duration duration) {
    now_ += duration;
    return Step(Tick{});
  }
  // Ticks as the shell does, so that the core sees no pause of its own; everything but heartbeats.
  std::vector<std::string> Ticking(absl::Duration duration) {
    std::vector<std::string> all;
    for (absl::Duration t; t < duration; t += absl::Milliseconds(250)) {
      for (std::string& name : After(absl::Milliseconds(250))) {
        if (name != "heartbeat") all.push_back(std::move(name));
      }
    }
    return all;
  }
  static proto::CoordinatorMessage Message(int64_t generation) {
    proto::CoordinatorMessage message;
    message.set_job_id("job");
    message.set_generation(generation);
    return message;
  }
  std::vector<std::string> Open() {
    proto::CoordinatorMessage message = Message(0);
    proto::JobSpec& job = *message.mutable_open()->mutable_job();
    job.set_job_id("job");
    proto::NodeSpec& node = *job.add_nodes();
    for (int slot = 0; slot < 8; ++slot) node.add_slots(slot);
    if (program_) {
      job.mutable_program()->set_executable("/bin/x");
    } else {
      job.mutable_train();
    }
    return Step(CoordinatorReceived{message});
  }
  std::vector<std::string> Prepare(int64_t generation) {
    proto::CoordinatorMessage message = Message(generation);
    message.mutable_prepare();
    return Step(CoordinatorReceived{message});
  }
  // Members of this node; node 1 has one more, last.
  std::vector<std::string> Begin(int64_t generation, const std::vector<int>& slots) {
    proto::CoordinatorMessage message = Message(generation);
    proto::GenerationPlan& plan = *message.mutable_begin()->mutable_plan();
    plan.set_generation(generation);
    for (const int slot : slots) plan.add_members()->set_slot(slot);
    plan.add_members()->set_node(1);
    return Step(CoordinatorReceived{message});
  }
  std::vector<std::string> Stop(int64_t generation, bool checkpoint_first) {
    proto::CoordinatorMessage message = Message(generation);
    message.mutable_stop_workers()->set_checkpoint_first(checkpoint_first);
    return Step(CoordinatorReceived{message});
  }
  std::vector<std::string> End() {
    proto::CoordinatorMessage message = Message(0);
    message.mutable_end_job();
    return Step(CoordinatorReceived{message});
  }
  std::vector<std::string> CoordinatorBeat() {
    proto::CoordinatorMessage message = Message(0);
    message.mutable_heartbeat();
    return Step(CoordinatorReceived{message});
  }
  std::vector<std::string> Spawned(int slot) { return Step(WorkerSpawned{Slot(slot), 100 + slot}); }
  std::vector<std::string> Hello(int slot) {
    return Step(WorkerHello{Slot(slot), Incarnation(50 + slot)});
  }
  std::vector<std::string> Ended(int slot, int signal = 0) {
    WorkerEnded ended;
    ended.slot = Slot(slot);
    ended.term_signal = signal;
    return Step(ended);
  }
  std::vector<std::string> CannotEnd(int slot) {
    WorkerCannotEnd event;
    event.end.slot = Slot(slot);
    event.end.term_signal = 9;
    event.cause = "it waits in the kernel";
    event.words = "process 7 waits in the kernel";
    return Step(event);
  }
  std::vector<std::string> Says(int slot, int64_t generation,
                                const std::function<void(proto::WorkerMessage&)>& what) {
    proto::WorkerMessage message;
    message.set_incarnation(50 + slot);
    message.set_generation(generation);
    what(message);
    return Step(WorkerReceived{Slot(slot), message});
  }
  std::vector<std::string> StepDone(int slot, int64_t generation) {
    return Says(slot, generation, [](auto& m) { m.mutable_step_done()->set_step(1); });
  }
  std::vector<std::string> Beat(int slot) {
    return Says(slot, 0, [](auto& m) { m.mutable_beat()->set_step(5); });
  }
  // A beat that says how far the engine is, and how long its next move may take; nullopt: long.
  std::vector<std::string> BeatAt(int slot, uint64_t moves, std::optional<absl::Duration> patience,
                                  const char* phase = "training") {
    return Says(slot, 0, [&](auto& m) {
      m.mutable_beat()->set_step(5);
      m.mutable_beat()->set_phase(phase);
      m.mutable_beat()->set_moves(moves);
      if (patience) *m.mutable_beat()->mutable_patience() = ToProto(*patience);
    });
  }
  std::vector<std::string> Finished(int slot, int64_t generation) {
    return Says(slot, generation, [](auto& m) { m.mutable_finished(); });
  }
  // Opened, and generation 1 runs on these slots.
  void Run(const std::vector<int>& slots) {
    Open();
    Begin(1, slots);
    for (const int slot : slots) {
      Spawned(slot);
      if (!program_) Hello(slot);
    }
  }
  // Time, and nobody looks.
  void Pass(absl::Duration duration) { now_ += duration; }
  const NodeCore& core() const { return core_; }
  const std::vector<NodeAction>& actions() const { return actions_; }  // of the last step
  WorkerState state(int slot) const { return core_.state(Slot(slot)); }
  // The worker's message in the first report among the last step's actions.
  proto::WorkerMessage reported() const {
    for (const NodeAction& action : actions_) {
      const auto* send = std::get_if<SendToCoordinator>(&action);
      if (send != nullptr && send->message.has_worker_report()) {
        return send->message.worker_report().message();
      }
    }
    ADD_FAILURE() << "no WorkerReport";
    return {};
  }
  // The last WorkerExited among the last step's actions.
  proto::WorkerExited exited() const {
    for (const NodeAction& action : actions_) {
      const auto* send = std::get_if<SendToCoordinator>(&action);
      if (send != nullptr && send->message.has_worker_exited()) {
        return send->message.worker_exited();
      }
    }
    ADD_FAILURE() << "no WorkerExited";
    return {};
  }

 private:
  const bool program_;
  bool clears_itself_ = true;
  absl::Duration now_ = absl::Seconds(1000);
  NodeCore core_;
  std::vector<NodeAction> actions_;
};

}  // namespace dsrun::agent

#endif  // DSRUN_TESTS_AGENT_SCRIPTED_NODE_H_
