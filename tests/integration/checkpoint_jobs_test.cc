// Checkpoints of real jobs on real file systems: a full disk, damaged shards, and a whole node that
// freezes in the middle of a save and wakes up after it has been overtaken. In the end the content
// is the undisturbed run's, bit for bit.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <random>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "common/base/cpu_isa.h"
#include "common/base/file_system.h"
#include "common/base/sha256.h"
#include "common/format/checkpoint_reader.h"
#include "tests/integration/job_fixture.h"
#include "tests/integration/private_mounts.h"
#include "tests/integration/training_job.h"

namespace dsrun {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

class CheckpointJob : public ::testing::Test {
 protected:
  std::string save() const { return folder_.path() + "/save"; }
  TemporaryFolder folder_;
};

std::vector<std::string> NamesIn(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    names.push_back(entry.path().filename());
  }
  return names;
}

std::string StepOf(const std::string& manifest) { return manifest.substr(14, 8); }

// Room for one checkpoint of these jobs (some 460 KB) and a part of another; room for all.
constexpr int64_t kRoomForOne = 700 << 10;
constexpr int64_t kRoom = 16 << 20;

TEST_F(CheckpointJob, DiskFullToTheEnd_TrainsOnSaysSoAndKeepsTheOldCheckpoint) {
  auto disk = SmallDisk::Create(save(), kRoomForOne);
  if (!disk.ok()) GTEST_SKIP() << disk.status();
  {
    Job job(Train({"--num_gpus=2"}, folder_.path(), Long()));
    EXPECT_EQ(job.AwaitExit(), 1) << job.Words();  // docs/errors.md
    EXPECT_EQ(StepsDone(folder_.path()), kSteps);
    // One in the middle may be left out, where the one before is not through; the last is waited
    // for.
    EXPECT_THAT(job.err(), HasSubstr("CHECKPOINT OF STEP 480 COULD NOT BE WRITTEN"));
    EXPECT_THAT(job.err(), HasSubstr("No space left on device"));
    EXPECT_TRUE(job.NothingIsLeft());
  }
  EXPECT_EQ(StepOf(NewestManifest(save())), "00000080");
  EXPECT_EQ(ContentHash(save()).size(), 64u) << ContentHash(save());
  EXPECT_THAT(NamesIn(save()), Not(Contains(HasSubstr("step-00000160"))));

  // With room again, a later job goes on from it.
  ASSERT_TRUE((*disk)->Resize(kRoom).ok());
  Job later(Train({"--num_gpus=3"}, folder_.path(), Long({"--load", save()})));
  ASSERT_EQ(later.AwaitExit(), 0) << later.Words();
  EXPECT_EQ(ContentHash(save()), UndisturbedHash());
}

TEST_F(CheckpointJob, DiskFullForAWhile_LaterSavesWork) {
  auto disk = SmallDisk::Create(save(), kRoomForOne);
  if (!disk.ok()) GTEST_SKIP() << disk.status();
  Job job(Train({"--num_gpus=2"}, folder_.path(), Long()));
  ASSERT_TRUE(job.AwaitError("COULD NOT BE WRITTEN")) << job.Words();
  ASSERT_TRUE((*disk)->Resize(kRoom).ok());
  ASSERT_EQ(job.AwaitExit(), 0) << job.Words();
  EXPECT_EQ(ContentHash(save()), UndisturbedHash());
  EXPECT_EQ(job.ReportJson()["restarts"], 0) << job.Words();
  EXPECT_TRUE(job.NothingIsLeft());
}

// The same on a real disk, which gives blocks to a file when it is written back.
TEST_F(CheckpointJob, LoopMountedDiskFullForAWhile_LaterSavesWork) {
  auto disk = LoopDisk::Create(save(), 16 << 20);
  if (!disk.ok()) GTEST_SKIP() << disk.status();
  ASSERT_TRUE((*disk)->LeaveRoom(kRoomForOne).ok());
  Job job(Train({"--num_gpus=2"}, folder_.path(), Long()));
  ASSERT_TRUE(job.AwaitError("COULD NOT BE WRITTEN")) << job.Words();
  EXPECT_THAT(job.err(), HasSubstr("No space left on device"));
  EXPECT_EQ(StepOf(NewestManifest(save())), "00000080") << job.Words();
  (*disk)->GiveRoomBack();
  ASSERT_EQ(job.AwaitExit(), 0) << job.Words();
  EXPECT_EQ(ContentHash(save()), UndisturbedHash());
  EXPECT_EQ(job.ReportJson()["restarts"], 0) << job.Words();
  EXPECT_TRUE(job.NothingIsLeft());
}

