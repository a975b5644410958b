// Programs of users, run by the real dsrun, dsagent and the kernel: bytes arrive as typed, exit
// codes come back as they are, and whatever is killed, nothing stays behind. Long, because all of
// it is about one program, whose ways to end it goes through.

#include <arpa/inet.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "agent/port_lease.h"
#include "common/base/escaped.h"
#include "tests/integration/job_fixture.h"
#include "tests/support/random_messages.h"
#include "tests/support/terminal.h"

namespace dsrun {
namespace {

using ::testing::AnyOf;
using ::testing::Contains;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using ::testing::Not;
using Args = std::vector<std::string>;

std::vector<std::string> SplitNul(const std::string& bytes) {
  std::vector<std::string> entries;
  std::stringstream all(bytes);
  for (std::string entry; std::getline(all, entry, '\0');) entries.push_back(entry);
  return entries;
}

// "daemon 1234" in the output of a rank.
pid_t DaemonPid(const std::string& out) {
  const size_t at = out.find("daemon ");
  return at == std::string::npos ? 0 : std::stoi(out.substr(at + 7));
}

// The last screen breaks its lines where they are long.
std::string OneLine(const std::string& screen) {
  std::string line;
  for (const char c : screen) {
    if (c != ' ' && c != '\n') {
      line += c;
    } else if (!line.empty() && line.back() != ' ') {
      line += ' ';
    }
  }
  return line;
}

// Waits until `ranks` ranks wait.
bool AwaitWaiting(const Job& job, int ranks) {
  for (int rank = 0; rank < ranks; ++rank) {
    if (!job.AwaitOutput("rank " + std::to_string(rank) + " waits")) return false;
  }
  return true;
}

TEST(ProgramJob, ArgumentsAndEnvironment_ArriveByteForByte) {
  const Args odd = {"",
                    " ",
                    "a b",
                    "$HOME",
                    ";&|<>(*)?",
                    "'\"\\",
                    "tab\tnewline\n",
                    "\xff\xfe\x01",
                    "--num_gpus=9",
                    "-h"};
  const TemporaryFolder dump;
  Args arguments = {"--num_gpus=2", UserProgram(), "dump", dump.path()};
  arguments.insert(arguments.end(), odd.begin(), odd.end());
  Job job(arguments, {.environment = {"ODD=$(x)\n\xff 'y'", "EMPTY="}, .folder = {}});
  ASSERT_EQ(job.AwaitExit(), 0) << job.Words();
  for (const char* rank : {"0", "1"}) {
    std::vector<std::string> argv = SplitNul(ReadWholeFile(dump.path() + "/argv." + rank));
    ASSERT_GT(argv.size(), 3u);
    EXPECT_EQ(argv[0], UserProgram());
    argv.erase(argv.begin(), argv.begin() + 3);
    EXPECT_THAT(argv, ElementsAreArray(odd));
    const std::vector<std::string> env = SplitNul(ReadWholeFile(dump.path() + "/env." + rank));
    EXPECT_THAT(env, Contains("ODD=$(x)\n\xff 'y'"));
    EXPECT_THAT(env, Contains("EMPTY="));
    EXPECT_THAT(env, Contains(std::string("RANK=") + rank));
    EXPECT_THAT(env, Contains(std::string("LOCAL_RANK=") + rank));
    EXPECT_THAT(env, Contains("WORLD_SIZE=2"));
    EXPECT_THAT(env, Contains("LOCAL_WORLD_SIZE=2"));
    EXPECT_THAT(env, Contains("CROSS_RANK=0"));
    EXPECT_THAT(env, Contains("CROSS_SIZE=1"));
    EXPECT_THAT(env, Contains("MASTER_ADDR=127.0.0.1"));
    EXPECT_THAT(env, Contains(HasSubstr("MASTER_PORT=")));
    EXPECT_THAT(env, Contains("TORCHELASTIC_ERROR_FILE=" + job.run_dir() + "/logs/localhost/rank-" +
                              rank + ".gen-1.error.json"));
  }
  EXPECT_TRUE(std::filesystem::is_directory(job.run_dir() + "/logs/localhost"));
  EXPECT_TRUE(job.NothingIsLeft());
}

// ---- Where the ranks meet

TEST(ProgramJob, Restart_GetsAnotherMasterPort) {
  Job job({"--max-restarts=1", "/bin/sh", "-c", "echo port $MASTER_PORT; exit 3"});
  EXPECT_EQ(job.AwaitExit(), 3) << job.Words();
  std::vector<std::string> ports;
  std::stringstream out(job.out());
  for (std::string line; std::getline(out, line);) ports.push_back(line.substr(line.rfind(' ')));
  ASSERT_EQ(ports.size(), 2u) << job.Words();
  EXPECT_NE(ports[0], ports[1]);
}

// Of the kernel's own range, which jobs that are given no port do not take theirs from: no other
// test's job gets it meanwhile.
int FreePort() {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  EXPECT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), size), 0);
  EXPECT_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size), 0);
  close(fd);
  return ntohs(address.sin_port);
}

