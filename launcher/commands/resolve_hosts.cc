// Which hosts and slots: hostfile, filters, addresses, ranks, where a program's ranks meet.

#include <algorithm>
#include <atomic>
#include <charconv>
#include <optional>
#include <set>
#include <string_view>
#include <thread>
#include <utility>

#include "common/base/escaped.h"
#include "common/base/thread.h"
#include "common/config/hostfile.h"
#include "common/config/include_exclude.h"
#include "common/config/source_file.h"
#include "common/rpc/loopback.h"
#include "launcher/commands/network.h"
#include "launcher/commands/resolve_parts.h"

namespace dsrun::launcher {
namespace {

constexpr char kDefaultHostfile[] = "/job/hostfile";

// "2,0" -> {0, 2}; nothing: other spellings (UUIDs), or an empty list.
std::optional<std::vector<int32_t>> VisibleDevices(std::string_view text) {
  std::set<int32_t> ids;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string_view word = Stripped(text.substr(begin, end - begin));
    int32_t id = 0;
    const auto [stop, error] = std::from_chars(word.data(), word.data() + word.size(), id);
    if (error != std::errc() || stop != word.data() + word.size() || id < 0) return std::nullopt;
    ids.insert(id);
    begin = end + 1;
  }
  return std::vector<int32_t>(ids.begin(), ids.end());
}

// A program's ranks get the GPUs that the user's own processes would. Nothing: the variable decides
// nothing.
std::optional<std::vector<SelectedHost>> HostsOfVisibleDevices(ResolveContext& context,
                                                               const HostFilter& filter,
                                                               const HostEntry& local) {
  const char* visible = context.machine.Variable("CUDA_VISIBLE_DEVICES");
  if (context.is_train() || context.machine.gpus == 0 || visible == nullptr) return std::nullopt;
  const std::string detected = "Detected VISIBLE_DEVICES=" + Escaped(visible);
  if (!filter.include.empty() || !filter.exclude.empty() || filter.num_gpus.has_value() ||
      filter.num_nodes.has_value()) {
    context.Note(detected +
                 " but ignoring it because one or several of --include/--exclude/--num_gpus/"
                 "--num_nodes cl args were used.");
    return std::nullopt;
  }
  if (Stripped(visible).empty()) {
    context.Note("CUDA_VISIBLE_DEVICES is empty, which counts as not set: every GPU is used");
    return std::nullopt;
  }
  if (auto ids = VisibleDevices(visible); ids.has_value()) {
    context.Note(detected + ": setting --include=localhost:" + visible);
    return std::vector<SelectedHost>{{local, *std::move(ids)}};
  }
  context.findings.AddFlag("CUDA_VISIBLE_DEVICES",
                           "expected device numbers such as 0,2, got " + Quoted(visible) +
                               "; unset it, and name the devices by number: --include "
                               "localhost:0,2");
  return std::vector<SelectedHost>();
}

// This machine as a hostfile of one line.
std::vector<SelectedHost> LocalHosts(ResolveContext& context, const HostFilter& filter) {
  const Machine& machine = context.machine;
  const bool filtered = !filter.include.empty() || !filter.exclude.empty();
  if (filter.num_nodes.value_or(1) > 1) {
    context.findings.AddFlag("--num_nodes",
                             "Num nodes is >1 but no extra nodes available via hostfile; name the "
                             "hosts with --hostfile");
    return {};
  }
  HostEntry local{"localhost", "", 0, std::max(1, machine.gpus), 1};
  if (auto hosts = HostsOfVisibleDevices(context, filter, local)) return *std::move(hosts);
  if (filtered) {
    local.slots = std::max(machine.gpus, machine.cores);
  } else if (filter.num_gpus.value_or(-1) != -1) {
    if (*filter.num_gpus > kMaxSlotsPerHost) {
      context.findings.AddFlag("--num_gpus", "expected 1 to " + std::to_string(kMaxSlotsPerHost) +
                                                 ", got " + std::to_string(*filter.num_gpus));
      return {};
    }
    // Slots of the CPU engine are places for processes: there are as many as are asked for.
    local.slots = static_cast<int>(std::max<int64_t>(1, *filter.num_gpus));
  } else if (context.is_train()) {
    local.slots = 1;
  }
  const Hostfile file{"this machine", {local}};
  return SelectHosts(file, filter, context.findings);
}

// Where the hosts come from, for findings about one of them.
struct HostSource {
  std::string path;                // as the user wrote it; "this machine": no hostfile
  std::vector<std::string> lines;  // of the hostfile