TEST_F(CheckpointJob, LoadedWithAnotherTextOrIsa_IsRefusedBeforeAnythingStarts) {
  const Args few = {"--train-iters", "4", "--isa-cap", "baseline"};
  Job first(Train({"--num_gpus=2"}, folder_.path(), few));
  ASSERT_EQ(first.AwaitExit(), 0) << first.Words();
  const auto again = [&](const std::string& steps, Args more) {
    Args args = {"--load", save(), "--train-iters", steps};
    args.insert(args.end(), more.begin(), more.end());
    return Train({"--num_gpus=2"}, folder_.path(), std::move(args));
  };
  const auto refused = [&](Args more, const std::string& why) {
    Job job(again("8", std::move(more)));
    EXPECT_EQ(job.AwaitExit(), 90) << job.Words();
    EXPECT_THAT(job.err(), HasSubstr(why));
    EXPECT_THAT(job.err(), HasSubstr(NewestManifest(save())));
    EXPECT_FALSE(fs::exists(job.run_dir())) << "a job was started" << job.Words();
  };
  refused({"--isa-cap", "baseline", "--data", TextFile()}, "SHA-256 of the text (--data) ");
  if (BestIsa() != CpuIsa::kBaseline) {
    const std::string best = IsaName(BestIsa());
    refused({"--isa-cap", best}, "(--isa-cap)  baseline    " + best + "\n");
  }
  Job same(again("8", {}));  // under the checkpoint's, whatever the CPU has
  EXPECT_EQ(same.AwaitExit(), 0) << same.Words();
  Job accepted(again("12", {"--seed", "5", "--data", TextFile(), "--accept-fingerprint"}));
  EXPECT_EQ(accepted.AwaitExit(), 0) << accepted.Words();
  EXPECT_THAT(accepted.err(), HasSubstr(" goes on with another curve:\n"));
}

enum class Damage { kFlippedBit, kCut };

// Damages one shard of a checkpoint; returns the shard's name.
std::string DamageShard(const std::string& save, const std::string& manifest, Damage damage) {
  const nlohmann::json content = nlohmann::json::parse(ReadWholeFile(save + "/" + manifest));
  const std::string shard = content["files"].back()["name"];
  const std::string path = save + "/" + shard;
  const auto bytes = static_cast<std::streamoff>(fs::file_size(path));
  if (damage == Damage::kCut) {
    fs::resize_file(path, static_cast<uintmax_t>(bytes / 2));
    return shard;
  }
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(bytes / 2);
  const char flipped = static_cast<char>(file.get() ^ 4);
  file.seekp(bytes / 2);
  file.put(flipped);
  return shard;
}

std::vector<std::string> ManifestsOldestFirst(const std::string& save) {
  std::vector<std::string> manifests;
  for (const std::string& name : NamesIn(save)) {
    if (name.starts_with("manifest.step-")) manifests.push_back(name);
  }
  std::sort(manifests.begin(), manifests.end());
  return manifests;
}

TEST_F(CheckpointJob, FlippedAndCutShards_AreNamedAtLoadAndTheOneBeforeIsUsed) {
  Job first(Train({"--num_gpus=2"}, folder_.path(), Long()));
  ASSERT_EQ(first.AwaitExit(), 0) << first.Words();
  // Which steps they are of depends on how fast the disk is: a save that comes too early for the
  // one before is left out.
  const std::vector<std::string> manifests = ManifestsOldestFirst(save());
  ASSERT_EQ(manifests.size(), 3u) << absl::StrJoin(manifests, " ") << first.Words();
  const std::string flipped = DamageShard(save(), manifests[2], Damage::kFlippedBit);
  const std::string cut = DamageShard(save(), manifests[1], Damage::kCut);
  const TemporaryFolder second;
  Job job(Train({"--num_gpus=2"}, second.path(), Long({"--load", save()})));
  ASSERT_EQ(job.AwaitExit(), 0) << job.Words();
  EXPECT_THAT(job.err(), HasSubstr(flipped));
  EXPECT_THAT(job.err(), HasSubstr(cut));
  EXPECT_EQ(ReadMetrics(second.path() + "/metrics").front()["step"],
            std::stoll(StepOf(manifests[0])) + 1);
  EXPECT_EQ(ContentHash(second.path() + "/save"), UndisturbedHash());
}

