#include "tests/launcher/coordinator/story_player.h"

#include <google/protobuf/text_format.h>

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/plan/memory_plan.h"
#include "launcher/coordinator/coordinator.h"
#include "launcher/coordinator/describe.h"
#include "launcher/shell/journal_codec.h"
#include "tests/launcher/coordinator/story_writer.h"
#include "tests/launcher/coordinator/twin.h"

namespace dsrun::launcher {
namespace {

std::vector<std::string> Split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::stringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) {
    if (!part.empty()) parts.push_back(part);
  }
  return parts;
}

// "verb place key=value ... free text"
struct Command {
  std::string verb;
  std::vector<std::string> words;
  std::map<std::string, std::string> keys;

  static Command Parse(const std::string& line) {
    Command command;
    for (const std::string& word : Split(line, ' ')) {
      const size_t equals = word.find('=');
      if (command.verb.empty()) {
        command.verb = word;
      } else if (equals != std::string::npos) {
        command.keys[word.substr(0, equals)] = word.substr(equals + 1);
      } else {
        command.words.push_back(word);
      }
    }
    return command;
  }
  bool Has(const std::string& key) const { return keys.contains(key); }
  int64_t Int(const std::string& key, int64_t otherwise) const {
    const auto found = keys.find(key);
    int64_t value = otherwise;
    if (found != keys.end() && !absl::SimpleAtoi(found->second, &value)) return otherwise;
    return value;
  }
  std::string Text(size_t from) const {
    std::string text;
    for (size_t i = from; i < words.size(); ++i) {
      absl::StrAppend(&text, text.empty() ? "" : " ", words[i]);
    }
    return text;
  }
};

// What `memory=checked` plans with: some 38 MiB of parameters.
MemoryInput StoryModel(int64_t blocks) {
  MemoryInput input;
  input.model = {"custom", 12, 256, 4, 16, 256};
  input.micro_batch_size = 2;
  input.micro_batches = blocks;
  input.bucket_bytes = 1 << 20;
  return input;
}

void SetMemory(const Command& command, proto::NodeMemory* memory) {
  constexpr int kMiBits = 20;
  if (!command.Has("total")) return;
  memory->set_total_bytes(command.Int("total", 0) << kMiBits);
  memory->set_available_bytes(command.Int("available", 0) << kMiBits);
  memory->set_ranks_bytes(command.Int("ranks", 0) << kMiBits);
  memory->set_boot_id(command.Has("boot") ? command.keys.at("boot") : "");
  memory->set_cgroup(command.Has("cgroup") ? command.keys.at("cgroup") : "");
  memory->set_limited_by(command.Has("cgroup") ? "cgroup " + command.keys.at("cgroup")
                                               : "this machine");
}

class Player {
 public:
  std::string Run(const std::string& line);
  std::string Replay();

 private:
  void Do(const Command& command);
  void Job(const Command& command);
  void Config(const std::string& text);
  void Hear(const std::string& text);
  void Time(const Command& command);
  void Node(const Command& command, int node);
  void Worker(const Command& command, int node, int slot);
  void Feed(Event event);
  void Print(const std::string& text) { absl::StrAppend(&out_, "  ", text, "\n"); }
  void Wrong(const std::string& text) { absl::StrAppend(&out_, "! ", text, "\n"); }

  CoordinatorConfig config_;
  std::unique_ptr<Coordinator> coordinator_;
  absl::Duration now_;
  std::set<int> open_;
  std::vector<WorkerId> ranks_;
  std::vector<std::pair<absl::Duration, Event>> journal_;
  std::string out_;
};

std::string Player::Run(const std::string& line) {
  out_.clear();
  if (line.rfind("config ", 0) == 0) {
    Config(line.substr(7));
  } else if (line.rfind("hear ", 0) == 0) {
    Hear(line.substr(5));
  } else {
    Do(Command::Parse(line));
  }
  return out_;
}

void Player::Config(const std::string& text) {
  proto::JournalHeader header;
  if (!google::protobuf::TextFormat::ParseFromString(text, &header)) {
    return Wrong("not a JournalHeader of proto/journal.proto");
  }
  config_ = FromJournal(header);
  coordinator_ = std::make_unique<Coordinator>(config_);
}