TEST(ProgramJob, MasterPortThatIsGiven_IsUsedAsItIs_AlsoAfterARestart) {
  const int port = FreePort();
  Job job({"--max-restarts=1", "--master_port", std::to_string(port), "/bin/sh", "-c",
           "echo port $MASTER_PORT.; exit 3"});
  EXPECT_EQ(job.AwaitExit(), 3) << job.Words();
  const std::string line = "port " + std::to_string(port) + ".\n";
  const std::string out = job.out();
  EXPECT_NE(out.find(line), out.rfind(line)) << job.Words();
}

TEST(ProgramJob, MasterPortThatIsTaken_IsRefusedWithWhoHasIt_BeforeAnyRankStarts) {
  const agent::PortLease lease = *agent::PortLease::TakeAny(0);
  Job job({"--master_port", std::to_string(lease.port()), "/bin/sh", "-c", "echo it runs"});
  EXPECT_EQ(job.AwaitExit(), 92) << job.Words();
  EXPECT_THAT(job.out(), Not(HasSubstr("it runs")));
  const std::string port = std::to_string(lease.port());
  EXPECT_THAT(OneLine(job.err()),
              HasSubstr("rank 0 has no MASTER_PORT on localhost: expected a free port in "
                        "--master_port, but port " +
                        port + " is that of another job of dsrun (its agent is pid " +
                        std::to_string(getpid())));
  EXPECT_TRUE(job.NothingIsLeft());
}

// ---- Lines that are not whole

// What comes out of a pipe, up to `end`; what there is at the deadline. As Terminal has it.
class PipeScreen {
 public:
  explicit PipeScreen(int fd) : fd_(fd) {}
  bool Await(const std::string& end) {
    return Eventually([&] {
      pollfd waiting{.fd = fd_, .events = POLLIN, .revents = 0};
      char buffer[4096];
      while (text_.find(end) == std::string::npos && poll(&waiting, 1, 10) > 0) {
        const ssize_t got = read(fd_, buffer, sizeof(buffer));
        if (got <= 0) break;
        text_.append(buffer, static_cast<size_t>(got));
      }
      return text_.find(end) != std::string::npos;
    });
  }
  const std::string& text() const { return text_; }

 private:
  const int fd_;
  std::string text_;
};

// A progress bar and a prompt, each waiting for a word in a pipe of its own; `out` goes to dsrun,
// and what is written there to `screen`.
template <typename Screen>
void ShowABarAndAPrompt(int out, Screen& screen, const std::string& newline) {
  const TemporaryFolder folder;
  const std::string first = folder.path() + "/first", second = folder.path() + "/second";
  EXPECT_EQ(mkfifo(first.c_str(), 0600), 0);
  EXPECT_EQ(mkfifo(second.c_str(), 0600), 0);
  const auto answer = [](const std::string& path) { std::ofstream(path) << "word\n"; };
  Job job({"/bin/sh", "-c",
           "printf '10%%\\r50%%\\r'; read x <" + first +
               "; printf '100%%\\n'; printf 'name: '; read x <" + second + "; echo $x"},
          {.stdout_fd = out});
  EXPECT_TRUE(screen.Await("[localhost:0] 50%")) << screen.text();
  answer(first);
  EXPECT_TRUE(screen.Await("[localhost:0] name: ")) << screen.text();
  answer(second);
  EXPECT_EQ(job.AwaitExit(), 0) << job.Words();
  EXPECT_TRUE(screen.Await("word" + newline)) << screen.text();
  EXPECT_EQ(ReadWholeFile(job.run_dir() + "/logs/localhost/rank-0.gen-1.log"),
            "10%\r50%\r100%\nname: word\n");
}