  // "job.hosts:7:1"
  std::string Place(const HostEntry& host) const {
    return lines.empty() ? path : path + ":" + std::to_string(host.line) + ":1";
  }
  Diagnostic At(const HostEntry& host, std::string message) const {
    Diagnostic d;
    d.file = path;
    d.message = std::move(message);
    if (host.line < 1 || host.line > static_cast<int>(lines.size())) return d;
    d.excerpt = lines[static_cast<size_t>(host.line) - 1];
    d.line = host.line;
    d.column = static_cast<int>(d.excerpt.find_first_not_of(" \t\v\f\r")) + 1;
    return d;
  }
};

// Reads and filters the hostfile, or takes this machine where there is none.
std::vector<SelectedHost> FindHosts(ResolveContext& context, HostSource& source) {
  HostFilter filter;
  filter.include = context.values.Text("include").value_or("");
  filter.exclude = context.values.Text("exclude").value_or("");
  filter.num_nodes = context.values.Int("num_nodes", -1);
  filter.num_gpus = context.values.Int("num_gpus", -1);
  filter.gpu_ids = !context.is_train();  // the engine's slots are places on the CPU
  for (const char* flag : {"include", "exclude"}) {
    if (context.values.Text(flag) == "") {
      context.findings.AddFlag(std::string("--") + flag, "expected hosts, got an empty text");
    }
  }
  const auto given = context.values.Text("hostfile");
  const std::string path = given.value_or(kDefaultHostfile);
  absl::StatusOr<std::string> content = ReadSourceFile(context.Absolute(path), path);
  if (absl::IsNotFound(content.status())) {
    if (given.has_value() && context.values.Switch("strict")) {
      context.findings.AddFlag("--hostfile", "there is no file " + Quoted(path) +
                                                 "; check the path, or leave --strict out to use "
                                                 "this machine");
      return {};
    }
    if (given.has_value()) {
      context.Note(
          "Unable to find hostfile, will proceed with training with local resources only. "
          "(" +
          path + "; --strict makes this an error)");
    }
    source.path = "this machine";
    return LocalHosts(context, filter);
  }
  if (!content.ok()) {
    context.findings.AddFlag("--hostfile", std::string(content.status().message()));
    return {};
  }
  const SourceText text(path, *std::move(content));
  source.path = path;
  for (const SourceLine& line : text.lines()) source.lines.emplace_back(line.text);
  Findings mine;
  const Hostfile file = ParseHostfile(text, mine);
  context.findings.Append(mine);
  // Filters on half a hostfile would report hosts as missing that are only misspelt.
  if (mine.has_errors()) return {};
  return SelectHosts(file, filter, context.findings);
}

// A user named by the hostfile is the whole job's.
void ResolveUser(ResolveContext& context, const HostSource& source,
                 const std::vector<SelectedHost>& hosts) {
  const HostEntry* first = nullptr;
  for (const SelectedHost& selected : hosts) {
    if (selected.host.user.empty()) continue;
    if (first == nullptr) first = &selected.host;
    if (first->user != selected.host.user) {
      context.findings.Add(source.At(selected.host, "expected one user for all ranks, got " +
                                                        selected.host.user + " here and " +
                                                        first->user + " in line " +
                                                        std::to_string(first->line)));
      return;
    }
  }
  if (first != nullptr) context.resolved.job.set_run_as_user(first->user);
}

// All addresses at once: a resolver that does not answer takes seconds for each.
std::vector<absl::StatusOr<std::string>> ResolveAll(const std::vector<SelectedHost>& hosts) {
  constexpr size_t kThreads = 32;
  std::vector<absl::StatusOr<std::string>> addresses(hosts.size());
  std::atomic<size_t> next = 0;
  const auto work = [&] {
    for (size_t i = next++; i < hosts.size(); i = next++) {
      addresses[i] = ResolveAddress(hosts[i].host.host);
    }
  };
  std::vector<std::thread> threads;
  for (size_t i = 1; i < std::min(kThreads, hosts.size()); ++i) {
    absl::StatusOr<std::thread> thread = StartThread("addresses of nodes", work);
    if (!thread.ok()) break;  // those that there are take longer
    threads.push_back(*std::move(thread));
  }
  work();
  for (std::thread& thread : threads) thread.join();
  return addresses;
}

void AddNode(ResolveContext& context, const HostSource& source, const SelectedHost& selected,
             const absl::StatusOr<std::string>& address) {
  proto::NodeSpec& node = *context.resolved.job.add_nodes();
  node.set_host(selected.host.name());
  node.set_agent_port(selected.host.port);
  node.set_hostfile_slots(selected.host.slots);
  for (const int32_t slot : selected.slots) {
    node.add_slots(slot);
    if (slot >= selected.host.slots && context.resolved.dry_run) {
      context.Note(source.Place(selected.host) + ": slot " + std::to_string(slot) + " of " +
                   selected.host.name() +
                   " is none of the hostfile's: a real start asks its agent for GPU " +
                   std::to_string(slot));
    }
  }
  std::string why;
  if (!address.ok()) {
    why = selected.host.name() + " has no address (" + std::string(address.status().message()) +
          "); check the name";
  } else {
    node.set_address(*address);
    if (IsLoopbackAddress(*address)) return;
    why = selected.host.name() + " (" + *address +
          ") is off loopback: refused until TLS exists; use addresses such as 127.0.0.1";
  }
  if (context.resolved.dry_run) {
    context.Note(source.Place(selected.host) + ": a real start would be refused: " + why);
  } else {
    context.findings.Add(source.At(selected.host, why));
  }
}

}  // namespace

