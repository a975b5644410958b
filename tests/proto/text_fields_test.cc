// A proto field of type string must be UTF-8: protobuf cannot decode a message where one is not,
// and the whole message is lost. Output, paths, names, messages and whatever else comes from
// somebody else are therefore bytes. Strings are only these, whose letters this project chooses.

#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "proto/agent.pb.h"
#include "proto/job.pb.h"
#include "proto/journal.pb.h"
#include "proto/snapshot.pb.h"
#include "proto/worker.pb.h"

namespace dsrun {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::FileDescriptor;

void AddStrings(const Descriptor& message, std::set<std::string>& names) {
  for (int i = 0; i < message.field_count(); ++i) {
    const FieldDescriptor& field = *message.field(i);
    if (field.type() == FieldDescriptor::TYPE_STRING) names.insert(field.full_name());
  }
  for (int i = 0; i < message.nested_type_count(); ++i) AddStrings(*message.nested_type(i), names);
}

TEST(TextFields, OnlyOurOwnWords_AreStrings) {
  std::set<std::string> names;
  for (const FileDescriptor* file :
       {proto::JobSpec::descriptor()->file(), proto::AgentMessage::descriptor()->file(),
        proto::WorkerMessage::descriptor()->file(), proto::JournalEvent::descriptor()->file(),
        proto::CoordinatorSnapshot::descriptor()->file()}) {
    for (int i = 0; i < file->message_type_count(); ++i) AddStrings(*file->message_type(i), names);
  }
  const std::set<std::string> ours = {
      // Made by the launcher, of a date and hexadecimal digits.
      "dsrun.proto.AgentMessage.job_id",
      "dsrun.proto.CoordinatorMessage.job_id",
      "dsrun.proto.HostMessage.job_id",
      "dsrun.proto.JobSpec.job_id",
      "dsrun.proto.JournalHeader.job_id",
      "dsrun.proto.WorkerBootstrap.job_id",
      "dsrun.proto.WorkerMessage.job_id",
      // Numeric addresses.
      "dsrun.proto.NodeSpec.address",
      "dsrun.proto.WorkerBootstrap.bind_address",
      // One of a list, or refused when the job is resolved.
      "dsrun.proto.JournalMemory.optimizer",
      "dsrun.proto.JournalMemory.precision",
      "dsrun.proto.LrSchedule.ParamsEntry.key",
      "dsrun.proto.LrSchedule.name",
      "dsrun.proto.MeshShape.order",
      "dsrun.proto.ModelSpec.family",
      "dsrun.proto.ModelSpec.preset",
      "dsrun.proto.ModelSpec.rope_scaling",
      "dsrun.proto.OptimizerSpec.ParamsEntry.key",
      "dsrun.proto.OptimizerSpec.name",
      "dsrun.proto.TrainSpec.check_collectives",
      "dsrun.proto.TrainSpec.device",
      "dsrun.proto.TrainSpec.isa_cap",
      "dsrun.proto.TrainSpec.precision",
      "dsrun.proto.TrainSpec.sums",
      // Words in our programs.
      "dsrun.proto.Beat.phase",
      "dsrun.proto.ExchangePut.group",
      "dsrun.proto.ExchangePut.name",
      "dsrun.proto.ExchangeTable.group",
      "dsrun.proto.ExchangeTable.name",
      "dsrun.proto.Opened.isa",
      "dsrun.proto.Opened.version",
      "dsrun.proto.WorkerBeat.phase",
  };
  EXPECT_EQ(names, ours) << "a field that can carry foreign text must be bytes";
}

}  // namespace
}  // namespace dsrun