TEST(ProgramJob, PromptAndProgressBar_AreShownWhileTheRankWaits_OnAPipe) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  PipeScreen screen(ends[0]);
  ShowABarAndAPrompt(ends[1], screen, "\n");
  EXPECT_EQ(screen.text(), "[localhost:0] 50%\r[localhost:0] 100%\n[localhost:0] name: word\n");
  close(ends[1]);
  close(ends[0]);
}

TEST(ProgramJob, PromptAndProgressBar_AreShownWhileTheRankWaits_OnATerminal) {
  Terminal terminal;
  ShowABarAndAPrompt(terminal.programs_end(), terminal, "\r\n");
  EXPECT_EQ(terminal.text(),
            "[localhost:0] 50%\r[localhost:0] 100%\033[K\r\n[localhost:0] name: word\r\n");
}

// ---- Bytes that are not UTF-8, which is what most names and much output may be

constexpr char kOddName[] = "caf\xe9 \xff\x80";

// Whatever it holds, the report can be read by everybody else's programs.
void ExpectReport(const Job& job, int exit_code) {
  EXPECT_FALSE(job.ReportJson().is_discarded()) << ReadWholeFile(job.run_dir() + "/report.json");
  EXPECT_EQ(job.ReportJson()["exit_code"], exit_code);
}

void WriteExecutable(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
  std::filesystem::permissions(path, std::filesystem::perms(0755));
}

TEST(ProgramJob, LastLineThatIsNotUtf8_CostsNoNode) {
  for (const int code : {0, 3}) {
    Job job({"--num_gpus=2", "/bin/sh", "-c",
             "printf 'caf\\351\\n\\377\\200 half'; exit " + std::to_string(code)});
    EXPECT_EQ(job.AwaitExit(), code) << job.Words();
    EXPECT_THAT(job.out(), HasSubstr("] caf\xe9\n"));
    if (code != 0) {
      EXPECT_THAT(job.err(), HasSubstr("    | caf\xe9\n    | \xff\x80 half\n"));
    }
    ExpectReport(job, code);
    EXPECT_TRUE(job.NothingIsLeft());
  }
}

TEST(ProgramJob, FailedRank_ItsLogFileIsNamedOnTheLastScreen) {
  Job job({"--num_gpus=2", "/bin/sh", "-c",
           "echo words of $RANK; [ $RANK = 1 ] && exit 3; exec sleep 600"});
  EXPECT_EQ(job.AwaitExit(), 3) << job.Words();
  const std::string start = "next        read the first failing rank's log: ";
  const std::string screen = job.err();
  const size_t at = screen.find(start);
  ASSERT_NE(at, std::string::npos) << screen;
  std::string path = screen.substr(at + start.size());
  path.resize(path.find('\n'));
  EXPECT_EQ(ReadWholeFile(path), "words of 1\n") << path;
}

// A named pipe that nobody reads stands for a log on a disk that does not answer.
TEST(ProgramJob, FailedRank_WhoseLogHangs_IsTheVerdictAllTheSame) {
  Job job({"--num_gpus=2", "--max-restarts=1", "/bin/sh", "-c",
           "if [ $RANK.$TORCHELASTIC_RESTART_COUNT = 0.0 ]; then "
           "mkfifo ${TORCHELASTIC_ERROR_FILE%/*}/rank-1.gen-2.log; exit 3; fi; "
           "[ $RANK.$TORCHELASTIC_RESTART_COUNT = 1.1 ] && echo last words && exit 7; "
           "exec sleep 600"});
  EXPECT_EQ(job.AwaitExit(), 7) << job.Words();
  EXPECT_THAT(job.err(), HasSubstr("    | last words\n"));
  EXPECT_THAT(OneLine(job.err()), HasSubstr("rank-1.gen-2.log lacks 11 bytes"));
  EXPECT_TRUE(job.NothingIsLeft());
}

TEST(ProgramJob, ExecutableWhoseNameIsNotUtf8_IsStarted) {
  const TemporaryFolder folder;
  const std::string program = folder.path() + "/" + kOddName;
  std::filesystem::copy_file(UserProgram(), program);
  Job job({"--num_gpus=2", program, "exit", "0"});
  EXPECT_EQ(job.AwaitExit(), 0) << job.Words();
  EXPECT_THAT(job.out(), HasSubstr("rank 0 exits"));
  EXPECT_THAT(job.out(), HasSubstr("rank 1 exits"));
  ExpectReport(job, 0);
  EXPECT_TRUE(job.NothingIsLeft());
}

