// The journal of a job whose disk is full or does not answer for a while.

#include "launcher/shell/journal_keeper.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "launcher/shell/behind_mark.h"
#include "tests/fakes/faulty_file_system.h"
#include "tests/launcher/journal/failing_sqlite.h"
#include "tests/simulation/cluster.h"
#include "tests/simulation/sim_base.h"
#include "tests/support/thread_state.h"

namespace dsrun::launcher {
namespace {

using ::testing::HasSubstr;
using Writes = FailingSqlite::Writes;

// Tells when a file of a folder comes and goes.
class FolderWatch {
 public:
  explicit FolderWatch(const std::filesystem::path& folder)
      : fd_(inotify_init1(IN_CLOEXEC | IN_NONBLOCK)) {
    EXPECT_GE(inotify_add_watch(fd_, folder.c_str(), IN_CREATE | IN_DELETE | IN_MOVE), 0);
  }
  ~FolderWatch() { close(fd_); }
  // Until `condition` holds, which is looked at whenever a name has changed.
  template <typename Condition>
  bool Await(const Condition& condition) {
    constexpr int kPatienceMs = 40'000;
    while (!condition()) {
      pollfd changed{.fd = fd_, .events = POLLIN, .revents = 0};
      if (poll(&changed, 1, kPatienceMs) <= 0) return false;
      char names[4096];
      while (read(fd_, names, sizeof(names)) > 0) continue;
    }
    return true;
  }

 private:
  const int fd_;
};

class JournalKeeperTest : public testing::Test {
 protected:
  void TearDown() override { disk_.Set(Writes::kPass); }
  void SetUp() override {
    folder_ = std::filesystem::path(testing::TempDir()) /
              testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    path_ = (folder_ / "journal.db").string();
    // A job with trouble in it, from the simulation.
    for (uint64_t seed = 1; events_.size() < 60; ++seed) {
      simulation::Cluster cluster(simulation::Scenario::FromSeed(seed), simulation::Sabotage::kNone,
                                  false);
      ASSERT_EQ(cluster.Run().violation, "");
      events_ = cluster.durable_events();
      core_ = std::make_unique<Coordinator>(cluster.coordinator().config());
    }
    options_.journal.records_per_snapshot = 0;  // only those that have to be
    options_.first_retry = absl::Hours(1);      // when the test says so
    options_.last_retry = absl::Hours(1);
    options_.longest_wait = absl::Seconds(20);
  }
  void Begin() {
    auto keeper = JournalKeeper::Create(path_, core_->config(), options_);
    ASSERT_TRUE(keeper.ok()) << keeper.status();
    keeper_ = *std::move(keeper);
  }
  // The next `count` events happen.
  void Happen(size_t count) {
    for (size_t i = 0; i < count; ++i, ++next_) {
      const auto& [now, event] = events_.at(next_);
      core_->Step(now, event);
      keeper_->Append(now, absl::UnixEpoch() + now, event, *core_);
    }
  }
  void HappenToTheEnd() { Happen(events_.size() - next_); }
  bool IsMarked() const { return std::filesystem::exists(BehindMarkOf(path_)); }
  // Another thread marks it, or takes the mark away.
  bool AwaitMark(bool there) {
    FolderWatch watch(folder_);
    return watch.Await([&] { return IsMarked() == there; });
  }
  void ExpectToEndAsTheJob(ReadFrom from) const {
    const auto read = ReadJournal(path_, from);
    ASSERT_TRUE(read.ok()) << read.status();
    const auto replayed = ReplayJournal(*read);
    ASSERT_TRUE(replayed.ok()) << replayed.status();
    EXPECT_EQ(replayed->DebugString(), core_->DebugString());
  }

  std::filesystem::path folder_;
  std::string path_;
  FailingSqlite& disk_ = FailingSqlite::Installed();
  JournalKeeper::Options options_;
  std::vector<std::pair<absl::Duration, Event>> events_;
  std::unique_ptr<Coordinator> core_;
  std::unique_ptr<JournalKeeper> keeper_;
  size_t next_ = 0;
};

TEST_F(JournalKeeperTest, DiskThatIsFullForAWhile_MarksTheJournal_AndInTheEndAllIsThere) {
  Begin();
  Happen(5);
  ASSERT_EQ(keeper_->Commit(false), absl::OkStatus());
  disk_.Set(Writes::kDiskIsFull);
  Happen(5);
  const absl::Status full = keeper_->Commit(false);
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted) << full;
  EXPECT_THAT(std::string(full.message()), HasSubstr(path_));
  EXPECT_TRUE(IsMarked()) << "whoever is told now may act on what is not written down";
  // A reader is refused the prefix, and may look at it if it knows.
  const absl::Status refused = ReadJournal(path_).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("do not go on from it"));
  const auto prefix = ReadJournal(path_, ReadFrom::kStart, IfBehind::kRead);
  ASSERT_TRUE(prefix.ok()) << prefix.status();
  EXPECT_EQ(prefix->records.size(), 5u);
  // A generation is announced: one more try, which fails as well.
  Happen(5);
  EXPECT_EQ(keeper_->Commit(true).code(), absl::StatusCode::kResourceExhausted);
  // Nobody waits for the next try, and there is room by then.
  Happen(5);
  EXPECT_FALSE(keeper_->Commit(false).ok());
  disk_.Set(Writes::kPass);
  ASSERT_EQ(keeper_->Commit(true), absl::OkStatus());
  HappenToTheEnd();
  ASSERT_EQ(keeper_->Commit(false), absl::OkStatus());
  keeper_.reset();
  EXPECT_FALSE(IsMarked());
  ExpectToEndAsTheJob(ReadFrom::kStart);
}

