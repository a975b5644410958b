#include "launcher/coordinator/describe.h"

#include <string>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/base/counted.h"
#include "launcher/coordinator/exit_words.h"
#include "launcher/coordinator/root_cause.h"

namespace dsrun::launcher {
namespace {

template <typename... Ts>
struct Overloaded : Ts... {
  using Ts::operator()...;
};
template <typename... Ts>
Overloaded(Ts...) -> Overloaded<Ts...>;

std::string DescribeWorkerMessage(const proto::WorkerMessage& message) {
  const std::string of = absl::StrCat(", generation ", message.generation());
  switch (message.body_case()) {
    case proto::WorkerMessage::kHello:
      return absl::StrCat("hello", of);
    case proto::WorkerMessage::kBeat:
      return absl::StrCat("beat", of);
    case proto::WorkerMessage::kExchangePut:
      return absl::StrCat("put ", message.exchange_put().name(), " of rank ",
                          message.exchange_put().rank(), of);
    case proto::WorkerMessage::kJoined:
      return absl::StrCat("joined at step ", message.joined().start_step(), of);
    case proto::WorkerMessage::kStepDone:
      return absl::StrCat("step ", message.step_done().step(), " done", of);
    case proto::WorkerMessage::kFailed:
      return absl::StrCat(message.failed().fatal() ? "failed for good: "
                          : message.failed().verdict() == proto::Failed::kReplaceProcess
                              ? "failed and must be replaced: "
                              : "failed: ",
                          message.failed().message(), of);
    case proto::WorkerMessage::kFinished:
      return absl::StrCat("finished after step ", message.finished().step(),
                          message.finished().stopped_early() ? " (stopped early)" : "", of);
    case proto::WorkerMessage::kNotice:
      return absl::StrCat("notice: ", message.notice().text(), of);
    case proto::WorkerMessage::kStacks:
      return absl::StrCat("is ",
                          message.stacks().state().empty() ? "alive, and says what its threads do"
                                                           : message.stacks().state(),
                          of);
    case proto::WorkerMessage::kShardWritten:
      return absl::StrCat("shard of rank ", message.shard_written().rank(), " for step ",
                          message.shard_written().save().step(),
                          message.shard_written().record().empty() ? " failed" : " written", of);
    case proto::WorkerMessage::kCommitDone:
      return absl::StrCat("commit of step ", message.commit_done().save().step(), ", attempt ",
                          message.commit_done().attempt(),
                          message.commit_done().manifest().empty() ? " failed" : " done", of);
    case proto::WorkerMessage::BODY_NOT_SET:
      return absl::StrCat("an empty report", of);
  }
  return absl::StrCat("an unknown report", of);
}

std::string DescribeAgentMessage(const proto::AgentMessage& message) {
  const std::string of = absl::StrCat(", generation ", message.generation());
  switch (message.body_case()) {
    case proto::AgentMessage::kOpened:
      return absl::StrCat("opened, incarnation ", message.incarnation());
    case proto::AgentMessage::kPrepared:
      return absl::StrCat("prepared", of,
                          message.prepared().master_port() == 0
                              ? ""
                              : absl::StrCat(", port ", message.prepared().master_port()),
                          message.prepared().port_error().empty()
                              ? ""
                              : absl::StrCat(", no port: ", message.prepared().port_error()));
    case proto::AgentMessage::kWorkerStarted:
      return absl::StrCat("slot ", message.worker_started().slot(), " started as process ",
                          message.worker_started().pid(), of);
    case proto::AgentMessage::kWorkerExited: {
      const proto::WorkerExited& exited = message.worker_exited();
      return absl::StrCat("slot ", exited.slot(), " ",
                          ExitWords(exited.exit_code(), exited.term_signal(), exited.core_dumped()),
                          exited.killed_by_agent() ? " (by its agent)" : "", of);
    }
    case proto::AgentMessage::kWorkerReport:
      return absl::StrCat("slot ", message.worker_report().slot(), " ",
                          DescribeWorkerMessage(message.worker_report().message()));
    case proto::AgentMessage::kHeartbeat:
      return "heartbeat";
    case proto::AgentMessage::kLogChunk:
      return "log chunk";
    case proto::AgentMessage::kJobEnded:
      return "job ended";
    case proto::AgentMessage::BODY_NOT_SET:
      return "an empty message";
  }
  return "an unknown message";
}

std::string Ranks(const std::vector<WorkerId>& ranks) {
  std::string text;
  for (const WorkerId& worker : ranks) {
    absl::StrAppend(&text, text.empty() ? "" : " ", worker.node.value(), ":", worker.slot.value());
  }
  return text;
}

std::string DescribeSend(const proto::CoordinatorMessage& message) {
  const std::string of = absl::StrCat(", generation ", message.generation());
  switch (message.body_case()) {
    case proto::CoordinatorMessage::kOpen:
      return "open";
    case proto::CoordinatorMessage::kPrepare:
      return absl::StrCat("prepare", of);
    case proto::CoordinatorMessage::kBegin: {
      std::vector<WorkerId> ranks;
      for (const proto::Member& member : message.begin().plan().members()) {
        ranks.push_back({NodeId(member.node()), Slot(member.slot())});
      }
      const proto::GenerationPlan& plan = message.begin().plan();
      return absl::StrCat(
          "begin", of, ": ", Ranks(ranks),
          plan.master_port() == 0 ? "" : absl::StrCat(", port ", plan.master_port()),
          plan.floor_manifest().empty() ? ""
                                        : absl::StrCat(", not below step ", plan.floor_step()));
    }
    case proto::CoordinatorMessage::kExchangeTable:
      return absl::StrCat("table ", message.exchange_table().name(), " of ",
                          message.exchange_table().group(),
                          message.exchange_table().group().empty() ? "" : ": ",
                          message.exchange_table().values_size(), of);
    case proto::CoordinatorMessage::kStopWorkers:
      return absl::StrCat(message.stop_workers().checkpoint_first()
                              ? "stop workers after a checkpoint"
                              : "stop workers now",
                          of);
    case proto::CoordinatorMessage::kKillWorker:
      return absl::StrCat("kill slot ", message.kill_worker().slot(), ": ",
                          message.kill_worker().reason(), of);
    case proto::CoordinatorMessage::kTakeStacks:
      return absl::StrCat("take stacks", of);
    case proto::CoordinatorMessage::kCommitSave:
      return absl::StrCat("slot ", message.commit_save().slot(), " may commit step ",
                          message.commit_save().commit().save().step(), ", attempt ",
                          message.commit_save().commit().attempt(), of);
    case proto::CoordinatorMessage::kDropSave:
      return absl::StrCat("drop the save of step ", message.drop_save().save().step(), of);
    case proto::CoordinatorMessage::kPassSignal:
      return absl::StrCat("pass signal ", message.pass_signal().signal(), of);
    case proto::CoordinatorMessage::kEndJob:
      return "end the job";
    case proto::CoordinatorMessage::kHeartbeat:
      return "heartbeat";
    case proto::CoordinatorMessage::BODY_NOT_SET:
      return "an empty message";
  }
  return "an unknown message";
}

}  // namespace

std::string Describe(const Event& event) {
  return std::visit(
      Overloaded{
          [](const Start&) { return std::string("start"); },
          [](const AgentSpoke& e) {
            return absl::StrCat("node ", e.node.value(), ": ", DescribeAgentMessage(e.message));
          },
          [](const AgentGone& e) {
            return absl::StrCat("node ", e.node.value(),
                                ": gone: ", absl::StatusCodeToString(e.why.code()), " ",
                                e.why.message());
          },
          [](const Tick&) { return std::string("tick"); },
          [](const OperatorStop&) { return std::string("operator stop"); },
          [](const OperatorSignal& e) { return absl::StrCat("operator signal ", e.signal); },
          [](const NodeSilent& e) { return absl::StrCat("node ", e.node.value(), ": silent"); },
          [](const DeadlinePassed& e) {
            return absl::StrCat(e.kind == DeadlinePassed::Kind::kPhase ? "phase" : "cause",
                                " deadline ", e.number, " passed, generation ",
                                e.generation.value());
          },
          [](const ProgressMade& e) {
            return absl::StrCat("progress: step ", e.step, ", generation ", e.generation.value());
          },
      },
      event);
}

std::string Describe(const Action& action) {
  return std::visit(
      Overloaded{
          [](const OpenAgent& a) { return absl::StrCat("open node ", a.node.value()); },
          [](const SendToAgent& a) {
            return absl::StrCat("send to node ", a.node.value(), ": ", DescribeSend(a.Message()));
          },
          [](const FenceNode& a) {
            return absl::StrCat("fence node ", a.node.value(), ": ", a.reason);
          },
          [](const Tell& a) { return absl::StrCat("tell: ", Describe(a.event)); },
          [](const Raise& a) {
            return absl::StrCat(
                "raise: ", std::visit([](const auto& e) { return Describe(Event(e)); }, a.event));
          },
          [](const EndJob& a) {
            return absl::StrCat("end: exit code ", a.exit_code, ": ", a.report.verdict);
          },
      },
      action);
}

std::string Describe(const OperatorEvent& event) {
  return std::visit(
      Overloaded{
          [](const AgentsOpened& e) {
            return absl::StrCat("all agents opened: ", Counted(e.nodes, "node"), ", ",
                                Counted(e.slots, "slot"));
          },
          [](const GenerationStarted& e) {
            return absl::StrCat("generation ", e.generation.value(), " starts with ",
                                Counted(e.width(), "rank"), ": ", e.reason);
          },
          [](const GenerationRunning& e) {
            return absl::StrCat("generation ", e.generation.value(), " runs from step ",
                                e.from_step, e.loaded_from.empty() ? "" : " of ", e.loaded_from);
          },
          [](const Progress& e) {
            return absl::StrCat("generation ", e.generation.value(), " finished step ",
                                e.done.step());
          },
          [](const CheckpointDone& e) {
            return absl::StrCat("generation ", e.generation.value(), " saved step ", e.step, " as ",
                                e.manifest);
          },
          [](const Lost& e) { return absl::StrCat("lost: ", FailureSentence(e.failure)); },
          [](const Recovered& e) {
            return absl::StrCat("generation ", e.generation.value(), " recovered after ",
                                absl::FormatDuration(e.since_failure), " with step ", e.next_step,
                                ", ", Counted(e.lost_steps, "step"), " lost");
          },
          [](const NoticeText& e) {
            return absl::StrCat(e.warning ? "warning: " : "notice: ", e.text);
          },
          [](const Sample& e) { return absl::StrCat("sample: ", e.text); },
      },
      event);
}

std::string Describe(const Report& report) {
  std::string text = absl::StrCat("exit code ", report.exit_code, ": ", report.verdict, "\n");
  for (const Failure& failure : report.launch_failures) {
    absl::StrAppend(&text, "not opened: ", FailureSentence(failure), "\n");
  }
  for (const Incident& incident : report.incidents) {
    absl::StrAppend(&text, "generation ", incident.failed.value(),
                    " failed: ", FailureSentence(incident.cause));
    if (incident.went_on) {
      absl::StrAppend(&text, "; generation ", incident.went_on->value(), " went on after ",
                      absl::FormatDuration(*incident.next_step_at - incident.failed_at), ", ",
                      Counted(incident.lost_steps(), "step"), " lost");
    }
    absl::StrAppend(&text, "\n");
    for (const Failure& failure : incident.consequences) {
      absl::StrAppend(&text, "  then ", FailureSentence(failure), "\n");
    }
  }
  absl::StrAppend(&text, Counted(report.generations.size(), "generation"), ", ",
                  Counted(report.restarts, "restart"), ", ", Counted(report.lost_steps, "step"),
                  " and ", absl::FormatDuration(report.lost_time), " lost; final step ",
                  report.final_step, ", checkpoint ",
                  report.manifest.empty() ? "none" : report.manifest, "\n");
  return text;
}

}  // namespace dsrun::launcher
