#include "common/config/include_exclude.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <set>
#include <string_view>

#include "common/base/escaped.h"
#include "common/config/nearest.h"

namespace dsrun {
namespace {

// Host index -> slots named for it.
using Named = std::map<size_t, std::set<int32_t>>;

constexpr size_t kNamesShown = 8;

std::vector<std::string> Names(const Hostfile& hostfile) {
  std::vector<std::string> out;
  for (const HostEntry& host : hostfile.hosts) out.push_back(host.name());
  return out;
}

std::string Listed(const std::vector<std::string>& names) {
  std::string out;
  for (size_t i = 0; i < names.size() && i < kNamesShown; ++i) out += (i ? ", " : "") + names[i];
  if (names.size() > kNamesShown) out += ", ... (" + std::to_string(names.size()) + " in all)";
  return out;
}

std::string SlotsOf(const HostEntry& host) {
  return host.slots == 1 ? "slot 0" : "slots 0-" + std::to_string(host.slots - 1);
}

std::optional<int32_t> Number(std::string_view text) {
  int32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0 ||
      text.front() == '-') {
    return std::nullopt;
  }
  return value;
}

// One --include or --exclude string.
class FilterParser {
 public:
  FilterParser(const Hostfile& hostfile, std::string flag, std::string_view value, bool gpu_ids,
               Findings& findings)
      : hostfile_(hostfile),
        flag_(std::move(flag)),
        value_(value),
        gpu_ids_(gpu_ids),
        findings_(findings) {}

  Named Parse() {
    for (size_t begin = 0; begin <= value_.size();) {
      const size_t end = std::min(value_.find('@', begin), value_.size());
      ParseNode(begin, value_.substr(begin, end - begin));
      begin = end + 1;
    }
    return named_;
  }

 private:
  void Error(size_t offset, std::string message) {
    findings_.AddFlagAt(flag_, value_, offset, std::move(message));
  }
  void ParseNode(size_t at, std::string_view node);
  void ParseSlots(size_t at, size_t host, std::string_view slots);
  void AddSlot(size_t at, size_t host, int32_t slot);
  // One beyond the last slot that may be named.
  int32_t SlotLimit(size_t host) const {
    return gpu_ids_ ? kMaxSlotsPerHost : hostfile_.hosts[host].slots;
  }
  std::optional<size_t> FindHost(std::string_view name, bool* ambiguous) const;