TEST_F(JournalKeeperTest, TriesAgainByItself_AndOnceMoreAtTheEnd) {
  options_.first_retry = absl::Milliseconds(1);
  options_.last_retry = absl::Milliseconds(2);
  Begin();
  disk_.Set(Writes::kDiskIsFull);
  Happen(5);
  EXPECT_FALSE(keeper_->Commit(false).ok());
  disk_.Set(Writes::kPass);
  ASSERT_TRUE(AwaitMark(false));
  EXPECT_EQ(keeper_->Commit(false), absl::OkStatus());
  // At the end.
  keeper_.reset();
  std::filesystem::remove(path_);
  options_.first_retry = options_.last_retry = absl::Hours(1);
  core_ = std::make_unique<Coordinator>(core_->config());
  next_ = 0;
  Begin();
  disk_.Set(Writes::kDiskIsFull);
  HappenToTheEnd();
  EXPECT_FALSE(keeper_->Commit(false).ok());
  disk_.Set(Writes::kPass);
  keeper_.reset();
  ExpectToEndAsTheJob(ReadFrom::kStart);
}

TEST(LongestWait, IsWellBelowTheLease) {
  EXPECT_EQ(LongestWait(absl::Seconds(30)), absl::Seconds(1));
  EXPECT_EQ(LongestWait(absl::Seconds(4)), absl::Seconds(1));
  EXPECT_EQ(LongestWait(absl::Seconds(2)), absl::Milliseconds(500));
  EXPECT_EQ(LongestWait(absl::InfiniteDuration()), absl::Seconds(1));
}