TEST(ProgramJob, ExecutableWhoseNameIsNotUtf8_ThatCannotBeStarted_Is126Or127AndNamed) {
  const TemporaryFolder folder;
  const std::string program = folder.path() + "/" + kOddName;
  const std::pair<std::string, int> kCases[] = {{"#!/no/such/interpreter\n", 127},
                                                {"neither a script nor a program\n", 126}};
  for (const auto& [content, code] : kCases) {
    WriteExecutable(program, content);
    Job job({"--num_gpus=2", program});
    EXPECT_EQ(job.AwaitExit(), code) << job.Words();
    EXPECT_THAT(job.err(), HasSubstr("caf\\xe9 \\xff\\x80"));
    ExpectReport(job, code);
    EXPECT_TRUE(job.NothingIsLeft());
  }
}

TEST(ProgramJob, MissingExecutableWhoseNameIsNotUtf8_IsSaidBeforeAnythingStarts) {
  const TemporaryFolder folder;
  Job job({"--num_gpus=1", folder.path() + "/" + kOddName});
  EXPECT_EQ(job.AwaitExit(), 90) << job.Words();
  EXPECT_THAT(job.err(), HasSubstr("there is no file"));
}

TEST(ProgramJob, FoldersWhoseNameIsNotUtf8_AreWorkedIn) {
  const TemporaryFolder base;
  const std::string folder = base.path() + "/" + kOddName;
  ASSERT_TRUE(std::filesystem::create_directory(folder));
  // The ranks' folder, and with it the run folder: logs, journal and report.
  Job job({"--num_gpus=2", "/bin/sh", "-c", "pwd; exit 5"}, {.environment = {}, .folder = folder});
  EXPECT_EQ(job.AwaitExit(), 5) << job.Words();
  EXPECT_THAT(job.out(), HasSubstr(folder + "\n"));
  EXPECT_THAT(job.err(), HasSubstr(Escaped(folder) + "/run/report.json"));
  EXPECT_THAT(ReadWholeFile(folder + "/run/journal.db").substr(0, 13), "SQLite format");
  ExpectReport(job, 5);
  EXPECT_TRUE(job.NothingIsLeft());
}

// Any bytes but NUL, which ends a string, and those in `without`.
std::string AnyBytes(RandomMessages& random, size_t least, size_t most, char without = '\0') {
  std::string bytes = random.Bytes(most);
  std::erase_if(bytes, [&](char byte) { return byte == '\0' || byte == without; });
  while (bytes.size() < least) bytes += static_cast<char>(1 + random.Below(60));  // up to '<'
  return bytes;
}