void Player::Hear(const std::string& text) {
  if (coordinator_ == nullptr) return Wrong("the first command must be `job` or `config`");
  proto::JournalEvent encoded;
  if (!google::protobuf::TextFormat::ParseFromString(text, &encoded)) {
    return Wrong("not a JournalEvent of proto/journal.proto");
  }
  const absl::StatusOr<Event> event = FromJournal(encoded);
  if (!event.ok()) return Wrong(std::string(event.status().message()));
  Feed(*event);
}

void Player::Feed(Event event) {
  std::deque<Event> queue = {std::move(event)};
  while (!queue.empty()) {
    const Event next = std::move(queue.front());
    queue.pop_front();
    const auto [actions, difference] = StepBesideTwin(*coordinator_, now_, next);
    if (!difference.empty()) Wrong(difference);
    if (IsDurable(next)) journal_.emplace_back(now_, next);
    const absl::Status invariants = coordinator_->CheckInvariants();
    if (!invariants.ok()) Wrong(std::string(invariants.message()));
    std::deque<Event> raised;
    for (const Action& action : actions) {
      Print(Describe(action));
      if (const auto* raise = std::get_if<Raise>(&action)) {
        std::visit([&](const auto& e) { raised.push_back(e); }, raise->event);
      }
      if (const auto* fence = std::get_if<FenceNode>(&action)) open_.erase(fence->node.value());
      if (const auto* tell = std::get_if<Tell>(&action)) {
        if (const auto* started = std::get_if<GenerationStarted>(&tell->event)) {
          ranks_ = started->ranks;
        }
      }
    }
    queue.insert(queue.begin(), raised.begin(), raised.end());
  }
}

std::string Player::Replay() {
  if (coordinator_ == nullptr) return "! no job\n";
  Coordinator again(config_);
  for (const auto& [now, event] : journal_) again.Step(now, event);
  if (again.Digest() == coordinator_->Digest()) return "";
  return absl::StrCat("! a replay of the durable events differs:\n", again.DebugString(),
                      "! instead of\n", coordinator_->DebugString());
}

void Player::Job(const Command& command) {
  config_ = CoordinatorConfig();
  config_.job_id = "story";
  config_.is_train = command.Text(0) != "program";
  config_.max_width = command.Int("blocks", 4);
  config_.max_restarts = static_cast<int>(command.Int("max_restarts", config_.is_train ? 100 : 0));
  config_.restart_window = absl::Seconds(command.Int("window", 24 * 3600));
  config_.max_restarts_without_progress = static_cast<int>(command.Int("max_without_progress", 3));
  if (command.Has("memory")) config_.memory = StoryModel(config_.max_width);
  for (const std::string& node : Split(command.keys.at("nodes"), ',')) {
    const std::vector<std::string> parts = Split(node, ':');
    CoordinatorConfig::Node facts;
    facts.host = parts[0];
    for (int i = 0; i < std::stoi(parts[1]); ++i) facts.slots.push_back(Slot(i));
    config_.nodes.push_back(std::move(facts));
  }
  coordinator_ = std::make_unique<Coordinator>(config_);
}

// `at` TIME; `tick` SECONDS; `tick`.
void Player::Time(const Command& command) {
  if (command.verb == "at") {
    absl::Duration at;
    if (!absl::ParseDuration(command.Text(0), &at) || at < now_) return Wrong("not a later time");
    now_ = at;
    return;
  }
  std::vector<NodeId> heard;
  for (const int node : open_) heard.push_back(NodeId(node));
  if (command.Has("heard")) {
    heard.clear();
    for (const std::string& node : Split(command.keys.at("heard"), ',')) {
      heard.push_back(NodeId(std::stoi(node)));
    }
  }
  if (command.words.empty()) return Feed(Tick{heard});
  double seconds = 0;
  if (!absl::SimpleAtod(command.words[0].c_str(), &seconds)) return Wrong("not a time");
  // Steps of at most a second: a longer gap would say that the coordinator itself had slept.
  const absl::Duration target = absl::Seconds(seconds);
  while (now_ < target) {
    now_ = std::min(target, now_ + absl::Milliseconds(500));
    Feed(Tick{heard});
  }
}