  const Hostfile& hostfile_;
  const std::string flag_;
  const std::string_view value_;
  const bool gpu_ids_;
  Findings& findings_;
  Named named_;
};

std::optional<size_t> FilterParser::FindHost(std::string_view name, bool* ambiguous) const {
  std::vector<size_t> by_host;
  for (size_t i = 0; i < hostfile_.hosts.size(); ++i) {
    if (hostfile_.hosts[i].name() == name) return i;
    if (hostfile_.hosts[i].host == name) by_host.push_back(i);
  }
  *ambiguous = by_host.size() > 1;
  if (by_host.size() == 1) return by_host.front();
  return std::nullopt;
}

void FilterParser::ParseNode(size_t at, std::string_view node) {
  while (!node.empty() && IsBlank(node.front())) {
    node.remove_prefix(1);
    ++at;
  }
  node = Stripped(node);
  if (node.empty()) {
    Error(at, "a host name is missing; write HOST or HOST:SLOT,SLOT between the @ signs");
    return;
  }
  bool ambiguous = false;
  std::optional<size_t> host = FindHost(node, &ambiguous);
  std::string_view name = node;
  std::optional<std::string_view> slots;
  // The last colon behind a bracket separates the slots: [::1]:0,2.
  const size_t bracket = node.rfind(']');
  const size_t colon = node.rfind(':');
  const bool has_slots =
      colon != std::string_view::npos && (bracket == std::string_view::npos || colon > bracket);
  if (!host.has_value() && !ambiguous && has_slots) {
    name = node.substr(0, colon);
    slots = node.substr(colon + 1);
    host = FindHost(name, &ambiguous);
  }
  if (ambiguous) {
    Error(at, "Hostname '" + Escaped(name) +
                  "' is several entries of the hostfile; write it with the agent's port");
    return;
  }
  if (!host.has_value()) {
    const bool two_colons =
        slots.has_value() && name.find(':') != std::string_view::npos && name.front() != '[';
    if (two_colons) {
      Error(at + name.find(':'), "expected HOST:SLOT,SLOT with one ':', got " + Quoted(node) +
                                     "; separate slots by commas, and write IPv6 in brackets");
    } else {
      Error(at, "Hostname '" + Escaped(name) + "' not found in hostfile" +
                    DidYouMean(name, Names(hostfile_)));
    }
    return;
  }
  if (slots.has_value()) {
    ParseSlots(at + colon + 1, *host, *slots);
  } else {
    for (int32_t slot = 0; slot < hostfile_.hosts[*host].slots; ++slot) named_[*host].insert(slot);
  }
}

void FilterParser::ParseSlots(size_t at, size_t host, std::string_view slots) {
  if (slots.empty()) {
    Error(at, "slots are missing after ':'; for all slots write " + hostfile_.hosts[host].name() +
                  " alone");
    return;
  }
  for (size_t begin = 0; begin <= slots.size();) {
    const size_t end = std::min(slots.find(',', begin), slots.size());
    const std::string_view item = slots.substr(begin, end - begin);
    const size_t dash = item.find('-', 1);
    const std::string_view first = item.substr(0, dash);
    const std::string_view last = dash == std::string_view::npos ? first : item.substr(dash + 1);
    const auto low = first.empty() ? std::nullopt : Number(first);
    const auto high = last.empty() ? std::nullopt : Number(last);
    if (!low.has_value() || !high.has_value()) {
      Error(at + begin, "expected a slot number or a range such as 0-3, got " + Quoted(item));
    } else if (*low > *high) {
      Error(at + begin, "the range " + Quoted(item) + " runs backwards; write " +
                            std::string(last) + "-" + std::string(first));
    } else {
      // The first slot beyond the limit is the finding; a huge range must not be walked.
      const int32_t stop = std::min(*high, std::max(*low, SlotLimit(host)));
      for (int32_t slot = *low; slot <= stop; ++slot) AddSlot(at + begin, host, slot);
    }
    begin = end + 1;
  }
}

void FilterParser::AddSlot(size_t at, size_t host, int32_t slot) {
  const HostEntry& entry = hostfile_.hosts[host];
  if (slot < SlotLimit(host)) {
    named_[host].insert(slot);
    return;
  }
  Error(at, "No slot '" + std::to_string(slot) + "' specified on host '" + entry.name() +
                "'; it has " + SlotsOf(entry) + " (" + hostfile_.path + ":" +
                std::to_string(entry.line) + ")");
}

std::vector<SelectedHost> AllOf(const Hostfile& hostfile) {
  std::vector<SelectedHost> out;
  for (const HostEntry& host : hostfile.hosts) {
    SelectedHost selected{host, {}};
    for (int32_t slot = 0; slot < host.slots; ++slot) selected.slots.push_back(slot);
    out.push_back(std::move(selected));
  }
  return out;
}

std::vector<SelectedHost> Filtered(const Hostfile& hostfile, const Named& named, bool keep) {
  std::vector<SelectedHost> out;
  for (size_t i = 0; i < hostfile.hosts.size(); ++i) {
    const auto found = named.find(i);
    SelectedHost selected{hostfile.hosts[i], {}};
    const std::set<int32_t> here = found == named.end() ? std::set<int32_t>() : found->second;
    if (keep) {
      selected.slots.assign(here.begin(), here.end());
    } else {
      for (int32_t slot = 0; slot < hostfile.hosts[i].slots; ++slot) {
        if (!here.contains(slot)) selected.slots.push_back(slot);
      }
    }
    if (!selected.slots.empty()) out.push_back(std::move(selected));
  }
  return out;
}

void KeepNodes(const Hostfile& hostfile, int64_t count, std::vector<SelectedHost>& hosts,
               Findings& findings) {
  const int64_t there = static_cast<int64_t>(hosts.size());
  if (count < 1) {
    findings.AddFlag("--num_nodes",
                     "expected 1 to " + std::to_string(there) + ", got " + std::to_string(count));
  } else if (count > there) {
    findings.AddFlag("--num_nodes", "asked for " + std::to_string(count) + " nodes, but " +
                                        hostfile.path + " has " + std::to_string(there) + " (" +
                                        Listed(Names(hostfile)) + "); add hosts or ask for " +
                                        std::to_string(there) + " at most");
  } else {
    hosts.resize(static_cast<size_t>(count));
  }
}

void KeepSlots(const Hostfile& hostfile, int64_t count, std::vector<SelectedHost>& hosts,
               Findings& findings) {
  if (count < 1) {
    findings.AddFlag("--num_gpus", "expected at least 1, got " + std::to_string(count));
    return;
  }
  std::vector<std::string> short_ones;
  int64_t least = count;
  for (SelectedHost& host : hosts) {
    const int64_t there = static_cast<int64_t>(host.slots.size());
    if (there < count) {
      short_ones.push_back(host.host.name() + " has " + std::to_string(there) + " (" +
                           hostfile.path + ":" + std::to_string(host.host.line) + ")");
      least = std::min(least, there);
    } else {
      host.slots.resize(static_cast<size_t>(count));
    }
  }
  if (short_ones.empty()) return;
  findings.AddFlag("--num_gpus", "asked for " + std::to_string(count) + " slots a node, but " +
                                     Listed(short_ones) + "; ask for " + std::to_string(least) +
                                     " at most, or choose slots with --include");
}

}  // namespace

