// Memory as the kernel says it, read from machines that are laid out as files: without control
// groups, with those of version 1 and of version 2, as in a container. The shapes of the files are
// those of real machines; one test reads this one.

#include "common/base/machine_memory.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace dsrun {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMiB = int64_t{1} << 20;
constexpr char kUnlimited[] = "9223372036854771712\n";

std::string Bytes(int64_t mib) { return std::to_string(mib * kMiB) + "\n"; }

class MachineMemoryTest : public ::testing::Test {
 protected:
  MachineMemoryTest() {
    const char* base = getenv("TEST_TMPDIR");
    root_ = std::string(base == nullptr ? "/tmp" : base) + "/machine-XXXXXX";
    EXPECT_NE(mkdtemp(root_.data()), nullptr);
    Write(
        "/proc/meminfo",
        "MemTotal:       16777216 kB\nMemFree:         1000000 kB\nMemAvailable:   12582912 kB\n");
    Write("/proc/sys/kernel/random/boot_id", "17091bd6-5de9-4b2e-b624-e75ac5983b42\n");
  }
  ~MachineMemoryTest() override {
    std::error_code error;
    fs::remove_all(root_, error);
  }

  void Write(const std::string& path, const std::string& content) {
    fs::create_directories(fs::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << content;
  }

  // As on a machine with both: version 1 counts memory.
  void UseVersion1(const std::string& group) {
    Write("/proc/self/cgroup", "4:memory:" + group + "\n1:cpu:/else\n0::/\n");
    Write("/proc/self/mountinfo",
          "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
          "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"
          "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
          "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
  }
  void UseVersion2(const std::string& group) {
    Write("/proc/self/cgroup", "0::" + group + "\n");
    Write("/proc/self/mountinfo",
          "35 31 0:32 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n");
  }
  // `stat`: of the whole subtree.
  void Group1(const std::string& group, const std::string& limit, int64_t used_mib,
              const std::string& stat = "") {
    const std::string folder = "/sys/fs/cgroup/memory" + group;
    Write(folder + "/memory.limit_in_bytes", limit);
    Write(folder + "/memory.usage_in_bytes", Bytes(used_mib));
    Write(folder + "/memory.use_hierarchy", "1\n");
    Write(folder + "/memory.stat", "cache 1\ninactive_file 7\n" + stat);
  }
  void Group2(const std::string& group, const std::string& max, const std::string& high,
              int64_t used_mib, const std::string& stat = "") {
    const std::string folder = "/sys/fs/cgroup" + group;
    Write(folder + "/memory.max", max);
    Write(folder + "/memory.high", high);
    Write(folder + "/memory.current", Bytes(used_mib));
    Write(folder + "/memory.stat", "anon 5\n" + stat);
  }
  // A process of the program "dsworker" that has mapped one arena and a stack.
  void Worker(int pid, const std::string& group_line, int64_t arena_mib, int64_t resident_mib,
              const std::string& tag) {
    const std::string process = "/proc/" + std::to_string(pid);
    Write(process + "/comm", "dsworker\n");
    Write(process + "/cgroup", group_line + "\n");
    Write(process + "/environ", std::string("A=1\0DSRUN_WORKER_TAG=", 21) + tag + '\0');
    char arena[32];
    snprintf(arena, sizeof(arena), "%lx", 0x7f0000000000ul + arena_mib * kMiB);
    Write(process + "/maps",
          "00400000-90400000 r-xp 00000000 00:1c 15 /bin/dsworker\n"
          "7e0000000000-7e0000800000 rw-p 00000000 00:00 0 \n"
          "7d0000000000-7d8000000000 rw-p 00000000 00:00 0 \n"  // a sanitizer's
          "7c0000000000-7c0040000000 rw-s 00000000 00:05 9 /memfd:inbox\n"
          "7f0000000000-" +
              std::string(arena) +
              " rw-p 00000000 00:00 0 \n"
              "7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0 [stack]\n");
    Write(process + "/status", "Name:\tdsworker\nVmRSS:\t  999999 kB\nRssAnon:\t  " +
                                   std::to_string(resident_mib * 1024) + " kB\n");
  }

  MachineMemory Read() const { return MemoryReader{.root = root_}.Read(); }

  std::string root_;
};

TEST_F(MachineMemoryTest, WithoutControlGroups_TheMachineIsAll) {
  const MachineMemory memory = Read();
  EXPECT_EQ(memory.total_bytes, 16384 * kMiB);
  EXPECT_EQ(memory.available_bytes, 12288 * kMiB);
  EXPECT_EQ(memory.boot_id, "17091bd6-5de9-4b2e-b624-e75ac5983b42");
  EXPECT_EQ(memory.cgroup, "");
  EXPECT_EQ(memory.limited_by, "this machine");
}

TEST_F(MachineMemoryTest, NothingToRead_IsNotKnown) {
  EXPECT_EQ(MemoryReader{.root = root_ + "/none"}.Read().total_bytes, 0);
}

TEST_F(MachineMemoryTest, Version1_LimitOfTheOwnGroup) {
  UseVersion1("/jobs/one");
  Group1("", kUnlimited, 9000);
  Group1("/jobs", kUnlimited, 5000);
  Group1("/jobs/one", Bytes(2048), 1000,
         "total_inactive_file " + Bytes(300) + "total_active_file " + Bytes(100) + "total_dirty " +
             Bytes(50));
  const MachineMemory memory = Read();
  EXPECT_EQ(memory.total_bytes, 2048 * kMiB);
  // Cache that is not dirty can be dropped.
  EXPECT_EQ(memory.available_bytes, (2048 - (1000 - 300 - 100 + 50)) * kMiB);
  EXPECT_EQ(memory.cgroup, "/jobs/one");
  EXPECT_EQ(memory.limited_by, "cgroup /jobs/one");
}

TEST_F(MachineMemoryTest, Version1_LimitFurtherUp_IsTheWholeSubtrees) {
  UseVersion1("/jobs/one");
  Group1("", kUnlimited, 9000);
  Group1("/jobs", Bytes(1024), 900);
  Group1("/jobs/one", Bytes(4096), 10);
  const MachineMemory memory = Read();
  EXPECT_EQ(memory.total_bytes, 1024 * kMiB);
  EXPECT_EQ(memory.available_bytes, 124 * kMiB);
  EXPECT_EQ(memory.cgroup, "/jobs");
}

TEST_F(MachineMemoryTest, Version1_WithoutHierarchy_TheGroupAboveDoesNotCount) {
  UseVersion1("/jobs/one");
  Group1("/jobs", Bytes(1024), 900);
  Group1("/jobs/one", Bytes(4096), 10);
  Write("/sys/fs/cgroup/memory/jobs/memory.use_hierarchy", "0\n");
  EXPECT_EQ(Read().cgroup, "/jobs/one");
}

// What is mounted is the container's group; the groups above are not seen, their limit is.
TEST_F(MachineMemoryTest, Version1_InAContainer) {
  Write("/proc/self/cgroup", "4:memory:/docker/0123\n");
  Write("/proc/self/mountinfo",
        "35 31 0:32 /docker/0123 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n");
  Group1("", Bytes(4096), 1000, "hierarchical_memory_limit " + Bytes(3072));
  const MachineMemory memory = Read();
  EXPECT_EQ(memory.total_bytes, 3072 * kMiB);
  EXPECT_EQ(memory.available_bytes, 2072 * kMiB);
  EXPECT_EQ(memory.cgroup, "/docker/0123");
}

TEST_F(MachineMemoryTest, Version2_MaxAndHighOnTheWholePath) {
  UseVersion2("/a.slice/b.scope");
  Group2("/a.slice", "max\n", Bytes(3072), 2000,
         "inactive_file " + Bytes(500) + "slab_reclaimable " + Bytes(100));
  Group2("/a.slice/b.scope", Bytes(4096), "max\n", 100);
  const MachineMemory memory = Read();
  EXPECT_EQ(memory.total_bytes, 3072 * kMiB);
  EXPECT_EQ(memory.available_bytes, (3072 - 1400) * kMiB);
  EXPECT_EQ(memory.cgroup, "/a.slice");
}

TEST_F(MachineMemoryTest, Version2_EqualLimits_TheOuterGroupIsShared) {
  UseVersion2("/a/b");
  Group2("/a", Bytes(2048), "max\n", 100);
  Group2("/a/b", Bytes(2048), "max\n", 100);
  EXPECT_EQ(Read().cgroup, "/a");
}

// As two containers see it: both are "/" to themselves.
TEST_F(MachineMemoryTest, GroupsOfOnePath_AreToldApartByTheirNumber) {
  UseVersion2("/");
  Group2("", Bytes(2048), "max\n", 100);
  const MachineMemory one = Read();
  fs::rename(root_ + "/sys/fs/cgroup", root_ + "/sys/fs/other");
  Group2("", Bytes(2048), "max\n", 100);
  const MachineMemory other = Read();
  EXPECT_EQ(one.cgroup, "/");
  EXPECT_EQ(other.cgroup, "/");
  EXPECT_NE(one.cgroup_number, 0u);
  EXPECT_NE(one.cgroup_number, other.cgroup_number);
}

TEST_F(MachineMemoryTest, Version2_WithoutLimits_TheMachineIsAll) {
  UseVersion2("/a");
  Group2("/a", "max\n", "max\n", 100);
  EXPECT_EQ(Read().limited_by, "this machine");
  EXPECT_EQ(Read().available_bytes, 12288 * kMiB);
}

TEST_F(MachineMemoryTest, LimitBeyondTheMachine_IsNone) {
  UseVersion2("/a");
  Group2("/a", Bytes(65536), "max\n", 100);
  EXPECT_EQ(Read().total_bytes, 16384 * kMiB);
  EXPECT_EQ(Read().cgroup, "");
}

TEST_F(MachineMemoryTest, UsedBeyondItsLimit_IsNothingAvailable) {
  UseVersion2("/a");
  Group2("/a", Bytes(1024), "max\n", 1500);
  EXPECT_EQ(Read().available_bytes, 0);
  EXPECT_EQ(Read().total_bytes, 1024 * kMiB);
}

TEST_F(MachineMemoryTest, ArenasOfOtherJobs_CountBeforeTheyAreTouched) {
  UseVersion2("/a/b");
  Group2("/a", Bytes(8192), "max\n", 1000);
  Group2("/a/b", "max\n", "max\n", 500);
  Worker(101, "0::/a/c", 3000, 1000, "theirs/7/1");   // 2000 MiB to come, in our limit
  Worker(102, "0::/else", 4000, 1000, "theirs/8/1");  // 3000 MiB, beside it
  Worker(103, "0::/a/b", 5000, 0, "ours/7/1");
  Write("/proc/104/comm", "sleep\n");
  const MemoryReader reader{
      .root = root_, .arenas_of = "dsworker", .but_not_with = "DSRUN_WORKER_TAG=ours/"};
  EXPECT_EQ(reader.Read().available_bytes, (8192 - 1000 - 2000) * kMiB);
  // The machine has 12288 MiB less 5000 of both.
  Group2("/a", "max\n", "max\n", 1000);
  EXPECT_EQ(reader.Read().available_bytes, (12288 - 5000) * kMiB);
  EXPECT_EQ(reader.ResidentBytes({101, 102, 999}), 2000 * kMiB);
}

TEST_F(MachineMemoryTest, ThisMachine_CanBeRead) {
  const MachineMemory memory = MemoryReader().Read();
  EXPECT_GT(memory.total_bytes, 0);
  EXPECT_GT(memory.available_bytes, 0);
  EXPECT_LE(memory.available_bytes, memory.total_bytes);
  EXPECT_EQ(memory.boot_id.size(), 36u);
  EXPECT_GT(MemoryReader().ResidentBytes({getpid()}), 0);
}

TEST_F(MachineMemoryTest, OomKills_AreTheGroupsWhereOneCounts) {
  Write("/proc/vmstat", "nr_free_pages 100\noom_kill 11\n");
  EXPECT_EQ(MemoryReader{root_}.ReadOomKills().count, 11);
  EXPECT_EQ(MemoryReader{root_}.ReadOomKills().group, "");
  UseVersion1("/a/b");
  EXPECT_EQ(MemoryReader{root_}.ReadOomKills().count, 11) << "the group has no such file";
  Write("/sys/fs/cgroup/memory/a/b/memory.oom_control",
        "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n");
  EXPECT_EQ(MemoryReader{root_}.ReadOomKills().count, 2);
  EXPECT_EQ(MemoryReader{root_}.ReadOomKills().group, "/a/b");
  UseVersion2("/c");
  Write("/sys/fs/cgroup/c/memory.events", "low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\n");
  EXPECT_EQ(MemoryReader{root_}.ReadOomKills().count, 1);
  EXPECT_EQ(MemoryReader{root_}.ReadOomKills().group, "/c");
}

}  // namespace
}  // namespace dsrun
