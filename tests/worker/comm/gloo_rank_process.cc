// One rank as a process of its own, for gloo_process_test, which plays the coordinator through this
// process's standard input and output:
//
//   gloo_rank_process RANK SIZE ADDRESS TIMEOUT_MS TRANSPORT
//
// TRANSPORT: gloo, or shared: shared memory between the ranks of one address, Gloo between others.
//
//   in:  TOKEN text | TABLE hex hex ... | CANCEL | BARRIER | RECV peer bytes | SEND peer bytes |
//        ABORT | LEAVE
//   out: BLOB hex | DONE ms status-code peer message (after connecting and after each operation) |
//        LEFT ms
//
// CANCEL and ABORT are obeyed at once, the rest one after the other.

#include <atomic>
#include <deque>
#include <iostream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/escaping.h"
#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "tests/worker/comm/barrier.h"
#include "worker/comm/core/rendezvous.h"
#include "worker/comm/gloo/gloo_communicator.h"
#include "worker/comm/shared_memory/shared_memory_communicator.h"

namespace dsrun::worker {
namespace {

class Control {
 public:
  // Reads commands until the input ends; then the process ends, whatever it is doing.
  void Run() {
    for (std::string line; std::getline(std::cin, line);) {
      MutexLock lock(mu_);
      if (line == "CANCEL") {
        cancelled_ = true;
      } else if (line == "ABORT") {
        aborted_at_ = Clock::Real().SteadyNow();
        if (communicator_ != nullptr) communicator_->Abort("the test says so");
      } else {
        lines_.push_back(line);
        changed_.NotifyAll();
      }
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

  bool cancelled() const { return cancelled_; }
  SteadyTime aborted_at() {
    MutexLock lock(mu_);
    return aborted_at_;
  }
  void SetCommunicator(Communicator* communicator) {
    MutexLock lock(mu_);
    communicator_ = communicator;
  }

 private:
  Mutex mu_;
  CondVar changed_;
  std::deque<std::string> lines_ ABSL_GUARDED_BY(mu_);
  Communicator* communicator_ ABSL_GUARDED_BY(mu_) = nullptr;
  SteadyTime aborted_at_ ABSL_GUARDED_BY(mu_);
  std::atomic<bool> cancelled_ = false;
};

class PipeRendezvous : public Rendezvous {
 public:
  explicit PipeRendezvous(Control& control) : control_(control) {}
  absl::StatusOr<std::vector<std::string>> Exchange(const std::string&,
                                                    const std::string& mine) override {
    std::cout << "BLOB " << absl::BytesToHexString(mine) << std::endl;
    std::istringstream table(control_.Next());
    std::string word;
    table >> word;
    std::vector<std::string> blobs;
    while (table >> word) blobs.push_back(absl::HexStringToBytes(word));
    return blobs;
  }

 private:
  Control& control_;
};

void Report(Control& control, SteadyTime since, const absl::Status& status) {
  if (control.aborted_at() > since) since = control.aborted_at();
  std::cout << "DONE " << absl::ToInt64Milliseconds(Clock::Real().SteadyNow() - since) << " "
            << absl::StatusCodeToString(status.code()) << " " << PeerRank(status) << " "
            << status.message() << std::endl;
}

absl::Status Perform(Communicator& comm, const std::string& line) {
  std::istringstream words(line);
  std::string command;
  int peer = 0;
  size_t bytes = 0;
  words >> command >> peer >> bytes;
  if (command == "BARRIER") return Barrier(comm, "barrier of the test");
  std::string data(bytes, 'x');
  const SendOp send{peer, data.data(), bytes};
  const RecvOp recv{peer, data.data(), bytes};
  if (command == "SEND") return comm.Exchange({&send, 1}, {}, "message of the test");
  return comm.Exchange({}, {&recv, 1}, "message of the test");
}

int Main(char** args) {
  Control control;
  std::thread([&] { control.Run(); }).detach();
  GlooOptions options;
  options.rank = std::stoi(args[1]);
  options.size = std::stoi(args[2]);
  options.bind_address = args[3];
  options.timeout = options.connect_timeout = absl::Milliseconds(std::stoi(args[4]));
  options.job_token = control.Next();
  options.cancelled = [&] { return control.cancelled(); };
  PipeRendezvous rendezvous(control);
  SteadyTime start = Clock::Real().SteadyNow();
  auto communicator = GlooCommunicator::Create(options, rendezvous);
  if (communicator.ok() && args[5] == std::string("shared")) {
    SharedMemoryOptions shared;
    shared.node = options.bind_address;
    shared.timeout = options.timeout;
    communicator = CreateSharedMemoryCommunicator(*std::move(communicator), shared, rendezvous);
  }
  Report(control, start, communicator.status());
  if (communicator.ok()) control.SetCommunicator(communicator->get());
  for (std::string line = control.Next(); line != "LEAVE"; line = control.Next()) {
    start = Clock::Real().SteadyNow();
    Report(control, start, Perform(**communicator, line));
  }
  control.SetCommunicator(nullptr);
  start = Clock::Real().SteadyNow();
  if (communicator.ok()) communicator->reset();
  std::cout << "LEFT " << absl::ToInt64Milliseconds(Clock::Real().SteadyNow() - start) << std::endl;
  _Exit(0);
}

}  // namespace
}  // namespace dsrun::worker

int main(int count, char** args) { return count == 6 ? dsrun::worker::Main(args) : 2; }