void Player::Do(const Command& command) {
  const std::string& verb = command.verb;
  if (verb == "job") return Job(command);
  if (coordinator_ == nullptr) return Wrong("the first command must be `job` or `config`");
  if (verb == "start") return Feed(Start{});
  if (verb == "stop") return Feed(OperatorStop{});
  if (verb == "signal") return Feed(OperatorSignal{std::stoi(command.words.at(0))});
  if (verb == "state") return absl::StrAppend(&out_, coordinator_->DebugString());
  if (verb == "report") {
    for (const std::string& line : Split(Describe(coordinator_->CurrentReport(now_)), '\n')) {
      Print(line);
    }
    return;
  }
  if (verb == "digest") return Print(DigestLine(*coordinator_));
  if (verb == "at" || verb == "tick") return Time(command);
  if (command.words.empty()) return Wrong("a place is missing");
  if (verb == "all") {
    Command each = command;
    each.verb = command.words[0];
    each.words.erase(each.words.begin());
    if (each.verb == "prepared" || each.verb == "jobended" || each.verb == "opened") {
      std::set<int> nodes = open_;
      if (each.verb == "opened") {
        for (size_t i = 0; i < config_.nodes.size(); ++i) nodes.insert(static_cast<int>(i));
      }
      for (const int node : nodes) Node(each, node);
    } else {
      for (const WorkerId& worker : std::vector<WorkerId>(ranks_)) {
        Worker(each, worker.node.value(), worker.slot.value());
      }
    }
    return;
  }
  Command rest = command;
  rest.words.erase(rest.words.begin());
  const std::vector<std::string> place = Split(command.words[0], '.');
  if (place.size() == 1) return Node(rest, std::stoi(place[0]));
  Worker(rest, std::stoi(place[0]), std::stoi(place[1]));
}

void Player::Node(const Command& command, int node) {
  if (command.verb == "gone") {
    const absl::StatusCode code = command.Text(0).rfind("UNAUTHENTICATED", 0) == 0
                                      ? absl::StatusCode::kUnauthenticated
                                  : command.Text(0).rfind("FAILED_PRECONDITION", 0) == 0
                                      ? absl::StatusCode::kFailedPrecondition
                                      : absl::StatusCode::kUnavailable;
    open_.erase(node);
    return Feed(AgentGone{NodeId(node), absl::Status(code, command.Text(1))});
  }
  proto::AgentMessage message;
  message.set_incarnation(static_cast<uint64_t>(command.Int("incarnation", 100 + node)));
  message.set_generation(command.Int("g", 0));
  if (command.verb == "opened") {
    message.mutable_opened();
    open_.insert(node);
  } else if (command.verb == "prepared") {
    message.mutable_prepared()->set_master_port(static_cast<int32_t>(command.Int("port", 0)));
    if (command.Has("no_port")) {
      message.mutable_prepared()->set_port_error(command.keys.at("no_port"));
    }
    SetMemory(command, message.mutable_prepared()->mutable_memory());
  } else if (command.verb == "jobended") {
    message.mutable_job_ended();
  } else {
    return Wrong("no such command for a node");
  }
  Feed(AgentSpoke{NodeId(node), std::move(message)});
}

