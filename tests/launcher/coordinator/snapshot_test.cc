// Snapshots: every field of every state comes back, and what is no snapshot is refused. That a
// restored core does the same as the one it was taken from is checked at every step of the stories,
// the cells and the simulated clusters (twin.h).

#include <google/protobuf/descriptor.h>
#include <google/protobuf/duration.pb.h>
#include <google/protobuf/message.h>
#include <google/protobuf/stubs/logging.h>

#include <cstdio>
#include <functional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "common/base/memory_marks.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "launcher/coordinator/coordinator.h"
#include "launcher/coordinator/history.h"
#include "proto/snapshot.pb.h"
#include "tests/launcher/coordinator/cell_bench.h"

namespace dsrun::launcher {
namespace {

using ::google::protobuf::Descriptor;
using ::google::protobuf::FieldDescriptor;
using ::google::protobuf::Message;
using ::google::protobuf::Reflection;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using State = Coordinator::State;
constexpr State kStates[] = {State::kIdle,     State::kOpening, State::kPreparing,
                             State::kStarting, State::kRunning, State::kDraining,
                             State::kStopping, State::kEnding,  State::kEnded};

Event Part(int node, Generation generation, int64_t step) {
  Event part = Bench::Part(node, step);
  std::get<AgentSpoke>(part)
      .message.mutable_worker_report()
      ->mutable_message()
      ->mutable_shard_written()
      ->mutable_save()
      ->set_generation(generation.value());
  return part;
}

// One job in which everything happens that the cells leave out.
std::vector<std::string> ARichJob() {
  std::vector<std::string> snapshots;
  Bench bench(/*train=*/true);
  const auto feed = [&](const Event& event) {
    bench.Feed(event);
    snapshots.push_back(bench.coordinator().Snapshot());
  };
  bench.DriveTo(State::kStarting);
  for (const int node : {0, 1}) {
    Event put = bench.Spoke(node, Kind::kExchangePut);
    std::get<AgentSpoke>(put)
        .message.mutable_worker_report()
        ->mutable_message()
        ->mutable_exchange_put()
        ->set_value("an address");
    feed(put);
    put = bench.Spoke(0, Kind::kExchangePut);
    proto::ExchangePut* second = std::get<AgentSpoke>(put)
                                     .message.mutable_worker_report()
                                     ->mutable_message()
                                     ->mutable_exchange_put();
    second->set_name("never answered");
    second->set_value("another address");
    feed(put);
    // Of the group of both, which waits for the other, and of one that is rank 0 alone.
    second->set_group(node == 0 ? "dp@0" : "tp@0");
    feed(put);
  }
  Event joined = bench.Spoke(0, Kind::kJoined);
  proto::WorkerMessage* report =
      std::get<AgentSpoke>(joined).message.mutable_worker_report()->mutable_message();
  report->mutable_joined()->set_loaded_from("manifest-1");
  report->mutable_joined()->set_start_step(1);
  feed(joined);
  feed(bench.Spoke(1, Kind::kJoined));
  // The first save is committed, of the second one a part is missing, two are granted, one fails.
  feed(bench.Spoke(0, Kind::kCommitDone));
  for (const int64_t granted : {2, 3}) {
    for (const int node : {1, 0}) feed(Part(node, bench.coordinator().generation(), granted));
  }
  Event failed_part = Part(0, bench.coordinator().generation(), 4);
  report = std::get<AgentSpoke>(failed_part).message.mutable_worker_report()->mutable_message();
  report->mutable_shard_written()->clear_record();
  feed(failed_part);
  Event late = bench.Spoke(1, Kind::kFailed);
  proto::Failed* failed = std::get<AgentSpoke>(late)
                              .message.mutable_worker_report()
                              ->mutable_message()
                              ->mutable_failed();
  failed->set_code(static_cast<int>(absl::StatusCode::kDeadlineExceeded));
  failed->set_peer_rank(0);
  feed(late);
  feed(bench.Spoke(0, Kind::kStacks));
  feed(Tick{{NodeId(0), NodeId(1)}});
  bench.Pass(absl::Minutes(1));
  feed(Tick{{NodeId(0), NodeId(1)}});  // it is late
  Event killed = bench.Spoke(0, Kind::kWorkerKilled);
  proto::WorkerExited* exited = std::get<AgentSpoke>(killed).message.mutable_worker_exited();
  exited->set_pid(4711);
  exited->set_killed_by_agent(true);
  exited->set_reason("silent");
  exited->mutable_silent_for()->set_seconds(3);
  exited->mutable_wall_time()->set_seconds(1'700'000'000);
  exited->mutable_steady_time()->set_seconds(5000);
  exited->mutable_launcher_time()->set_seconds(99);
  exited->mutable_launcher_time_within()->set_nanos(1000);
  exited->add_last_lines(std::string(History::kMostLineBytesOfACause, 'x'));  // is left out
  exited->add_last_lines("the last\xff line");
  const Event replaced = [&] {  // of the generation that has just failed
    Event event = bench.Spoke(1, Kind::kFailed);
    proto::WorkerMessage* message =
        std::get<AgentSpoke>(event).message.mutable_worker_report()->mutable_message();
    message->mutable_failed()->set_verdict(proto::Failed::kReplaceProcess);
    return event;
  }();
  feed(killed);
  feed(replaced);
  for (const int node : {0, 1}) feed(bench.Spoke(node, Kind::kPrepared));
  for (const int node : {0, 1}) {
    joined = bench.Spoke(node, Kind::kJoined);
    report = std::get<AgentSpoke>(joined).message.mutable_worker_report()->mutable_message();
    report->mutable_joined()->set_start_step(2);
    feed(joined);
  }
  Event step = bench.Spoke(0, Kind::kStepDone);
  report = std::get<AgentSpoke>(step).message.mutable_worker_report()->mutable_message();
  report->mutable_step_done()->set_step(5);
  feed(step);
  feed(bench.Spoke(0, Kind::kFailed));
  feed(OperatorStop{});
  for (const int node : {0, 1}) {
    Event finished = bench.Spoke(node, Kind::kFinished);
    report = std::get<AgentSpoke>(finished).message.mutable_worker_report()->mutable_message();
    report->mutable_finished()->set_stopped_early(true);
    report->mutable_finished()->set_step(6);
    report->mutable_finished()->set_loss(1.5);
    report->mutable_finished()->set_sample("a sample");
    feed(finished);
  }
  for (const int node : {0, 1}) feed(bench.Spoke(node, Kind::kJobEnded));
  return snapshots;
}

CoordinatorConfig ConfigWithMemory() {
  CoordinatorConfig config = Bench::Config(/*train=*/true);
  config.memory.emplace();
  config.memory->model = {"custom", 1, 16, 1, 8, 256};
  config.memory->micro_batch_size = 1;
  config.memory->micro_batches = 2;
  config.memory->bucket_bytes = 1 << 20;
  return config;
}

// Of one whose rank meets the end of memory.
std::string AJobThatMeetsItsEnd() {
  Bench bench(ConfigWithMemory());
  EXPECT_TRUE(bench.DriveTo(State::kRunning));
  Event met = bench.Spoke(1, Kind::kFailed);
  proto::Failed* failed = std::get<AgentSpoke>(met)
                              .message.mutable_worker_report()
                              ->mutable_message()
                              ->mutable_failed();
  failed->set_code(static_cast<int>(absl::StatusCode::kResourceExhausted));
  failed->set_message(std::string(kMemoryRefused));
  bench.Feed(met);
  return bench.coordinator().Snapshot();
}

// One that does not fit, on a node that says so and one that says nothing of its memory.
std::vector<std::string> AJobThatLacksMemory() {
  std::vector<std::string> snapshots;
  Bench bench(ConfigWithMemory());
  bench.Feed(Start{});
  for (const int node : {0, 1}) bench.Feed(bench.Spoke(node, Kind::kOpened));
  for (int look = 0; look <= kMemoryLooks; ++look) {
    for (const int node : {0, 1}) {
      Event prepared = bench.Spoke(node, Kind::kPrepared);
      if (node == 1) {
        proto::NodeMemory* memory =
            std::get<AgentSpoke>(prepared).message.mutable_prepared()->mutable_memory();
        memory->set_total_bytes(1000);
        memory->set_available_bytes(900);
        memory->set_ranks_bytes(50);
        memory->set_boot_id("a boot");
        memory->set_cgroup("/a/group");
        memory->set_limited_by("cgroup /a/group");
      }
      bench.Feed(prepared);
      snapshots.push_back(bench.coordinator().Snapshot());
    }
    if (look < kMemoryLooks) bench.Feed(bench.Deadline(DeadlinePassed::Kind::kPhase));
  }
  EXPECT_EQ(bench.coordinator().state(), State::kEnding);
  return snapshots;
}

// Of every state after every kind of event, and of what these leave out.
const std::vector<std::string>& Snapshots() {
  static const std::vector<std::string>* const all = [] {
    auto* snapshots = new std::vector<std::string>(ARichJob());
    for (std::string& each : AJobThatLacksMemory()) snapshots->push_back(std::move(each));
    snapshots->push_back(AJobThatMeetsItsEnd());
    for (const bool train : {true, false}) {
      for (const State state : kStates) {
        for (size_t kind = 0; kind < kKinds; ++kind) {
          Bench bench(train);
          if (!bench.DriveTo(state)) continue;
          bench.Feed(bench.Make(static_cast<Kind>(kind)));
          snapshots->push_back(bench.coordinator().Snapshot());
        }
      }
    }
    return snapshots;
  }();
  return *all;
}

absl::StatusOr<Coordinator> Restore(const std::string& bytes) {
  // Nodes and ranks are the same in both kinds of job.
  return Coordinator::Restore(Bench::Config(/*train=*/true), bytes);
}

// The plan and durations are leaves: they are put in and taken out whole.
bool IsLeaf(const Descriptor* type) {
  return type == proto::GenerationPlan::descriptor() ||
         type == google::protobuf::Duration::descriptor();
}

void AllFields(const Descriptor* type, std::set<std::string>& names) {
  for (int i = 0; i < type->field_count(); ++i) {
    const FieldDescriptor* field = type->field(i);
    if (!names.insert(field->full_name()).second) continue;
    const Descriptor* inner = field->message_type();
    if (inner != nullptr && !IsLeaf(inner)) AllFields(inner, names);
  }
}

// Calls `visit` for the message and every message in it that is no leaf.
void ForEachMessage(Message* message, const std::function<void(Message*)>& visit) {
  visit(message);
  const Reflection* reflection = message->GetReflection();
  std::vector<const FieldDescriptor*> set;
  reflection->ListFields(*message, &set);
  for (const FieldDescriptor* field : set) {
    if (field->message_type() == nullptr || IsLeaf(field->message_type())) continue;
    if (!field->is_repeated()) {
      ForEachMessage(reflection->MutableMessage(message, field), visit);
      continue;
    }
    for (int i = 0; i < reflection->FieldSize(*message, field); ++i) {
      ForEachMessage(reflection->MutableRepeatedMessage(message, field, i), visit);
    }
  }
}

std::set<std::string> FieldsSetIn(const std::string& bytes) {
  std::set<std::string> names;
  proto::CoordinatorSnapshot snapshot;
  EXPECT_TRUE(snapshot.ParseFromString(bytes));
  ForEachMessage(&snapshot, [&](Message* message) {
    std::vector<const FieldDescriptor*> set;
    message->GetReflection()->ListFields(*message, &set);
    for (const FieldDescriptor* field : set) names.insert(field->full_name());
  });
  return names;
}

// A field that Snapshot forgot would be in none.
TEST(SnapshotTest, EveryField_IsSetInSomeSnapshot) {
  std::set<std::string> missing;
  AllFields(proto::CoordinatorSnapshot::descriptor(), missing);
  // Of a report that is given out; the one within has not been given these.
  for (const char* given_out : {"exit_code", "restarts"}) {
    EXPECT_EQ(missing.erase(std::string("dsrun.proto.ReportState.") + given_out), 1u) << given_out;
  }
  // Of an incident with more ranks than this job has (AnIncident.ThatIsOver_IsShortened...).
  EXPECT_EQ(missing.erase("dsrun.proto.IncidentState.more"), 1u);
  EXPECT_GT(missing.size(), 90u);
  for (const std::string& bytes : Snapshots()) {
    for (const std::string& name : FieldsSetIn(bytes)) missing.erase(name);
  }
  EXPECT_THAT(missing, IsEmpty());
}

// Another value; false: this field has none to offer here.
bool Alter(Message* message, const FieldDescriptor* field) {
  const Reflection* reflection = message->GetReflection();
  if (field->is_repeated()) {
    if (reflection->FieldSize(*message, field) == 0) return false;
    reflection->RemoveLast(message, field);
    return true;
  }
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      reflection->SetInt32(message, field, reflection->GetInt32(*message, field) + 1);
      return true;
    case FieldDescriptor::CPPTYPE_INT64:
      reflection->SetInt64(message, field, reflection->GetInt64(*message, field) + 1);
      return true;
    case FieldDescriptor::CPPTYPE_UINT64:
      reflection->SetUInt64(message, field, reflection->GetUInt64(*message, field) + 1);
      return true;
    case FieldDescriptor::CPPTYPE_DOUBLE:
      reflection->SetDouble(message, field, reflection->GetDouble(*message, field) + 1);
      return true;
    case FieldDescriptor::CPPTYPE_BOOL:
      reflection->SetBool(message, field, !reflection->GetBool(*message, field));
      return true;
    case FieldDescriptor::CPPTYPE_ENUM:
      reflection->SetEnumValue(message, field, reflection->GetEnumValue(*message, field) + 1);
      return true;
    case FieldDescriptor::CPPTYPE_STRING:
      reflection->SetString(message, field, reflection->GetString(*message, field) + "x");
      return true;
    case FieldDescriptor::CPPTYPE_MESSAGE: {
      Message* inner = reflection->MutableMessage(message, field);
      if (auto* duration = dynamic_cast<google::protobuf::Duration*>(inner)) {
        duration->set_nanos(duration->nanos() + 1);
        return true;
      }
      if (auto* plan = dynamic_cast<proto::GenerationPlan*>(inner)) {
        if (plan->members_size() == 0) return false;
        plan->mutable_members(0)->set_host(plan->members(0).host() + "x");
        return true;
      }
      return false;
    }
    default:
      ADD_FAILURE() << "no other value for " << field->full_name();
      return false;
  }
}

// A field that Restore forgot, or put elsewhere, would come back as something else.
TEST(SnapshotTest, EveryField_ComesBackAsItIs) {
  std::set<std::string> unproven;
  AllFields(proto::CoordinatorSnapshot::descriptor(), unproven);
  // Other values of these are never a snapshot of this job, or not by themselves; or keys of maps
  // in which every one that could be is there.
  for (const char* refused :
       {"CoordinatorSnapshot.schema_version", "CoordinatorSnapshot.ended", "MembershipState.nodes",
        "RendezvousState.width", "GenerationState.rank_nodes", "GenerationState.rank_slots",
        "SaveLedgerState.generations", "SaveLedgerState.Ranks.nodes", "SaveLedgerState.Ranks.slots",
        "SaveLedgerState.Process.node", "SaveLedgerState.Save.records",
        "SaveLedgerState.Record.rank", "CoordinatorSnapshot.Memory.node",
        "CoordinatorSnapshot.StoppedRank.rank"}) {
    EXPECT_EQ(unproven.erase(std::string("dsrun.proto.") + refused), 1u) << refused;
  }
  // Containers: proven by what is in them.
  for (const char* container :
       {"CoordinatorSnapshot.members", "CoordinatorSnapshot.rendezvous",
        "CoordinatorSnapshot.phase_deadline", "CoordinatorSnapshot.cause_deadline",
        "CoordinatorSnapshot.report", "CoordinatorSnapshot.Suspect.failure", "IncidentState.cause",
        "CoordinatorSnapshot.Memory.memory", "CoordinatorSnapshot.saves", "SaveLedgerState.newest",
        "SaveLedgerState.Process.reported", "SaveLedgerState.Save.id"}) {
    EXPECT_EQ(unproven.erase(std::string("dsrun.proto.") + container), 1u) << container;
  }
  // Keys of ordered sets: another one may come back in another place, or as one that is there.
  const std::set<std::string> keys = {
      "dsrun.proto.CoordinatorSnapshot.Suspect.rank", "dsrun.proto.CoordinatorSnapshot.Memory.node",
      "dsrun.proto.CoordinatorSnapshot.StoppedRank.rank",
      "dsrun.proto.SaveLedgerState.Process.node", "dsrun.proto.SaveLedgerState.Ranks.generation",
      "dsrun.proto.SaveId.generation", "dsrun.proto.SaveId.step",
      "dsrun.proto.RendezvousState.Name.name", "dsrun.proto.RendezvousState.Name.group",
      "dsrun.proto.RendezvousState.Value.rank",
      // By which an incident's failures are in order.
      "dsrun.proto.FailureState.noticed_at"};
  for (const std::string& bytes : Snapshots()) {
    proto::CoordinatorSnapshot snapshot;
    ASSERT_TRUE(snapshot.ParseFromString(bytes));
    int messages = 0;
    ForEachMessage(&snapshot, [&](Message*) { ++messages; });
    for (int target = 0; target < messages; ++target) {
      for (int i = 0;; ++i) {
        proto::CoordinatorSnapshot altered = snapshot;
        std::vector<Message*> all;
        ForEachMessage(&altered, [&](Message* message) { all.push_back(message); });
        Message* message = all[static_cast<size_t>(target)];
        if (i == message->GetDescriptor()->field_count()) break;
        const FieldDescriptor* field = message->GetDescriptor()->field(i);
        const std::string name = field->full_name();
        if (!Alter(message, field)) continue;
        const absl::StatusOr<Coordinator> restored = Restore(altered.SerializeAsString());
        if (!restored.ok()) continue;
        const bool same = restored->Snapshot() == altered.SerializeAsString();
        EXPECT_TRUE(same || keys.contains(name)) << name;
        if (same) unproven.erase(name);
      }
    }
  }
  EXPECT_THAT(unproven, IsEmpty());
}

TEST(SnapshotTest, AnotherSchemaVersion_IsRefusedByName) {
  proto::CoordinatorSnapshot snapshot;
  ASSERT_TRUE(snapshot.ParseFromString(Snapshots().front()));
  snapshot.set_schema_version(kSnapshotSchemaVersion + 1);
  const absl::Status status = Restore(snapshot.SerializeAsString()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("schema version " + std::to_string(kSnapshotSchemaVersion + 1) +
                        ", expected " + std::to_string(kSnapshotSchemaVersion)));
}

TEST(SnapshotTest, AnotherJobsNodes_AreRefused) {
  CoordinatorConfig config = Bench::Config(/*train=*/true);
  config.nodes.push_back({"gamma", {Slot(0)}});
  const absl::Status status = Coordinator::Restore(config, Snapshots().front()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("of 2 nodes, the job has 3"));
}

TEST(SnapshotTest, AStateThatBreaksAnInvariant_IsRefused) {
  Bench bench(/*train=*/true);
  ASSERT_TRUE(bench.DriveTo(State::kPreparing));
  proto::CoordinatorSnapshot snapshot;
  ASSERT_TRUE(snapshot.ParseFromString(bench.coordinator().Snapshot()));
  snapshot.mutable_phase_deadline()->clear_at();
  const absl::Status status = Restore(snapshot.SerializeAsString()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("waits without a deadline"));
}

// Whatever the bytes are: an error, or a core that can be stepped.
TEST(SnapshotTest, RandomDamage_NeverCrashes) {
  constexpr uint64_t kSeeds = 4000;
  google::protobuf::LogSilencer no_words_of_the_parser;
  int refused = 0;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937_64 luck(seed);
    const auto below = [&](size_t n) { return static_cast<size_t>(luck() % n); };
    std::string bytes = Snapshots()[below(Snapshots().size())];
    for (size_t i = 0; i < 1 + seed % 4; ++i) {
      bytes[below(bytes.size())] = static_cast<char>(below(256));
    }
    if (seed % 5 == 0) bytes.resize(below(bytes.size()));
    absl::StatusOr<Coordinator> restored = Restore(bytes);
    refused += restored.ok() ? 0 : 1;
    if (!restored.ok()) continue;
    const Bench bench(/*train=*/true);
    for (int i = 0; i < 10; ++i) {
      const auto kind = static_cast<Kind>(below(kKinds));
      restored->Step(absl::Seconds(100 + i), bench.Make(kind));
    }
  }
  std::printf("seeds 1 to %llu, %d refused\n", static_cast<unsigned long long>(kSeeds), refused);
  EXPECT_GT(refused, static_cast<int>(kSeeds / 10));
  EXPECT_LT(refused, static_cast<int>(kSeeds));
}

}  // namespace
}  // namespace dsrun::launcher
