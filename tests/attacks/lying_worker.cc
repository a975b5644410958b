// A worker for tests that first claims to be its sibling, and says what came of it; then it tells
// the truth, and waits.

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "common/base/ids.h"
#include "worker/engine/grpc_session.h"

int main(int, char** argv) {
  using namespace dsrun;  // one short program
  std::string bytes;
  char chunk[4096];
  ssize_t count;
  while ((count = read(atoi(argv[2]), chunk, sizeof(chunk))) > 0) {
    bytes.append(chunk, static_cast<size_t>(count));
  }
  proto::WorkerBootstrap truth;
  if (!truth.ParseFromString(bytes)) return 2;
  const auto options = [&](int slot) {
    worker::SessionOptions options;
    options.bootstrap = truth;
    options.bootstrap.set_slot(slot);
    options.incarnation = Incarnation(static_cast<uint64_t>(getpid()));
    options.on_over = [](const std::string&) { std::_Exit(0); };
    return options;
  };
  const auto lie = worker::ConnectGrpcSession(options(1 - truth.slot()));
  printf("lie: %s\n", lie.status().ToString().c_str());
  const auto session = worker::ConnectGrpcSession(options(truth.slot()));
  printf("truth: %s\n", session.status().ToString().c_str());
  fflush(stdout);
  if (!session.ok()) return 3;
  while (true) pause();
}