TEST_F(JournalKeeperTest, DiskThatStaysFull_LeavesAJournalThatNobodyTakesForTheTruth) {
  Begin();
  Happen(5);
  ASSERT_EQ(keeper_->Commit(false), absl::OkStatus());
  disk_.Set(Writes::kDiskIsFull);
  HappenToTheEnd();
  EXPECT_FALSE(keeper_->Commit(false).ok());
  keeper_.reset();
  disk_.Set(Writes::kPass);
  EXPECT_TRUE(IsMarked());
  EXPECT_EQ(ReadJournal(path_).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(JournalKeeperTest, MoreThanMemoryMayHold_BecomesAGapThatEndsInASnapshot) {
  options_.most_pending_bytes = 1000;
  Begin();
  Happen(5);
  ASSERT_EQ(keeper_->Commit(false), absl::OkStatus());
  disk_.Set(Writes::kDiskIsFull);
  Happen(1);
  EXPECT_FALSE(keeper_->Commit(false).ok());
  Happen(20);
  disk_.Set(Writes::kPass);
  ASSERT_EQ(keeper_->Commit(true), absl::OkStatus());
  HappenToTheEnd();
  keeper_.reset();
  EXPECT_FALSE(IsMarked());
  const absl::Status from_start = ReadJournal(path_).status();
  EXPECT_EQ(from_start.code(), absl::StatusCode::kFailedPrecondition) << from_start;
  EXPECT_THAT(std::string(from_start.message()), HasSubstr("records 6 to "));
  EXPECT_THAT(std::string(from_start.message()), HasSubstr("were never written"));
  ExpectToEndAsTheJob(ReadFrom::kNewestSnapshot);
}

TEST_F(JournalKeeperTest, DiskThatDoesNotAnswer_HoldsUpNobodyForLongerThanTheBound) {
  options_.longest_wait = absl::Milliseconds(50);
  options_.end_within = absl::Milliseconds(50);
  Begin();
  disk_.Set(Writes::kHang);
  Happen(5);
  const absl::Status hung = keeper_->Commit(false);
  EXPECT_EQ(hung.code(), absl::StatusCode::kDeadlineExceeded) << hung;
  EXPECT_THAT(std::string(hung.message()), HasSubstr("has not answered for 50ms"));
  Happen(5);
  EXPECT_FALSE(keeper_->Commit(false).ok());
  EXPECT_FALSE(keeper_->Commit(true).ok());
  ASSERT_TRUE(AwaitMark(true));  // by a thread of its own
  // It answers again.
  disk_.Set(Writes::kPass);
  ASSERT_TRUE(AwaitMark(false));
  EXPECT_EQ(keeper_->Commit(false), absl::OkStatus());
  // And at the end not: nobody waits for it, and the mark stays.
  disk_.Set(Writes::kHang);
  HappenToTheEnd();
  EXPECT_FALSE(keeper_->Commit(false).ok());
  ASSERT_TRUE(AwaitMark(true));
  keeper_.reset();
  EXPECT_TRUE(IsMarked());
  disk_.Set(Writes::kPass);  // the thread that was left behind ends
  ASSERT_TRUE(AwaitMark(false));
}

// A try that is under way is not the one that is asked for: it began without the newest rows. Here
// it fails, and the next one would come in an hour.
TEST_F(JournalKeeperTest, UrgentCommitDuringATry_WaitsForTheNextOne) {
  options_.longest_wait = absl::Seconds(1);
  Begin();
  disk_.Set(Writes::kHang);
  Happen(5);
  EXPECT_FALSE(keeper_->Commit(false).ok());
  Happen(5);
  // While the urgent commit waits; were it before that, the test would show less.
  std::thread answers([this, waiter = gettid()] {
    while (!IsAsleep(waiter)) std::this_thread::yield();
    disk_.Set(Writes::kFullOnce);
  });
  EXPECT_EQ(keeper_->Commit(true), absl::OkStatus());
  answers.join();
}

// Nor is it the one that the end is owed, when it fails after the end was asked for.
TEST_F(JournalKeeperTest, EndDuringATryThatFails_HasOneMore) {
  options_.longest_wait = absl::Milliseconds(50);
  Begin();
  disk_.Set(Writes::kHang);
  HappenToTheEnd();
  EXPECT_FALSE(keeper_->Commit(false).ok());
  ASSERT_TRUE(AwaitMark(true));  // by a thread of its own: nobody else comes in between
  std::thread answers([this, waiter = gettid()] {
    while (!IsAsleep(waiter)) std::this_thread::yield();
    disk_.Set(Writes::kFullOnce);
  });
  keeper_.reset();
  answers.join();
  ExpectToEndAsTheJob(ReadFrom::kStart);
}

TEST_F(JournalKeeperTest, TwoWriters_AreOneTooMany) {
  Begin();
  const absl::Status second = JournalKeeper::Create(path_, core_->config(), options_).status();
  EXPECT_EQ(second.code(), absl::StatusCode::kAlreadyExists) << second;
  // Also of a journal that has lost its name.
  std::filesystem::rename(path_, path_ + ".away");
  const absl::Status third = JournalKeeper::Create(path_, core_->config(), options_).status();
  EXPECT_EQ(third.code(), absl::StatusCode::kAlreadyExists) << third;
  EXPECT_THAT(std::string(third.message()), HasSubstr("is using it"));
}

TEST_F(JournalKeeperTest, TakenBack_LeavesNothing) {
  Begin();
  Happen(3);
  JournalKeeper::TakeBack(std::move(keeper_));
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
}

// ---- The mark, on a disk that refuses more and more.

TEST(BehindMark, OnADiskThatRefusesMoreAndMore_SomethingStillSaysIt) {
  const absl::Status full = absl::ResourceExhaustedError("No space left on device");
  const auto always = [] { return true; };
  const auto never = [] { return false; };
  for (int refused = 0; refused <= 3; ++refused) {
    SCOPED_TRACE(refused);
    FaultyFileSystem fs;
    ASSERT_EQ(fs.CreateFolder("/run"), absl::OkStatus());
    ASSERT_EQ(WriteAndSync(fs, "/run/journal.db", "records"), absl::OkStatus());
    BehindMark mark(fs, "/run/journal.db");
    ASSERT_EQ(mark.Prepare(), absl::OkStatus());
    // The rename, the new file, the journal's own rename.
    for (int i = 0; i < refused; ++i) fs.FailOperation(i, full);
    const absl::Status marked = mark.Follow(always);
    const bool says = fs.Stat("/run/journal.db.behind").ok();
    const bool is_named = fs.Stat("/run/journal.db").ok();
    EXPECT_EQ(marked.ok(), refused < 3) << marked;
    EXPECT_EQ(says, refused < 2);
    EXPECT_EQ(is_named, refused != 2);
    if (refused == 3) {
      EXPECT_THAT(std::string(marked.message()), HasSubstr("do not go on from it"));
    }
    EXPECT_EQ(mark.Follow(never), absl::OkStatus());
    EXPECT_TRUE(fs.Stat("/run/journal.db").ok());
    EXPECT_FALSE(fs.Stat("/run/journal.db.behind").ok());
    // And again.
    EXPECT_EQ(mark.Follow(always), absl::OkStatus());
    EXPECT_TRUE(fs.Stat("/run/journal.db.behind").ok());
  }
}

}  // namespace
}  // namespace dsrun::launcher