void ResolveHosts(ResolveContext& context) {
  HostSource source;
  const std::vector<SelectedHost> hosts = FindHosts(context, source);
  ResolveUser(context, source, hosts);
  const auto addresses = ResolveAll(hosts);
  std::vector<NodeSlots> nodes;
  for (const SelectedHost& selected : hosts) {
    NodeSlots node{NodeId(static_cast<int32_t>(nodes.size())), {}};
    for (const int32_t slot : selected.slots) node.slots.push_back(Slot(slot));
    AddNode(context, source, selected, addresses[nodes.size()]);
    nodes.push_back(std::move(node));
  }
  if (nodes.empty()) return;  // there is a finding
  absl::StatusOr<Placement> placement = PlaceRanks(std::move(nodes));
  if (placement.ok()) {
    context.resolved.ranks = std::move(placement->ranks);
  } else {
    context.findings.AddFlag("dsrun", std::string(placement.status().message()));
  }
}

void ResolveMaster(ResolveContext& context) {
  proto::JobSpec& job = context.resolved.job;
  // 0: the agent of rank 0's node reserves one, anew for every generation.
  job.set_master_port(
      static_cast<int32_t>(context.values.Int("master_port", 0, 65535).value_or(0)));
  std::string address = context.values.Text("master_addr").value_or("");
  if (address.empty() && job.nodes_size() > 0) address = job.nodes(0).address();
  job.set_master_addr(address);
  if (address.empty()) return;
  const auto numeric = ResolveAddress(address);
  if (!numeric.ok()) {
    context.findings.AddFlag("--master_addr", Quoted(address) + " has no address (" +
                                                  std::string(numeric.status().message()) + ")");
  }
}

}  // namespace dsrun::launcher
