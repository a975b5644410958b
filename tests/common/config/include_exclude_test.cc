#include "common/config/include_exclude.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace dsrun {
namespace {

Hostfile Pool() {
  Hostfile file;
  file.path = "f";
  file.hosts = {{"w0", "", 0, 4, 1}, {"w1", "", 0, 4, 2}, {"w2", "", 0, 2, 3}};
  return file;
}

std::string Printed(const std::vector<SelectedHost>& hosts) {
  std::string out;
  for (const SelectedHost& host : hosts) {
    out += (out.empty() ? "" : " ") + host.host.name() + ":";
    for (size_t i = 0; i < host.slots.size(); ++i) {
      out += (i ? "," : "") + std::to_string(host.slots[i]);
    }
  }
  return out;
}

// The selection, or the whole text of the findings.
std::string Select(const HostFilter& filter, const Hostfile& pool = Pool()) {
  Findings findings;
  const auto hosts = SelectHosts(pool, filter, findings);
  if (!findings.all().empty()) {
    EXPECT_TRUE(hosts.empty());
    return findings.Render();
  }
  return Printed(hosts);
}
std::string Include(const std::string& text) { return Select({.include = text}); }
std::string Exclude(const std::string& text) { return Select({.exclude = text}); }

struct Row {
  std::string input;
  std::string want;
};

TEST(Include, TableOfInputs) {
  const std::vector<Row> table = {
      {"", "w0:0,1,2,3 w1:0,1,2,3 w2:0,1"},
      {"w1", "w1:0,1,2,3"},
      {"w0@w1:0,2", "w0:0,1,2,3 w1:0,2"},
      {"w1:0@w1:3", "w1:0,3"},
      {"w1:0,0", "w1:0"},
      {"w2@w0:1", "w0:1 w2:0,1"},
      {"w1:0-3", "w1:0,1,2,3"},
      {"w1:0,2-3", "w1:0,2,3"},
      {"w1:1@w1", "w1:0,1,2,3"},
      {"w1:7",
       "--include: No slot '7' specified on host 'w1'; it has slots 0-3 (f:2)\n  w1:7\n     ^\n"},
      {"w1:2-2000000000",
       "--include: No slot '4' specified on host 'w1'; it has slots 0-3 (f:2)\n"
       "  w1:2-2000000000\n     ^\n"},
      {"w9", "--include: Hostname 'w9' not found in hostfile; did you mean w0?\n  w9\n  ^\n"},
      {"zebra", "--include: Hostname 'zebra' not found in hostfile\n  zebra\n  ^\n"},
      {"w1:a",
       "--include: expected a slot number or a range such as 0-3, got \"a\"\n  w1:a\n     ^\n"},
      {"w1:-1",
       "--include: expected a slot number or a range such as 0-3, got \"-1\"\n  w1:-1\n     ^\n"},
      {"w1:0,",
       "--include: expected a slot number or a range such as 0-3, got \"\"\n  w1:0,\n       ^\n"},
      {"w1:3-0", "--include: the range \"3-0\" runs backwards; write 0-3\n  w1:3-0\n     ^\n"},
      {"w1:",
       "--include: slots are missing after ':'; for all slots write w1 alone\n  w1:\n     ^\n"},
      {"w1:0:1",
       "--include: expected HOST:SLOT,SLOT with one ':', got \"w1:0:1\"; separate slots by commas, "
       "and write IPv6 in brackets\n  w1:0:1\n    ^\n"},
      {"w1:0@",
       "--include: a host name is missing; write HOST or HOST:SLOT,SLOT between the @ signs\n"
       "  w1:0@\n       ^\n"},
      {"w8@w1:9",  // all findings at once
       "--include: Hostname 'w8' not found in hostfile; did you mean w0?\n  w8@w1:9\n  ^\n"
       "--include: No slot '9' specified on host 'w1'; it has slots 0-3 (f:2)\n"
       "  w8@w1:9\n        ^\n"},
  };
  for (const Row& row : table) EXPECT_EQ(Include(row.input), row.want) << row.input;
}

// With a user's program slots are ids of GPUs, as CUDA_VISIBLE_DEVICES has them.
TEST(Include, TableOfInputs_GpuIds) {
  const std::vector<Row> table = {
      {"", "w0:0,1,2,3 w1:0,1,2,3 w2:0,1"},
      {"w1", "w1:0,1,2,3"},
      {"w1:7", "w1:7"},
      {"w1:7@w2:1,5@w1:0", "w1:0,7 w2:1,5"},
      {"w2:1-4", "w2:1,2,3,4"},
      {"w1:4096",
       "--include: No slot '4096' specified on host 'w1'; it has slots 0-3 (f:2)\n"
       "  w1:4096\n     ^\n"},
      {"w1:2-2000000000",
       "--include: No slot '4096' specified on host 'w1'; it has slots 0-3 (f:2)\n"
       "  w1:2-2000000000\n     ^\n"},
  };
  for (const Row& row : table) {
    EXPECT_EQ(Select({.include = row.input, .gpu_ids = true}), row.want) << row.input;
  }
  EXPECT_EQ(Select({.exclude = "w1:9", .gpu_ids = true}),
            "--exclude: No slot '9' specified on host 'w1'; it has slots 0-3 (f:2)\n  w1:9\n     "
            "^\n");
}

TEST(Exclude, TableOfInputs) {
  const std::vector<Row> table = {
      {"w1", "w0:0,1,2,3 w2:0,1"},
      {"w1:3", "w0:0,1,2,3 w1:0,1,2 w2:0,1"},
      {"w0:0-3@w2:0", "w1:0,1,2,3 w2:1"},
      {"w1:9",
       "--exclude: No slot '9' specified on host 'w1'; it has slots 0-3 (f:2)\n  w1:9\n     ^\n"},
      {"w9", "--exclude: Hostname 'w9' not found in hostfile; did you mean w0?\n  w9\n  ^\n"},
      {"w0@w1@w2", "--exclude: no slot is left to run on: \"w0@w1@w2\" excludes every slot of f\n"},
  };
  for (const Row& row : table) EXPECT_EQ(Exclude(row.input), row.want) << row.input;
}

TEST(HostFilter, FlagsThatExcludeOneAnother) {
  EXPECT_EQ(Select({.include = "w0", .exclude = "w1"}),
            "--exclude: include_str and exclude_str are mutually exclusive.\n");
  EXPECT_EQ(Select({.include = "w0", .num_nodes = 1}),
            "--num_nodes: Cannot specify num_nodes/gpus with include/exclude\n");
  EXPECT_EQ(Select({.exclude = "w0", .num_gpus = 1}),
            "--num_gpus: Cannot specify num_nodes/gpus with include/exclude\n");
}

TEST(HostFilter, NumNodesAndNumGpus) {
  EXPECT_EQ(Select({.num_nodes = 2}), "w0:0,1,2,3 w1:0,1,2,3");
  EXPECT_EQ(Select({.num_nodes = -1, .num_gpus = -1}), "w0:0,1,2,3 w1:0,1,2,3 w2:0,1");
  EXPECT_EQ(Select({.num_nodes = 2, .num_gpus = 3}), "w0:0,1,2 w1:0,1,2");
  EXPECT_EQ(Select({.num_nodes = 4}),
            "--num_nodes: asked for 4 nodes, but f has 3 (w0, w1, w2); add hosts or ask for 3 at "
            "most\n");
  EXPECT_EQ(Select({.num_nodes = 0}), "--num_nodes: expected 1 to 3, got 0\n");
  EXPECT_EQ(
      Select({.num_gpus = 3}),
      "--num_gpus: asked for 3 slots a node, but w2 has 2 (f:3); ask for 2 at most, or choose "
      "slots with --include\n");
  EXPECT_EQ(Select({.num_gpus = 0}), "--num_gpus: expected at least 1, got 0\n");
}

TEST(HostFilter, HostsWithPortsAndIpv6) {
  Hostfile pool;
  pool.path = "f";
  pool.hosts = {
      {"w1", "", 70, 2, 1}, {"w1", "", 71, 2, 2}, {"[::1]", "", 0, 2, 3}, {"w2", "u", 72, 2, 4}};
  EXPECT_EQ(Select({.include = "w1:70"}, pool), "w1:70:0,1");
  EXPECT_EQ(Select({.include = "w1:71:1"}, pool), "w1:71:1");
  EXPECT_EQ(Select({.include = "[::1]"}, pool), "[::1]:0,1");
  EXPECT_EQ(Select({.include = "[::1]:1@w2:0"}, pool), "[::1]:1 w2:72:0");
  EXPECT_EQ(
      Select({.include = "w1"}, pool),
      "--include: Hostname 'w1' is several entries of the hostfile; write it with the agent's "
      "port\n  w1\n  ^\n");
}

}  // namespace
}  // namespace dsrun
