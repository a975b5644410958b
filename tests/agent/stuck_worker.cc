// A dsworker whose engine hangs: it says hello and beats as the real one does, through the real
// session and the real Progress, and then loops for ever in its own code.

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>

#include "worker/engine/grpc_session.h"
#include "worker/engine/progress.h"
#include "worker/engine/thread_stacks.h"

[[gnu::noinline]] void LoopForEver() {
  volatile unsigned turns = 0;
  while (true) turns = turns + 1;
}

int main(int, char** argv) {
  dsrun::worker::PrepareThreadStacks(argv[0]);
  using namespace dsrun;  // one short program
  std::string bytes;
  char chunk[4096];
  ssize_t count;
  while ((count = read(atoi(argv[2]), chunk, sizeof(chunk))) > 0) {
    bytes.append(chunk, static_cast<size_t>(count));
  }
  worker::SessionOptions options;
  if (!options.bootstrap.ParseFromString(bytes)) return 2;
  options.incarnation = Incarnation(static_cast<uint64_t>(getpid()));
  worker::Progress progress;
  options.beat = [&progress] { return progress.Get(); };
  options.stacks = [&progress] { return progress.TakeStacks(); };
  options.on_over = [](const std::string&) { std::_Exit(1); };
  const auto session = worker::ConnectGrpcSession(std::move(options));
  if (!session.ok()) return 3;
  if (!(*session)->WaitForPlan(Generation(0)).ok()) return 4;
  progress.Set(17, "training", absl::Milliseconds(100));
  printf("hangs\n");
  fflush(stdout);
  LoopForEver();
}