TEST(ProgramJob, AnyArgumentsAndEnvironment_ArriveByteForByte) {
  RandomMessages random(TestSeed());
  for (int trial = 0; trial < 4; ++trial) {
    const TemporaryFolder dump;
    Args odd, variables;
    for (uint32_t i = random.Below(40); i > 0; --i) {
      odd.push_back(AnyBytes(random, 0, random.OneIn(10) ? 50'000 : 30));
    }
    for (int i = 0; i < 20; ++i) {  // the number keeps the names apart from each other and others
      const std::string name = std::to_string(i) + AnyBytes(random, 1, 20, '=');
      variables.push_back(name + "=" + AnyBytes(random, 0, random.OneIn(10) ? 20'000 : 60));
    }
    Args arguments = {"--num_gpus=2", UserProgram(), "dump", dump.path()};
    arguments.insert(arguments.end(), odd.begin(), odd.end());
    Job job(arguments, {.environment = variables, .folder = {}});
    ASSERT_EQ(job.AwaitExit(), 0) << job.Words();
    for (const char* rank : {"0", "1"}) {
      Args argv = SplitNul(ReadWholeFile(dump.path() + "/argv." + rank));
      ASSERT_GT(argv.size(), 2u);
      argv.erase(argv.begin(), argv.begin() + 3);
      EXPECT_TRUE(argv == odd) << "of trial " << trial;  // not printed: long, and no text
      const Args env = SplitNul(ReadWholeFile(dump.path() + "/env." + rank));
      for (const std::string& variable : variables) {
        EXPECT_TRUE(std::count(env.begin(), env.end(), variable) == 1)
            << testing::PrintToString(variable) << " of trial " << trial;
      }
    }
  }
}

TEST(ProgramJob, TwoNodes_RanksCountAcrossThem) {
  const TemporaryFolder dump;
  std::ofstream(dump.path() + "/hosts") << "127.0.0.1 slots=2\n127.0.0.2 slots=2\n";
  Job job({"--hostfile", dump.path() + "/hosts", UserProgram(), "dump", dump.path()});
  ASSERT_EQ(job.AwaitExit(), 0) << job.Words();
  const std::vector<std::string> env = SplitNul(ReadWholeFile(dump.path() + "/env.3"));
  EXPECT_THAT(env, Contains("WORLD_SIZE=4"));
  EXPECT_THAT(env, Contains("LOCAL_RANK=1"));
  EXPECT_THAT(env, Contains("CROSS_RANK=1"));
  EXPECT_TRUE(job.NothingIsLeft());
}

TEST(ProgramJob, ExitCodeOfARank_IsTheJobs) {
  Job job({"--num_gpus=2", UserProgram(), "exit", "7", "1"});
  EXPECT_EQ(job.AwaitExit(), 7) << job.Words();
  EXPECT_THAT(job.err(), HasSubstr("rank 1"));
  EXPECT_EQ(job.ReportJson()["exit_code"], 7);
  EXPECT_TRUE(job.NothingIsLeft());
}

TEST(ProgramJob, SignalOfARank_Is128PlusItsNumber) {
  Job job({"--num_gpus=2", UserProgram(), "die", std::to_string(SIGSEGV), "0"});
  EXPECT_EQ(job.AwaitExit(), 128 + SIGSEGV) << job.Words();
  EXPECT_THAT(job.err(), HasSubstr("SIGSEGV"));
  EXPECT_TRUE(job.NothingIsLeft());
}

TEST(ProgramJob, KilledRank_EndsTheJobWithItsRankNamed) {
  Job job({"--num_gpus=2", UserProgram(), "wait"});
  ASSERT_TRUE(AwaitWaiting(job, 2)) << job.Words();
  ASSERT_NE(job.ProgramOfRank(1), 0);
  kill(job.ProgramOfRank(1), SIGKILL);
  EXPECT_EQ(job.AwaitExit(), 128 + SIGKILL) << job.Words();
  EXPECT_THAT(job.err(), HasSubstr("SIGKILL"));
  EXPECT_THAT(job.err(), HasSubstr("rank 1"));
  EXPECT_TRUE(job.NothingIsLeft());
}

TEST(ProgramJob, MissingProgram_IsSaidBeforeAnythingStarts) {
  Job job({"--num_gpus=2", "./no_such_program"});
  EXPECT_EQ(job.AwaitExit(), 90) << job.Words();
  EXPECT_THAT(job.err(), HasSubstr("no_such_program"));
}

TEST(ProgramJob, InterruptOnce_StopsTheRanksAndExits96) {
  Job job({"--num_gpus=2", UserProgram(), "wait"});
  ASSERT_TRUE(AwaitWaiting(job, 2)) << job.Words();
  job.Signal(SIGINT);
  EXPECT_EQ(job.AwaitExit(), 96) << job.Words();
  EXPECT_TRUE(job.NothingIsLeft());
}

TEST(ProgramJob, InterruptTwice_DoesNotWaitForARankThatIgnoresTerm) {
  Job job({"--num_gpus=2", "--stop-grace", "300s", UserProgram(), "stubborn"});
  ASSERT_TRUE(AwaitWaiting(job, 2)) << job.Words();
  job.Signal(SIGINT);
  ASSERT_TRUE(job.AwaitError("once more stops now")) << job.Words();
  ASSERT_TRUE(job.SignalOnceMore(SIGINT)) << job.Words();
  EXPECT_EQ(job.AwaitExit(), 96) << job.Words();
  EXPECT_TRUE(job.NothingIsLeft());
}

TEST(ProgramJob, InterruptTwiceWhileAgentsStart_Exits96AndLeavesNothing) {
  // At different moments of the start.
  for (const Role seen : {Role::kLauncher, Role::kKeeper, Role::kAgent}) {
    const TemporaryFolder folder;
    std::ofstream(folder.path() + "/hosts") << "127.0.0.1 slots=1\n127.0.0.2 slots=1\n";
    Job job({"--hostfile", folder.path() + "/hosts", UserProgram(), "wait"});
    // From here on LaunchJob has its signals.
    ASSERT_TRUE(Eventually([&] { return access((job.run_dir() + "/logs").c_str(), F_OK) == 0; }));
    ASSERT_TRUE(Eventually([&] { return !job.Find(seen).empty() || job.Ended(); }));
    job.Signal(SIGINT);
    job.Signal(SIGINT);
    EXPECT_EQ(job.AwaitExit(), 96) << job.Words();
    EXPECT_TRUE(job.NothingIsLeft());
  }
}

TEST(ProgramJob, InterruptThreeTimes_DoesNotKillTheLauncher) {
  Job job({"--num_gpus=2", UserProgram(), "stubborn"});
  ASSERT_TRUE(AwaitWaiting(job, 2)) << job.Words();
  job.Signal(SIGINT);
  ASSERT_TRUE(job.AwaitError("once more stops now")) << job.Words();
  ASSERT_TRUE(job.SignalOnceMore(SIGINT)) << job.Words();
  job.Signal(SIGTERM);
  EXPECT_EQ(job.AwaitExit(), 96) << job.Words();
  EXPECT_TRUE(job.NothingIsLeft());
}

TEST(ProgramJob, HangUp_StopsLikeTerm) {
  Job job({"--num_gpus=2", UserProgram(), "wait"});
  ASSERT_TRUE(AwaitWaiting(job, 2)) << job.Words();
  job.Signal(SIGHUP);
  EXPECT_EQ(job.AwaitExit(), 96) << job.Words();
  EXPECT_TRUE(job.NothingIsLeft());
}

TEST(ProgramJob, RunFolderOfAnotherJob_IsRefusedBeforeAnythingStarts) {
  Job first({"--num_gpus=1", UserProgram(), "exit", "0"});
  ASSERT_EQ(first.AwaitExit(), 0) << first.Words();
  Job second({"--num_gpus=1", UserProgram(), "exit", "0"},
             {.environment = {}, .folder = first.folder()});
  EXPECT_EQ(second.AwaitExit(), 90) << second.Words();
  EXPECT_THAT(second.err(), HasSubstr("journal of an earlier job"));
  EXPECT_THAT(second.err(), HasSubstr("--run-dir"));
  EXPECT_EQ(first.ReportJson()["exit_code"], 0);  // not overwritten
}

TEST(ProgramJob, Grandchildren_ThatForkTwiceAndMakeASession_AreGoneToo) {
  Job job({"--num_gpus=2", UserProgram(), "daemon"});
  ASSERT_TRUE(AwaitWaiting(job, 2)) << job.Words();
  ASSERT_TRUE(job.AwaitOutput("daemon ")) << job.Words();  // it speaks when it likes
  const pid_t daemon = DaemonPid(job.out());
  ASSERT_GT(daemon, 0);
  ASSERT_EQ(kill(daemon, 0), 0);
  job.Signal(SIGINT);
  EXPECT_EQ(job.AwaitExit(), 96) << job.Words();
  EXPECT_TRUE(job.NothingIsLeft());
}

TEST(ProgramJob, RanksThatEndWell_LeaveNoGrandchildren) {
  Job job({"--num_gpus=2", UserProgram(), "daemon-exit"});
  EXPECT_EQ(job.AwaitExit(), 0) << job.Words();
  EXPECT_TRUE(job.NothingIsLeft());
}

TEST(ProgramJob, KilledAgent_TakesItsRanksWithItAndEndsTheJob) {
  Job job({"--num_gpus=2", "--lease", "4s", UserProgram(), "daemon"});
  ASSERT_TRUE(AwaitWaiting(job, 2)) << job.Words();
  const std::vector<pid_t> agents = job.Find(Role::kAgent);
  ASSERT_EQ(agents.size(), 1u);
  kill(agents[0], SIGKILL);
  EXPECT_EQ(job.AwaitExit(), 95) << job.Words();  // no node is left
  EXPECT_TRUE(job.NothingIsLeft());
}

TEST(ProgramJob, KilledKeeper_TakesItsTreeWithItAndEndsTheJob) {
  Job job({"--num_gpus=2", "--lease", "4s", UserProgram(), "daemon"});
  ASSERT_TRUE(AwaitWaiting(job, 2)) << job.Words();
  const std::vector<pid_t> keepers = job.Find(Role::kKeeper);
  ASSERT_EQ(keepers.size(), 1u);
  kill(keepers[0], SIGKILL);
  // Its agent sees it first, ends the ranks and may still say so, or is gone before.
  EXPECT_THAT(job.AwaitExit(), AnyOf(128 + SIGKILL, 95)) << job.Words();
  EXPECT_TRUE(job.NothingIsLeft());
}

TEST(ProgramJob, StoppedAgent_IsNoticedAndGoneAfterwards) {
  Job job({"--num_gpus=2", "--lease", "4s", UserProgram(), "daemon"});
  ASSERT_TRUE(AwaitWaiting(job, 2)) << job.Words();
  const std::vector<pid_t> agents = job.Find(Role::kAgent);
  ASSERT_EQ(agents.size(), 1u);
  kill(agents[0], SIGSTOP);
  EXPECT_EQ(job.AwaitExit(), 95) << job.Words();
  EXPECT_TRUE(job.NothingIsLeft());
}

TEST(ProgramJob, KilledLauncher_RanksEndWhenTheLeaseRunsOut) {
  Job job({"--num_gpus=2", "--node-silent-after", "2s", "--lease", "4s", "--heartbeat-interval",
           "300ms", UserProgram(), "daemon"});
  ASSERT_TRUE(AwaitWaiting(job, 2)) << job.Words();
  job.Signal(SIGKILL);
  EXPECT_EQ(job.AwaitExit(), 128 + SIGKILL);
  EXPECT_FALSE(job.Find(Role::kProgram).empty()) << "the ranks should outlive the launcher";
  EXPECT_TRUE(job.NothingIsLeft(absl::Seconds(40)));
}

TEST(ProgramJob, TwoJobsAtOnce_DoNotTouchEachOther) {
  Job other({"--num_gpus=2", UserProgram(), "wait"});
  Job job({"--num_gpus=2", UserProgram(), "daemon"});
  ASSERT_TRUE(AwaitWaiting(other, 2)) << other.Words();
  ASSERT_TRUE(AwaitWaiting(job, 2)) << job.Words();
  const std::vector<pid_t> before = other.Find(Role::kProgram);
  ASSERT_EQ(before.size(), 2u);
  kill(job.Find(Role::kAgent).at(0), SIGKILL);
  EXPECT_EQ(job.AwaitExit(), 95) << job.Words();
  EXPECT_TRUE(job.NothingIsLeft());
  EXPECT_EQ(other.Find(Role::kProgram), before);
  EXPECT_FALSE(other.Ended());
  other.Signal(SIGINT);
  EXPECT_EQ(other.AwaitExit(), 96) << other.Words();
  EXPECT_TRUE(other.NothingIsLeft());
}

TEST(ProgramJob, NoSecret_IsOnACommandLineOrInAnEnvironment) {
  Job job({"--num_gpus=1", UserProgram(), "wait"});
  ASSERT_TRUE(AwaitWaiting(job, 1)) << job.Words();
  // The key reaches the agent through descriptor 3 and in no other way.
  for (const JobProcess& process : job.Processes()) {
    const std::string command = ReadWholeFile("/proc/" + std::to_string(process.pid) + "/cmdline");
    EXPECT_THAT(command, Not(HasSubstr("key-file")));
    for (const auto& [name, value] : process.environment) {
      EXPECT_THAT(name, Not(HasSubstr("TOKEN")));
      EXPECT_THAT(name, Not(HasSubstr("CLUSTER_KEY")));
    }
  }
  job.Signal(SIGINT);
  EXPECT_EQ(job.AwaitExit(), 96) << job.Words();
}

TEST(ProgramJob, RunFolder_HoldsJournalLogsReportAndLatest) {
  Job job({"--num_gpus=1", UserProgram(), "exit", "0"});
  ASSERT_EQ(job.AwaitExit(), 0) << job.Words();
  EXPECT_THAT(ReadWholeFile(job.run_dir() + "/journal.db").substr(0, 13), "SQLite format");
  EXPECT_EQ(job.ReportJson()["exit_code"], 0);
  EXPECT_THAT(job.out(), HasSubstr("[localhost:0] rank 0 exits\n"));
}

}  // namespace
}  // namespace dsrun