struct Said {
  int code = -1;
  std::string words;  // of both streams
};

// `dsrun checkpoint WORDS`.
Said Checkpoint(const std::string& words) {
  Said said;
  FILE* const pipe = popen((DsrunBinary() + " checkpoint " + words + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return said;
  char buffer[4096];
  for (size_t got; (got = fread(buffer, 1, sizeof(buffer), pipe)) > 0;) {
    said.words.append(buffer, got);
  }
  const int status = pclose(pipe);
  if (WIFEXITED(status)) said.code = WEXITSTATUS(status);
  return said;
}

// Two real runs of one job: the same bits. Another seed: other tensors. One flipped bit: named.
TEST_F(CheckpointJob, VerifyNamesAFlippedBit_AndDiffComparesRuns) {
  const TemporaryFolder same, other;
  const auto run = [](const TemporaryFolder& folder, const std::string& ranks, Args more) {
    Args args = {"--train-iters", "8", "--save-interval", "4", "--keep-last", "2"};
    args.insert(args.end(), more.begin(), more.end());
    Job job(Train({"--num_gpus=" + ranks}, folder.path(), std::move(args)));
    ASSERT_EQ(job.AwaitExit(), 0) << job.Words();
  };
  run(folder_, "2", {});
  run(same, "3", {});
  run(other, "2", {"--seed", "5"});

  const Said equal = Checkpoint("diff " + save() + " " + same.path() + "/save");
  EXPECT_EQ(equal.code, 0) << equal.words;
  EXPECT_THAT(equal.words, HasSubstr("the same: 0 of "));
  const Said different = Checkpoint("diff " + save() + " " + other.path() + "/save");
  EXPECT_EQ(different.code, 1) << different.words;
  EXPECT_THAT(different.words, HasSubstr("\n    seed  1234  5\n"));
  EXPECT_THAT(different.words, HasSubstr("\n    model/wte.weight"));

  const Said whole = Checkpoint("verify " + save());
  EXPECT_EQ(whole.code, 0) << whole.words;
  EXPECT_THAT(whole.words, HasSubstr("2 checkpoints whole, 0 damaged, 0 unreadable"));
  const Said tagged = Checkpoint("tag " + save() + " good --step 4");
  EXPECT_EQ(tagged.code, 0) << tagged.words;
  const std::string flipped = DamageShard(save(), NewestManifest(save()), Damage::kFlippedBit);
  const Said damaged = Checkpoint("verify " + save());
  EXPECT_EQ(damaged.code, 1) << damaged.words;
  EXPECT_THAT(damaged.words, HasSubstr("  " + flipped + ": damaged\n    "));
  EXPECT_THAT(damaged.words, HasSubstr(": CRC-32C expected "));
  EXPECT_THAT(damaged.words, HasSubstr("1 checkpoint whole, 1 damaged, 0 unreadable"));
}

// `change(json)` of a manifest, with a right checksum of its own.
template <typename Change>
void EditManifest(const std::string& path, const Change& change) {
  auto json = nlohmann::ordered_json::parse(ReadWholeFile(path));
  json.erase("sha256_of_all_above");
  change(json);
  std::string body = json.dump(1);
  body.resize(body.size() - 2);
  std::ofstream(path, std::ios::trunc)
      << body << ",\n \"sha256_of_all_above\": \"" << Sha256Hex(body) << "\"\n}\n";
}

// Whole by every checksum, and not of its model: verify says so, and a job that loads it ends at
// once, as for any other bad input, instead of trying again or taking an older one.
TEST_F(CheckpointJob, ManifestThatContradictsItsModel_IsSaidByVerifyAndEndsTrainAtOnce) {
  {
    Job job(
        Train({"--num_gpus=2"}, folder_.path(), {"--train-iters", "8", "--save-interval", "4"}));
    ASSERT_EQ(job.AwaitExit(), 0) << job.Words();
  }
  const std::string newest = NewestManifest(save());
  EditManifest(save() + "/" + newest, [](nlohmann::ordered_json& json) {
    for (auto& parameter : json["layout"]["parameters"]) {
      if (parameter["name"] == "wpe.weight") {
        parameter["shape"][0] = parameter["shape"][0].get<int64_t>() * 2;
        parameter["shape"][1] = parameter["shape"][1].get<int64_t>() / 2;
      }
    }
  });
  const Said verified = Checkpoint("verify " + save());
  EXPECT_EQ(verified.code, 1) << verified.words;
  EXPECT_THAT(verified.words, HasSubstr(newest + ": contradictory"));
  EXPECT_THAT(verified.words, HasSubstr("model/wpe.weight: expected shape ("));
  const Said tagged = Checkpoint("tag " + save() + " best");
  EXPECT_NE(tagged.code, 0) << tagged.words;
  EXPECT_THAT(tagged.words, HasSubstr("model/wpe.weight: expected shape ("));
  const TemporaryFolder second;
  Job job(Train({"--num_gpus=2"}, second.path(), {"--train-iters", "12", "--load", save()}));
  EXPECT_EQ(job.AwaitExit(), 90) << job.Words();
  EXPECT_THAT(job.err(), HasSubstr("model/wpe.weight: expected shape ("));
  EXPECT_THAT(job.err(), HasSubstr(newest));
  EXPECT_FALSE(fs::exists(job.run_dir())) << "a job was started" << job.Words();
  EXPECT_TRUE(job.NothingIsLeft());
}

// --load-step of a run folder's checkpoints, by real ranks: the older step, though a newer is
// there.
TEST_F(CheckpointJob, LoadStep_GoesOnFromTheOlderStep) {
  {
    Job job(
        Train({"--num_gpus=2"}, folder_.path(), {"--train-iters", "8", "--save-interval", "4"}));
    ASSERT_EQ(job.AwaitExit(), 0) << job.Words();
  }
  const TemporaryFolder second;
  Job job(Train({"--num_gpus=2"}, second.path(),
                {"--train-iters", "8", "--load", save(), "--load-step", "4"}));
  ASSERT_EQ(job.AwaitExit(), 0) << job.Words();
  EXPECT_EQ(ReadMetrics(second.path() + "/metrics").front()["step"], 5);
  EXPECT_EQ(ContentHash(second.path() + "/save"), ContentHash(save()));
}

void DamageWhileRunning(Damage damage, const TemporaryFolder& folder) {
  const std::string save = folder.path() + "/save";
  Job job(Train({"--num_gpus=2"}, folder.path(), Long()));
  ASSERT_TRUE(AwaitStep(job, folder.path(), 2 * kSaveInterval + 5)) << job.Words();
  // Nobody finishes a step or a save without rank 1.
  const pid_t victim = WorkerOf(job, 1);
  ASSERT_NE(victim, 0);
  kill(victim, SIGSTOP);
  Eventually([&] { return !CheckpointIsBeingWritten(save); }, absl::Milliseconds(300));
  const std::string newest = NewestManifest(save);
  const std::string shard = DamageShard(save, newest, damage);
  kill(victim, SIGKILL);
  ExpectWentOn(job, folder);
  EXPECT_THAT(job.err(), HasSubstr("passed over"));
  EXPECT_THAT(job.err(), HasSubstr(shard));
  const nlohmann::json incident = job.ReportJson()["incidents"][0];
  EXPECT_LT(incident["resumed_from_step"].get<int64_t>(), std::stoll(StepOf(newest))) << incident;
}

TEST_F(CheckpointJob, FlippedBitAndAKilledWorker_GoOnFromTheOneBefore) {
  DamageWhileRunning(Damage::kFlippedBit, folder_);
}
TEST_F(CheckpointJob, CutShardAndAKilledWorker_GoOnFromTheOneBefore) {
  DamageWhileRunning(Damage::kCut, folder_);
}

// The thread of a worker that writes its checkpoints (worker/engine/save_writer.h); 0: none.
pid_t SaveWriterOf(pid_t worker) {
  std::error_code error;
  for (const auto& task :
       fs::directory_iterator("/proc/" + std::to_string(worker) + "/task", error)) {
    if (ReadWholeFile(task.path().string() + "/comm") == "save-writer\n") {
      return static_cast<pid_t>(std::stoi(task.path().filename()));
    }
  }
  return 0;
}

// strace on one thread, which is killed with its process by its `nth` system call on files.
class KillAtFileCall {
 public:
  KillAtFileCall(pid_t thread, int nth) {
    const std::string target = std::to_string(thread);
    const std::string inject =
        "inject=openat,write,fsync,close,rename,renameat,renameat2,link,linkat,unlink,unlinkat,"
        "mkdir,newfstatat,getdents64:signal=KILL:when=" +
        std::to_string(nth);
    std::vector<char*> argv;
    std::vector<std::string> words = {"strace", "-qq",  "-o", "/dev/null",
                                      "-e",     inject, "-p", target};
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    pid_ = fork();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      execvp("strace", argv.data());
      _exit(127);
    }
  }
  ~KillAtFileCall() {
    if (!Ended()) kill(pid_, SIGTERM);  // detaches
    waitpid(pid_, nullptr, 0);
  }
  // With the process that it watched, or because it could not.
  bool Ended() const {
    siginfo_t info = {};
    return waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           info.si_pid == pid_;
  }

 private:
  pid_t pid_ = 0;
};

// Without it there is nothing to be seen here: whether this user may trace another process.
bool MayTrace() {
  const pid_t child = fork();
  if (child == 0) {
    while (true) pause();
  }
  bool traced = false;
  {
    const KillAtFileCall trace(child, 1);
    traced = Eventually([&] {
      return trace.Ended() ||
             ReadWholeFile("/proc/" + std::to_string(child) + "/status").find("TracerPid:\t0\n") ==
                 std::string::npos;
    });
    traced = traced && !trace.Ended();
  }
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  return traced;
}

// Writers, committers among them, killed at a system call of their save that the seed chooses,
// again and again in one job: what a reader finds is whole every time, with every shard, and never
// older than before. DSRUN_SAVE_KILLS asks for more (bench/campaigns/save_kills),
// DSRUN_SAVE_KILLS_SEED plays one again.
TEST_F(CheckpointJob, KilledAtAnySystemCallOfASave_ANewestCheckpointIsAlwaysWhole) {
  if (!MayTrace()) GTEST_SKIP() << "strace is missing, or may not trace here";
  const char* const wanted = std::getenv("DSRUN_SAVE_KILLS");
  const int kills = wanted == nullptr ? 12 : std::stoi(wanted);
  const char* const given = std::getenv("DSRUN_SAVE_KILLS_SEED");
  const uint64_t seed = given == nullptr ? std::random_device()() : std::stoull(given);
  std::cout << "DSRUN_SAVE_KILLS_SEED=" << seed << "\n";
  std::mt19937_64 luck(seed);
  // Steps enough for all; the operator ends it. That kills change no bit is shown by other tests.
  Job job(Train({"--num_gpus=3", "--max-restarts", "100000"}, folder_.path(),
                {"--train-iters", "100000000", "--save-interval", "8"}));
  int hits = 0;
  int committers = 0;
  std::string newest;
  for (int round = 0; hits < kills && round < 10 * kills; ++round) {
    SCOPED_TRACE(testing::Message() << "seed " << seed << ", round " << round);
    std::vector<pid_t> workers;
    pid_t writer = 0;
    ASSERT_TRUE(Eventually([&] {
      workers = job.Find(Role::kWorker);
      if (workers.size() != 3) return job.Ended();
      writer = SaveWriterOf(workers[luck() % 3]);
      return writer != 0 || job.Ended();
    })) << job.Words();
    ASSERT_FALSE(job.Ended()) << job.Words();
    const auto nth = static_cast<int>(1 + luck() % 40);
    {
      const KillAtFileCall killer(writer, nth);
      // A committer makes many calls in one save, the others few: the next saves bring the rest.
      if (!Eventually([&] { return killer.Ended() || job.Ended(); }, absl::Seconds(10))) continue;
    }
    ++hits;
    committers += nth > 12 ? 1 : 0;
    FindOptions options;
    std::vector<std::string> rejected;
    const auto found = FindNewestCheckpoint(FileSystem::Real(), save(), options, &rejected);
    ASSERT_TRUE(found.ok() || (newest.empty() && absl::IsNotFound(found.status())))
        << found.status() << job.Words();
    EXPECT_TRUE(rejected.empty()) << rejected[0];
    if (!found.ok()) continue;
    EXPECT_GE(found->manifest_name(), newest) << "it fell back behind what was committed";
    newest = found->manifest_name();
  }
  std::cout << hits << " kills at a system call of a save, " << committers
            << " of them late in it; " << newest << "\n";
  EXPECT_EQ(hits, kills);
  ASSERT_TRUE(Eventually([&] { return job.Find(Role::kWorker).size() == 3; })) << job.Words();
  job.Signal(SIGINT);
  EXPECT_EQ(job.AwaitExit(), 96) << job.Words();
  EXPECT_TRUE(job.NothingIsLeft());
  EXPECT_EQ(ContentHash(save()).size(), 64u) << ContentHash(save());
}

// Fields of /proc/PID/stat behind the name: state, parent.
std::string StateAndParent(pid_t pid) {
  const std::string stat = ReadWholeFile("/proc/" + std::to_string(pid) + "/stat");
  const size_t end = stat.rfind(')');
  return end == std::string::npos ? "" : stat.substr(end + 2, stat.find(' ', end + 4) - end - 2);
}

// Keeper, agent and workers of this node, whose agent has a log of its own; workers first.
std::vector<pid_t> TreeOfNode(const Job& job, int node) {
  const std::string log = "/agent-" + std::to_string(node) + ".log";
  std::vector<pid_t> agents;
  std::vector<pid_t> tree;
  for (const JobProcess& process : job.Processes()) {
    if (process.role != Role::kAgent && process.role != Role::kKeeper) continue;
    std::error_code error;
    const std::string written =
        std::filesystem::read_symlink("/proc/" + std::to_string(process.pid) + "/fd/2", error);
    if (written.ends_with(log)) agents.push_back(process.pid);
  }
  for (const pid_t worker : job.Find(Role::kWorker)) {
    const std::string parent = StateAndParent(worker).substr(2);
    if (std::any_of(agents.begin(), agents.end(),
                    [&](pid_t agent) { return std::to_string(agent) == parent; })) {
      tree.push_back(worker);
    }
  }
  tree.insert(tree.end(), agents.begin(), agents.end());
  return tree;
}

// The agent may wait for a worker's beats for long; so it is the others who miss it, in a
// collective. It is killed: nothing of its save can come later.
TEST_F(CheckpointJob, CommitterStoppedWhileSaving_IsMissedInACollectiveAndReplaced) {
  Job job(Train({"--num_gpus=3", "--collective-timeout", "1s", "--worker-silent-after", "60s",
                 "--join-timeout", "90s", "--save-timeout", "2s", "--commit-timeout", "2s",
                 "--prune-timeout", "2s"},
                folder_.path(), Long()));
  ASSERT_TRUE(AwaitStep(job, folder_.path(), kSaveInterval / 2)) << job.Words();
  const std::vector<pid_t> before = job.Find(Role::kWorker);
  ASSERT_EQ(before.size(), 3u) << job.Words();
  ASSERT_TRUE(Eventually([&] { return CheckpointIsBeingWritten(save()) || job.Ended(); }));
  kill(before[0], SIGSTOP);
  ASSERT_TRUE(job.AwaitError("recovered in")) << job.Words();
  EXPECT_EQ(StateAndParent(before[0]), "") << "it could wake up later";
  ExpectWentOn(job, folder_);
}

// As a virtual machine that is paused: nobody on the node is left who could kill the writer.
TEST_F(CheckpointJob, NodeFrozenWhileSaving_OvertakenAndWoken_SpoilsNothing) {
  // With the usual limits the keeper, woken by dsrun when the node is lost, would kill them first.
  Job job(Train({"--hostfile", TwoNodes(folder_.path()), "--agent-stalled-after", "60s",
                 "--worker-silent-after", "30s"},
                folder_.path(), Long()));
  ASSERT_TRUE(AwaitStep(job, folder_.path(), kSaveInterval / 2)) << job.Words();
  const std::vector<pid_t> node = TreeOfNode(job, 0);  // with rank 0, which commits
  ASSERT_EQ(node.size(), 4u) << job.Words();
  ASSERT_TRUE(Eventually([&] { return CheckpointIsBeingWritten(save()) || job.Ended(); }));
  for (const pid_t pid : node) kill(pid, SIGSTOP);
  const auto overtaken = [&] {
    return NewestManifest(save()).find("gen-0002") != std::string::npos || job.Ended();
  };
  ASSERT_TRUE(Eventually(overtaken)) << job.Words();
  EXPECT_EQ(StateAndParent(node[0]).substr(0, 1), "T") << "it should still be stopped";
  for (const pid_t pid : node) kill(pid, SIGCONT);
  ExpectWentOn(job, folder_);
}

}  // namespace
}  // namespace dsrun
