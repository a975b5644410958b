// One rank of a mesh as a process of its own, with the communicators that the engine's factory
// makes, for mesh_process_test, which plays the coordinator through this process's standard input
// and output:
//
//   mesh_rank_process RANK TP CP EP DP PP ORDER ADDRESS SEED
//
//   in:  TOKEN text | TABLE group name hex ... | RUN | ABORT | LEAVE
//   out: PUT group name hex | READY | DONE status-code peer message (after each RUN) | LEFT
//
// RUN is the program of mesh_program.h. ABORT is obeyed at once.

#include <atomic>
#include <deque>
#include <iostream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "common/base/mutex.h"
#include "tests/worker/comm/mesh_program.h"
#include "worker/engine/communicator_factory.h"

namespace dsrun::worker {
namespace {

class Control {
 public:
  // Reads commands until the input ends; then the process ends, whatever it is doing.
  void Run() {
    for (std::string line; std::getline(std::cin, line);) {
      std::istringstream words(line);
      std::string command, group, name;
      words >> command;
      MutexLock lock(mu_);
      if (command == "TABLE") {
        words >> group >> name;
        std::vector<std::string>& values = tables_[{group, name}];
        for (std::string hex; words >> hex;)
          values.push_back(absl::HexStringToBytes(hex.substr(1)));
      } else if (command == "ABORT") {
        if (groups_ != nullptr) groups_->Abort("the test says so");
      } else {
        lines_.push_back(line);
      }
      changed_.NotifyAll();
    }
    _Exit(0);
  }

  std::string Next() {
    MutexLock lock(mu_);
    while (lines_.empty()) changed_.Wait(mu_);
    std::string line = lines_.front();
    lines_.pop_front();
    return line;
  }
  std::vector<std::string> AwaitTable(const std::string& group, const std::string& name) {
    MutexLock lock(mu_);
    while (!tables_.contains({group, name})) changed_.Wait(mu_);
    return tables_[{group, name}];
  }
  void SetGroups(ProcessGroups* groups) {
    MutexLock lock(mu_);
    groups_ = groups;
  }

 private:
  Mutex mu_;
  CondVar changed_;
  std::deque<std::string> lines_ ABSL_GUARDED_BY(mu_);
  std::map<std::pair<std::string, std::string>, std::vector<std::string>> tables_
      ABSL_GUARDED_BY(mu_);
  ProcessGroups* groups_ ABSL_GUARDED_BY(mu_) = nullptr;
};

// Blobs travel as hex behind an 'x', so that an empty one is a word too.
class PipeRendezvous : public Rendezvous {
 public:
  PipeRendezvous(Control& control, std::string group)
      : control_(control), group_(std::move(group)) {}
  absl::StatusOr<std::vector<std::string>> Exchange(const std::string& name,
                                                    const std::string& mine) override {
    std::string word = name;  // "shared memory/..." has a space
    for (char& c : word) c = c == ' ' ? '_' : c;
    std::cout << "PUT " << group_ << " " << word << " x" << absl::BytesToHexString(mine)
              << std::endl;
    return control_.AwaitTable(group_, word);
  }

 private:
  Control& control_;
  const std::string group_;
};

void Report(const absl::Status& status) {
  std::cout << "DONE " << absl::StatusCodeToString(status.code()) << " " << PeerRank(status) << " "
            << status.message() << std::endl;
}

int Main(char** args) {
  Control control;
  std::thread([&] { control.Run(); }).detach();
  const Rank rank(std::stoi(args[1]));
  const absl::StatusOr<Mesh> mesh =
      Mesh::Create({std::stoi(args[2]), std::stoi(args[3]), std::stoi(args[4]), std::stoi(args[5]),
                    std::stoi(args[6]), args[7]});
  const uint64_t seed = std::stoull(args[9]);
  CommunicatorRequest request;
  request.generation = Generation(1);
  request.bind_address = args[8];
  request.job_token = control.Next();
  request.timeout = request.connect_timeout = absl::Minutes(1);
  request.check = "always";
  request.shared_memory = true;
  auto groups = BuildProcessGroups(
      request, *mesh, rank, MeshLanes(*mesh),
      [&](const std::string& group) { return std::make_unique<PipeRendezvous>(control, group); });
  if (!groups.ok()) {
    Report(groups.status());
    return 1;
  }
  control.SetGroups(groups->get());
  std::cout << "READY" << std::endl;
  for (std::string line = control.Next(); line != "LEAVE"; line = control.Next()) {
    Report(RunMeshProgram(**groups, *mesh, rank, seed));
  }
  control.SetGroups(nullptr);
  groups->reset();
  std::cout << "LEFT" << std::endl;
  _Exit(0);
}

}  // namespace
}  // namespace dsrun::worker

int main(int count, char** args) { return count == 10 ? dsrun::worker::Main(args) : 2; }