std::vector<SelectedHost> SelectHosts(const Hostfile& hostfile, const HostFilter& filter,
                                      Findings& findings) {
  const bool has_nodes = filter.num_nodes.has_value() && *filter.num_nodes != -1;
  const bool has_gpus = filter.num_gpus.has_value() && *filter.num_gpus != -1;
  Findings mine;
  if (!filter.include.empty() && !filter.exclude.empty()) {
    mine.AddFlag("--exclude", "include_str and exclude_str are mutually exclusive.");
  }
  if ((has_nodes || has_gpus) && (!filter.include.empty() || !filter.exclude.empty())) {
    mine.AddFlag(has_nodes ? "--num_nodes" : "--num_gpus",
                 "Cannot specify num_nodes/gpus with include/exclude");
  }
  std::vector<SelectedHost> hosts = AllOf(hostfile);
  if (!filter.include.empty()) {
    const Named named =
        FilterParser(hostfile, "--include", filter.include, filter.gpu_ids, mine).Parse();
    hosts = Filtered(hostfile, named, /*keep=*/true);
  }
  if (!filter.exclude.empty()) {
    const Named named = FilterParser(hostfile, "--exclude", filter.exclude, false, mine).Parse();
    if (filter.include.empty()) hosts = Filtered(hostfile, named, /*keep=*/false);
    if (!mine.has_errors() && hosts.empty()) {
      mine.AddFlag("--exclude", "no slot is left to run on: " + Quoted(filter.exclude) +
                                    " excludes every slot of " + hostfile.path);
    }
  }
  if (!mine.has_errors() && has_nodes) KeepNodes(hostfile, *filter.num_nodes, hosts, mine);
  if (!mine.has_errors() && has_gpus) KeepSlots(hostfile, *filter.num_gpus, hosts, mine);
  const bool failed = mine.has_errors();
  findings.Append(mine);
  return failed ? std::vector<SelectedHost>() : hosts;
}

}  // namespace dsrun
