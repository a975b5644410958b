// run_spec SPEC AGENT: runs the job of a text-format proto::JobSpec file through LaunchJob, without
// the command line's resolving. For tests of what comes after it.

#include <google/protobuf/text_format.h>

#include <fstream>
#include <iostream>
#include <sstream>

#include "common/base/logging.h"
#include "launcher/shell/launch_job.h"
#include "launcher/shell/operator_stops.h"
#include "proto/job.pb.h"

int main(int argc, char** argv) {
  dsrun::InitLogging(argv[0], "run_spec");
  if (argc != 3) {
    std::cerr << "usage: run_spec SPEC AGENT\n";
    return 90;
  }
  std::ifstream file(argv[1]);
  std::stringstream text;
  text << file.rdbuf();
  dsrun::proto::JobSpec job;
  if (!google::protobuf::TextFormat::ParseFromString(text.str(), &job)) return 90;
  dsrun::launcher::LaunchOptions options;
  options.agent_binary = argv[2];
  const auto stops = dsrun::launcher::OperatorStops::Create();
  if (!stops.ok()) return 1;
  return dsrun::launcher::LaunchJob(job, options, **stops);
}