void Player::Worker(const Command& command, int node, int slot) {
  const std::string& verb = command.verb;
  proto::AgentMessage message;
  message.set_incarnation(static_cast<uint64_t>(100 + node));
  message.set_generation(command.Int("g", 0));
  if (verb == "started") {
    message.mutable_worker_started()->set_slot(slot);
    message.mutable_worker_started()->set_pid(1000 + 10 * node + slot);
    return Feed(AgentSpoke{NodeId(node), std::move(message)});
  }
  if (verb == "exited") {
    proto::WorkerExited* exited = message.mutable_worker_exited();
    exited->set_slot(slot);
    exited->set_exit_code(static_cast<int32_t>(command.Int("code", 0)));
    exited->set_term_signal(static_cast<int32_t>(command.Int("signal", 0)));
    exited->set_killed_by_agent(command.Has("agent"));
    if (!command.words.empty()) exited->set_reason(command.Text(0));
    if (command.Has("agent")) exited->set_reason(command.keys.at("agent"));
    if (command.Has("silent")) {
      exited->mutable_silent_for()->set_seconds(command.Int("silent", 0));
    }
    return Feed(AgentSpoke{NodeId(node), std::move(message)});
  }
  message.mutable_worker_report()->set_slot(slot);
  proto::WorkerMessage* report = message.mutable_worker_report()->mutable_message();
  report->set_generation(command.Int("g", 0));
  int32_t rank = -1;
  for (size_t i = 0; i < ranks_.size(); ++i) {
    if (ranks_[i] == WorkerId{NodeId(node), Slot(slot)}) rank = static_cast<int32_t>(i);
  }
  const int64_t step = command.Int("step", 0);
  const std::string manifest = absl::StrCat("manifest-", step);
  if (verb == "joined") {
    report->mutable_joined()->set_start_step(step);
    if (step > 0) report->mutable_joined()->set_loaded_from(manifest);
  } else if (verb == "put") {
    report->mutable_exchange_put()->set_name(command.keys.at("name"));
    report->mutable_exchange_put()->set_rank(static_cast<int32_t>(command.Int("rank", rank)));
    report->mutable_exchange_put()->set_value(absl::StrCat("address-", rank));
  } else if (verb == "step") {
    report->mutable_step_done()->set_step(step);
  } else if (verb == "wrote") {  // its part of a save of `of`, by default the message's generation
    proto::ShardWritten* written = report->mutable_shard_written();
    written->mutable_save()->set_step(step);
    written->mutable_save()->set_generation(command.Int("of", command.Int("g", 0)));
    written->set_rank(static_cast<int32_t>(command.Int("rank", rank)));
    written->set_width(
        static_cast<int32_t>(command.Int("width", static_cast<int64_t>(ranks_.size()))));
    if (command.words.empty()) {
      written->set_record(absl::StrCat("record-", rank));
    } else {
      written->set_error(command.Text(0));
    }
  } else if (verb == "committed") {
    proto::CommitDone* done = report->mutable_commit_done();
    done->mutable_save()->set_step(step);
    done->mutable_save()->set_generation(command.Int("of", command.Int("g", 0)));
    done->set_attempt(command.Int("attempt", 1));
    if (command.words.empty()) {
      done->set_manifest(manifest);
    } else {
      done->set_error(command.Text(0));
    }
  } else if (verb == "failed") {
    report->mutable_failed()->set_code(command.Has("late") ? 4 : 14);  // its deadline has passed
    report->mutable_failed()->set_peer_rank(static_cast<int32_t>(command.Int("peer", -1)));
    report->mutable_failed()->set_fatal(command.Int("fatal", 0) != 0);
    if (command.Has("replace")) {
      report->mutable_failed()->set_code(13);  // INTERNAL
      report->mutable_failed()->set_verdict(proto::Failed::kReplaceProcess);
    }
    report->mutable_failed()->set_message(command.Text(0));
  } else if (verb == "finished") {
    report->mutable_finished()->set_step(step);
    report->mutable_finished()->set_manifest(manifest);
    report->mutable_finished()->set_stopped_early(command.Int("early", 0) != 0);
  } else if (verb == "stacks") {
    if (command.Has("state")) report->mutable_stacks()->set_state(command.keys.at("state"));
    for (const std::string& line : command.words) report->mutable_stacks()->add_lines(line);
  } else if (verb == "notice") {
    report->mutable_notice()->set_text(command.Text(0));
  } else {
    return Wrong("no such command for a worker");
  }
  Feed(AgentSpoke{NodeId(node), std::move(message)});
}

}  // namespace

std::string PlayStory(const std::string& story) {
  Player player;
  std::string out;
  std::stringstream lines(story);
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || line[0] == '#') absl::StrAppend(&out, line, "\n");
    if (line.rfind("> ", 0) != 0) continue;
    absl::StrAppend(&out, line, "\n", player.Run(line.substr(2)));
  }
  return absl::StrCat(out, player.Replay());
}

}  // namespace dsrun::launcher
