// dsworker: one rank of the training engine. Started by its agent with `--bootstrap-fd N`; joins
// generation after generation in the same process until the job is finished or the agent is gone.

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/cpu_isa.h"
#include "common/base/file_system.h"
#include "common/base/ids.h"
#include "common/base/limits.h"
#include "common/base/logging.h"
#include "common/base/patience.h"
#include "common/base/status_macros.h"
#include "common/corpus/corpus_files.h"
#include "proto/worker.pb.h"
#include "worker/data/corpus.h"
#include "worker/device/cpu/cpu_matmul.h"
#include "worker/engine/communicator_factory.h"
#include "worker/engine/engine_factory.h"
#include "worker/engine/generation.h"
#include "worker/engine/grpc_session.h"
#include "worker/engine/resume.h"
#include "worker/engine/save_writer.h"
#include "worker/engine/saving.h"
#include "worker/engine/stop_signals.h"
#include "worker/engine/thread_stacks.h"
#include "worker/engine/verdict.h"

namespace dsrun::worker {
namespace {

constexpr int kExitUsage = 90;
constexpr int kExitFailed = 1;

// What the session, a communicator, the save writer and the wait for signals need at least, on any
// machine.
constexpr int kOwnThreads = 13;
constexpr int kOwnDescriptors = 24;

constexpr char kUsage[] =
    "usage: dsworker --bootstrap-fd N\n"
    "One rank of a training job. dsagent starts it, never a person: N is a descriptor with the\n"
    "message that says whose rank it is. To train, see `dsrun train --help`.\n";

absl::StatusOr<proto::WorkerBootstrap> ReadBootstrap(int argc, char** argv) {
  int fd = -1;
  if (argc != 3 || std::strcmp(argv[1], "--bootstrap-fd") != 0 || !absl::SimpleAtoi(argv[2], &fd)) {
    return absl::InvalidArgumentError(
        "expected --bootstrap-fd N, which dsagent gives; to train, see `dsrun train --help`");
  }
  std::string bytes;
  char chunk[4096];
  ssize_t count;
  while ((count = read(fd, chunk, sizeof(chunk))) > 0) {
    bytes.append(chunk, static_cast<size_t>(count));
  }
  close(fd);
  proto::WorkerBootstrap bootstrap;
  if (count < 0 || !bootstrap.ParseFromString(bytes) || bootstrap.agent_socket().empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("descriptor ", fd, " does not hold a bootstrap message"));
  }
  return bootstrap;
}

proto::Failed::Verdict SendFailed(Session& session, Generation generation,
                                  const absl::Status& status) {
  const proto::Failed::Verdict verdict = VerdictOf(status);
  proto::WorkerMessage message;
  proto::Failed* const failed = message.mutable_failed();
  failed->set_code(static_cast<int>(status.code()));
  failed->set_message(std::string(status.message()));
  failed->set_peer_rank(PeerRank(status));
  failed->set_fatal(verdict == proto::Failed::kEndJob);
  failed->set_verdict(verdict);
  session.Send(generation, std::move(message));
  return verdict;
}

// What could not even be built is told in the first generation: the operator hears why.
int FailFirstPlan(Session& session, const absl::Status& status) {
  LOG(ERROR) << status.message();
  const absl::StatusOr<proto::GenerationPlan> plan = session.WaitForPlan(Generation(0));
  if (plan.ok()) SendFailed(session, Generation(plan->generation()), status);
  return kExitFailed;
}

absl::StatusOr<Engine> CapAndBuildEngine(const proto::TrainSpec& spec) {
  ASSIGN_OR_RETURN(const CpuIsa isa, ParseIsa(spec.isa_cap()));
  RETURN_IF_ERROR(CapLibraryIsa(isa));
  return BuildEngine(spec);
}

// The launcher has read all of it: what cannot be read here may be in a moment, and is no reason to
// end the job.
template <typename Read>
auto TryAgain(const Read& read, const proto::Limits& limits) -> decltype(read()) {
  Patience patience(
      Clock::Real(), [](absl::Duration wait) { return SleepUnless(wait, nullptr); },
      ReadPatience(limits));
  while (true) {
    auto result = read();
    if (result.ok() || absl::IsFailedPrecondition(result.status())) return result;
    LOG(WARNING) << result.status().message();
    if (!patience.Again()) return absl::UnavailableError(result.status().message());
  }
}

struct Text {
  std::string sha256;
  std::unique_ptr<Corpus> corpus;
  std::optional<SampleLoader> loader;
};

absl::StatusOr<Text> ReadText(const proto::TrainSpec& spec) {
  const std::vector<std::string> paths(spec.data_paths().begin(), spec.data_paths().end());
  ASSIGN_OR_RETURN(const std::vector<CorpusFile> files, ListCorpus(paths));
  Text text;
  ASSIGN_OR_RETURN(text.sha256, CorpusSha256(files));
  ASSIGN_OR_RETURN(text.corpus, Corpus::Open(files));
  return text;
}

absl::StatusOr<Text> OpenText(const proto::TrainSpec& spec, const proto::Limits& limits) {
  ASSIGN_OR_RETURN(Text text, TryAgain([&] { return ReadText(spec); }, limits));
  ASSIGN_OR_RETURN(text.loader,
                   SampleLoader::Create(*text.corpus, spec.seed(), spec.model().seq_length(),
                                        spec.model().vocab_size()));
  return text;
}

SaveWriter::Setup SaveWriterOf(Session& session, const Engine& engine,
                               const std::string& corpus_sha256, Incarnation incarnation) {
  const proto::JobSpec& job = session.job();
  SaveWriter::Setup setup;
  setup.file_system = &FileSystem::Real();
  setup.device = engine.device.get();
  setup.folder = job.train().save_dir();
  setup.facts = FactsOfJob(job, engine.kernels->Fingerprint(), corpus_sha256);
  setup.facts.incarnation = incarnation;
  setup.prune = PruneOfJob(job);
  setup.send = [&session](Generation generation, proto::WorkerMessage message) {
    session.Send(generation, std::move(message));
  };
  return setup;
}

// Generation after generation, until one finishes. Returns the exit code.
int RunGenerations(const GenerationSetup& setup, WorkerId worker) {
  Generation generation(0);
  while (true) {
    setup.progress->Set(0, "waiting for the next generation");
    const absl::StatusOr<proto::GenerationPlan> plan = setup.session->WaitForPlan(generation);
    if (!plan.ok()) return kExitFailed;  // the session is over
    generation = Generation(plan->generation());
    const absl::StatusOr<Rank> rank = FindRank(*plan, worker);
    if (!rank.ok()) {
      SendFailed(*setup.session, generation, rank.status());
      continue;
    }
    LOG(INFO) << "generation " << generation << ": rank " << *rank << " of "
              << plan->members_size();
    const absl::StatusOr<proto::Finished> finished = RunGeneration(setup, *plan, *rank);
    if (finished.ok()) {
      proto::WorkerMessage message;
      *message.mutable_finished() = *finished;
      setup.session->Send(generation, std::move(message));
      return 0;
    }
    LOG(INFO) << "generation " << generation << " is over for rank " << *rank << ": "
              << finished.status().message();
    if (SendFailed(*setup.session, generation, finished.status()) !=
        proto::Failed::kReplaceProcess) {
      continue;
    }
    // The coordinator has this process killed and started again. Should the next plan come first,
    // it joins no more: its end says the same.
    setup.progress->Set(0, "waiting to be replaced");
    setup.session->WaitForPlan(generation).status().IgnoreError();
    return kExitFailed;
  }
}

int Main(int argc, char** argv) {
  TakeStopSignals();
  if (argc == 2 && std::strcmp(argv[1], "--help") == 0) {
    std::fputs(kUsage, stdout);
    return 0;
  }
  const absl::StatusOr<proto::WorkerBootstrap> bootstrap = ReadBootstrap(argc, argv);
  if (!bootstrap.ok()) {
    std::fprintf(stderr, "dsworker: %s\n", std::string(bootstrap.status().message()).c_str());
    return kExitUsage;
  }
  InitLogging(argv[0], absl::StrCat("worker ", bootstrap->host(), " slot ", bootstrap->slot()));
  const absl::Status room =
      CheckLimits({.threads = kOwnThreads, .descriptors = kOwnDescriptors, .what = "a rank"});
  if (!room.ok()) {
    LOG(ERROR) << room.message();
    return kExitLimit;
  }

  PrepareThreadStacks(argv[0]);
  std::random_device random;
  const Incarnation incarnation((uint64_t{random()} << 32) | random());
  Progress progress;
  progress.Set(0, "starting");
  SessionOptions options;
  options.bootstrap = *bootstrap;
  options.incarnation = incarnation;
  options.stop_signal = StopSignal;
  options.beat = [&progress] { return progress.Get(); };
  options.stacks = [&progress] {
    const proto::Stacks stacks = progress.TakeStacks();
    LOG(WARNING) << "asked what it is doing\n" << StacksText(stacks);
    return stacks;
  };
  options.on_over = [](const std::string& reason) {
    LOG(INFO) << "ending: " << reason;
    FlushLog();
    std::_Exit(kExitFailed);  // at once: other threads may be inside a step
  };
  absl::StatusOr<std::unique_ptr<Session>> session = ConnectGrpcSession(std::move(options));
  if (!session.ok()) {
    LOG(ERROR) << session.status().message();
    return kExitFailed;
  }
  const proto::TrainSpec& spec = (*session)->job().train();
  absl::StatusOr<Engine> engine = CapAndBuildEngine(spec);
  if (!engine.ok()) return FailFirstPlan(**session, engine.status());
  const absl::StatusOr<Text> text = OpenText(spec, (*session)->job().limits());
  if (!text.ok()) return FailFirstPlan(**session, text.status());
  // Lives as long as the process: a save goes on when its generation ends.
  SaveWriter save_writer(SaveWriterOf(**session, *engine, text->sha256, incarnation));
  (*session)->OnSaveMessage(
      [&save_writer](const proto::HostMessage& message) { save_writer.OnHost(message); });
  GenerationSetup setup;
  setup.engine = &*engine;
  setup.sample = [&text](int64_t index, std::span<int32_t> tokens, std::span<int32_t> targets) {
    text->loader->Sample(index, tokens, targets);
  };
  setup.corpus_sha256 = text->sha256;
  setup.session = session->get();
  setup.save_writer = &save_writer;
  setup.file_system = &FileSystem::Real();
  setup.build_communicator = BuildCommunicator;
  setup.progress = &progress;
  setup.incarnation = incarnation;
  setup.bind_address = bootstrap->bind_address();
  setup.job_token = bootstrap->job_token();
  const int code = RunGenerations(setup, {NodeId(bootstrap->node()), Slot(bootstrap->slot())});
  (*session)->OnSaveMessage(nullptr);
  return code;
}

}  // namespace
}  // namespace dsrun::worker

int main(int argc, char** argv) {
  dsrun::PrepareForLimits("dsworker");
  return dsrun::worker::Main(argc, argv);
}
